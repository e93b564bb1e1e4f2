"""What is not sent yet: every event, from the moment that it exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
# What the list says of an event, and what the event says of itself.
LISTED = """
SELECT p.seq, p.shard, p.aggregate = e.aggregate AND p.aggregate_id = e.aggregate_id AND p.seq = e.seq
FROM outbox_pending p JOIN outbox_events e ON e.event_id = p.event_id
WHERE e.aggregate = 'order' AND e.aggregate_id = %s ORDER BY p.seq"""


def test_every_event_is_listed_with_the_shard_of_its_order(
    customer: httpx.Client, make_product: Callable[..., int], db: Connection
) -> None:
    product = make_product()
    # Both ways to write an event: the statement that places orders, and the services' own.
    order = customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 1}]}).json()["id"]
    assert customer.delete(f"/api/v1/orders/{order}").status_code == 204

    assert db.execute(LISTED, [order]).fetchall() == [(1, order % 16, True), (2, order % 16, True)]


def test_an_event_that_is_not_committed_is_not_listed(
    customer: httpx.Client, make_product: Callable[..., int], database_url: str, db: Connection
) -> None:
    product = make_product()
    order = customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 1}]}).json()["id"]
    insert = (
        "INSERT INTO outbox_events (event_id, aggregate, aggregate_id, seq, type, payload, actor, cause)"
        " SELECT gen_random_uuid(), 'order', %s, n, 'order.updated', '{}', 'test', 'test'"
        " FROM generate_series(2, 4) AS n"
    )
    with psycopg.connect(database_url) as connection:
        connection.execute(insert, [order])
        # One statement, several rows.
        assert [row[0] for row in connection.execute(LISTED, [order])] == [1, 2, 3, 4]
        connection.rollback()

    assert [row[0] for row in db.execute(LISTED, [order])] == [1]


def test_events_know_their_transaction_and_the_shape_of_their_payload(
    customer: httpx.Client, make_product: Callable[..., int], db: Connection
) -> None:
    product = make_product()
    first, second = (
        customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 1}]}).json()["id"]
        for _ in range(2)
    )

    rows = db.execute(
        "SELECT aggregate_id, schema_version, xact < pg_snapshot_xmax(pg_current_snapshot()) FROM outbox_events"
        " WHERE aggregate = 'order' AND aggregate_id = ANY (%s) ORDER BY xact",
        [[second, first]],
    ).fetchall()

    assert rows == [(first, 1, True), (second, 1, True)]
