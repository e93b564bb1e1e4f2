from __future__ import annotations

from desk import Desk

from counterfoil.kernel.money import Money


def test_an_authorised_payment_is_captured_in_part_and_refunded_twice(desk: Desk) -> None:
    payment = desk.start()
    assert desk.work() == ["payment.authorized"]
    desk.capture(payment, Money(3000, "EUR"))
    assert desk.work() == ["payment.captured"]
    desk.refund(payment, Money(1000, "EUR"))
    assert desk.work() == ["refund.succeeded"]
    desk.refund(payment)
    assert desk.work() == ["refund.succeeded"]

    view = desk.read(payment)

    assert (view.status, view.captured, view.refunded) == ("captured", Money(3000, "EUR"), Money(3000, "EUR"))
    assert desk.ledger() == [
        ("capture", "gateway:sandbox", "30.0000"),
        ("capture", "order", "-30.0000"),
        ("refund", "gateway:sandbox", "-10.0000"),
        ("refund", "order", "10.0000"),
        ("refund", "gateway:sandbox", "-20.0000"),
        ("refund", "order", "20.0000"),
    ]
