"""An order on its way, for tests: placed by a customer, moved on by staff."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import httpx

ORDERS = "/api/v1/orders"
FULFILLMENTS = "/api/v1/fulfillments"
RETURNS = "/api/v1/returns"


def key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


def items(*lines: tuple[int, int]) -> list[dict[str, int]]:
    return [{"product_id": product, "quantity": quantity} for product, quantity in lines]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def at_once(calls: Sequence[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    """Make requests that start together, each in a thread of its own."""
    together = Barrier(len(calls))

    def run(call: Callable[[], httpx.Response]) -> httpx.Response:
        together.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


@dataclass
class Shop:
    """A customer and the staff, and what they do; every step must succeed."""

    customer: httpx.Client
    staff: httpx.Client

    def place(self, *lines: tuple[int, int]) -> int:
        answer = self.customer.post(ORDERS, json={"items": items(*lines)})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def confirmed(self, *lines: tuple[int, int]) -> int:
        order = self.place(*lines)
        self.post(f"{ORDERS}/{order}/confirm", {})
        return order

    def fulfil(self, order: int, *lines: tuple[int, int]) -> int:
        body = {"items": items(*lines)} if lines else {}
        return int(self.post(f"{ORDERS}/{order}/fulfillments", body, status=201)["id"])

    def ship(self, order: int, *lines: tuple[int, int]) -> int:
        fulfillment = self.fulfil(order, *lines)
        self.post(f"{FULFILLMENTS}/{fulfillment}/ship", {})
        return fulfillment

    def shipped(self, *lines: tuple[int, int]) -> int:
        order = self.confirmed(*lines)
        self.ship(order)
        return order

    def post(self, path: str, body: Any = None, *, by: httpx.Client | None = None, status: int = 200) -> dict[str, Any]:
        answer = (by or self.staff).post(path, json=body, headers=key())
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def order(self, order: int) -> dict[str, Any]:
        found: dict[str, Any] = self.customer.get(f"{ORDERS}/{order}").json()
        return found

    def events(self, order: int) -> list[str]:
        return [event["type"] for event in self.customer.get(f"{ORDERS}/{order}/timeline").json()["events"]]

    def about(self, order: int) -> Any:
        return self.customer.get(f"{ORDERS}/{order}/timeline").json()["events"][-1]["about"]

    def stock(self, product: int) -> tuple[int, int, int]:
        """On hand, reserved, allocated."""
        level = self.staff.get(f"/api/v1/inventory/{product}").json()
        return level["on_hand"], level["reserved"], level["allocated"]
