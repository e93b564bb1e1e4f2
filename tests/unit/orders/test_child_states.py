"""The small machines of fulfillments and returns: every pair of state and command, and the picture of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from counterfoil.orders.child_states import (
    GONE_FULFILLMENTS,
    OPEN_FULFILLMENTS,
    OPEN_RETURNS,
    STEPS,
    FulfillmentAction,
    FulfillmentState,
    ReturnAction,
    ReturnState,
    allowed_steps,
    render_child_diagram,
)
from counterfoil.orders.states import CHILD_EVENTS

PAGE = Path(__file__).resolve().parents[3] / "docs/explanation/order-life.md"
# Rows are states, columns commands; a cell is what follows, "=" that nothing changes any more, "-" that it is refused.
FULFILLMENTS = """
            | start       | ship    | deliver   | cancel
pending     | in_progress | shipped | -         | cancelled
in_progress | =           | shipped | -         | cancelled
shipped     | -           | =       | delivered | -
delivered   | -           | =       | =         | -
cancelled   | -           | -       | -         | =
"""
RETURNS = """
          | approve  | decline  | receive  | close
requested | approved | declined | -        | -
approved  | =        | -        | received | closed
declined  | -        | =        | -        | -
received  | -        | -        | received | closed
closed    | -        | -        | -        | =
"""


def read_table(text: str) -> dict[tuple[str, str], str]:
    header, *rows = [[cell.strip() for cell in line.split("|")] for line in text.strip("\n").splitlines()]
    return {(row[0], action): cell for row in rows for action, cell in zip(header[1:], row[1:], strict=True)}


ALL = read_table(FULFILLMENTS) | read_table(RETURNS)
PAIRS = [*product(FulfillmentState, FulfillmentAction), *product(ReturnState, ReturnAction)]


@pytest.mark.parametrize(("state", "action"), PAIRS)
def test_every_pair_of_state_and_command(
    state: FulfillmentState | ReturnState, action: FulfillmentAction | ReturnAction
) -> None:
    step = STEPS[action]

    found = "=" if state in step.done else step.after.value if state in step.before else "-"

    assert found == ALL[state, action]
    assert (action.value in allowed_steps(state)) == (state in step.before)


def test_the_table_has_every_pair_and_no_other() -> None:
    assert ALL.keys() == {(state.value, action.value) for state, action in PAIRS}


def test_what_can_still_be_done_something_with_is_open() -> None:
    assert set(OPEN_FULFILLMENTS) | set(GONE_FULFILLMENTS) | {FulfillmentState.CANCELLED} == set(FulfillmentState)
    assert set(OPEN_RETURNS) == {state for state in ReturnState if allowed_steps(state)}


def test_every_step_writes_an_event_that_the_order_knows() -> None:
    assert {step.event for step in STEPS.values()} <= CHILD_EVENTS.keys()


@pytest.mark.parametrize("states", [FulfillmentState, ReturnState])
def test_the_page_shows_the_machines_as_they_are(states: type[FulfillmentState | ReturnState]) -> None:
    assert f"```mermaid\n{render_child_diagram(states)}```" in PAGE.read_text(encoding="utf-8")
