"""One violation of each identity: what is planted past every constraint, and the rows that its check must show."""

from __future__ import annotations

from dataclasses import dataclass

Row = dict[str, str]


@dataclass(frozen=True)
class Violation:
    """Statements to plant and rows to find; `{name}` stands for the id of an order, product or user of the books."""

    check: str
    plant: tuple[str, ...]
    rows: tuple[Row, ...]


INSERT_ORDER = """
INSERT INTO orders (id, user_id, total_amount, currency, status, version) VALUES (9001, {ada}, 0, 'EUR', 'draft', 1)
"""
INSERT_EVENT = """
INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause)
VALUES ('00000000-0000-7000-8000-000000000001', 'order', 9001, 1, 'order.drafted',
        jsonb_build_object('order_id', 9001, 'user_id', {ada}, 'currency', 'EUR', 'total_minor', 0,
                           'client_reference', NULL, 'version', 1, 'items', jsonb_build_array()), 'x', 'y')
"""
INSERT_AUDIT = """
INSERT INTO audit_entries (actor, action, target, target_id, request_id)
VALUES ('x', 'order.draft', 'order', 9001, 'y')
"""
INSERT_KEY = """
INSERT INTO idempotency_keys (principal, key, fingerprint, response_status, resource_id, expires_at)
VALUES ('user:{ada}', 'another-key-of-live', 'f', 201, {live}, now() + interval '1 day')
"""
INSERT_FEES = """
INSERT INTO adjustments (order_id, kind, label, amount) VALUES ({yen}, 'fee', 'x', 0.5), ({yen}, 'fee', 'y', 0.5)
"""


HASH_EVENTS = """
UPDATE audit_entries a SET after_hash = sha256(convert_to(e.payload::text, 'UTF8')) FROM outbox_events e
WHERE a.action = 'order.place' AND a.target_id = e.aggregate_id AND e.aggregate = 'order' AND e.seq = 1
"""


def change_event(order: str, seq: int, field: str, value: str) -> str:
    return (
        f"UPDATE outbox_events SET payload = payload || jsonb_build_object('{field}', {value})"  # noqa: S608 - fixed text
        f" WHERE aggregate_id = {{{order}}} AND seq = {seq};{HASH_EVENTS}"
    )


def make_coupon(used: int) -> tuple[str, ...]:
    return (f"INSERT INTO coupons (id, code, kind, value, used) VALUES (1, 'X', 'percent', 10, {used})",)  # noqa: S608


def adjustment_facts(*told: tuple[str, str, int]) -> str:
    each = [f"jsonb_build_object('kind', '{k}', 'label', '{label}', 'amount_minor', {n})" for k, label, n in told]
    return f"jsonb_build_array({', '.join(each)})"


ORDER_VIOLATIONS = (
    Violation(
        "stock_levels_equal_movements",
        ("UPDATE stock_levels SET on_hand = on_hand + 5 WHERE product_id = {tea}",),
        ({"product_id": "{tea}", "counter": "on_hand", "expected": "100", "found": "105"},),
    ),
    Violation(
        "available_is_not_negative",
        (
            "UPDATE stock_levels SET on_hand = 6 WHERE product_id = {tea}",
            "UPDATE stock_movements SET on_hand_delta = 6 WHERE product_id = {tea} AND kind = 'receipt'",
        ),
        ({"product_id": "{tea}", "on_hand": "6", "reserved": "7", "allocated": "0", "found": "-1"},),
    ),
    Violation(
        "promised_stock_equals_orders",
        (
            "INSERT INTO stock_movements (product_id, kind, reserved_delta, actor) VALUES ({tea}, 'reserve', 2, 'x')",
            "UPDATE stock_levels SET reserved = reserved + 2 WHERE product_id = {tea}",
        ),
        ({"product_id": "{tea}", "counter": "reserved", "expected": "7", "found": "9"},),
    ),
    Violation(
        "order_movements_equal_lines",
        ("UPDATE stock_movements SET order_id = {cancelled} WHERE order_id = {other}",),
        (
            {"order_id": "{other}", "product_id": "{tea}", "expected_reserved": "3", "found_reserved": "0"},
            {"order_id": "{cancelled}", "product_id": "{tea}", "expected_reserved": "0", "found_reserved": "3"},
        ),
    ),
    Violation(
        "orders_have_lines", (INSERT_ORDER, INSERT_EVENT, INSERT_AUDIT), ({"order_id": "9001", "status": "draft"},)
    ),
    Violation(
        "order_total_equals_lines",
        (
            "UPDATE orders SET total_amount = total_amount + 1 WHERE id = {other}",
            change_event("other", 1, "total_minor", "6097"),
        ),
        ({"order_id": "{other}", "expected": "59.9700", "found": "60.9700"},),
    ),
    Violation(
        "amounts_fit_currency",
        (
            INSERT_FEES,
            "UPDATE orders SET total_amount = total_amount + 1 WHERE id = {yen}",
            change_event("yen", 1, "total_minor", "1001"),
            change_event("yen", 1, "adjustments", adjustment_facts(("fee", "x", 1), ("fee", "y", 1))),
        ),
        ({"order_id": "{yen}", "column_name": "amount", "currency": "JPY", "found": "0.5000"},) * 2,
    ),
    Violation(
        "discounts_equal_line_shares",
        (
            *make_coupon(1),
            "INSERT INTO coupon_uses (coupon_id, order_id, user_id) VALUES (1, {other}, {bob})",
            "INSERT INTO adjustments (order_id, kind, label, amount) VALUES ({other}, 'discount', 'X', -10)",
            "UPDATE orders SET total_amount = total_amount - 10 WHERE id = {other}",
            change_event("other", 1, "total_minor", "4997"),
            change_event("other", 1, "adjustments", adjustment_facts(("discount", "X", -1000))),
        ),
        ({"order_id": "{other}", "expected": "10.0000", "found": "0"},),
    ),
    Violation(
        "added_tax_equals_parts",
        (
            "INSERT INTO adjustments (order_id, kind, label, amount) VALUES ({other}, 'tax', 'Tax', 5)",
            "UPDATE orders SET total_amount = total_amount + 5, tax_included = false WHERE id = {other}",
            change_event("other", 1, "total_minor", "6497"),
            change_event("other", 1, "tax_included", "false"),
            change_event("other", 1, "adjustments", adjustment_facts(("tax", "Tax", 500))),
        ),
        ({"order_id": "{other}", "expected": "0.0000", "found": "5.0000"},),
    ),
    Violation("coupons_count_their_uses", make_coupon(3), ({"coupon_id": "1", "expected": "0", "found": "3"},)),
    Violation(
        "uses_equal_discounts",
        (*make_coupon(1), "INSERT INTO coupon_uses (coupon_id, order_id, user_id) VALUES (1, {cancelled}, {ada})"),
        ({"order_id": "{cancelled}", "code": "X", "expected": "0", "found": "1"},),
    ),
    Violation(
        "placed_orders_have_one_created_event",
        ("UPDATE orders SET placed_at = now() WHERE id = {gone}",),
        ({"order_id": "{gone}", "expected": "1", "found": "0"},),
    ),
    Violation(
        "events_have_their_order",
        (INSERT_EVENT, INSERT_AUDIT),
        ({"order_id": "9001", "seq": "1", "type": "order.drafted"},),
    ),
    Violation(
        "event_numbers_have_no_gap",
        (
            change_event("live", 2, "version", "3"),
            "UPDATE outbox_events SET seq = 3 WHERE aggregate_id = {live} AND seq = 2",
            "UPDATE orders SET version = 3 WHERE id = {live}",
        ),
        ({"order_id": "{live}", "expected": "2", "found": "3"},),
    ),
    Violation(
        "version_is_last_event_number",
        ("UPDATE orders SET version = 7 WHERE id = {live}",),
        ({"order_id": "{live}", "expected": "7", "found": "2"},),
    ),
    Violation(
        "events_follow_transitions",
        ("UPDATE outbox_events SET type = 'order.cancelled' WHERE aggregate_id = {gone} AND seq = 2",),
        ({"order_id": "{gone}", "seq": "2", "status_before": "draft", "found": "order.cancelled"},),
    ),
    Violation(
        "status_agrees_with_events",
        ("UPDATE orders SET status = 'expired' WHERE id = {cancelled}",),
        ({"order_id": "{cancelled}", "expected": "cancelled", "found": "expired"},),
    ),
    Violation(
        "last_event_tells_the_order",
        (
            change_event("live", 2, "total_minor", "1"),
            "UPDATE outbox_events SET payload = payload - 'currency' WHERE aggregate_id = {live} AND seq = 2",
        ),
        (
            {"order_id": "{live}", "seq": "2", "field": "currency", "expected": "EUR", "found": "None"},
            {"order_id": "{live}", "seq": "2", "field": "total_minor", "expected": "8746", "found": "1"},
        ),
    ),
    Violation(
        "last_event_tells_the_lines",
        (
            change_event("other", 1, "items", "7"),
            "UPDATE order_items SET name = 'Coffee' WHERE order_id = {live} AND product_id = {pot}",
        ),
        (
            {"order_id": "{other}", "seq": "1", "expected": '{tea} 3 1999 TEA Tea, "fine"', "found": "None"},
            {
                "order_id": "{live}",
                "seq": "2",
                "expected": '{tea} 4 1999 TEA Tea, "fine";{pot} 1 750 POT Coffee',
                "found": '{tea} 4 1999 TEA Tea, "fine";{pot} 1 750 POT Pot, "fine"',
            },
        ),
    ),
    Violation(
        "last_event_tells_the_adjustments",
        (change_event("other", 1, "adjustments", adjustment_facts(("fee", "Wrapping", 100))),),
        ({"order_id": "{other}", "seq": "1", "expected": "None", "found": "fee Wrapping 100 0 0"},),
    ),
    Violation(
        "keys_point_to_their_order",
        (
            "UPDATE idempotency_keys SET principal = 'user:{bob}' WHERE key = 'key-of-order-live'",
            "UPDATE idempotency_keys SET resource_id = 9001 WHERE key = 'key-of-order-other'",
        ),
        (
            {"key": "key-of-order-live", "order_id": "{live}", "expected": "user:{bob}", "found": "user:{ada}"},
            {"key": "key-of-order-other", "order_id": "9001", "expected": "user:{bob}", "found": "None"},
        ),
    ),
    Violation("orders_have_one_key", (INSERT_KEY,), ({"order_id": "{live}", "expected": "1", "found": "2"},)),
    Violation(
        "created_events_are_what_was_audited",
        ("UPDATE audit_entries SET after_hash = '\\x00' WHERE action = 'order.place' AND target_id = {other}",),
        ({"order_id": "{other}", "expected": "00"},),
    ),
    Violation(
        "every_event_has_its_audit_entry",
        (
            "DELETE FROM audit_entries WHERE request_id = 'req-live-2'",
            "UPDATE audit_entries SET actor = 'user:0' WHERE request_id = 'req-other-1'",
        ),
        (
            {"order_id": "{live}", "actor": "user:{ada}", "request_id": "req-live-2", "expected": "1", "found": "0"},
            {"order_id": "{other}", "actor": "user:0", "request_id": "req-other-1", "expected": "0", "found": "1"},
            {"order_id": "{other}", "actor": "user:{bob}", "request_id": "req-other-1", "expected": "1", "found": "0"},
        ),
    ),
    Violation(
        "shipped_units_have_left",
        (
            "UPDATE order_items SET shipped = 1 WHERE order_id = {other}",
            "UPDATE orders SET fulfillment_status = 'partially_fulfilled' WHERE id = {other}",
        ),
        ({"order_id": "{other}", "product_id": "{tea}", "expected": "0", "found": "1", "dispatched": "0"},),
    ),
    Violation(
        "returned_units_came_back",
        (
            "UPDATE order_items SET returned = 1 WHERE order_id = {other}",
            "UPDATE orders SET return_status = 'returned' WHERE id = {other}",
        ),
        ({"order_id": "{other}", "product_id": "{tea}", "expected": "0", "found": "1", "put_back": "0"},),
    ),
    Violation(
        "fulfillments_fit_lines",
        (
            "INSERT INTO fulfillments (id, order_id, created_by) VALUES (9001, {other}, 'x'), (9002, {live}, 'x')",
            (
                "INSERT INTO fulfillment_lines (fulfillment_id, order_item_id, quantity)"
                " SELECT 9001, id, 4 FROM order_items WHERE order_id = {other}"
                " UNION ALL SELECT 9002, id, 1 FROM order_items WHERE order_id = {yen}"
            ),
        ),
        (
            {"order_id": "{other}", "product_id": "{tea}", "expected": "3", "found": "4", "of_other_orders": "0"},
            {"order_id": "{yen}", "product_id": "{cup}", "expected": "4", "found": "1", "of_other_orders": "1"},
        ),
    ),
    Violation(
        "returns_fit_shipments",
        (
            "INSERT INTO returns (id, order_id, reason, requested_by) VALUES (9001, {other}, 'other', 'x')",
            (
                "INSERT INTO return_lines (return_id, order_item_id, quantity)"
                " SELECT 9001, id, 1 FROM order_items WHERE order_id = {other}"
            ),
            "UPDATE orders SET has_open_return = true, return_status = 'requested' WHERE id = {other}",
        ),
        ({"order_id": "{other}", "product_id": "{tea}", "expected": "0", "found": "1", "of_other_orders": "0"},),
    ),
    Violation(
        "axes_follow_children",
        (
            "UPDATE orders SET is_held = true, has_open_return = true WHERE id = {live}",
            "UPDATE orders SET fulfillment_status = 'delivered', return_status = 'returned' WHERE id = {other}",
        ),
        (
            {"order_id": "{live}", "field": "is_held", "expected": "false", "found": "true"},
            {"order_id": "{live}", "field": "has_open_return", "expected": "false", "found": "true"},
            {"order_id": "{other}", "field": "fulfillment_status", "expected": "unfulfilled", "found": "delivered"},
            {"order_id": "{other}", "field": "return_status", "expected": "none", "found": "returned"},
        ),
    ),
)
