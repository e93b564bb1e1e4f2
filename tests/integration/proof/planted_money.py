"""One violation of each identity of money: what is planted, and the rows that its check must show."""

from __future__ import annotations

from planted_violations import Violation

PAYMENT = """
INSERT INTO payments (id, order_id, gateway, reference, amount, currency, capture_now, status, captured_amount,
                      principal, client_key)
VALUES (9001, {{{order}}}, 'sandbox', 'r', 5, '{currency}', true, '{status}', {captured}, 'user:{{ada}}', 'k')
"""
ATTEMPT_OF_REFUND = """
INSERT INTO payment_attempts (payment_id, refund_id, operation, gateway, gateway_key, amount, created_by, request_id)
VALUES (9001, 9001, 'refund', 'sandbox', 'g', 5, 'user:{ada}', 'y')
"""
REFUND = """
INSERT INTO refunds (id, payment_id, order_id, reference, amount, currency, status, principal, client_key)
VALUES (9001, 9001, {other}, 'rr', 5, 'EUR', 'requested', 'user:{ada}', 'k')
"""
POSTING = """
INSERT INTO ledger_entries (posting, order_id, payment_id, gateway, account, amount, currency, kind)
SELECT '00000000-0000-7000-8000-000000000001', {{{order}}}, 9001, 'sandbox', account, amount, 'EUR', 'capture'
FROM (VALUES {entries}) AS e (account, amount)
"""
BALANCED = "('gateway:sandbox', 5), ('order', -5)"
ALLOCATE = (
    (
        "INSERT INTO stock_movements (product_id, order_id, kind, reserved_delta, allocated_delta, actor)"
        " VALUES ({tea}, {other}, 'allocate', -3, 3, 'x')"
    ),
    "UPDATE stock_levels SET reserved = reserved - 3, allocated = allocated + 3 WHERE product_id = {tea}",
    "UPDATE orders SET status = 'confirmed', version = 2 WHERE id = {other}",
)


def payment(order: str, status: str = "failed", *, currency: str = "EUR", captured: int = 0) -> str:
    return PAYMENT.format(order=order, status=status, currency=currency, captured=captured)


def posting(order: str, entries: str = BALANCED) -> str:
    return POSTING.format(order=order, entries=entries)


def event(order: str, seq: int, kind: str, *, payment_id: int = 9001) -> tuple[str, str]:
    """One more event of an order, written by the job of payments, with its audit entry."""
    return (
        (
            "INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause)"  # noqa: S608 - fixed text
            f" SELECT gen_random_uuid(), aggregate, aggregate_id, {seq}, '{kind}', payload || jsonb_build_object("
            f"'version', {seq}, 'about', jsonb_build_object('payment_id', {payment_id})), 'job:payments', 'y'"
            f" FROM outbox_events WHERE aggregate = 'order' AND aggregate_id = {{{order}}} AND seq = {seq - 1}"
        ),
        (
            "INSERT INTO audit_entries (actor, action, target, target_id, request_id)"  # noqa: S608 - fixed text
            f" VALUES ('job:payments', 'x', 'order', {{{order}}}, 'y')"
        ),
    )


MONEY_VIOLATIONS = (
    Violation(
        "order_money_follows_payments",
        (
            "UPDATE orders SET captured_amount = 5, payment_unknown = true WHERE id = {live}",
            "UPDATE orders SET payment_status = 'paid' WHERE id = {other}",
        ),
        (
            {"order_id": "{live}", "field": "captured", "expected": "0.0000", "found": "5.0000"},
            {"order_id": "{live}", "field": "payment_unknown", "expected": "false", "found": "true"},
            {"order_id": "{live}", "field": "payment_status", "expected": "partially_paid", "found": "unpaid"},
            {"order_id": "{other}", "field": "payment_status", "expected": "unpaid", "found": "paid"},
        ),
    ),
    Violation(
        "payments_fit_their_order",
        (payment("other", currency="USD"),),
        ({"order_id": "{other}", "payment_id": "9001", "expected": "EUR", "found": "USD"},),
    ),
    Violation(
        "refunds_fit_their_payment",
        (
            payment("other"),
            REFUND,
            ATTEMPT_OF_REFUND,
            "UPDATE orders SET payment_in_flight = true WHERE id = {other}",
        ),
        ({"order_id": "{other}", "payment_id": "9001", "captured": "0.0000", "asked": "5.0000"},),
    ),
    Violation(
        "ledger_equals_payments",
        (payment("other"), posting("other")),
        ({"order_id": "{other}", "payment_id": "9001", "expected": "0.0000", "found": "5.0000"},),
    ),
    Violation(
        "postings_balance",
        (payment("other"), posting("other", "('gateway:sandbox', 5)")),
        ({"order_id": "{other}", "expected": "0", "found": "5.0000", "accounts": "['gateway:sandbox']"},),
    ),
    Violation(
        "open_money_has_a_call",
        (payment("other", "processing"), "UPDATE orders SET payment_in_flight = true WHERE id = {other}"),
        ({"order_id": "{other}", "payment_id": "9001", "refund_id": "None", "found": "processing"},),
    ),
    Violation(
        "confirmed_orders_were_covered",
        (*ALLOCATE, *event("other", 2, "order.confirmed")),
        ({"order_id": "{other}", "seq": "2", "actor": "job:payments", "expected": "5997", "found": "0"},),
    ),
    Violation(
        "undone_orders_keep_no_money",
        (
            payment("cancelled", "captured", captured=5),
            posting("cancelled"),
            (
                "UPDATE orders SET captured_amount = 5, payment_status = 'partially_paid', version = 3"
                " WHERE id = {cancelled}"
            ),
            *event("cancelled", 3, "payment.captured"),
        ),
        ({"order_id": "{cancelled}", "status": "cancelled", "expected": "0", "found": "5.0000", "payment_id": "9001"},),
    ),
    Violation(
        "money_is_told_once",
        (
            "UPDATE orders SET version = 2 WHERE id = {other}",
            *event("other", 2, "payment.captured", payment_id=9002),
        ),
        ({"order_id": "{other}", "payment_id": "9002", "type": "payment.captured", "expected": "0", "found": "1"},),
    ),
)
