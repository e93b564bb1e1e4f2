"""Coupons over HTTP: made, changed, listed and deleted by managers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

COUPONS = "/api/v1/coupons"
ORDERS = "/api/v1/orders"
Unchanged = Callable[[], AbstractContextManager[None]]


def body_of(**values: Any) -> dict[str, Any]:
    return {"code": f"T-{secrets.token_hex(6)}", "kind": "percent", "value": "10", **values}


def make(admin: httpx.Client, **values: Any) -> dict[str, Any]:
    answer = admin.post(COUPONS, json=body_of(**values))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_coupon_is_made_with_its_code_in_capitals_and_its_values_exact(admin: httpx.Client) -> None:
    body = body_of(
        kind="fixed",
        value="5.5",
        currency="EUR",
        minimum_total="20",
        starts_at="2026-01-01T01:00:00+01:00",
        ends_at="2999-01-01T00:00:00Z",
        usage_limit=100,
        per_customer_limit=1,
    )

    answer = admin.post(COUPONS, json=body)

    coupon = answer.json()
    assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
    assert coupon == {
        **body,
        "id": coupon["id"],
        "code": body["code"].upper(),
        "value": "5.50",
        "minimum_total": "20.00",
        "starts_at": "2026-01-01T00:00:00Z",
        "active": True,
        "used": 0,
        "version": 1,
        "created_at": coupon["created_at"],
        "updated_at": coupon["updated_at"],
    }
    assert make(admin, value="12.5000")["value"] == "12.5"


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"value": "100.0001"}, "value", "A percentage is at most 100."),
        ({"value": "0"}, "value", "It must be above zero."),
        ({"value": "0.00001"}, "value", "a percentage has at most 4 digits after the point."),
        ({"kind": "fixed", "value": "5"}, "currency", "An amount needs its currency."),
        ({"kind": "fixed", "value": "0.00", "currency": "EUR"}, "value", "It must be above zero."),
        (
            {"kind": "fixed", "value": "0.001", "currency": "EUR"},
            "value",
            "EUR amounts have at most 2 digits after the point.",
        ),
        ({"currency": "XXX"}, "currency", "XXX is not an ISO 4217 currency code."),
        ({"minimum_total": "5"}, "currency", "A minimum needs its currency."),
        (
            {"starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-02T00:00:00Z"},
            "ends_at",
            "It must end after it starts.",
        ),
        (
            {"ends_at": "tomorrow"},
            "ends_at",
            "Write an instant with its zone, such as 2025-01-15T10:30:00Z.",
        ),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(
    values: dict[str, Any], field: str, message: str, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    with nothing_written():
        answer = admin.post(COUPONS, json=body_of(**values))

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_FAILED")
    assert answer.json()["error"]["details"]["fields"] == [{"field": field, "message": message}]


@pytest.mark.parametrize("code", ["X", "A" * 41, "TEN PERCENT", "Ä10", 'a"b', "a\\b", ""])
def test_a_code_is_letters_digits_and_dashes(code: str, admin: httpx.Client, nothing_written: Unchanged) -> None:
    with nothing_written():
        made = admin.post(COUPONS, json=body_of(code=code))
        ordered = admin.post(ORDERS, json={"items": [{"product_id": 1, "quantity": 1}], "coupon_codes": [code]})

    for answer in (made, ordered):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_FAILED")


def test_a_code_is_taken_whatever_its_case(admin: httpx.Client, nothing_written: Unchanged) -> None:
    first, second = make(admin), make(admin)

    with nothing_written():
        made = admin.post(COUPONS, json=body_of(code=first["code"].lower()))
        renamed = admin.put(f"{COUPONS}/{second['id']}", json=body_of(code=first["code"].lower()))

    for answer in (made, renamed):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "COUPON_CODE_TAKEN")
        assert answer.json()["error"]["details"] == {"coupon_code": first["code"]}


def test_a_coupon_is_replaced_only_as_it_was_read(admin: httpx.Client, nothing_written: Unchanged) -> None:
    coupon = make(admin)
    address, body = f"{COUPONS}/{coupon['id']}", body_of(code=coupon["code"], value="20", active=False)

    changed = admin.put(address, json=body, headers={"If-Match": '"1"'})
    with nothing_written():
        stale = [
            admin.put(address, json=body, headers={"If-Match": '"1"'}),
            admin.delete(address, headers={"If-Match": '"1"'}),
        ]

    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert (changed.json()["value"], changed.json()["active"], changed.json()["version"]) == ("20", False, 2)
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in stale] == [(412, "COUPON_CHANGED")] * 2


def test_what_orders_were_priced_with_stays_and_a_limit_is_not_below_the_uses(
    admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    coupon, product = make(admin, usage_limit=5), make_product()
    address = f"{COUPONS}/{coupon['id']}"
    for _ in range(2):
        order = {"items": [{"product_id": product, "quantity": 1}], "coupon_codes": [coupon["code"]]}
        assert customer.post(ORDERS, json=order).status_code == 201

    with nothing_written():
        refused = [
            admin.put(address, json=body_of(code=coupon["code"], value="11", usage_limit=5)),
            admin.put(address, json=body_of(usage_limit=5)),
            admin.put(address, json=body_of(code=coupon["code"], currency="EUR", usage_limit=5)),
            admin.delete(address),
        ]
        too_low = admin.put(address, json=body_of(code=coupon["code"], usage_limit=1))
    lowered = admin.put(address, json=body_of(code=coupon["code"], usage_limit=2))
    after = customer.post(
        ORDERS, json={"items": [{"product_id": product, "quantity": 1}], "coupon_codes": [coupon["code"]]}
    )

    assert [(a.status_code, a.json()["error"]["code"]) for a in refused] == [(409, "COUPON_IN_USE")] * 4
    assert too_low.json()["error"]["details"]["fields"] == [
        {"field": "usage_limit", "message": "The coupon is used 2 times already; its limit cannot be lower."}
    ]
    assert (lowered.status_code, lowered.json()["used"]) == (200, 2)
    assert (after.status_code, after.json()["error"]["code"]) == (409, "COUPON_USED_UP")


def test_an_unused_coupon_is_deleted_and_then_unknown(admin: httpx.Client) -> None:
    address = f"{COUPONS}/{make(admin)['id']}"

    assert admin.delete(address).status_code == 204
    for answer in (admin.delete(address), admin.put(address, json=body_of())):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "COUPON_NOT_FOUND")


def test_a_walk_over_the_pages_shows_every_coupon_once(admin: httpx.Client) -> None:
    made = [make(admin)["id"] for _ in range(5)]

    seen: list[int] = []
    address = f"{COUPONS}?limit=2"
    while address:
        page = admin.get(address).json()
        seen += [coupon["id"] for coupon in page["items"]]
        address = page["next"]

    assert [coupon_id for coupon_id in seen if coupon_id in made] == made
    assert seen == sorted(set(seen))


def test_a_repeated_request_makes_one_coupon(admin: httpx.Client) -> None:
    body, headers = body_of(), {"Idempotency-Key": secrets.token_hex(16)}

    first, second = (admin.post(COUPONS, json=body, headers=headers) for _ in range(2))

    assert (first.status_code, second.content) == (201, first.content)
    assert second.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    "codes", [["SPRING", "spring"], ["A1", "B2", "C3", "D4", "E5", "F6"], "SPRING", [None], {"a": 1}]
)
@pytest.mark.parametrize("method", ["post", "put"])
def test_codes_that_are_no_list_of_five_different_ones_are_refused(
    codes: Any, method: str, customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    items = [{"product_id": make_product(), "quantity": 1}]
    order = customer.post(ORDERS, json={"items": items}).json()["id"]

    with nothing_written():
        body = {"items": items, "coupon_codes": codes}
        answer = customer.request(method, ORDERS if method == "post" else f"{ORDERS}/{order}", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_FAILED")
    assert answer.json()["error"]["details"]["fields"][0]["field"].startswith("coupon_codes")
