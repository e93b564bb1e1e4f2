"""ID-08, PG-04, PG-05: what somebody does a million times, and what somebody asks for that is too much."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Service

ORDERS = "/api/v1/orders"
Unchanged = Callable[[], AbstractContextManager[None]]


def test_security_ID_08_random_keys_leave_no_row_without_an_order_or_a_reason_and_are_limited(
    serve: Callable[..., AbstractContextManager[Service]],
    make_token: Callable[..., str],
    make_product: Callable[..., int],
    db: psycopg.Connection[Any],
) -> None:
    product, nothing_left = make_product(stock=10), make_product(stock=0)
    bodies: list[dict[str, Any]] = [
        {"items": [{"product_id": product, "quantity": 1}]},
        {"items": [{"product_id": nothing_left, "quantity": 1}]},
        {"items": [{"product_id": 2**62, "quantity": 1}]},
        {"items": []},
        {"items": [{"product_id": product, "quantity": 1}], "draft": True},
    ]
    with serve(COUNTERFOIL_LIMIT_WRITE="40/3600") as service, service.client(make_token()) as client:
        user = client.get("/api/v1/users/me").json()["id"]
        statuses = [
            client.post(
                ORDERS, json=bodies[n % 5], headers={"Idempotency-Key": f"{secrets.randbits(63):020}"}
            ).status_code
            for n in range(60)
        ]

    assert statuses == [201, 409, 400, 400, 201] * 8 + [429] * 20
    rows = db.execute(
        "SELECT count(*), count(*) FILTER (WHERE resource_id IS NULL AND response_body IS NULL),"
        " count(*) FILTER (WHERE expires_at IS NULL) FROM idempotency_keys WHERE principal = %s",
        [f"user:{user}"],
    ).fetchone()
    # 8 orders, 8 drafts, 8 refusals for lack of stock; what was never begun has no row.
    assert rows == (24, 0, 0)


@pytest.mark.parametrize(
    "parameters", [{"offset": "1000000000"}, {"page": "1000000000"}, {"skip": "1"}, {"limit": "50", "start": "1000000"}]
)
@pytest.mark.parametrize("path", [ORDERS, "/api/v1/products", "/api/v1/users"])
def test_security_PG_04_there_is_no_offset(admin: httpx.Client, path: str, parameters: dict[str, str]) -> None:
    answer = admin.get(path, params=parameters)

    assert answer.status_code == 400, answer.text
    named = [field["field"] for field in answer.json()["error"]["details"]["fields"]]
    assert named == [name for name in parameters if name != "limit"]


@pytest.mark.parametrize(
    "text",
    [
        *("%" * 100, "_" * 100, "%a%b%c%d%e%f%g%h%i%j%k%l%m%n%o%p", "(a+)+$", "[" * 100, "\\" * 100, ".*" * 50),
        *("x" * 10_000, " ".join(["term"] * 1_000), "a\u0301" * 50, "\u0130" * 100),
    ],
)
@pytest.mark.parametrize("path", [ORDERS, "/api/v1/products"])
def test_security_PG_05_a_search_for_anything_is_refused_or_quick(
    admin: httpx.Client, nothing_written: Unchanged, path: str, text: str
) -> None:
    with nothing_written():
        answer = admin.get(path, params={"q": text})

    assert answer.status_code == (400 if len(text) > 100 else 200), answer.text[:200]
    assert answer.elapsed.total_seconds() < 1
