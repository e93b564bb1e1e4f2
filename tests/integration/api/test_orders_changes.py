"""Drafts, changes, cancellation and history of orders through the public door."""

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


def order_of(*lines: tuple[int, int], **values: Any) -> dict[str, Any]:
    return {"items": [{"product_id": product, "quantity": quantity} for product, quantity in lines], **values}


def place(client: httpx.Client, *lines: tuple[int, int], **values: Any) -> dict[str, Any]:
    answer = client.post(ORDERS, json=order_of(*lines, **values))
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


def reserved(admin: httpx.Client, product: int) -> int:
    return int(admin.get(f"/api/v1/inventory/{product}").json()["reserved"])


def reprice(admin: httpx.Client, product: int, price: str) -> None:
    shown = admin.get(f"/api/v1/products/{product}").json()
    body = {"sku": shown["sku"], "name": shown["name"], "price": price, "currency": shown["currency"]}
    assert admin.put(f"/api/v1/products/{product}", json=body).status_code == 200


# ---------------------------------------------------------------- drafts
def test_a_draft_is_priced_and_takes_no_stock(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=1, price="2.50")

    answer = customer.post(ORDERS, json=order_of((product, 4), draft=True))

    assert answer.status_code == 201, answer.text
    draft = answer.json()
    assert (draft["status"], draft["total"], draft["placed_at"], draft["reserved_until"]) == ("draft", 10.0, None, None)
    assert draft["allowed_actions"] == ["discard", "place", "update"]
    assert answer.headers["etag"] == '"1-draft"'
    assert reserved(admin, product) == 0


def test_placing_a_draft_takes_todays_price_and_the_stock(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=5, price="2.50")
    draft = place(customer, (product, 4), draft=True)
    reprice(admin, product, "3.00")

    answer = customer.post(f"{ORDERS}/{draft['id']}/place", headers={"If-Match": '"1-draft"'})

    assert answer.status_code == 200, answer.text
    order = answer.json()
    assert (order["status"], order["total"], order["version"]) == ("created", 12.0, 2)
    assert answer.headers["etag"] == '"2-created"'
    assert reserved(admin, product) == 4
    events = customer.get(f"{ORDERS}/{draft['id']}/timeline").json()["events"]
    assert [event["type"] for event in events] == ["order.drafted", "order.created"]


def test_a_draft_is_placed_only_while_stock_covers_it(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product(stock=3)
    draft = place(customer, (product, 4), draft=True)

    with nothing_written():
        answer = customer.post(f"{ORDERS}/{draft['id']}/place")

    assert answer.status_code == 409
    assert answer.json()["error"]["details"]["products"] == [{"product_id": product, "requested": 4, "available": 3}]


def test_a_draft_is_placed_once(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    draft = place(customer, (make_product(), 1), draft=True)
    assert customer.post(f"{ORDERS}/{draft['id']}/place").status_code == 200

    with nothing_written():
        answer = customer.post(f"{ORDERS}/{draft['id']}/place")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ACTION_NOT_ALLOWED")
    assert answer.json()["error"]["details"] == {
        "status": "created",
        "action": "place",
        "allowed_actions": ["cancel", "pay", "update"],
    }


def test_a_discarded_draft_is_gone_for_good(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product()
    draft = place(customer, (product, 1), draft=True)

    discarded = customer.delete(f"{ORDERS}/{draft['id']}")
    placed = customer.post(f"{ORDERS}/{draft['id']}/place")

    assert (discarded.status_code, discarded.content, placed.status_code) == (204, b"", 409)
    assert customer.get(f"{ORDERS}/{draft['id']}").json()["status"] == "cancelled"
    assert reserved(admin, product) == 0


# ---------------------------------------------------------------- updates
def test_an_update_moves_stock_by_the_difference_and_keeps_the_price_of_what_was_ordered(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], db: Database
) -> None:
    kept, dropped, added = (
        make_product(stock=10, price="1.00"),
        make_product(stock=10, price="2.00"),
        make_product(stock=10, price="3.00"),
    )
    order = place(customer, (kept, 4), (dropped, 2))
    for product in (kept, added):
        reprice(admin, product, "9.00")

    answer = customer.put(
        f"{ORDERS}/{order['id']}", json=order_of((kept, 3), (added, 1)), headers={"If-Match": '"1-created"'}
    )

    assert answer.status_code == 200, answer.text
    assert (answer.json()["total"], answer.json()["version"]) == (12.0, 2)
    assert answer.headers["etag"] == '"2-created"'
    assert [reserved(admin, product) for product in (kept, dropped, added)] == [3, 0, 1]
    moved = db.execute(
        "SELECT product_id, kind, reserved_delta FROM stock_movements WHERE order_id = %s ORDER BY id", [order["id"]]
    ).fetchall()
    assert sorted(moved[2:]) == [(kept, "release", -1), (dropped, "release", -2), (added, "reserve", 1)]


def test_more_of_a_product_is_sold_at_todays_price(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=100, price="5.00")
    order = place(customer, (product, 1))
    reprice(admin, product, "500.00")

    grown = customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 50)))

    assert (grown.status_code, grown.json()["total"]) == (200, 25000.0)


def test_an_order_may_grow_into_all_that_is_left(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product(stock=5)
    order = place(customer, (product, 2))

    grown = customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 5)))
    with nothing_written():
        beyond = customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 6)))

    assert (grown.status_code, reserved(admin, product)) == (200, 5)
    assert beyond.status_code == 409
    assert beyond.json()["error"]["details"]["products"] == [{"product_id": product, "requested": 6, "available": 5}]


def test_only_the_reference_can_be_changed_too(customer: httpx.Client, make_product: Callable[..., int]) -> None:
    order = place(customer, (make_product(), 2))

    changed = customer.put(f"{ORDERS}/{order['id']}", json={"client_reference": "PO-9"}).json()

    assert (changed["client_reference"], changed["items"], changed["version"]) == ("PO-9", order["items"], 2)


def test_an_update_of_nothing_or_to_a_taken_reference_is_refused(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    place(customer, (product, 1), client_reference="PO-1")
    order = place(customer, (product, 1), client_reference="PO-2")

    with nothing_written():
        nothing = customer.put(f"{ORDERS}/{order['id']}", json={})
        taken = customer.put(f"{ORDERS}/{order['id']}", json={"client_reference": "PO-1"})

    assert (nothing.status_code, nothing.json()["error"]["details"]["fields"][0]["field"]) == (400, "body")
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "CLIENT_REFERENCE_TAKEN")


def test_every_change_with_a_stale_etag_is_refused(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    order = place(customer, (product, 1))
    draft = place(customer, (product, 1), draft=True)
    stale = {"If-Match": '"9-created"'}

    with nothing_written():
        answers = [
            customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 2)), headers=stale),
            customer.delete(f"{ORDERS}/{order['id']}", headers=stale),
            customer.post(f"{ORDERS}/{draft['id']}/place", headers=stale),
        ]

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(412, "ORDER_CHANGED")] * 3


@pytest.mark.parametrize("match", ["*", '"1-created"', 'W/"1-created"'])
def test_a_true_etag_in_any_of_its_forms_lets_the_change_through(
    customer: httpx.Client, make_product: Callable[..., int], match: str
) -> None:
    product = make_product()
    order = place(customer, (product, 1))

    answer = customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 2)), headers={"If-Match": match})

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("match", ["", "1-created", '"1-created', '"0-draft", "1-created"', '"a" OR "b"'])
def test_an_etag_that_is_none_is_refused(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged, match: str
) -> None:
    product = make_product()
    order = place(customer, (product, 1))

    with nothing_written():
        answer = customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 2)), headers={"If-Match": match})

    assert (answer.status_code, answer.json()["error"]["details"]["fields"][0]["field"]) == (400, "If-Match")


def test_of_two_changes_with_the_same_etag_one_wins(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    for _ in range(5):
        product = make_product(stock=50)
        order = place(customer, (product, 1))
        start = threading.Barrier(2)

        def change(quantity: int, order: Any = order, product: int = product, start: Any = start) -> httpx.Response:
            start.wait()
            return customer.put(
                f"{ORDERS}/{order['id']}", json=order_of((product, quantity)), headers={"If-Match": '"1-created"'}
            )

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(change, (10, 20)))

        assert sorted(answer.status_code for answer in answers) == [200, 412]
        won = next(answer.json() for answer in answers if answer.status_code == 200)
        assert reserved(admin, product) == won["items"][0]["quantity"]
        assert customer.get(f"{ORDERS}/{order['id']}").json() == won


# ---------------------------------------------------------------- cancel
def test_a_cancelled_order_gives_its_stock_back_once(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product(stock=3)
    order = place(customer, (product, 3))

    cancelled = customer.delete(f"{ORDERS}/{order['id']}", headers={"If-Match": '"1-created"'})
    with nothing_written():
        again = customer.delete(f"{ORDERS}/{order['id']}")

    assert (cancelled.status_code, again.status_code) == (204, 204)
    assert reserved(admin, product) == 0
    shown = customer.get(f"{ORDERS}/{order['id']}").json()
    assert (shown["status"], shown["version"], shown["allowed_actions"]) == ("cancelled", 2, [])
    update = customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 1)))
    assert (update.status_code, update.json()["error"]["code"]) == (409, "ACTION_NOT_ALLOWED")


def test_cancel_and_update_at_once_leave_the_stock_right(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    for _ in range(5):
        product = make_product(stock=20)
        order = place(customer, (product, 5))
        start = threading.Barrier(3)

        def run(act: Callable[[], httpx.Response], start: Any = start) -> int:
            start.wait()
            return act().status_code

        address = f"{ORDERS}/{order['id']}"
        acts: list[Callable[[], httpx.Response]] = [
            lambda address=address: customer.delete(address),
            lambda address=address: admin.delete(address),
            lambda address=address, product=product: customer.put(address, json=order_of((product, 9))),
        ]
        with ThreadPoolExecutor(3) as pool:
            statuses = list(pool.map(run, acts))

        assert statuses[:2] == [204, 204]
        assert statuses[2] in {200, 409}
        assert reserved(admin, product) == 0
        events = customer.get(address + "/timeline").json()["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events][-1] == "order.cancelled"


# ---------------------------------------------------------------- history
def test_the_timeline_tells_what_happened_by_whom_because_of_what(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(price="2.00")
    me, operator = (client.get("/api/v1/users/me").json()["id"] for client in (customer, admin))
    order = customer.post(ORDERS, json=order_of((product, 1)), headers={"X-Request-ID": "request-one"}).json()
    address = f"{ORDERS}/{order['id']}"
    customer.put(address, json=order_of((product, 3)), headers={"X-Request-ID": "request-two"})
    admin.delete(address, headers={"X-Request-ID": "request-three"})

    timeline = customer.get(f"{address}/timeline").json()

    assert timeline["order_id"] == order["id"]
    assert [(e["seq"], e["type"], e["actor"], e["request_id"], e["total"]) for e in timeline["events"]] == [
        (1, "order.created", f"user:{me}", "request-one", 2.0),
        (2, "order.updated", f"user:{me}", "request-two", 6.0),
        (3, "order.cancelled", f"user:{operator}", "request-three", 6.0),
    ]


def test_an_order_can_be_read_as_of_any_instant(customer: httpx.Client, make_product: Callable[..., int]) -> None:
    product = make_product(price="2.00")
    order = place(customer, (product, 1))
    address = f"{ORDERS}/{order['id']}"
    customer.put(address, json=order_of((product, 3)))
    customer.delete(address)
    created, updated, cancelled = [
        event["occurred_at"] for event in customer.get(f"{address}/timeline").json()["events"]
    ]

    def as_of(at: str) -> httpx.Response:
        return customer.get(f"{address}/timeline", params={"at": at})

    assert as_of(created).json() == order
    assert (as_of(updated).json()["status"], as_of(updated).json()["total"]) == ("created", 6.0)
    assert as_of(cancelled).json()["status"] == "cancelled"
    assert as_of("2001-01-01T00:00:00Z").status_code == 404
    assert as_of("2999-01-01T00:00:00+02:00").json() == customer.get(address).json()
