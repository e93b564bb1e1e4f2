"""What a change would do, without doing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from order_life import ORDERS, Shop, items, refusal

Unchanged = Callable[[], AbstractContextManager[None]]
MakeProduct = Callable[..., int]


@pytest.fixture
def shop(customer: httpx.Client, admin: httpx.Client) -> Shop:
    return Shop(customer, admin)


def test_a_preview_tells_what_the_change_then_does(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged
) -> None:
    tea, pot = make_product(stock=10, price="2.50"), make_product(stock=5, price="7.00")
    cup = make_product(price="1.00")
    order = shop.place((tea, 2), (pot, 1), (cup, 1))
    body = {"items": items((tea, 4), (cup, 1))}
    headers = {"If-Match": '"1-created"'}

    with nothing_written():
        preview = shop.customer.post(f"{ORDERS}/{order}/preview", json=body, headers=headers)
    changed = shop.customer.put(f"{ORDERS}/{order}", json=body, headers=headers)

    assert preview.status_code == 200, preview.text
    shown = preview.json()
    assert (shown["total_before"], shown["total_after"], shown["total_difference"]) == (13.0, 11.0, -2.0)
    assert {line["product_id"]: line for line in shown["lines"]} == {
        tea: {
            "product_id": tea,
            "quantity_before": 2,
            "quantity_after": 4,
            "unit_price_before": 2.5,
            "unit_price_after": 2.5,
            "available_after": 6,
        },
        pot: {
            "product_id": pot,
            "quantity_before": 1,
            "quantity_after": None,
            "unit_price_before": 7.0,
            "unit_price_after": None,
            "available_after": 5,
        },
    }
    # But for the instant, it is the order that the change makes.
    assert {**shown["order"], "updated_at": None} == {**changed.json(), "updated_at": None}


def test_a_preview_is_refused_where_the_change_would_be(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, service: Any, make_token: Callable[..., str]
) -> None:
    product = make_product(stock=3)
    order, confirmed = shop.place((product, 1)), shop.confirmed((product, 1))
    more = {"items": items((product, 9))}

    with service.client(make_token("customer")) as other, nothing_written():
        answers = [
            shop.customer.post(f"{ORDERS}/{order}/preview", json=more),
            shop.customer.post(f"{ORDERS}/{order}/preview", json=more, headers={"If-Match": '"2-created"'}),
            shop.customer.post(f"{ORDERS}/{confirmed}/preview", json=more),
            shop.customer.post(f"{ORDERS}/{order}/preview", json={}),
            other.post(f"{ORDERS}/{order}/preview", json=more),
        ]

    assert [refusal(answer) for answer in answers] == [
        (409, "INSUFFICIENT_INVENTORY"),
        (412, "ORDER_CHANGED"),
        (409, "ACTION_NOT_ALLOWED"),
        (400, "VALIDATION_FAILED"),
        (404, "ORDER_NOT_FOUND"),
    ]


@pytest.mark.parametrize("status", ["draft", "created"])
def test_a_preview_leaves_the_stock_to_others(shop: Shop, make_product: MakeProduct, status: str) -> None:
    product, draft = make_product(stock=5), status == "draft"
    body = {"items": items((product, 1)), "draft": draft}
    order = shop.customer.post(ORDERS, json=body).json()["id"]

    shown = shop.post(f"{ORDERS}/{order}/preview", {"items": items((product, 5))}, by=shop.customer)

    assert shown["order"]["items"][0]["quantity"] == 5
    assert shop.stock(product) == (5, 0 if draft else 1, 0)
