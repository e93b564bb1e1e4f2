"""RL-04: nobody keeps stock from others with orders that they do not pay."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx
import pytest

from conftest import Service
from counterfoil.orders.commands import Trace

ORDERS = "/api/v1/orders"
CAP = 5
Serve = Callable[..., AbstractContextManager[Service]]
MakeProduct = Callable[..., int]
MakeToken = Callable[..., str]
Unchanged = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def shop(serve: Serve) -> Callable[..., AbstractContextManager[Service]]:
    """Run a service with a cap on open orders; nobody reaches the limit of requests."""

    def run(**values: str) -> AbstractContextManager[Service]:
        capped = {"COUNTERFOIL_OPEN_ORDERS_MAX": str(CAP), "COUNTERFOIL_LIMIT_FACTOR": "10000"}
        return serve(**{**capped, **values})

    return run


def body_of(product: int, quantity: int = 1, **values: Any) -> dict[str, Any]:
    return {"items": [{"product_id": product, "quantity": quantity}], **values}


def place(client: httpx.Client, product: int, quantity: int = 1, **values: Any) -> httpx.Response:
    key = values.pop("key", None) or secrets.token_hex(16)
    return client.post(ORDERS, json=body_of(product, quantity, **values), headers={"Idempotency-Key": key})


def place_draft(client: httpx.Client, order_id: int) -> httpx.Response:
    return client.post(f"{ORDERS}/{order_id}/place", headers={"Idempotency-Key": secrets.token_hex(16)})


def level(admin: httpx.Client, product: int) -> tuple[int, int]:
    found = admin.get(f"/api/v1/inventory/{product}").json()
    return found["reserved"], found["available"]


def assert_refused(answer: httpx.Response, *, orders: int, units: int | None = None, units_max: int = 0) -> None:
    assert answer.status_code == 429, answer.text
    seconds = int(answer.headers["retry-after"])
    error = answer.json()["error"]
    assert 1 <= seconds <= 1800
    assert error["code"] == "OPEN_ORDERS_EXCEEDED"
    assert error["message"].startswith(f"{orders} unpaid orders hold stock for this customer already; ")
    assert error["details"] == {
        "open_orders": orders,
        "open_orders_max": CAP,
        "open_units": units,
        "open_units_max": units_max,
        "retry_after_seconds": seconds,
    }


def test_security_RL_04_a_thousand_unpaid_orders_of_the_last_stock_take_no_more_than_the_cap(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client
) -> None:
    product, token = make_product(stock=20), make_token()
    with shop() as service:

        def hoard(times: int) -> list[httpx.Response]:
            with service.client(token) as client:
                return [place(client, product) for _ in range(times)]

        with ThreadPoolExecutor(20) as threads:
            answers = [answer for answers in threads.map(hoard, [50] * 20) for answer in answers]
        with service.client(make_token()) as somebody_else:
            other = place(somebody_else, product, quantity=3)

    assert Counter(answer.status_code for answer in answers) == {201: CAP, 429: 1000 - CAP}
    for answer in answers:
        if answer.status_code == 429:
            assert_refused(answer, orders=CAP)
            assert int(answer.headers["retry-after"]) >= 1700
    assert other.status_code == 201
    assert level(admin, product) == (CAP + 3, 20 - CAP - 3)


def test_security_RL_04_a_hundred_at_once_over_two_processes_get_exactly_the_cap(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client
) -> None:
    product, token = make_product(stock=1000), make_token()
    barrier = threading.Barrier(100)
    with ExitStack() as stack:
        services = [stack.enter_context(shop()) for _ in range(2)]

        def fire(number: int) -> int:
            with services[number % 2].client(token) as client:
                client.get(ORDERS)  # the connection is there before all of them order
                barrier.wait(60)
                return place(client, product).status_code

        with ThreadPoolExecutor(100) as threads:
            statuses = Counter(threads.map(fire, range(100)))

    assert statuses == {201: CAP, 429: 100 - CAP}
    assert level(admin, product) == (CAP, 1000 - CAP)


def test_security_RL_04_orders_and_drafts_at_once_over_two_processes_get_exactly_the_cap(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client
) -> None:
    products, tokens = [make_product(stock=1000) for _ in range(2)], [make_token() for _ in range(2)]
    barrier = threading.Barrier(80)
    with ExitStack() as stack:
        services = [stack.enter_context(shop()) for _ in range(2)]

        def fire(number: int) -> tuple[int, int]:
            # Both ways to place, both customers, both processes, and products in both orders.
            person, pair = number // 4 % 2, products if number % 8 < 4 else products[::-1]
            body = {"items": [{"product_id": product, "quantity": 1} for product in pair]}
            with services[number // 2 % 2].client(tokens[person]) as client:
                order_id = client.post(ORDERS, json={**body, "draft": True}).json()["id"]
                barrier.wait(60)
                answer = place_draft(client, order_id) if number % 2 else client.post(ORDERS, json=body)
                return person, answer.status_code // 100

        with ThreadPoolExecutor(80) as threads:
            statuses = Counter(threads.map(fire, range(80)))

    assert statuses == {(person, status): n for person in range(2) for status, n in ((2, CAP), (4, 40 - CAP))}
    assert [level(admin, product) for product in products] == [(2 * CAP, 1000 - 2 * CAP)] * 2


def test_security_RL_04_a_hold_that_has_ended_leaves_room_for_the_next_order_and_gives_its_stock_back(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client
) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.orders.services import expire_orders

    product = make_product(stock=2)
    short = shop(COUNTERFOIL_HOLD_SECONDS="3", COUNTERFOIL_OPEN_ORDERS_MAX="1")
    with short as service, service.client(make_token()) as client:
        first, second = place(client, product), place(client, product)
        deadline = time.monotonic() + 15
        while (third := place(client, product)).status_code == 429 and time.monotonic() < deadline:
            time.sleep(0.1)
    while level(admin, product) != (0, 2) and time.monotonic() < deadline:
        run_in_thread(expire_orders, limit=50, trace=Trace("job:expire-orders", "req-of-the-hoard"))

    assert (first.status_code, second.status_code, third.status_code) == (201, 429, 201)
    assert 1 <= int(second.headers["retry-after"]) <= 3
    assert level(admin, product) == (0, 2)


def test_security_RL_04_cancelling_leaves_room_and_the_same_key_works_then(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, nothing_written: Unchanged
) -> None:
    product, key = make_product(), secrets.token_hex(16)
    with shop() as service, service.client(make_token()) as client:
        placed = [place(client, product).json()["id"] for _ in range(CAP)]
        with nothing_written():  # not even the key
            refused = [place(client, product, key=key) for _ in range(2)]
        assert client.delete(f"{ORDERS}/{placed[0]}").status_code == 204
        accepted, again = place(client, product, key=key), place(client, product, key=key)
        full = place(client, product)

    for answer in refused:
        assert_refused(answer, orders=CAP)
    assert (accepted.status_code, again.status_code) == (201, 201)
    assert accepted.content == again.content
    assert "idempotent-replayed" not in accepted.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert_refused(full, orders=CAP)


def test_security_RL_04_units_are_capped_to_the_last_and_a_smaller_order_still_fits(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    product = make_product()
    with shop(COUNTERFOIL_OPEN_UNITS_MAX="10") as service, service.client(make_token()) as client:
        with nothing_written():
            alone = place(client, product, 11)
        placed = [place(client, product, quantity).status_code for quantity in (4, 4)]
        with nothing_written():
            refused = place(client, product, 3)
        last, full = place(client, product, 2), place(client, product, 1)

    assert alone.status_code == 400
    assert alone.json()["error"]["details"]["fields"] == [
        {"field": "items", "message": "An unpaid order can hold at most 10 units; order fewer."}
    ]
    assert "retry-after" not in alone.headers
    assert (placed, last.status_code) == ([201, 201], 201)
    assert_refused(refused, orders=2, units=8, units_max=10)
    assert_refused(full, orders=3, units=10, units_max=10)
    assert level(admin, product) == (10, 90)


@pytest.mark.parametrize("role", ["admin", "service"])
def test_security_RL_04_what_others_order_for_a_customer_counts_and_is_not_refused(
    role: str, shop: Serve, make_token: MakeToken, make_product: MakeProduct
) -> None:
    product = make_product()
    with shop() as service, service.client(make_token()) as client, service.client(make_token(role)) as clerk:
        user_id = client.get("/api/v1/users/me").json()["id"]
        for_customer = [place(clerk, product, user_id=user_id).status_code for _ in range(CAP + 2)]
        refused = place(client, product)
        own = [place(clerk, product).status_code for _ in range(CAP + 2)]
        draft = client.post(ORDERS, json=body_of(product, draft=True)).json()["id"]
        themselves = place_draft(client, draft)
        placed_for_them = place_draft(clerk, draft)

    assert (for_customer, own) == ([201] * (CAP + 2), [201] * (CAP + 2))
    assert_refused(refused, orders=CAP + 2)
    assert_refused(themselves, orders=CAP + 2)
    assert placed_for_them.status_code == 200


def test_security_RL_04_a_draft_is_no_way_around_the_cap(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    product = make_product()
    with shop(COUNTERFOIL_OPEN_UNITS_MAX="50") as service, service.client(make_token()) as client:
        drafts = [client.post(ORDERS, json=body_of(product, 2, draft=True)).json()["id"] for _ in range(CAP + 1)]
        large = client.post(ORDERS, json=body_of(product, 51, draft=True)).json()["id"]
        placed = [place_draft(client, draft).status_code for draft in drafts[:CAP]]
        with nothing_written():
            refused, too_large = place_draft(client, drafts[CAP]), place_draft(client, large)
        assert client.delete(f"{ORDERS}/{drafts[0]}").status_code == 204
        accepted = place_draft(client, drafts[CAP])

    assert placed == [200] * CAP
    assert_refused(refused, orders=CAP, units=2 * CAP, units_max=50)
    assert (too_large.status_code, accepted.status_code) == (400, 200)
    assert level(admin, product) == (2 * CAP, 100 - 2 * CAP)


def test_security_RL_04_an_edit_is_no_way_around_the_cap(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    product = make_product()
    with shop(COUNTERFOIL_OPEN_UNITS_MAX="10") as service, service.client(make_token()) as client:
        order_id = [place(client, product, 4).json()["id"] for _ in range(2)][1]

        def edit(quantity: int, by: httpx.Client = client) -> httpx.Response:
            return by.put(f"{ORDERS}/{order_id}", json=body_of(product, quantity))

        with nothing_written():
            refused, alone = edit(7), edit(11)
        full, fewer = edit(6), edit(3)
        by_staff = service.client(make_token("admin"))
        more, shrunk = edit(20, by_staff), edit(19)
        by_staff.close()

    assert_refused(refused, orders=1, units=4, units_max=10)
    assert alone.status_code == 400
    assert [answer.status_code for answer in (full, fewer, more, shrunk)] == [200] * 4
    assert level(admin, product) == (23, 77)


def test_security_RL_04_edits_at_once_over_two_processes_get_exactly_the_units(
    shop: Serve, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client
) -> None:
    product, token = make_product(stock=1000), make_token()
    barrier = threading.Barrier(CAP)
    with ExitStack() as stack:
        services = [stack.enter_context(shop(COUNTERFOIL_OPEN_UNITS_MAX="11")) for _ in range(2)]
        with services[0].client(token) as client:
            order_ids = [place(client, product).json()["id"] for _ in range(CAP)]

        def edit(number: int) -> int:
            with services[number % 2].client(token) as client:
                barrier.wait(60)
                return client.put(f"{ORDERS}/{order_ids[number]}", json=body_of(product, 4)).status_code

        with ThreadPoolExecutor(CAP) as threads:
            statuses = Counter(threads.map(edit, range(CAP)))

    # 5 units are open; each edit asks for 3 more, and 11 leave room for two of them.
    assert statuses == {200: 2, 429: CAP - 2}
    assert level(admin, product) == (11, 989)
