"""Which action is allowed in which state: the whole table, every pair."""

from __future__ import annotations

from itertools import product

import pytest

from counterfoil.orders.history import STATUS_AFTER
from counterfoil.orders.states import (
    BEGINNINGS,
    TRANSITIONS,
    OrderAction,
    OrderStatus,
    allowed_actions,
    find_transition,
    render_state_diagram,
)

# Rows are states, columns actions; a cell is the state and the event that follow, "-" is "not allowed".
TABLE = """
          | place                 | update                | cancel                    | discard                   | expire
draft     | created order.created | draft order.updated   | -                         | cancelled order.discarded | -
created   | -                     | created order.updated | cancelled order.cancelled | -                         | expired order.expired
confirmed | -                     | -                     | -                         | -                         | -
completed | -                     | -                     | -                         | -                         | -
cancelled | -                     | -                     | -                         | -                         | -
expired   | -                     | -                     | -                         | -                         | -
"""  # noqa: E501 - a table is read in columns


def read_table() -> dict[tuple[str, str], str]:
    header, *rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip("\n").splitlines()]
    return {(row[0], action): cell for row in rows for action, cell in zip(header[1:], row[1:], strict=True)}


def test_the_table_names_every_state_and_every_action() -> None:
    assert set(read_table()) == {(s.value, a.value) for s, a in product(OrderStatus, OrderAction)}


@pytest.mark.parametrize(("status", "action"), list(product(OrderStatus, OrderAction)))
def test_an_action_leads_where_the_table_says(status: OrderStatus, action: OrderAction) -> None:
    step = find_transition(status, action)

    assert (f"{step.after} {step.event}" if step else "-") == read_table()[status.value, action.value]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (OrderStatus.DRAFT, ("discard", "place", "update")),
        (OrderStatus.CREATED, ("cancel", "update")),
        (OrderStatus.CONFIRMED, ()),
        (OrderStatus.COMPLETED, ()),
        (OrderStatus.CANCELLED, ()),
        (OrderStatus.EXPIRED, ()),
    ],
)
def test_people_are_offered_what_they_may_do_and_not_what_jobs_do(
    status: OrderStatus, expected: tuple[str, ...]
) -> None:
    assert allowed_actions(status) == expected


def test_a_life_begins_as_a_draft_or_placed() -> None:
    assert BEGINNINGS == {OrderStatus.DRAFT: "order.drafted", OrderStatus.CREATED: "order.created"}


def test_an_event_that_changes_the_status_always_leads_to_the_same_one() -> None:
    for step in TRANSITIONS:
        if step.before is not step.after:
            assert STATUS_AFTER[step.event] is step.after, step


def test_the_diagram_shows_every_beginning_and_every_transition() -> None:
    assert render_state_diagram().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> draft: order.drafted",
        "    [*] --> created: order.created",
        "    draft --> created: place",
        "    draft --> draft: update",
        "    created --> created: update",
        "    draft --> cancelled: discard",
        "    created --> cancelled: cancel",
        "    created --> expired: expire",
    ]
