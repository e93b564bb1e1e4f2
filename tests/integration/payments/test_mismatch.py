"""A gateway that has something else than we asked for is not believed (MA-05)."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Desk, Trace, committed
from gateways_at_fault import Lying

from counterfoil.kernel.money import Money
from counterfoil.payments import services
from counterfoil.payments.gateways.base import GatewayPaymentStatus, GatewayRefundStatus
from counterfoil.payments.gateways.registry import Gateways

OTHERS = {"amount": Money(3999, "EUR")}, {"amount": Money(4000, "USD")}, {"reference": "o1-somebody-elses"}


def lie(desk: Desk, change: dict[str, Any]) -> Lying:
    gateway = Lying(change)
    desk.gateways = Gateways({"sandbox": gateway}, primary="sandbox")
    return gateway


@pytest.mark.parametrize("capture_now", [False, True])
@pytest.mark.parametrize("change", OTHERS)
def test_security_MA_05_another_amount_currency_or_payment_is_flagged_and_not_paid(
    desk: Desk, change: dict[str, Any], *, capture_now: bool
) -> None:
    lie(desk, change)
    payment = desk.start(capture_now=capture_now)

    assert desk.work() == ["payment.unknown"]

    view = desk.read(payment)
    reason = "reference_mismatch" if "reference" in change else "amount_mismatch"
    assert (view.status, view.review_reason, view.captured) == ("unknown", reason, Money(0, "EUR"))
    assert desk.ledger() == []


@pytest.mark.parametrize("captured", [Money(3999, "EUR"), Money(4001, "EUR"), Money(4000, "USD")])
def test_security_MA_05_another_captured_amount_is_flagged_and_not_posted(desk: Desk, captured: Money) -> None:
    payment = desk.start()
    desk.work()
    gateway = lie(desk, {"captured": captured})
    gateway._book = desk.sandbox._book  # noqa: SLF001 - the same money, told differently
    desk.capture(payment)

    assert desk.work() == ["payment.unknown"]

    view = desk.read(payment)
    assert (view.status, view.review_reason, view.is_unknown) == ("authorized", "amount_mismatch", True)
    assert desk.ledger() == []
    desk.make_due()
    assert desk.work() == []


@pytest.mark.parametrize("change", [{"amount": Money(1, "EUR")}, {"payment_id": "sbx_pay_other"}])
def test_security_MA_05_another_refund_is_flagged_and_not_posted(desk: Desk, change: dict[str, Any]) -> None:
    payment = desk.start(capture_now=True)
    desk.work()
    gateway = lie(desk, change)
    gateway._book = desk.sandbox._book  # noqa: SLF001
    refund = desk.refund(payment, Money(1000, "EUR"))

    assert desk.work() == ["refund.unknown"]

    assert desk.read_refund(refund).status == "unknown"
    assert (desk.read(payment).review_reason, desk.read(payment).refunded) == ("amount_mismatch", Money(0, "EUR"))
    assert len(desk.ledger()) == 2


def test_what_agrees_in_the_end_needs_nobody_any_more(desk: Desk) -> None:
    gateway = lie(desk, {"amount": Money(3999, "EUR")})
    payment = desk.start()
    desk.work()
    gateway.change = {}
    desk.make_due()

    assert desk.work() == ["payment.authorized"]

    assert desk.read(payment).review_reason == ""


def test_one_refund_that_agrees_does_not_hide_another_that_does_not(desk: Desk) -> None:
    payment = desk.start(capture_now=True)
    desk.work()
    gateway = lie(desk, {"amount": Money(1, "EUR")})
    gateway._book = desk.sandbox._book  # noqa: SLF001
    desk.refund(payment, Money(1000, "EUR"))
    desk.work()
    gateway.change = {}
    desk.refund(payment, Money(500, "EUR"))

    assert desk.work() == ["refund.succeeded"]

    assert desk.read(payment).review_reason == "amount_mismatch"
    desk.make_due()
    assert desk.work() == ["refund.succeeded"]
    assert desk.read(payment).review_reason == ""


def test_a_refund_that_takes_its_time_is_waited_for(desk: Desk) -> None:
    payment = desk.start(capture_now=True)
    desk.work()
    gateway = lie(desk, {"status": GatewayRefundStatus.PROCESSING})
    gateway._book = desk.sandbox._book  # noqa: SLF001
    refund = desk.refund(payment)
    assert desk.work() == []
    assert (desk.read_refund(refund).status, len(desk.ledger())) == ("processing", 2)
    gateway.change = {}
    desk.make_due()

    assert desk.work() == ["refund.succeeded"]

    assert (desk.read_refund(refund).status, len(desk.ledger())) == ("succeeded", 4)


@pytest.mark.parametrize("kind", ["payment", "refund"])
def test_what_a_gateway_decides_after_days_is_still_heard(desk: Desk, kind: str) -> None:
    slow = GatewayPaymentStatus.PROCESSING if kind == "payment" else GatewayRefundStatus.PROCESSING
    if kind == "payment":
        gateway = lie(desk, {"status": slow, "captured": Money(0, "EUR")})
        payment = desk.start(capture_now=True)
        desk.work()
    else:
        payment = desk.start(capture_now=True)
        desk.work()
        gateway = lie(desk, {"status": slow})
        gateway._book = desk.sandbox._book  # noqa: SLF001
        desk.refund(payment)
        desk.work()
    desk.age(hours=72.1)
    desk.make_due()
    desk.work()
    # Nobody looks by themselves any more, and a person is told.
    desk.make_due()
    assert desk.claim() == []
    assert desk.read(payment).review_reason == "undecided_for_three_days"
    gateway.change = {}

    assert committed(lambda: services.look_now(payment.id, trace=Trace())) == 1

    assert desk.work() == [f"{kind}.{'captured' if kind == 'payment' else 'succeeded'}"]
    assert desk.read(payment).review_reason == ""
    # It is decided: nothing is looked at any more.
    assert committed(lambda: services.look_now(payment.id, trace=Trace())) == 0


def test_a_payment_that_is_given_up_is_not_waited_for_beside(desk: Desk) -> None:
    payment = desk.start("pm_card_authenticationRequired", capture_now=True)
    desk.work()
    desk.void(payment)

    assert committed(lambda: services.look_now(payment.id, trace=Trace())) == 1

    assert desk.work() == ["payment.voided"]


def test_a_refund_that_fails_for_good_is_told_to_a_person(desk: Desk) -> None:
    payment = desk.start(capture_now=True)
    desk.work()
    gateway = lie(desk, {"status": GatewayRefundStatus.FAILED})
    gateway._book = desk.sandbox._book  # noqa: SLF001
    desk.refund(payment, automatic=True)

    assert desk.work() == ["refund.failed"]

    assert desk.read(payment).review_reason == "refund_failed:refund_failed"
    assert desk.read(payment).refundable == Money(4000, "EUR")
