"""The comparison of a drill notices what it is there for; its plan is a function of the seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from counterfoil.proof.drill.comparison import (
    PROMISES,
    FinalAnswer,
    GatewayMoney,
    OurOrder,
    OurPayment,
    OurRefund,
    compare,
    read_gateway_money,
)
from counterfoil.proof.drill.plan import FAULTS, Sequel, draw_attempts, fault_words
from counterfoil.proof.gateway_simulator.faults import FaultPlan

PAYMENT = OurPayment(id=7, reference="ref-1", status="captured", amount=4000, captured=4000, refunded=0)
ORDER = OurOrder(
    id=1,
    status="confirmed",
    currency="EUR",
    total=4000,
    payment_unknown=False,
    fulfillment_status="unfulfilled",
    payments=(PAYMENT,),
)
MONEY = GatewayMoney("pi_1", "ref-1", "EUR", authorized=4000, captured=4000)


def order(**changes: object) -> OurOrder:
    return replace(ORDER, **changes)


def paid(**changes: object) -> OurOrder:
    return order(payments=(replace(PAYMENT, **changes),))


def money(**changes: object) -> GatewayMoney:
    return replace(MONEY, **changes)


def test_two_sides_that_agree_break_no_promise() -> None:
    held = order(payments=(replace(PAYMENT, status="authorized", captured=0),))
    refunded = paid(refunded=1000, refunds=(OurRefund(1, "succeeded", 1000),))
    undone = order(status="cancelled", payments=(replace(PAYMENT, refunded=4000),))

    assert compare([ORDER], [money()]).counts == Counter()
    assert compare([held], [money(captured=0)]).counts == Counter()
    assert compare([refunded], [money(refunded=1000)]).counts == Counter()
    assert compare([undone], [money(refunded=4000)]).counts == Counter()
    assert compare([order(status="created", payments=())], []).counts == Counter()


@pytest.mark.parametrize(
    ("ours", "theirs", "broken"),
    [
        # The same reference, and a second one of the same order.
        ([ORDER], [money(), money(payment_id="pi_2")], {"double_charges": 1}),
        (
            [order(payments=(PAYMENT, replace(PAYMENT, id=8, reference="ref-2")))],
            [money(), money(payment_id="pi_2", reference="ref-2")],
            {"double_charges": 1},
        ),
        ([], [money()], {"charged_but_not_paid": 1}),
        ([], [money(captured=0)], {"charged_but_not_paid": 1}),
        (
            [order(status="created", payments=(replace(PAYMENT, status="failed", captured=0),))],
            [money()],
            {"charged_but_not_paid": 1, "captured_differs": 1},
        ),
        (
            [order(status="created", payments=(replace(PAYMENT, status="failed", captured=0),))],
            [money(captured=0)],
            {"charged_but_not_paid": 1},
        ),
        ([ORDER], [], {"paid_but_not_charged": 1, "captured_differs": 1, "confirmed_unpaid": 1}),
        (
            [order(status="created", payment_unknown=True, payments=())],
            [],
            {"unknown_left": 1},
        ),
        ([paid(refunds=(OurRefund(1, "unknown", 5),))], [money()], {"unknown_left": 1}),
        ([paid(captured=3000)], [money()], {"captured_differs": 1, "charged_but_not_paid": 1}),
        ([paid(refunded=1)], [money()], {"refunded_differs": 1}),
        ([order(total=4001)], [money()], {"confirmed_unpaid": 1}),
        ([order(total=4001, fulfillment_status="fulfilled")], [money()], {"confirmed_unpaid": 1, "shipped_unpaid": 1}),
        ([order(status="cancelled")], [money()], {"cancelled_not_refunded": 1}),
        (
            [order(status="expired", payments=(replace(PAYMENT, status="authorized", captured=0),))],
            [money(captured=0)],
            {"cancelled_not_refunded": 1},
        ),
    ],
)
def test_a_broken_promise_is_named(ours: list[OurOrder], theirs: list[GatewayMoney], broken: dict[str, int]) -> None:
    assert dict(compare(ours, theirs).counts) == broken


def test_a_key_that_is_answered_in_two_ways_is_named() -> None:
    answers = [FinalAnswer("a", 201, b"1"), FinalAnswer("a", 201, b"1"), FinalAnswer("b", 402, b"2")]

    assert compare([], [], answers).counts == Counter()
    assert compare([], [], [*answers, FinalAnswer("b", 201, b"2")]).counts == Counter(answer_changed=1)
    assert compare([], [], [*answers, FinalAnswer("a", 201, b"3")]).counts == Counter(answer_changed=1)


def test_every_name_that_is_counted_is_a_promise_that_is_printed() -> None:
    every = compare([order(status="cancelled", total=1)], [money(), money(payment_id="pi_2")])

    assert every.counts.keys() <= PROMISES.keys()


def test_a_journal_adds_up_to_what_was_taken_and_given_back() -> None:
    def move(kind: str, amount: int) -> dict[str, object]:
        metadata = {"counterfoil_reference": "ref-1"}
        return {"kind": kind, "payment": "pi_1", "amount": amount, "currency": "EUR", "metadata": metadata}

    found = read_gateway_money([move("authorized", 9), move("captured", 8), move("refunded", 3), move("refunded", 2)])

    assert found == {"pi_1": GatewayMoney("pi_1", "ref-1", "EUR", authorized=9, captured=8, refunded=5)}
    assert (found["pi_1"].kept, found["pi_1"].held) == (3, 0)


def test_a_seed_gives_the_same_attempts_and_another_one_others() -> None:
    assert list(draw_attempts(50, seed=1)) == list(draw_attempts(50, seed=1))
    assert list(draw_attempts(50, seed=1)) == list(draw_attempts(100, seed=1))[:50]
    assert list(draw_attempts(50, seed=1)) != list(draw_attempts(50, seed=2))


def test_attempts_are_of_every_kind() -> None:
    drawn = list(draw_attempts(1000, seed=1))

    assert {attempt.submissions for attempt in drawn} == {1, 2, 3}
    assert {attempt.sequel for attempt in drawn} == set(Sequel)
    assert {bool(attempt.bad_card) for attempt in drawn} == {True, False}
    assert {attempt.hold_first for attempt in drawn} == {True, False}


def test_the_faults_are_those_of_the_goal() -> None:
    plan = FaultPlan.parse(fault_words(hang_seconds=1), seed=1)

    assert FAULTS == {
        "charge_then_hang": 0.05,
        "hang_before_charge": 0.05,
        "error_500_half_charged": 0.05,
        "rate_limited": 0.03,
        "in_flight": 0.02,
        "reset_mid_body": 0.02,
        "broken_json": 0.01,
    }
    assert (plan.options.webhook_copies, plan.options.webhook_early, plan.options.webhook_never) == (5, 0.10, 0.01)
