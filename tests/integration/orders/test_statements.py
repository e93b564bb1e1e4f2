"""The hot statements on a full database: each goes through the index that was made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

LARGE = {
    *("orders", "order_items", "outbox_events", "idempotency_keys", "stock_movements", "audit_entries"),
    *("adjustments", "coupons", "coupon_uses"),
}
pytestmark = pytest.mark.usefixtures("django_ready")
Connection = psycopg.Connection[tuple[Any, ...]]

# What every reading of orders goes through for their lines and adjustments.
PARTS = {"idx_order_items_order_id", "idx_adjustments_order_id"}

# Sets, so that it takes seconds: 500 customers with 100 orders each over a year, one in 50 still unpaid.
FILL = """
INSERT INTO users (role, password)
SELECT 'customer', '!' FROM generate_series(1, 500) AS n;
INSERT INTO products (sku, name, price, currency)
SELECT 'SKU-' || n, 'Product ' || n, 9.99, 'EUR' FROM generate_series(1, 200) AS n;
INSERT INTO stock_levels (product_id, on_hand) SELECT id, 1000000 FROM products;
INSERT INTO orders (user_id, total_amount, currency, status, client_reference, placed_at, reserved_until, created_at)
SELECT (SELECT min(id) FROM users) + n % 500, 19.98, 'EUR',
       CASE WHEN n % 50 = 0 THEN 'created' WHEN n % 50 < 45 THEN 'completed' ELSE 'cancelled' END,
       CASE WHEN n % 10 = 0 THEN 'PO-' || n END, at, at + interval '30 minutes', at
FROM generate_series(1, 50000) AS n, LATERAL (SELECT now() - n * interval '10 minutes' AS at) AS t;
UPDATE orders SET reserved_until = now() + interval '1 hour'
WHERE status = 'created' AND id % 100 <> 0;
INSERT INTO order_items (order_id, product_id, line_no, sku, name, quantity, unit_price)
SELECT o.id, p.id, line, p.sku, p.name, 1, 9.99
FROM orders o, generate_series(1, 2) AS line,
     LATERAL (SELECT * FROM products WHERE id = (SELECT min(id) FROM products) + (o.id * line) % 200) AS p;
INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause)
SELECT gen_random_uuid(), 'order', id, 1, 'order.created', '{}', 'user:1', 'req-1' FROM orders;
INSERT INTO idempotency_keys (principal, key, fingerprint, response_status, resource_id, expires_at)
SELECT 'user:' || user_id, 'key-of-the-order-' || id, '', 201, id, created_at + interval '72 hours' FROM orders;
INSERT INTO adjustments (order_id, kind, label, amount) SELECT id, 'shipping', 'Shipping', 0 FROM orders;
INSERT INTO coupons (code, kind, value, per_customer_limit) SELECT 'CODE-' || n, 'percent', 10, 50
FROM generate_series(1, 5000) AS n;
INSERT INTO coupon_uses (coupon_id, order_id, user_id, released_at)
SELECT (SELECT min(id) FROM coupons) + o.id % 5000, o.id, o.user_id, CASE WHEN o.id % 2 = 0 THEN now() END
FROM orders o;
ANALYZE;
"""


@pytest.fixture(scope="module")
def full(make_database: Callable[[], str]) -> Iterator[Connection]:
    """A database of its own with 50,000 orders."""
    with psycopg.connect(make_database(), autocommit=True) as connection:
        connection.execute(FILL)
        # As the service runs: a generic plan is what a prepared statement settles on.
        connection.execute("SET jit = off")
        yield connection


def scans_of(connection: Connection, statement: str, parameters: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Return (kind, table, index) of every scan in the plan."""
    row = connection.execute("EXPLAIN (FORMAT JSON) " + statement, parameters).fetchone()
    assert row is not None
    found: list[tuple[str, str, str | None]] = []
    queue = [row[0][0]["Plan"]]
    while queue:
        node = queue.pop()
        if "Scan" in node["Node Type"] or "Index Name" in node:
            found.append((node["Node Type"], node.get("Relation Name", ""), node.get("Index Name")))
        queue += node.get("Plans", [])
    return found


def indexes_of(connection: Connection, statement: str, parameters: dict[str, Any]) -> set[str]:
    """Return the indexes that a statement uses; no large table may be read from end to end."""
    scans = scans_of(connection, statement, parameters)
    assert [scan for scan in scans if scan[0] == "Seq Scan" and scan[1] in LARGE] == [], scans
    return {index for _, _, index in scans if index is not None}


def some(connection: Connection, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("owned", [False, True])
def test_reading_one_order_goes_through_its_key(full: Connection, owned: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    from counterfoil.orders.repositories import QUERIES

    order_id, user_id = full.execute("SELECT id, user_id FROM orders LIMIT 1 OFFSET 777").fetchone() or (0, 0)
    where = "o.id = %(order_id)s AND (%(owner)s::bigint IS NULL OR o.user_id = %(owner)s)"

    used = indexes_of(
        full,
        QUERIES["read_orders"].format(where=where, tail=""),
        {"order_id": order_id, "owner": user_id if owned else None},
    )

    assert used == {"orders_pkey", *PARTS}


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owned", "filters", "expected"),
    [
        (False, {}, "idx_orders_created_at"),
        (True, {}, "idx_orders_user_page"),
        (False, {"status": "completed"}, "idx_orders_created_at"),
        (True, {"status": "completed"}, "idx_orders_user_page"),
        (True, {"created_after": datetime(2001, 1, 1, tzinfo=UTC)}, "idx_orders_user_page"),
    ],
)
def test_a_page_follows_the_index_of_its_order(
    full: Connection,
    owned: bool,  # noqa: FBT001
    filters: dict[str, Any],
    expected: str,
    after: bool,  # noqa: FBT001
    ascending: bool,  # noqa: FBT001
) -> None:
    from counterfoil.orders.repositories import OrderFilter, page_statement

    middle = full.execute("SELECT created_at, id FROM orders ORDER BY created_at OFFSET 25000 LIMIT 1").fetchone()
    owner = some(full, "SELECT user_id FROM orders LIMIT 1") if owned else None
    wanted = OrderFilter(owner=owner, ascending=ascending, after=middle if after else None, **filters)
    statement, parameters = page_statement(wanted)

    used = indexes_of(full, statement, {**parameters, "limit": 51})

    assert used == {expected, *PARTS}


@pytest.mark.parametrize("status", ["created", "expired", "draft"])
def test_a_page_of_a_rare_status_reads_no_large_table_from_end_to_end(full: Connection, status: str) -> None:
    from counterfoil.orders.repositories import OrderFilter, page_statement
    from counterfoil.orders.states import OrderStatus

    statement, parameters = page_statement(OrderFilter(owner=None, status=OrderStatus(status)))

    used = indexes_of(full, statement, {**parameters, "limit": 51})

    assert used & {"idx_orders_status", "idx_orders_created_at", "idx_orders_reserved_until"}


def test_a_page_of_one_product_reads_no_large_table_from_end_to_end(full: Connection) -> None:
    from counterfoil.orders.repositories import OrderFilter, page_statement

    product = some(full, "SELECT min(id) FROM products")
    statement, parameters = page_statement(OrderFilter(owner=None, product_id=product))

    assert indexes_of(full, statement, {**parameters, "limit": 51})


def test_the_hot_look_ups_go_through_their_index(full: Connection) -> None:
    from counterfoil.orders.repositories import QUERIES

    order_id = some(full, "SELECT max(id) FROM orders")
    look_up = "SELECT fingerprint FROM idempotency_keys WHERE principal = %(principal)s AND key = %(key)s"

    assert indexes_of(full, QUERIES["lock_expired"], {"limit": 50}) == {"idx_orders_reserved_until"}
    assert indexes_of(full, QUERIES["read_timeline"], {"order_id": order_id, "owner": None}) == {
        "uq_outbox_events_seq",
        "orders_pkey",
    }
    assert indexes_of(full, QUERIES["lock_order"], {"order_id": order_id, "owner": None}) == {"orders_pkey"}
    assert indexes_of(full, QUERIES["mark_expired"], {"order_ids": [order_id]}) == {"orders_pkey"}
    assert indexes_of(full, QUERIES["delete_items"], {"order_id": order_id}) == {"idx_order_items_order_id"}
    assert indexes_of(full, QUERIES["delete_adjustments"], {"order_id": order_id}) == {"idx_adjustments_order_id"}
    assert indexes_of(full, look_up, {"principal": "user:1", "key": "key-of-the-order-1"}) == {"idempotency_keys_pkey"}
    expired_keys = (
        "SELECT principal, key FROM idempotency_keys WHERE expires_at <= now() ORDER BY expires_at LIMIT 1000"
    )
    assert indexes_of(full, expired_keys, {}) == {"idx_idempotency_keys_expires"}


@pytest.mark.parametrize("with_units", [False, True])
def test_what_a_customer_has_open_is_counted_without_the_orders_that_are_over(
    full: Connection,
    with_units: bool,  # noqa: FBT001
) -> None:
    from counterfoil.orders.repositories import QUERIES

    user_id = some(full, "SELECT user_id FROM orders WHERE status = 'created' AND reserved_until > now() LIMIT 1")
    full.execute("SET plan_cache_mode = force_generic_plan")
    wanted = {"user_id": user_id, "apart_from": 0, "with_units": with_units}

    used = indexes_of(full, QUERIES["read_open_holds"], wanted)

    full.execute("RESET plan_cache_mode")
    assert used - {"idx_order_items_order_id"} == {"users_pkey", "idx_orders_open_holds"}


def test_coupons_are_found_by_code_and_their_uses_by_customer_and_order(full: Connection) -> None:
    from counterfoil.coupons import repositories

    order_id, user_id = full.execute("SELECT id, user_id FROM orders LIMIT 1 OFFSET 777").fetchone() or (0, 0)
    full.execute("SET plan_cache_mode = force_generic_plan")

    asked = indexes_of(
        full, repositories.ASK_FOR_COUPONS, {"codes": ["CODE-7"], "user_id": user_id, "order_id": order_id}
    )
    of_code = indexes_of(full, repositories.LOCK_COUPONS, {"codes": ["CODE-7"]})
    of_orders = indexes_of(full, repositories.LOCK_COUPONS_OF, {"orders": [order_id]})

    full.execute("RESET plan_cache_mode")
    assert asked == {"uq_coupons_code", "idx_coupon_uses_customer", "uq_coupon_uses_order"}
    assert of_code == {"uq_coupons_code"}
    assert of_orders == {"coupons_pkey", "uq_coupon_uses_order"}
