"""Parameters: unknown ones are refused everywhere, wrong ones are told with what is possible."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

ORDERS = "/api/v1/orders"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{ORDERS}/1"),
        ("GET", f"{ORDERS}/1/timeline"),
        ("GET", "/api/v1/users/me"),
        ("GET", "/api/v1/products/1"),
        ("GET", "/api/v1/products"),
        ("POST", ORDERS),
        ("DELETE", f"{ORDERS}/1"),
    ],
)
def test_an_unknown_parameter_is_refused_on_every_route(customer: httpx.Client, method: str, path: str) -> None:
    answer = customer.request(method, path, params={"as_of": "", "stauts": "x"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "VALIDATION_FAILED"
    assert answer.json()["error"]["details"]["fields"] == [
        {"field": name, "message": "This parameter is not known here."} for name in ("as_of", "stauts")
    ]


def test_what_a_route_declares_passes(customer: httpx.Client, make_product: Callable[..., int]) -> None:
    body = {"items": [{"product_id": make_product(), "quantity": 1}]}
    order = customer.post(ORDERS, json=body).json()

    at = {"at": order["created_at"]}
    assert customer.get(f"{ORDERS}/{order['id']}/timeline", params=at).json()["id"] == order["id"]
    assert customer.get(ORDERS, params={"status": "created", "limit": 1}).status_code == 200
    assert customer.get("/livez", params={"from": "balancer"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("status=lost", "Must be one of draft, created, "),
        ("sort=price", "Must be one of -created_at, created_at."),
        ("limit=0", "Must be a whole number from 1 to 200."),
        ("limit=201", "Must be a whole number from 1 to 200."),
        ("limit=ten", "Must be a whole number from 1 to 200, not text."),
    ],
)
def test_a_wrong_parameter_is_told_what_is_possible(customer: httpx.Client, query: str, sentence: str) -> None:
    [problem] = customer.get(f"{ORDERS}?{query}").json()["error"]["details"]["fields"]

    assert problem["field"] == query.partition("=")[0]
    assert problem["message"].startswith(sentence)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"items": [}'])
def test_a_body_that_cannot_be_read_is_told_apart_from_a_host(customer: httpx.Client, body: bytes) -> None:
    answer = customer.post(ORDERS, content=body, headers={"Content-Type": "application/json"})
    host = customer.get(ORDERS, headers={"Host": "two words"})

    assert (answer.status_code, host.status_code) == (400, 400)
    assert answer.json()["error"]["message"] == "The body is missing or is not valid JSON in UTF-8."
    assert host.json()["error"]["message"] == "The header Host is missing, repeated or not a host's name."


def test_a_wrong_field_of_a_body_is_told_what_is_possible(admin: httpx.Client) -> None:
    body = {"kind": "magic", "quantity": "two"}

    answer = admin.post("/api/v1/inventory/1/movements", json=body)

    told = {problem["field"]: problem["message"] for problem in answer.json()["error"]["details"]["fields"]}
    assert told["kind"].startswith("Must be one of ")
    assert told["quantity"].startswith("Must be a whole number")
