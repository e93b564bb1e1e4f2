"""Placing and reading orders through the public door."""

from __future__ import annotations

from collections.abc import Callable
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


def test_a_placed_order_is_priced_stocked_and_stored(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    tea, pot = make_product(stock=10, price="19.99"), make_product(stock=5, price="7.50")

    answer = customer.post(ORDERS, json=order_of((tea, 2), (pot, 1)))

    assert answer.status_code == 201, answer.text
    order = answer.json()
    assert (order["status"], order["total"], order["currency"]) == ("created", 47.48, "EUR")
    assert answer.headers["etag"] == '"1-created"'
    assert '"total":47.48' in answer.text
    assert customer.get(f"{ORDERS}/{order['id']}").json() == order
    level = admin.get(f"/api/v1/inventory/{tea}").json()
    assert (level["on_hand"], level["reserved"], level["available"]) == (10, 2, 8)


def test_a_placed_order_has_every_field_of_the_contract(
    customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(price="5.00", name="Kettle")
    me = customer.get("/api/v1/users/me").json()["id"]

    order = customer.post(ORDERS, json=order_of((product, 3), client_reference="PO-1/a")).json()

    assert order["user_id"] == me
    assert order["items"] == [
        {
            "product_id": product,
            "sku": order["items"][0]["sku"],
            "name": "Kettle",
            "quantity": 3,
            "unit_price": 5.0,
            "line_total": 15.0,
            "shipped": 0,
            "returned": 0,
            "discount": 0,
            "tax_rate": 0,
            "tax": 0,
        }
    ]
    assert (order["payment_status"], order["fulfillment_status"], order["return_status"]) == (
        "unpaid",
        "unfulfilled",
        "none",
    )
    assert (order["client_reference"], order["version"]) == ("PO-1/a", 1)
    assert order["allowed_actions"] == ["cancel", "pay", "update"]
    assert order["created_at"].endswith("Z")
    assert order["reserved_until"] > order["placed_at"] == order["created_at"] == order["updated_at"]


@pytest.mark.parametrize(
    ("currency", "price", "quantity", "shown"),
    [("EUR", "0.10", 3, "0.30"), ("JPY", "1500", 2, "3000"), ("KWD", "1.005", 3, "3.015"), ("EUR", "0", 1, "0.00")],
)
def test_a_total_is_a_number_with_exactly_the_digits_of_its_currency(
    customer: httpx.Client, make_product: Callable[..., int], currency: str, price: str, quantity: int, shown: str
) -> None:
    product = make_product(price=price, currency=currency)

    answer = customer.post(ORDERS, json=order_of((product, quantity)))

    assert f'"total":{shown},' in answer.text


def test_the_largest_order_is_exact_to_the_last_cent(customer: httpx.Client, make_product: Callable[..., int]) -> None:
    product = make_product(stock=1_000_000, price="99999999.99")

    answer = customer.post(ORDERS, json=order_of((product, 999_999)))

    assert answer.status_code == 201
    assert '"total":99999899990000.01,' in answer.text


def test_a_product_named_twice_is_one_line_with_the_sum(
    customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    tea, pot = make_product(stock=5), make_product()

    order = customer.post(ORDERS, json=order_of((tea, 2), (pot, 1), (tea, 3))).json()
    refused = customer.post(ORDERS, json=order_of((tea, 1)))

    assert [(item["product_id"], item["quantity"]) for item in order["items"]] == [(tea, 5), (pot, 1)]
    assert refused.json()["error"]["details"]["available"] == 0


def test_an_order_writes_one_event_one_audit_entry_and_one_movement_per_line(
    customer: httpx.Client, make_product: Callable[..., int], db: Database
) -> None:
    tea, pot = make_product(), make_product()

    answer = customer.post(ORDERS, json=order_of((tea, 2), (pot, 1)), headers={"X-Request-ID": "my-request-0001"})

    order = answer.json()
    assert answer.headers["x-request-id"] == "my-request-0001"
    principal = f"user:{order['user_id']}"
    events = db.execute(
        "SELECT seq, type, actor, cause FROM outbox_events WHERE aggregate_id = %s", [order["id"]]
    ).fetchall()
    assert events == [(1, "order.created", principal, "my-request-0001")]
    audit = db.execute(
        "SELECT actor, action, request_id FROM audit_entries WHERE target = 'order' AND target_id = %s", [order["id"]]
    ).fetchall()
    assert audit == [(principal, "order.place", "my-request-0001")]
    moved = db.execute(
        "SELECT product_id, kind, on_hand_delta, reserved_delta FROM stock_movements WHERE order_id = %s ORDER BY 1",
        [order["id"]],
    ).fetchall()
    assert moved == [(tea, "reserve", 0, 2), (pot, "reserve", 0, 1)]


def test_too_little_stock_takes_no_part_of_the_order_and_names_every_short_product(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    tea, pot, cup = make_product(stock=9), make_product(stock=2), make_product(stock=0)

    with nothing_written():
        answer = customer.post(ORDERS, json=order_of((tea, 1), (pot, 5), (cup, 1)))

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (
        "INSUFFICIENT_INVENTORY",
        f"Product {pot} has only 2 units available",
    )
    assert error["details"] == {
        "product_id": pot,
        "requested": 5,
        "available": 2,
        "products": [
            {"product_id": pot, "requested": 5, "available": 2},
            {"product_id": cup, "requested": 1, "available": 0},
        ],
    }


def test_a_product_that_allows_backorder_is_sold_beyond_its_stock(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=1, allow_backorder=True)

    answer = customer.post(ORDERS, json=order_of((product, 4)))

    assert answer.status_code == 201
    level = admin.get(f"/api/v1/inventory/{product}").json()
    assert (level["on_hand"], level["reserved"], level["available"]) == (1, 4, -3)


def test_staff_order_for_somebody_else_and_a_customer_does_not(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    buyer = customer.get("/api/v1/users/me").json()["id"]
    somebody = admin.get("/api/v1/users/me").json()["id"]

    placed = admin.post(ORDERS, json=order_of((product, 1), user_id=buyer))
    own = customer.post(ORDERS, json=order_of((product, 1), user_id=buyer))
    with nothing_written():
        refused = customer.post(ORDERS, json=order_of((product, 1), user_id=somebody))
        refused_draft = customer.post(ORDERS, json=order_of((product, 1), user_id=somebody, draft=True))

    assert (placed.status_code, placed.json()["user_id"]) == (201, buyer)
    assert customer.get(f"{ORDERS}/{placed.json()['id']}").status_code == 200
    assert own.status_code == 201
    for answer in (refused, refused_draft):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ROLE_MISSING")


def test_a_client_reference_is_taken_once_per_user(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    first = customer.post(ORDERS, json=order_of((product, 1), client_reference="PO-7"))

    with nothing_written():
        second = customer.post(ORDERS, json=order_of((product, 1), client_reference="PO-7"))
        as_draft = customer.post(ORDERS, json=order_of((product, 1), client_reference="PO-7", draft=True))
    of_another = admin.post(ORDERS, json=order_of((product, 1), client_reference="PO-7"))

    assert (first.status_code, of_another.status_code) == (201, 201)
    for answer in (second, as_draft):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CLIENT_REFERENCE_TAKEN")


def test_an_order_of_an_account_that_is_switched_off_is_refused(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    me = customer.get("/api/v1/users/me").json()["id"]
    assert admin.put(f"/api/v1/users/{me}", json={"is_active": False}).status_code == 200

    with nothing_written():
        answer = customer.post(ORDERS, json=order_of((product, 1)))

    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["fields"][0]["field"] == "user_id"


def test_another_ones_order_looks_like_a_missing_one_for_every_method(
    customer: httpx.Client,
    admin: httpx.Client,
    make_product: Callable[..., int],
    nothing_written: Unchanged,
) -> None:
    product = make_product()
    theirs = admin.post(ORDERS, json=order_of((product, 1))).json()["id"]
    their_draft = admin.post(ORDERS, json=order_of((product, 1), draft=True)).json()["id"]

    def outcomes(order_id: int) -> list[tuple[int, dict[str, Any]]]:
        answers = [
            customer.get(f"{ORDERS}/{order_id}"),
            customer.get(f"{ORDERS}/{order_id}/timeline"),
            customer.get(f"{ORDERS}/{order_id}/timeline", params={"at": "2999-01-01T00:00:00Z"}),
            customer.put(f"{ORDERS}/{order_id}", json=order_of((product, 2))),
            customer.put(f"{ORDERS}/{order_id}", json=order_of((product, 2)), headers={"If-Match": '"1-created"'}),
            customer.delete(f"{ORDERS}/{order_id}"),
            customer.post(f"{ORDERS}/{order_id}/place"),
        ]
        return [(answer.status_code, answer.json()["error"]) for answer in answers]

    with nothing_written():
        missing = outcomes(2**62)
        assert outcomes(theirs) == missing
        assert outcomes(their_draft) == missing

    error = {"code": "ORDER_NOT_FOUND", "message": "There is no such order.", "details": {}}
    assert missing == [(404, error)] * 7


def test_an_order_reads_as_expired_the_moment_its_deadline_passes(
    customer: httpx.Client, make_product: Callable[..., int], database_url: str
) -> None:
    product = make_product()
    order = customer.post(ORDERS, json=order_of((product, 1))).json()
    assert order["status"] == "created"

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [order["id"]])
    read = customer.get(f"{ORDERS}/{order['id']}")

    assert (read.json()["status"], read.headers["etag"]) == ("expired", '"1-expired"')
    assert read.json()["allowed_actions"] == []
    listed = customer.get(ORDERS, params={"status": "expired"}).json()["items"]
    assert [item["id"] for item in listed] == [order["id"]]
    assert customer.get(ORDERS, params={"status": "created"}).json()["items"] == []
    for answer in (
        customer.put(f"{ORDERS}/{order['id']}", json=order_of((product, 2))),
        customer.delete(f"{ORDERS}/{order['id']}"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ACTION_NOT_ALLOWED")
