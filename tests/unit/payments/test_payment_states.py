from __future__ import annotations

import itertools

import pytest

from counterfoil.payments.states import (
    REFUND_TRANSITIONS,
    TRANSITIONS,
    PaymentState,
    RefundState,
    allowed_operations,
    may_become,
    refund_may_become,
    render_payment_diagram,
)

P, R = PaymentState, RefundState
# Written out once more: a change of the table must be meant twice.
MOVES = {
    (P.PROCESSING, P.REQUIRES_PAYMENT),
    (P.PROCESSING, P.UNKNOWN),
    (P.PROCESSING, P.AUTHORIZED),
    (P.PROCESSING, P.CAPTURED),
    (P.PROCESSING, P.FAILED),
    (P.PROCESSING, P.CANCELLED),
    (P.REQUIRES_PAYMENT, P.PROCESSING),
    (P.REQUIRES_PAYMENT, P.AUTHORIZED),
    (P.REQUIRES_PAYMENT, P.CAPTURED),
    (P.REQUIRES_PAYMENT, P.FAILED),
    (P.REQUIRES_PAYMENT, P.CANCELLED),
    (P.UNKNOWN, P.REQUIRES_PAYMENT),
    (P.UNKNOWN, P.PROCESSING),
    (P.UNKNOWN, P.AUTHORIZED),
    (P.UNKNOWN, P.CAPTURED),
    (P.UNKNOWN, P.FAILED),
    (P.UNKNOWN, P.CANCELLED),
    (P.AUTHORIZED, P.CAPTURED),
    (P.AUTHORIZED, P.CANCELLED),
    (P.AUTHORIZED, P.FAILED),
    (P.FAILED, P.PROCESSING),
}
REFUND_MOVES = {
    (R.REQUESTED, R.PROCESSING),
    (R.REQUESTED, R.UNKNOWN),
    (R.REQUESTED, R.SUCCEEDED),
    (R.REQUESTED, R.FAILED),
    (R.PROCESSING, R.SUCCEEDED),
    (R.PROCESSING, R.FAILED),
    (R.UNKNOWN, R.PROCESSING),
    (R.UNKNOWN, R.SUCCEEDED),
    (R.UNKNOWN, R.FAILED),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(PaymentState, repeat=2)))
def test_a_payment_moves_where_the_table_says_and_nowhere_else(before: PaymentState, after: PaymentState) -> None:
    assert may_become(before, after) is ((before, after) in MOVES)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(RefundState, repeat=2)))
def test_a_refund_moves_where_the_table_says_and_nowhere_else(before: RefundState, after: RefundState) -> None:
    assert refund_may_become(before, after) is ((before, after) in REFUND_MOVES)


def test_every_state_has_a_place_in_the_tables() -> None:
    assert set(TRANSITIONS) == set(PaymentState)
    assert set(REFUND_TRANSITIONS) == set(RefundState)


@pytest.mark.parametrize(
    ("state", "is_busy", "is_refundable", "allowed"),
    [
        (P.PROCESSING, False, False, ()),
        (P.UNKNOWN, False, False, ()),
        (P.FAILED, False, False, ()),
        (P.CANCELLED, False, False, ()),
        (P.REQUIRES_PAYMENT, False, False, ("void",)),
        (P.REQUIRES_PAYMENT, True, False, ()),
        (P.AUTHORIZED, False, False, ("capture", "void")),
        (P.AUTHORIZED, True, False, ()),
        (P.CAPTURED, False, True, ("refund",)),
        (P.CAPTURED, False, False, ()),
    ],
)
def test_the_allowed_actions_follow_from_the_state(
    state: PaymentState, *, is_busy: bool, is_refundable: bool, allowed: tuple[str, ...]
) -> None:
    assert allowed_operations(state, is_busy=is_busy, is_refundable=is_refundable) == allowed


def test_the_diagram_draws_every_move_once() -> None:
    lines = render_payment_diagram().splitlines()

    assert lines[:2] == ["stateDiagram-v2", "    [*] --> processing"]
    assert sorted(lines[2:]) == sorted(f"    {before} --> {after}" for before, after in MOVES)
