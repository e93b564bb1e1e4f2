"""Giving money back: never more than was taken, never twice, whoever asks at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from desk import PRICE, Desk

from counterfoil.kernel.money import Money
from counterfoil.payments.errors import AmountNotPositive, PaymentInFlight, PaymentKeyReused, RefundExceedsCaptured
from counterfoil.payments.views import PaymentView

NothingWritten = Callable[[], AbstractContextManager[None]]
KEY = "client-key-of-a-test"


@pytest.fixture
def captured(desk: Desk) -> PaymentView:
    """A payment of 40.00 EUR, taken."""
    payment = desk.start(capture_now=True)
    desk.work()
    return desk.read(payment)


def attempt(function: Callable[[], Any], refusal: type[Exception]) -> bool:
    try:
        function()
    except refusal:
        return False
    return True


def test_twenty_refunds_at_once_never_exceed_what_was_captured(desk: Desk, captured: PaymentView) -> None:
    with ThreadPoolExecutor(20) as threads:
        accepted = list(
            threads.map(
                lambda _: attempt(lambda: desk.refund(captured, Money(700, "EUR")), RefundExceedsCaptured), range(20)
            )
        )

    assert accepted.count(True) == 5
    assert desk.work() == ["refund.succeeded"] * 5
    view = desk.read(captured)
    assert (view.refunded, view.refundable) == (Money(3500, "EUR"), Money(500, "EUR"))
    assert len(desk.ledger()) == 2 + 10


def test_twenty_automatic_refunds_at_once_are_one(desk: Desk, captured: PaymentView) -> None:
    with ThreadPoolExecutor(20) as threads:
        refunds = list(threads.map(lambda n: desk.refund(captured, key=f"{KEY}-{n}", automatic=True), range(20)))

    assert len({refund.id for refund in refunds}) == 1
    assert (refunds[0].automatic, refunds[0].amount) == (True, PRICE)
    assert desk.work() == ["refund.succeeded"]


def test_twenty_payments_at_once_are_one(desk: Desk) -> None:
    with ThreadPoolExecutor(20) as threads:
        accepted = list(threads.map(lambda _: attempt(desk.start, PaymentInFlight), range(20)))

    assert accepted.count(True) == 1
    assert desk.work() == ["payment.authorized"]


def test_twenty_captures_at_once_take_the_money_once(desk: Desk) -> None:
    from counterfoil.payments.errors import PaymentActionNotAllowed

    payment = desk.start()
    desk.work()
    with ThreadPoolExecutor(20) as threads:
        accepted = list(
            threads.map(lambda _: attempt(lambda: desk.capture(payment), PaymentActionNotAllowed), range(20))
        )

    assert accepted.count(True) == 1
    assert desk.work() == ["payment.captured"]
    assert desk.read(payment).captured == PRICE


def test_a_refund_beyond_what_is_left_is_refused_with_what_is_left(
    desk: Desk, captured: PaymentView, nothing_written: NothingWritten
) -> None:
    desk.refund(captured, Money(3000, "EUR"))

    with nothing_written():
        with pytest.raises(RefundExceedsCaptured) as refusal:
            desk.refund(captured, Money(1001, "EUR"))
        with pytest.raises(AmountNotPositive):
            desk.refund(captured, Money(0, "EUR"))
        with pytest.raises(AmountNotPositive):
            desk.refund(captured, Money(100, "USD"))

    assert refusal.value.details == {"amount_max": "10.00 EUR"}
    desk.refund(captured)
    with nothing_written(), pytest.raises(RefundExceedsCaptured):
        desk.refund(captured)


def test_the_same_key_is_the_same_refund_and_another_amount_is_refused(desk: Desk, captured: PaymentView) -> None:
    first = desk.refund(captured, Money(1000, "EUR"), key=KEY)

    assert desk.refund(captured, Money(1000, "EUR"), key=KEY) == first
    with pytest.raises(PaymentKeyReused):
        desk.refund(captured, Money(1001, "EUR"), key=KEY)
    assert desk.work() == ["refund.succeeded"]
    assert desk.refund(captured, Money(1000, "EUR"), key=KEY).status == "succeeded"
    assert desk.work() == []
    assert desk.read(captured).refunded == Money(1000, "EUR")


# ---------------------------------------------------------------- what the database itself refuses
@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE payments SET refunded_amount = captured_amount + 1 WHERE id = {payment}", "ck_payments_amounts"),
        ("UPDATE payments SET captured_amount = amount + 1 WHERE id = {payment}", "ck_payments_amounts"),
        ("UPDATE payments SET refunded_amount = -1 WHERE id = {payment}", "ck_payments_amounts"),
        ("UPDATE payments SET captured_amount = 0 WHERE id = {payment}", "ck_payments_captured"),
        ("UPDATE payments SET status = 'paid', captured_amount = 0 WHERE id = {payment}", "ck_payments_status"),
        (
            (
                "INSERT INTO payments"
                " (order_id, gateway, reference, amount, currency, capture_now, principal, client_key)"
                " SELECT order_id, gateway, reference || 'x' || n, amount, currency, true, principal, n::text"
                " FROM payments, generate_series(1, 2) AS n WHERE id = {payment}"
            ),
            "uq_payments_undecided",
        ),
        (
            (
                "INSERT INTO ledger_entries (posting, order_id, payment_id, gateway, account, amount, currency, kind)"
                " SELECT gen_random_uuid(), order_id, payment_id, gateway, account, amount, currency, kind"
                " FROM ledger_entries WHERE payment_id = {payment}"
            ),
            "uq_ledger_entries_capture",
        ),
    ],
)
def test_the_database_itself_refuses_what_must_never_be(
    desk: Desk, captured: PaymentView, statement: str, constraint: str
) -> None:
    with pytest.raises(psycopg.errors.IntegrityError) as refusal:
        desk.db.execute(statement.format(payment=captured.id).encode())

    assert refusal.value.diag.constraint_name == constraint


def test_a_posting_that_does_not_sum_to_zero_does_not_commit(desk: Desk, captured: PaymentView) -> None:
    refund = desk.refund(captured)

    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="does not sum to zero"):
        desk.db.execute(
            "INSERT INTO ledger_entries (posting, order_id, payment_id, refund_id, gateway, account, amount, currency,"
            " kind) VALUES (gen_random_uuid(), %s, %s, %s, 'sandbox', 'order', 40, 'EUR', 'refund')",
            [desk.order_id, captured.id, refund.id],
        )

    assert len(desk.ledger()) == 2


@pytest.mark.parametrize("change", ["UPDATE ledger_entries SET amount = 1", "DELETE FROM ledger_entries"])
def test_a_ledger_entry_is_never_changed(desk: Desk, captured: PaymentView, change: str) -> None:
    before = desk.ledger()

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        desk.db.execute(f"{change} WHERE payment_id = {captured.id}".encode())

    assert desk.ledger() == before
