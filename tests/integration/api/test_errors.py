"""One shape for every error, and what is on every answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

ORDERS = "/api/v1/orders"


def test_every_error_has_the_same_shape(
    customer: httpx.Client, anonymous: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=0)
    one = {"items": [{"product_id": product, "quantity": 1}]}
    key = {"Idempotency-Key": "k" * 16}
    draft = customer.post(ORDERS, json={**one, "draft": True}, headers=key).json()["id"]
    answers = {
        400: customer.post(ORDERS, json={}),
        401: anonymous.get(ORDERS),
        403: customer.post("/api/v1/products", json={"sku": "a", "name": "b", "price": "1", "currency": "EUR"}),
        404: customer.get(f"{ORDERS}/{2**62}"),
        405: customer.patch(ORDERS, json={}),
        409: customer.post(ORDERS, json=one),
        412: customer.put(f"{ORDERS}/{draft}", json=one, headers={"If-Match": '"9"'}),
        413: customer.post(ORDERS, content=b" " * 1_000_001, headers={"Content-Type": "application/json"}),
        415: customer.post(ORDERS, content=b"{}", headers={"Content-Type": "text/plain"}),
        422: customer.post(ORDERS, json=one, headers=key),
    }

    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert set(problem) == {"type", "title", "status", "error", "request_id"}
        assert set(problem["error"]) == {"code", "message", "details"}
        assert problem["status"] == status
        assert problem["type"] == "/errors/" + problem["error"]["code"].lower().replace("_", "-")
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert re.fullmatch(r"req-[0-9a-f]{16}", problem["request_id"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("POST", "/api/v1/nowhere", 404),
        ("GET", "/api/v2/orders", 404),
        ("DELETE", "/api/v1/orders", 405),
        ("PATCH", "/api/v1/orders/1", 405),
        ("POST", "/api/v1/orders/1", 405),
        ("TRACE", "/api/v1/orders", 405),
        ("BREW", "/api/v1/orders", 405),
    ],
)
def test_an_address_or_method_that_is_not_there(customer: httpx.Client, method: str, path: str, status: int) -> None:
    answer = customer.request(method, path)

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == {404: "ROUTE_NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}[status]
    if status == 405:
        assert "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]


@pytest.mark.parametrize("given", ["my-request-0001", "A.b_c-9.z", "x" * 64])
def test_a_well_formed_request_id_is_kept(anonymous: httpx.Client, given: str) -> None:
    assert anonymous.get("/livez", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "short", "x" * 65, "white space in it", "angle<bracket>", "ünïcödé-id"])
def test_any_other_request_id_is_replaced(anonymous: httpx.Client, given: str) -> None:
    answer = anonymous.get("/livez", headers={"X-Request-ID": given.encode("latin-1")})

    assert re.fullmatch(r"req-[0-9a-f]{16}", answer.headers["x-request-id"])


def test_every_answer_of_the_api_forbids_sniffing_referring_and_caching(
    anonymous: httpx.Client, customer: httpx.Client
) -> None:
    answers = [
        anonymous.get("/api/v1/products"),
        anonymous.get(ORDERS),
        customer.get(ORDERS),
        customer.post(ORDERS, json={}),
        customer.post(ORDERS, content=b"x", headers={"Content-Type": "text/plain"}),
        customer.get("/nowhere"),
    ]

    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers.get_list("referrer-policy") == ["no-referrer"]
        assert answer.headers.get_list("cache-control") == ["no-store"]


def test_no_answer_lets_another_origin_read_it(customer: httpx.Client) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        answer = customer.get(ORDERS, headers={"Origin": origin})
        preflight = customer.options(ORDERS, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})

        for found in (answer, preflight):
            assert "access-control-allow-origin" not in found.headers


def test_a_log_line_names_the_route_and_never_a_token_or_an_id(
    service: Any, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    order = customer.post(ORDERS, json={"items": [{"product_id": make_product(), "quantity": 1}]}).json()
    request_id = "a-request-to-find-again"

    customer.get(f"{ORDERS}/{order['id']}", headers={"X-Request-ID": request_id})

    lines: list[str] = []
    deadline = time.monotonic() + 10  # lines are written in groups
    while not lines and time.monotonic() < deadline:
        lines = [line for line in service.log_path.read_text().splitlines() if request_id in line]
    [line] = lines
    assert '"event":"http.request"' in line
    assert '"status":200' in line
    assert customer.headers["authorization"].removeprefix("Bearer ") not in line
    assert f'/{order["id"]}"' not in line
