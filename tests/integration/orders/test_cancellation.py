"""Cancelling with a reason and choices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from order_life import FULFILLMENTS, ORDERS, Shop, at_once, refusal

Database = psycopg.Connection[tuple[Any, ...]]
Unchanged = Callable[[], AbstractContextManager[None]]
MakeProduct = Callable[..., int]


@pytest.fixture
def shop(customer: httpx.Client, admin: httpx.Client) -> Shop:
    return Shop(customer, admin)


def movements(db: Database, order: int) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT kind, on_hand_delta, reserved_delta, allocated_delta, reason FROM stock_movements"
        " WHERE order_id = %s ORDER BY id",
        [order],
    ).fetchall()


@pytest.mark.parametrize("goods", ["to sell again", "lost"])
@pytest.mark.parametrize("status", ["created", "confirmed"])
def test_staff_cancels_and_says_what_becomes_of_the_goods(
    shop: Shop, make_product: MakeProduct, db: Database, status: str, goods: str
) -> None:
    restock = goods == "to sell again"
    product = make_product(stock=10)
    order = shop.place((product, 3)) if status == "created" else shop.confirmed((product, 3))

    cancelled = shop.post(f"{ORDERS}/{order}/cancel", {"reason": "out_of_stock", "restock": restock})

    assert (cancelled["status"], cancelled["allowed_actions"]) == ("cancelled", ["note"])
    assert shop.stock(product) == (10 if restock else 7, 0, 0)
    given_back = ("release", 0, -3, 0, "cancelled") if status == "created" else ("deallocate", 0, 0, -3, "cancelled")
    lost = [] if restock else [("loss", -3, 0, 0, "cancelled: out_of_stock")]
    assert movements(db, order)[-1 - len(lost) :] == [given_back, *lost]
    assert shop.about(order) == {"reason": "out_of_stock", "restock": restock, "refund": True}
    assert db.execute(
        "SELECT DISTINCT action, reason FROM audit_entries WHERE target = 'order' AND target_id = %s"
        " AND action = 'order.cancel'",
        [order],
    ).fetchall() == [("order.cancel", "out_of_stock")]


def test_what_is_in_a_fulfillment_is_cancelled_with_the_order(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=10)
    order = shop.confirmed((product, 4))
    first, second = shop.fulfil(order, (product, 1)), shop.fulfil(order, (product, 2))
    shop.post(f"{FULFILLMENTS}/{first}/start")

    shop.post(f"{ORDERS}/{order}/cancel", {"reason": "customer_request"})

    listed = shop.staff.get(f"{ORDERS}/{order}/fulfillments").json()["items"]
    assert [(each["id"], each["status"]) for each in listed] == [(first, "cancelled"), (second, "cancelled")]
    assert shop.events(order)[-3:] == ["fulfillment.cancelled", "fulfillment.cancelled", "order.cancelled"]
    assert shop.stock(product) == (10, 0, 0)


def test_cancelling_again_changes_nothing(shop: Shop, make_product: MakeProduct, nothing_written: Unchanged) -> None:
    order = shop.confirmed((make_product(), 1))
    first = shop.post(f"{ORDERS}/{order}/cancel", {"reason": "unpaid"})

    with nothing_written():
        again = shop.staff.post(f"{ORDERS}/{order}/cancel", json={"reason": "other", "restock": False})
        deleted = shop.customer.delete(f"{ORDERS}/{order}")

    assert (again.status_code, again.json(), deleted.status_code) == (200, first, 204)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("customer writes off", (403, "ROLE_MISSING")),
        ("customer waives the refund", (403, "ROLE_MISSING")),
        ("customer after the window", (409, "ACTION_NOT_ALLOWED")),
        ("something is shipped", (409, "ACTION_NOT_ALLOWED")),
        ("unknown reason", (400, "VALIDATION_FAILED")),
        ("stale tag", (412, "ORDER_CHANGED")),
    ],
)
def test_a_cancellation_that_must_not_be_is_refused(
    shop: Shop,
    make_product: MakeProduct,
    nothing_written: Unchanged,
    db: Database,
    case: str,
    expected: tuple[int, str],
) -> None:
    product = make_product()
    order = shop.confirmed((product, 2))
    bodies = {
        "customer writes off": {"restock": False},
        "customer waives the refund": {"refund": False},
        "unknown reason": {"reason": "I am ill"},
    }
    if case == "customer after the window":
        db.execute("UPDATE orders SET cancel_until = now() WHERE id = %s", [order])
    if case == "something is shipped":
        shop.ship(order, (product, 1))
    client = shop.customer if case.startswith("customer") else shop.staff
    headers = {"If-Match": '"1-created"'} if case == "stale tag" else {}

    with nothing_written():
        answer = client.post(f"{ORDERS}/{order}/cancel", json=bodies.get(case, {}), headers=headers)

    assert refusal(answer) == expected


def test_a_customer_cancels_within_the_window(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=5)
    order = shop.confirmed((product, 2))

    shop.post(f"{ORDERS}/{order}/cancel", {"reason": "ordered_by_mistake"}, by=shop.customer)

    assert shop.stock(product) == (5, 0, 0)


def test_many_cancel_at_once_and_the_stock_comes_back_once(shop: Shop, make_product: MakeProduct, db: Database) -> None:
    product = make_product(stock=10)
    order = shop.confirmed((product, 4))
    shop.fulfil(order)

    answers = at_once([lambda: shop.staff.post(f"{ORDERS}/{order}/cancel", json={"restock": False})] * 8)

    assert [answer.status_code for answer in answers] == [200] * 8
    assert shop.stock(product) == (6, 0, 0)
    assert [row[0] for row in movements(db, order)] == ["reserve", "allocate", "deallocate", "loss"]
    assert shop.events(order).count("order.cancelled") == 1
