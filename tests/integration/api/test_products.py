"""The catalogue over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest

PRODUCTS = "/api/v1/products"
Unchanged = Callable[[], AbstractContextManager[None]]


def body_of(**values: Any) -> dict[str, Any]:
    return {"sku": f"T-{secrets.token_hex(6)}", "name": "Tea", "price": "19.99", "currency": "EUR", **values}


def test_a_product_is_created_and_read_as_it_was_given(
    admin: httpx.Client, anonymous: httpx.Client, db: psycopg.Connection[Any]
) -> None:
    body = body_of(description="First\nflush 🍃", category="tea", allow_backorder=True)

    answer = admin.post(PRODUCTS, json=body)

    assert answer.status_code == 201, answer.text
    product = answer.json()
    assert {k: product[k] for k in ("sku", "name", "price", "currency", "description", "category")} == {
        k: v for k, v in body.items() if k != "allow_backorder"
    }
    assert (product["active"], product["version"], answer.headers["etag"]) == (True, 1, '"1"')
    assert anonymous.get(f"{PRODUCTS}/{product['id']}").json() == product
    level = admin.get(f"/api/v1/inventory/{product['id']}").json()
    assert (level["on_hand"], level["allow_backorder"]) == (0, True)
    audit = db.execute(
        "SELECT action FROM audit_entries WHERE target = 'product' AND target_id = %s", [product["id"]]
    ).fetchall()
    assert audit == [("product.create",)]


def test_a_taken_sku_is_refused_until_its_product_is_deleted(admin: httpx.Client, nothing_written: Unchanged) -> None:
    body = body_of()
    first = admin.post(PRODUCTS, json=body).json()["id"]
    other = admin.post(PRODUCTS, json=body_of()).json()["id"]

    with nothing_written():
        refused = admin.post(PRODUCTS, json=body)
        renamed = admin.put(f"{PRODUCTS}/{other}", json=body)
    admin.delete(f"{PRODUCTS}/{first}")
    again = admin.post(PRODUCTS, json=body)

    for answer in (refused, renamed):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "SKU_TAKEN")
        assert answer.json()["error"]["details"] == {"sku": body["sku"]}
    assert again.status_code == 201


def test_a_replaced_product_has_all_new_values_and_a_new_etag(admin: httpx.Client) -> None:
    product = admin.post(PRODUCTS, json=body_of(description="old", category="old")).json()
    new = body_of(name="New tea", price="1500", currency="JPY", active=False)

    answer = admin.put(f"{PRODUCTS}/{product['id']}", json=new, headers={"If-Match": '"1"'})
    stale = admin.put(f"{PRODUCTS}/{product['id']}", json=body_of(), headers={"If-Match": '"1"'})

    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["name"], shown["price"], shown["currency"], shown["description"], shown["active"]) == (
        "New tea",
        "1500",
        "JPY",
        "",
        False,
    )
    assert (shown["version"], answer.headers["etag"]) == (2, '"2"')
    assert (stale.status_code, stale.json()["error"]["code"]) == (412, "PRODUCT_CHANGED")
    assert admin.get(f"{PRODUCTS}/{product['id']}").json() == shown


def test_a_placed_order_keeps_the_name_and_price_it_was_placed_at(
    admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(name="Tea", price="2.00")
    order = customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 2}]}).json()
    admin.put(f"{PRODUCTS}/{product}", json=body_of(name="Dear tea", price="9.00"))
    admin.delete(f"{PRODUCTS}/{product}")

    shown = customer.get(f"/api/v1/orders/{order['id']}").json()

    assert shown == order
    assert (shown["items"][0]["name"], shown["total"]) == ("Tea", 4.0)


def test_backorders_are_not_forbidden_while_more_is_promised_than_there_is(
    admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product(stock=1, allow_backorder=True)
    customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 3}]})

    with nothing_written():
        answer = admin.put(f"{PRODUCTS}/{product}", json=body_of(allow_backorder=False))

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "STOCK_TOO_LOW")


def test_an_inactive_product_is_hidden_from_all_but_managers(
    admin: httpx.Client, customer: httpx.Client, anonymous: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(active=False, category="hidden-shelf")

    for client in (customer, anonymous):
        assert client.get(f"{PRODUCTS}/{product}").status_code == 404
        assert client.get(PRODUCTS, params={"category": "hidden-shelf"}).json()["items"] == []
    assert admin.get(f"{PRODUCTS}/{product}").json()["active"] is False
    listed = admin.get(PRODUCTS, params={"category": "hidden-shelf"}).json()["items"]
    assert [item["id"] for item in listed] == [product]


def test_a_deleted_product_is_gone_and_deleting_it_again_says_so(
    admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    stale = admin.delete(f"{PRODUCTS}/{product}", headers={"If-Match": '"9"'})

    deleted = admin.delete(f"{PRODUCTS}/{product}", headers={"If-Match": '"1"'})
    with nothing_written():
        again = admin.delete(f"{PRODUCTS}/{product}")
        replaced = admin.put(f"{PRODUCTS}/{product}", json=body_of())

    assert (stale.status_code, deleted.status_code, deleted.content) == (412, 204, b"")
    for answer in (again, replaced, admin.get(f"{PRODUCTS}/{product}"), admin.get(f"/api/v1/inventory/{product}")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "PRODUCT_NOT_FOUND")


def test_a_list_is_walked_page_by_page_and_searched_literally(
    admin: httpx.Client, anonymous: httpx.Client, make_product: Callable[..., int]
) -> None:
    shelf = f"shelf-{secrets.token_hex(4)}"
    products = [make_product(stock=0, category=shelf, name=f"Tea {n}% off") for n in range(5)]

    seen: list[int] = []
    page = anonymous.get(PRODUCTS, params={"category": shelf, "limit": 2}).json()
    while True:
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        page = anonymous.get(page["next"]).json()

    assert seen == products
    assert [i["id"] for i in anonymous.get(PRODUCTS, params={"category": shelf, "q": "3% OFF"}).json()["items"]] == [
        products[3]
    ]
    assert anonymous.get(PRODUCTS, params={"category": shelf, "q": "3_ off"}).json()["items"] == []
    cursor = anonymous.get(PRODUCTS, params={"category": shelf, "limit": 2}).json()["next_cursor"]
    for client, parameters in (
        (admin, {"category": shelf, "cursor": cursor}),
        (anonymous, {"cursor": cursor}),
        (anonymous, {"category": shelf, "q": "tea", "cursor": cursor}),
    ):
        assert client.get(PRODUCTS, params=parameters).json()["error"]["code"] == "INVALID_CURSOR"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"price": 19.99}, "price"),
        ({"price": "19,99"}, "price"),
        ({"price": "1e2"}, "price"),
        ({"price": "-1"}, "price"),
        ({"price": "+1"}, "price"),
        ({"price": ".5"}, "price"),
        ({"price": "1."}, "price"),
        ({"price": "1.999"}, "price"),
        ({"price": "1." + "0" * 30}, "price"),
        ({"price": "100000000000000"}, "price"),
        ({"price": "\u0661\u0662"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"price": "1.5", "currency": "JPY"}, "price"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "XXX"}, "currency"),
        ({"currency": "EURO"}, "currency"),
        ({"sku": ""}, "sku"),
        ({"sku": "-x"}, "sku"),
        ({"sku": "x" * 65}, "sku"),
        ({"sku": "a b"}, "sku"),
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"description": "a\x00b"}, "description"),
        ({"description": "x" * 10_001}, "description"),
        ({"active": "true"}, "active"),
        ({"active": 1}, "active"),
        ({"id": 7}, "id"),
        ({"version": 7}, "version"),
        ({"deleted_at": None}, "deleted_at"),
    ],
)
def test_security_IV_04_a_wrong_value_is_named(
    admin: httpx.Client,
    make_product: Callable[..., int],
    nothing_written: Unchanged,
    values: dict[str, Any],
    field: str,
) -> None:
    product = make_product(stock=0)

    with nothing_written():
        answers = [
            admin.post(PRODUCTS, json=body_of(**values)),
            admin.put(f"{PRODUCTS}/{product}", json=body_of(**values)),
        ]

    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == [field]


@pytest.mark.parametrize("role", ["customer", "support", "service"])
def test_only_managers_change_the_catalogue(
    service: Any,
    make_token: Callable[..., str],
    make_product: Callable[..., int],
    nothing_written: Unchanged,
    role: str,
) -> None:
    product = make_product()

    with service.client(make_token(role)) as client, nothing_written():
        answers = [
            client.post(PRODUCTS, json=body_of()),
            client.put(f"{PRODUCTS}/{product}", json=body_of()),
            client.delete(f"{PRODUCTS}/{product}"),
        ]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "ROLE_MISSING")] * 3


def test_a_manager_changes_the_catalogue(service: Any, make_token: Callable[..., str]) -> None:
    with service.client(make_token("manager")) as manager:
        assert manager.post(PRODUCTS, json=body_of()).status_code == 201
