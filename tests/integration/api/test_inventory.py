"""Stock over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

Unchanged = Callable[[], AbstractContextManager[None]]


def level_of(product: int) -> str:
    return f"/api/v1/inventory/{product}"


def move(client: httpx.Client, product: int, kind: str, quantity: Any, **values: Any) -> httpx.Response:
    return client.post(
        f"{level_of(product)}/movements",
        json={"kind": kind, "quantity": quantity, **values},
        headers={"Idempotency-Key": secrets.token_hex(16)},
    )


def test_the_movements_explain_the_level(
    admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=10)
    me = admin.get("/api/v1/users/me").json()["id"]
    order = customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 3}]}).json()

    lost = move(admin, product, "loss", -2, reason="broken")
    corrected = move(admin, product, "adjustment", 1, reason="count of June")

    assert (lost.status_code, lost.json()["on_hand"]) == (201, 8)
    assert corrected.status_code == 201
    level = admin.get(level_of(product)).json()
    assert level == corrected.json()
    assert (level["on_hand"], level["reserved"], level["allocated"], level["available"]) == (9, 3, 0, 6)
    movements = admin.get(f"{level_of(product)}/movements").json()["items"]
    assert [(m["kind"], m["on_hand_delta"], m["reserved_delta"], m["order_id"], m["reason"]) for m in movements] == [
        ("adjustment", 1, 0, None, "count of June"),
        ("loss", -2, 0, None, "broken"),
        ("reserve", 0, 3, order["id"], ""),
        ("receipt", 10, 0, None, ""),
    ]
    assert [m["actor"] for m in movements] == [f"user:{me}", f"user:{me}", f"user:{order['user_id']}", f"user:{me}"]


def test_movements_are_walked_page_by_page(admin: httpx.Client, make_product: Callable[..., int]) -> None:
    product = make_product(stock=1)
    for _ in range(4):
        assert move(admin, product, "receipt", 1).status_code == 201

    seen: list[int] = []
    page = admin.get(f"{level_of(product)}/movements", params={"limit": 2}).json()
    other = make_product(stock=0)
    elsewhere = admin.get(f"{level_of(other)}/movements", params={"limit": 2, "cursor": page["next_cursor"]})
    while True:
        seen += [movement["id"] for movement in page["items"]]
        if page["next"] is None:
            break
        page = admin.get(page["next"]).json()

    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (400, "INVALID_CURSOR")


def test_what_is_promised_is_not_taken_away(
    admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product(stock=5)
    customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 4}]})

    with nothing_written():
        refused = [move(admin, product, "loss", -2), move(admin, product, "adjustment", -10)]
    allowed = move(admin, product, "loss", -1)

    assert [(a.status_code, a.json()["error"]["code"]) for a in refused] == [(409, "STOCK_TOO_LOW")] * 2
    assert refused[0].json()["error"]["details"] == {"product_id": product, "available": 1, "requested": 2}
    assert (allowed.status_code, allowed.json()["available"]) == (201, 0)


@pytest.mark.parametrize(
    ("kind", "quantity", "field"),
    [
        ("receipt", 0, "quantity"),
        ("receipt", -1, "quantity"),
        ("loss", 1, "quantity"),
        ("loss", 0, "quantity"),
        ("adjustment", 0, "quantity"),
        ("receipt", 10_000_001, "quantity"),
        ("receipt", 2**63, "quantity"),
        ("receipt", 1.5, "quantity"),
        ("receipt", "1", "quantity"),
        ("receipt", True, "quantity"),
        ("receipt", None, "quantity"),
        ("reserve", 1, "kind"),
        ("release", -1, "kind"),
        ("", 1, "kind"),
    ],
)
def test_a_wrong_movement_is_named(
    admin: httpx.Client,
    make_product: Callable[..., int],
    nothing_written: Unchanged,
    kind: str,
    quantity: Any,
    field: str,
) -> None:
    product = make_product()

    with nothing_written():
        answer = move(admin, product, kind, quantity)

    assert answer.status_code == 400, answer.text
    assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == [field]


def test_stock_of_a_product_that_is_not_there_is_not_found(admin: httpx.Client, nothing_written: Unchanged) -> None:
    with nothing_written():
        answers = [
            admin.get(level_of(2**62)),
            admin.get(f"{level_of(2**62)}/movements"),
            move(admin, 2**62, "receipt", 1),
        ]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(404, "PRODUCT_NOT_FOUND")] * 3


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [("customer", 403, 403), ("support", 200, 403), ("manager", 200, 201), ("service", 200, 201), ("admin", 200, 201)],
)
def test_stock_is_for_staff_and_changed_by_those_who_keep_it(
    service: Any, make_token: Callable[..., str], make_product: Callable[..., int], role: str, reads: int, writes: int
) -> None:
    product = make_product()

    with service.client(make_token(role)) as client:
        statuses = (
            client.get(level_of(product)).status_code,
            client.get(f"{level_of(product)}/movements").status_code,
            move(client, product, "receipt", 1).status_code,
        )

    assert statuses == (reads, reads, writes)


def test_receipts_and_orders_at_once_add_up(
    admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=5)

    def act(n: int) -> int:
        if n % 2:
            return move(admin, product, "receipt", 1).status_code
        return customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 1}]}).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(act, range(40)))

    assert statuses[1::2] == [201] * 20
    sold = statuses[::2].count(201)
    assert set(statuses[::2]) <= {201, 409}
    level = admin.get(level_of(product)).json()
    assert (level["on_hand"], level["reserved"], level["available"]) == (25, sold, 25 - sold)
