"""An answer that cannot be read is one order's failure, and by then its neighbours are committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest

from counterfoil.orders.commands import OrderLine, PlaceOrder
from counterfoil.orders.holds import HoldTerms
from counterfoil.orders.placement import Outcome, PlacedOrder, place_batch

KEYED = {"idempotency_key": "a-key-that-is-repeated", "fingerprint": b"f" * 32}


@pytest.fixture(scope="module")
def shop_url(make_database: Callable[[], str]) -> str:
    """A database of its own with one customer and one product of which there is plenty."""
    url = make_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (id, password) VALUES (1, '!')")
        connection.execute(
            "INSERT INTO products (id, sku, name, price, currency) VALUES (1, 'TEA', 'Tea', 19.99, 'EUR')"
        )
        connection.execute("INSERT INTO stock_levels (product_id, on_hand) VALUES (1, 100)")
    return url


def order(number: int, **keyed: Any) -> PlaceOrder:
    return PlaceOrder(1, (OrderLine(1, 1),), "user:1", f"request-{number}", **keyed)


def place(url: str, *batches: list[PlaceOrder]) -> list[list[Outcome]]:
    async def run() -> list[list[Outcome]]:
        pool = psycopg_pool.AsyncConnectionPool(url, min_size=1, open=False, kwargs={"autocommit": True})
        async with pool:
            return [await place_batch(pool, batch, terms=HoldTerms(60)) for batch in batches]

    return asyncio.run(run())


def test_neighbours_of_an_unreadable_answer_are_placed_once(shop_url: str, django_ready: None) -> None:
    assert django_ready is None
    [[first]] = place(shop_url, [order(0, **KEYED)])
    assert isinstance(first, PlacedOrder)
    with psycopg.connect(shop_url, autocommit=True) as connection:
        connection.execute("UPDATE outbox_events SET payload = '{}' WHERE aggregate_id = %s", [first.facts.order_id])

    [[broken, *neighbours]] = place(shop_url, [order(1, **KEYED), order(2), order(3), order(4)])

    assert isinstance(broken, Exception)
    assert [type(outcome) for outcome in neighbours] == [PlacedOrder] * 3
    with psycopg.connect(shop_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (4,)
