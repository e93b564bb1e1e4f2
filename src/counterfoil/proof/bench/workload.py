"""What is ordered: the same draws for the service and for pgbench."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from counterfoil.proof.load_client import Exchange, render_request

ORDERS_PATH: Final = "/api/v1/orders"


@dataclass(frozen=True, slots=True)
class Workload:
    """One line from each range of product ids (ascending, not overlapping), 1 to `quantity_max` units of each.

    Ranges that do not overlap make the products of an order different and ascending without rejecting a draw.
    """

    name: str
    users: range
    product_ranges: tuple[range, ...]
    quantity_max: int = 3


def make_uniform(users: range, products: range) -> Workload:
    """Three lines out of all products."""
    third = len(products) // 3
    return Workload("uniform", users, (products[:third], products[third : 2 * third], products[2 * third :]))


def make_hot(users: range, product: int, *, quantity_max: int = 3) -> Workload:
    """One line, and everybody wants the same product."""
    return Workload("hot", users, (range(product, product + 1),), quantity_max)


def draw_orders(
    workload: Workload, *, url: str, tokens: Mapping[int, str], randomness: random.Random
) -> Iterator[Exchange]:
    """Yield orders without end, each of a random customer and with a fresh Idempotency-Key; the tag is the user."""
    while True:
        user_id = randomness.choice(workload.users)
        items = [
            {"product_id": randomness.choice(products), "quantity": randomness.randint(1, workload.quantity_max)}
            for products in workload.product_ranges
        ]
        body = msgspec.json.encode({"user_id": user_id, "items": items})
        key = str(uuid.UUID(int=randomness.getrandbits(128), version=4))
        payload = render_request(url, "POST", ORDERS_PATH, token=tokens[user_id], body=body, idempotency_key=key)
        yield Exchange(payload, user_id)


def draw_reads(
    orders: Sequence[tuple[int, int]], *, url: str, tokens: Mapping[int, str], randomness: random.Random
) -> Iterator[Exchange]:
    """Yield reads of one of these (order id, user id) without end, by their owner."""
    while True:
        order_id, user_id = randomness.choice(orders)
        yield Exchange(render_request(url, "GET", f"{ORDERS_PATH}/{order_id}", token=tokens[user_id]))


def draw_payments(
    orders: Sequence[tuple[int, int]], *, url: str, tokens: Mapping[int, str], randomness: random.Random
) -> Iterator[Exchange]:
    """Yield a payment in the sandbox for each of these (order id, user id), by its owner, with a fresh key."""
    body = msgspec.json.encode({"method": "pm_card_visa"})
    for order_id, user_id in orders:
        key = str(uuid.UUID(int=randomness.getrandbits(128), version=4))
        path = f"{ORDERS_PATH}/{order_id}/payments"
        yield Exchange(render_request(url, "POST", path, token=tokens[user_id], body=body, idempotency_key=key))


def draw_pages(addresses: Sequence[str], *, url: str, token: str, randomness: random.Random) -> Iterator[Exchange]:
    """Yield reads of one of these pages without end."""
    while True:
        yield Exchange(render_request(url, "GET", randomness.choice(addresses), token=token))
