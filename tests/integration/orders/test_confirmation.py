"""Confirming on terms: the stock is set aside, once, and the order lives on without a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest

ORDERS = "/api/v1/orders"
Database = psycopg.Connection[tuple[Any, ...]]
Unchanged = Callable[[], AbstractContextManager[None]]


def place(client: httpx.Client, product: int, quantity: int) -> dict[str, Any]:
    answer = client.post(ORDERS, json={"items": [{"product_id": product, "quantity": quantity}]})
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


def stock(admin: httpx.Client, product: int) -> tuple[int, int, int]:
    level = admin.get(f"/api/v1/inventory/{product}").json()
    return level["on_hand"], level["reserved"], level["allocated"]


def test_confirming_sets_the_stock_aside(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], db: Database
) -> None:
    product = make_product(stock=10)
    order = place(customer, product, 3)

    answer = admin.post(f"{ORDERS}/{order['id']}/confirm", json={"reason": "pays by invoice"})

    assert answer.status_code == 200, answer.text
    confirmed = answer.json()
    assert (confirmed["status"], confirmed["payment_status"], confirmed["version"]) == ("confirmed", "unpaid", 2)
    assert answer.headers["etag"] == '"2-confirmed"'
    assert stock(admin, product) == (10, 0, 3)
    events = customer.get(f"{ORDERS}/{order['id']}/timeline").json()["events"]
    assert [event["type"] for event in events] == ["order.created", "order.confirmed"]
    assert db.execute(
        "SELECT cancel_until - updated_at = interval '60 minutes' FROM orders WHERE id = %s", [order["id"]]
    ).fetchone() == (True,)
    assert db.execute(
        "SELECT DISTINCT action, reason FROM audit_entries WHERE target = 'order' AND target_id = %s AND id > ("
        "SELECT min(id) FROM audit_entries WHERE target = 'order' AND target_id = %s)",
        [order["id"], order["id"]],
    ).fetchall() == [("order.confirm", "pays by invoice")]


def test_confirming_again_changes_nothing(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    order = place(customer, make_product(), 1)
    first = admin.post(f"{ORDERS}/{order['id']}/confirm", json={})

    with nothing_written():
        again = admin.post(f"{ORDERS}/{order['id']}/confirm", json={})

    assert (again.status_code, again.json()) == (200, first.json())


@pytest.mark.parametrize("state", ["draft", "cancelled", "expired", "in flight"])
def test_what_is_not_waiting_for_money_is_not_confirmed(
    customer: httpx.Client,
    admin: httpx.Client,
    make_product: Callable[..., int],
    nothing_written: Unchanged,
    db: Database,
    state: str,
) -> None:
    body = {"items": [{"product_id": make_product(), "quantity": 1}], "draft": state == "draft"}
    order = customer.post(ORDERS, json=body).json()
    if state == "cancelled":
        assert customer.delete(f"{ORDERS}/{order['id']}").status_code == 204
    if state == "expired":
        db.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [order["id"]])
    if state == "in flight":
        db.execute("UPDATE orders SET payment_in_flight = true WHERE id = %s", [order["id"]])

    with nothing_written():
        answer = admin.post(f"{ORDERS}/{order['id']}/confirm", json={})

    # No payment of it is under way, in truth.
    db.execute("UPDATE orders SET payment_in_flight = false WHERE id = %s", [order["id"]])
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ACTION_NOT_ALLOWED")
    assert "confirm" not in answer.json()["error"]["details"]["allowed_actions"]


def test_many_confirm_at_once_and_the_stock_is_allocated_once(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], db: Database
) -> None:
    product = make_product(stock=10)
    order = place(customer, product, 4)
    together = threading.Barrier(8)

    def confirm(_: int) -> int:
        together.wait(10)
        return admin.post(f"{ORDERS}/{order['id']}/confirm", json={}).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(confirm, range(8)))

    assert statuses == [200] * 8
    assert stock(admin, product) == (10, 0, 4)
    assert db.execute(
        "SELECT count(*) FROM stock_movements WHERE order_id = %s AND kind = 'allocate'", [order["id"]]
    ).fetchone() == (1,)
