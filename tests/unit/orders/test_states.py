"""Which action is allowed in which state, by whom and under which condition: the whole table, every pair."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from counterfoil.orders.history import STATUS_AFTER
from counterfoil.orders.states import (
    ACTIVITIES,
    BEGINNINGS,
    CHILD_EVENTS,
    TRANSITIONS,
    FulfillmentStatus,
    Guard,
    OrderAction,
    OrderStatus,
    Party,
    PaymentStatus,
    Situation,
    allowed_actions,
    find_transition,
    may,
    render_state_diagram,
)

# Rows are states, columns the actions that can change them; a cell is what follows, by whom (C customer, S staff, J job
# or G gateway), when nothing stands in the way; "-" is "not allowed".
TABLE = """
          | place      | update     | cancel       | discard      | expire    | confirm      | reinstate | complete
draft     | created CS | draft CS   | -            | cancelled CS | -         | -            | -         | -
created   | -          | created CS | cancelled CS | -            | expired J | confirmed GS | -         | -
confirmed | -          | -          | cancelled CS | -            | -         | -            | -         | completed JS
completed | -          | -          | -            | -            | -         | -            | -         | -
cancelled | -          | -          | -            | -            | -         | -            | -         | -
expired   | -          | -          | -            | -            | -         | -            | created G | -
"""
# The same for what goes on while the status stays: who may.
BESIDE = """
          | pay | refund | fulfill | request_return | hold | release_hold | note
draft     | -   | -      | -       | -              | -    | -            | S
created   | CS  | S      | -       | -              | S    | S            | S
confirmed | CS  | S      | S       | CS             | S    | S            | S
completed | -   | S      | -       | -              | -    | S            | S
cancelled | -   | S      | -       | -              | -    | S            | S
expired   | -   | S      | -       | -              | -    | S            | S
"""
LETTERS = {Party.CUSTOMER: "C", Party.STAFF: "S", Party.JOB: "J", Party.GATEWAY: "G"}
PAIRS = list(product(OrderStatus, OrderAction))


def read_table(text: str) -> dict[tuple[str, str], str]:
    header, *rows = [[cell.strip() for cell in line.split("|")] for line in text.strip("\n").splitlines()]
    return {(row[0], action): cell for row in rows for action, cell in zip(header[1:], row[1:], strict=True)}


ALL = read_table(TABLE) | read_table(BESIDE)


def situations(status: OrderStatus) -> list[Situation]:
    """Every combination of what guards look at."""
    return [
        Situation(status, payment, fulfillment, **dict(zip(FLAGS, flags, strict=True)))
        for payment in PaymentStatus
        for fulfillment in FulfillmentStatus
        for flags in product((False, True), repeat=len(FLAGS))
    ]


FLAGS = (
    "payment_in_flight",
    "is_covered",
    "has_captured",
    "is_held",
    "has_open_return",
    "deadline_passed",
    "within_cancel_window",
    "within_return_window",
)


def test_the_tables_name_every_state_and_every_action_once() -> None:
    assert set(ALL) == {(s.value, a.value) for s, a in PAIRS}
    assert not read_table(TABLE).keys() & read_table(BESIDE).keys()


@pytest.mark.parametrize(("status", "action"), PAIRS)
def test_an_action_is_open_to_whom_the_table_says_in_some_situation_and_to_nobody_else(
    status: OrderStatus, action: OrderAction
) -> None:
    able = {party for party in Party for s in situations(status) if may(s, action, party)}
    befores = {step.after.value for step in TRANSITIONS if step.action is action and step.before is status}

    words = [*sorted(befores), "".join(sorted(LETTERS[party] for party in able))]
    assert (" ".join(word for word in words if word) or "-") == ALL[status.value, action.value]


# action, state, party; each guard is broken alone, and the action is refused.
_CONFIRMED = Situation(OrderStatus.CONFIRMED, PaymentStatus.PAID, is_covered=True, has_captured=True)
_SHIPPED = replace(_CONFIRMED, fulfillment_status=FulfillmentStatus.FULFILLED, within_return_window=False)
_CREATED = Situation(OrderStatus.CREATED)
GUARDED = [
    (OrderAction.UPDATE, Party.CUSTOMER, _CREATED, {"payment_in_flight": True}),
    (OrderAction.EXPIRE, Party.JOB, replace(_CREATED, deadline_passed=True), {"deadline_passed": False}),
    (OrderAction.EXPIRE, Party.JOB, replace(_CREATED, deadline_passed=True), {"payment_in_flight": True}),
    (OrderAction.CONFIRM, Party.GATEWAY, replace(_CREATED, is_covered=True), {"is_covered": False}),
    (OrderAction.CONFIRM, Party.STAFF, _CREATED, {"payment_in_flight": True}),
    (OrderAction.CANCEL, Party.STAFF, _CONFIRMED, {"fulfillment_status": FulfillmentStatus.PARTIALLY_FULFILLED}),
    (OrderAction.CANCEL, Party.CUSTOMER, _CONFIRMED, {"fulfillment_status": FulfillmentStatus.DELIVERED}),
    (OrderAction.CANCEL, Party.CUSTOMER, _CONFIRMED, {"within_cancel_window": False}),
    (OrderAction.COMPLETE, Party.JOB, _SHIPPED, {"fulfillment_status": FulfillmentStatus.PARTIALLY_FULFILLED}),
    (OrderAction.COMPLETE, Party.JOB, _SHIPPED, {"payment_status": PaymentStatus.AUTHORIZED}),
    (OrderAction.COMPLETE, Party.JOB, _SHIPPED, {"payment_in_flight": True}),
    (OrderAction.COMPLETE, Party.JOB, _SHIPPED, {"has_open_return": True}),
    (OrderAction.COMPLETE, Party.JOB, _SHIPPED, {"within_return_window": True}),
    (OrderAction.COMPLETE, Party.STAFF, _SHIPPED, {"has_open_return": True}),
    (OrderAction.PAY, Party.CUSTOMER, replace(_CONFIRMED, is_covered=False), {"is_covered": True}),
    (
        OrderAction.PAY,
        Party.CUSTOMER,
        replace(_CONFIRMED, is_covered=False),
        {"payment_status": PaymentStatus.PARTIALLY_REFUNDED},
    ),
    (OrderAction.PAY, Party.CUSTOMER, replace(_CONFIRMED, is_covered=False), {"payment_in_flight": True}),
    (OrderAction.PAY, Party.CUSTOMER, _CREATED, {"payment_in_flight": True}),
    (OrderAction.REFUND, Party.STAFF, _CONFIRMED, {"has_captured": False}),
    (OrderAction.FULFILL, Party.STAFF, _CONFIRMED, {"is_held": True}),
    (OrderAction.FULFILL, Party.STAFF, _CONFIRMED, {"payment_status": PaymentStatus.REFUNDED}),
    (OrderAction.FULFILL, Party.STAFF, _CONFIRMED, {"fulfillment_status": FulfillmentStatus.FULFILLED}),
    (
        OrderAction.REQUEST_RETURN,
        Party.CUSTOMER,
        replace(_SHIPPED, within_return_window=True),
        {"within_return_window": False},
    ),
    (OrderAction.REQUEST_RETURN, Party.STAFF, _SHIPPED, {"fulfillment_status": FulfillmentStatus.UNFULFILLED}),
    (OrderAction.RELEASE_HOLD, Party.STAFF, replace(_CONFIRMED, is_held=True), {"is_held": False}),
]


@pytest.mark.parametrize(("action", "party", "situation", "broken"), GUARDED)
def test_each_guard_alone_refuses(
    action: OrderAction, party: Party, situation: Situation, broken: dict[str, object]
) -> None:
    assert may(situation, action, party)
    assert not may(replace(situation, **broken), action, party)  # type: ignore[arg-type]


def test_every_guard_is_used_and_broken_above() -> None:
    used = {guard for step in (*TRANSITIONS, *ACTIVITIES) for guard in step.guards}

    assert used == set(Guard)
    assert len(GUARDED) >= sum(len(step.guards) for step in (*TRANSITIONS, *ACTIVITIES)) - 4


@pytest.mark.parametrize(
    ("situation", "customer", "staff"),
    [
        (Situation(OrderStatus.DRAFT), "discard place update", "discard note place update"),
        (_CREATED, "cancel pay update", "cancel confirm hold note pay update"),
        (_CONFIRMED, "cancel", "cancel fulfill hold note refund"),
        (_SHIPPED, "", "complete hold note refund request_return"),
        (Situation(OrderStatus.COMPLETED), "", "note"),
        (Situation(OrderStatus.CANCELLED), "", "note"),
        (Situation(OrderStatus.EXPIRED), "", "note"),
    ],
)
def test_people_are_offered_what_they_may_do_now(situation: Situation, customer: str, staff: str) -> None:
    assert allowed_actions(situation, Party.CUSTOMER) == tuple(customer.split())
    assert allowed_actions(situation, Party.STAFF) == tuple(staff.split())


def test_nothing_leaves_cancelled_or_completed() -> None:
    assert not {step.before for step in TRANSITIONS} & {OrderStatus.CANCELLED, OrderStatus.COMPLETED}


def test_a_transition_is_found_only_for_its_party() -> None:
    assert find_transition(_CREATED, OrderAction.EXPIRE, Party.STAFF) is None
    found = find_transition(_CREATED, OrderAction.CANCEL, Party.CUSTOMER)
    assert found is not None
    assert (found.after, found.event) == (OrderStatus.CANCELLED, "order.cancelled")


def test_a_life_begins_as_a_draft_or_placed() -> None:
    assert BEGINNINGS == {OrderStatus.DRAFT: "order.drafted", OrderStatus.CREATED: "order.created"}


def test_an_event_that_changes_the_status_always_leads_to_the_same_one() -> None:
    for step in TRANSITIONS:
        if step.before is not step.after:
            assert STATUS_AFTER[step.event] is step.after, step
    assert not STATUS_AFTER.keys() & CHILD_EVENTS.keys()


def test_the_diagram_shows_every_beginning_and_every_transition() -> None:
    assert render_state_diagram().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> draft: order.drafted",
        "    [*] --> created: order.created",
        "    draft --> created: place (customer, staff)",
        "    draft --> draft: update (customer, staff)",
        "    draft --> cancelled: discard (customer, staff)",
        "    created --> created: update (customer, staff)",
        "    created --> cancelled: cancel (customer, staff)",
        "    created --> expired: expire (job)",
        "    created --> confirmed: confirm (gateway, staff)",
        "    expired --> created: reinstate (gateway)",
        "    confirmed --> cancelled: cancel (customer, staff)",
        "    confirmed --> completed: complete (job, staff)",
    ]
