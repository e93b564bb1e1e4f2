"""Idempotency keys: one effect and one answer for each."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Service

ORDERS = "/api/v1/orders"
Database = psycopg.Connection[tuple[Any, ...]]
Unchanged = Callable[[], AbstractContextManager[None]]


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


def order_of(product: int, quantity: int = 1, **values: Any) -> dict[str, Any]:
    return {"items": [{"product_id": product, "quantity": quantity}], **values}


def test_a_second_use_of_a_key_returns_the_first_order(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product, key = make_product(stock=10), new_key()

    first = customer.post(ORDERS, json=order_of(product), headers=key)
    with nothing_written():
        second = customer.post(ORDERS, json=order_of(product), headers=key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["etag"] == first.headers["etag"]


def test_a_replay_is_the_first_answer_even_after_the_order_has_changed(
    customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product, key = make_product(), new_key()
    first = customer.post(ORDERS, json=order_of(product), headers=key)
    customer.delete(f"{ORDERS}/{first.json()['id']}")

    second = customer.post(ORDERS, json=order_of(product), headers=key)

    assert (second.status_code, second.content) == (201, first.content)


def test_a_repeated_refusal_is_the_same_refusal_byte_for_byte(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product, key = make_product(stock=1), new_key()
    first = customer.post(ORDERS, json=order_of(product, 2), headers=key)
    receipt = {"kind": "receipt", "quantity": 9}
    assert admin.post(f"/api/v1/inventory/{product}/movements", json=receipt, headers=new_key()).status_code == 201

    second = customer.post(ORDERS, json=order_of(product, 2), headers=key)

    assert (first.status_code, second.status_code) == (409, 409)
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"
    assert first.json()["error"]["message"] == f"Product {product} has only 1 units available"


def test_the_same_request_written_differently_is_a_replay(
    customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product, key = make_product(), new_key()
    headers = {**key, "Content-Type": "application/json"}
    one = f'{{"items":[{{"product_id":{product},"quantity":1}}],"client_reference":"A"}}'
    other = f' {{ "client_reference" : "A", "items" : [ {{ "quantity": 1, "product_id": {product} }} ] }} '

    first = customer.post(ORDERS, content=one, headers=headers)
    quoted = {**headers, "Idempotency-Key": f'"{key["Idempotency-Key"]}"', "X-Request-ID": "another-request-id"}
    second = customer.post(ORDERS, content=other, headers=quoted)

    assert (second.status_code, second.content) == (201, first.content)


@pytest.mark.parametrize(
    "key",
    ["", "short", "x" * 15, "x" * 256, "sixteen-chars-ä!", "white space inside", "a" * 16 + ";", '"' + "x" * 15 + '"'],
)
def test_a_key_of_another_form_is_refused(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged, key: str
) -> None:
    product = make_product()
    headers = {"Idempotency-Key": key.encode("latin-1")}

    with nothing_written():
        placed = customer.post(ORDERS, json=order_of(product), headers=headers)
        drafted = customer.post(ORDERS, json=order_of(product, draft=True), headers=headers)

    for answer in (placed, drafted):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_INVALID")


@pytest.mark.parametrize("key", ["x" * 16, "x" * 255, "Az09_.:-Az09_.:-"])
def test_a_key_of_any_allowed_form_is_taken(customer: httpx.Client, make_product: Callable[..., int], key: str) -> None:
    assert customer.post(ORDERS, json=order_of(make_product()), headers={"Idempotency-Key": key}).status_code == 201


def test_security_ID_02_a_key_used_for_another_body_route_or_method_shows_nothing(
    admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product, key = make_product(), new_key()
    draft = admin.post(ORDERS, json=order_of(product, draft=True)).json()["id"]
    first = admin.post(ORDERS, json=order_of(product, 1), headers=key)
    assert first.status_code == 201
    new_product = {"sku": secrets.token_hex(8), "name": "X", "price": "1", "currency": "EUR"}

    with nothing_written():
        answers = [
            admin.post(ORDERS, json=order_of(product, 2), headers=key),
            admin.post(ORDERS, json=order_of(product, 1, draft=True), headers=key),
            admin.post(f"{ORDERS}/{draft}/place", headers=key),
            admin.post("/api/v1/products", json=new_product, headers=key),
            admin.post(f"/api/v1/inventory/{product}/movements", json={"kind": "receipt", "quantity": 1}, headers=key),
        ]

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert answer.json()["error"]["details"] == {}


def test_a_key_of_another_route_is_refused_where_orders_are_placed(
    admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product, key = make_product(), new_key()
    movement = {"kind": "receipt", "quantity": 1}
    assert admin.post(f"/api/v1/inventory/{product}/movements", json=movement, headers=key).status_code == 201

    with nothing_written():
        answer = admin.post(ORDERS, json=order_of(product), headers=key)

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_security_ID_05_another_users_same_key_is_independent(
    customer: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product, key = make_product(), new_key()

    first = customer.post(ORDERS, json=order_of(product), headers=key)
    second = admin.post(ORDERS, json=order_of(product), headers=key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json()["id"] != first.json()["id"]
    assert "idempotent-replayed" not in second.headers


@pytest.mark.parametrize("draft", [False, True])
def test_security_ID_04_fifty_at_once_with_the_same_key_make_one_order(
    customer: httpx.Client,
    make_product: Callable[..., int],
    db: Database,
    draft: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    product, key = make_product(stock=100), new_key()
    start = threading.Barrier(50)

    def send(_: int) -> httpx.Response:
        start.wait()
        return customer.post(ORDERS, json=order_of(product, draft=draft), headers=key)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))

    created = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409, 503}
    assert len({answer.content for answer in created}) == 1
    assert len([answer for answer in created if "idempotent-replayed" not in answer.headers]) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "IDEMPOTENCY_IN_PROGRESS"
        assert ("retry-after" in answer.headers) is (answer.status_code != 201)
    orders = db.execute("SELECT count(*) FROM order_items WHERE product_id = %s", [product]).fetchone()
    assert orders == (1,)
    assert customer.post(ORDERS, json=order_of(product, draft=draft), headers=key).content == created[0].content


def test_security_ID_01_a_stock_movement_needs_a_key_and_is_done_once(
    admin: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product, key = make_product(stock=5), new_key()
    address, body = f"/api/v1/inventory/{product}/movements", {"kind": "receipt", "quantity": 3}

    with nothing_written():
        without = admin.post(address, json=body)
    first = admin.post(address, json=body, headers=key)
    with nothing_written():
        second = admin.post(address, json=body, headers=key)

    assert (without.status_code, without.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_MISSING")
    assert (first.json()["on_hand"], second.content) == (8, first.content)
    assert second.headers["idempotent-replayed"] == "true"


def test_a_refused_invalid_request_leaves_its_key_free(
    customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product, key = make_product(stock=1), new_key()
    wrong_bodies: list[dict[str, Any]] = [
        order_of(2**62),
        order_of(make_product(active=False)),
        order_of(product, 0),
        order_of(2**62, draft=True),
    ]
    for body in wrong_bodies:
        assert customer.post(ORDERS, json=body, headers=key).status_code == 400
    assert customer.post(ORDERS, json=order_of(product, user_id=1), headers=key).status_code in {400, 403}

    answer = customer.post(ORDERS, json=order_of(product), headers=key)

    assert (answer.status_code, "idempotent-replayed" in answer.headers) == (201, False)


def test_a_refusal_by_conflict_of_a_draft_leaves_its_key_free(
    customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product, key = make_product(), new_key()
    first = customer.post(ORDERS, json=order_of(product, client_reference="PO-1"))
    assert customer.post(ORDERS, json=order_of(product, client_reference="PO-1"), headers=key).status_code == 409
    assert first.status_code == 201

    answer = customer.post(ORDERS, json=order_of(product, client_reference="PO-2"), headers=key)

    assert answer.status_code == 201


def test_a_key_past_its_time_can_be_used_again(
    customer: httpx.Client, make_product: Callable[..., int], db: Database
) -> None:
    product = make_product()
    bodies = [order_of(product), order_of(product, draft=True)]
    for body in bodies:
        key = new_key()
        first = customer.post(ORDERS, json=body, headers=key)
        db.execute(
            "UPDATE idempotency_keys SET expires_at = now() - interval '1 s' WHERE key = %s", [key["Idempotency-Key"]]
        )

        second = customer.post(ORDERS, json=body, headers=key)
        third = customer.post(ORDERS, json=body, headers=key)

        assert (first.status_code, second.status_code) == (201, 201)
        assert second.json()["id"] != first.json()["id"]
        assert third.content == second.content


def test_products_users_and_placed_drafts_replay_too(
    admin: httpx.Client, anonymous: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    draft = admin.post(ORDERS, json=order_of(make_product(), draft=True)).json()["id"]
    email = f"{secrets.token_hex(6)}@example.com"
    person = {"email": email, "name": "Ada", "password": "correct horse battery"}
    sends: list[Callable[[dict[str, str]], httpx.Response]] = [
        lambda key: admin.post(
            "/api/v1/products", json={"sku": email[:12], "name": "X", "price": "1", "currency": "EUR"}, headers=key
        ),
        lambda key: anonymous.post("/api/v1/users", json=person, headers=key),
        lambda key: admin.post(f"{ORDERS}/{draft}/place", headers=key),
        lambda key: admin.post("/api/v1/users", json={**person, "email": f"x{email}", "role": "support"}, headers=key),
    ]
    for send in sends:
        key = new_key()
        first = send(key)
        assert first.status_code in {200, 201}, first.text

        # Staff who see a person's data again leave an entry again.
        with nullcontext() if send is sends[-1] else nothing_written():
            second = send(key)

        assert (second.status_code, second.content) == (first.status_code, first.content)
        assert second.headers["etag"] == first.headers["etag"]
        assert second.headers["idempotent-replayed"] == "true"


def test_a_replay_asks_again_whether_the_caller_may_order_for_somebody_else_and_see_the_order(
    admin: httpx.Client, service: Service, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    clerk, buyer = (
        admin.post("/api/v1/users", json=person(role=role)).json()["id"] for role in ("support", "customer")
    )
    body, drafted, placed = {**order_of(make_product()), "user_id": buyer, "draft": True}, new_key(), new_key()
    with service.client(token_of(clerk, "support")) as client:
        first = client.post(ORDERS, json=body, headers=drafted)
        order = f"{ORDERS}/{first.json()['id']}"
        assert (first.status_code, client.post(f"{order}/place", headers=placed).status_code) == (201, 200)
        assert client.post(ORDERS, json=body, headers=drafted).headers["idempotent-replayed"] == "true"
        assert client.post(f"{order}/place", headers=placed).headers["idempotent-replayed"] == "true"

    assert admin.put(f"/api/v1/users/{clerk}", json={"role": "customer"}).status_code == 200
    with service.client(token_of(clerk, "customer")) as client, nothing_written():
        again = client.post(ORDERS, json=body, headers=drafted)
        seen = client.post(f"{order}/place", headers=placed)

    assert (again.status_code, again.json()["error"]["code"]) == (403, "ROLE_MISSING")
    assert (seen.status_code, seen.json()["error"]["code"]) == (404, "ORDER_NOT_FOUND")


def person(**values: Any) -> dict[str, Any]:
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": "correct horse battery"}
    return {**body, **values}


def token_of(user_id: int, role: str) -> str:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.users.permissions import Actor, Role
    from counterfoil.users.services import issue_token, read_epoch

    return issue_token(Actor(user_id, Role(role)), epoch=run_in_thread(read_epoch, user_id))


def test_a_password_is_part_of_a_request_and_never_of_what_is_stored(anonymous: httpx.Client, db: Database) -> None:
    key = new_key()
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": "a canary passphrase"}
    assert anonymous.post("/api/v1/users", json=person, headers=key).status_code == 201

    other = anonymous.post("/api/v1/users", json={**person, "password": "another passphrase"}, headers=key)

    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    stored = db.execute(
        "SELECT response_body FROM idempotency_keys WHERE key = %s", [key["Idempotency-Key"]]
    ).fetchone()
    assert stored is not None
    assert b"canary" not in bytes(stored[0])
