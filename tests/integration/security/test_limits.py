"""RL: exactly the limit passes, in however many processes and whatever counts, and nobody is failed by the counting."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from accounts import bearer, mint_key, register, sign_in

from conftest import Service

ORDERS = "/api/v1/orders"
Serve = Callable[..., AbstractContextManager[Service]]
Unchanged = Callable[[], AbstractContextManager[None]]


def draft_of(product: int) -> dict[str, Any]:
    return {"items": [{"product_id": product, "quantity": 1}], "draft": True}


def test_security_RL_01_one_request_beyond_the_limit_is_refused_and_changes_nothing(
    serve: Serve, make_token: Callable[..., str], make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    product = make_product()
    with serve(COUNTERFOIL_LIMIT_WRITE="5/3600") as service, service.client(make_token()) as client:
        passed = [client.post(ORDERS, json=draft_of(product)) for _ in range(5)]
        with nothing_written():
            refused = client.post(ORDERS, json=draft_of(product))
            read = client.get(ORDERS)
        with service.client(make_token()) as somebody_else:
            other = somebody_else.post(ORDERS, json=draft_of(product))

    assert [answer.status_code for answer in passed] == [201] * 5
    assert [answer.headers["ratelimit-limit"] for answer in passed] == ["5"] * 5
    assert [answer.headers["ratelimit-remaining"] for answer in passed] == ["4", "3", "2", "1", "0"]
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["error"]["code"] == "RATE_LIMITED"
    assert 3590 <= int(refused.headers["retry-after"]) <= 3600
    assert refused.json()["error"]["details"] == {"retry_after_seconds": int(refused.headers["retry-after"])}
    assert (refused.headers["ratelimit-remaining"], read.status_code, other.status_code) == ("0", 200, 201)


@pytest.mark.parametrize("store", ["postgresql", "redis"])
def test_security_RL_01_of_a_hundred_at_once_on_two_processes_exactly_the_limit_passes(
    serve: Serve,
    make_token: Callable[..., str],
    make_product: Callable[..., int],
    request: pytest.FixtureRequest,
    db: psycopg.Connection[Any],
    store: str,
) -> None:
    product, token = make_product(), make_token()
    redis_url = request.getfixturevalue("redis_server").url if store == "redis" else ""
    before = db.execute("SELECT count(*) FROM orders").fetchone()
    barrier = threading.Barrier(20)

    settings = {
        "COUNTERFOIL_LIMIT_WRITE": "30/3600",
        "COUNTERFOIL_WEB_PROCESSES": "2",
        "REDIS_URL": redis_url,
        # A machine that is busy with tests must not be taken for a Redis that is down.
        "COUNTERFOIL_REDIS_TIMEOUT_MS": "5000",
    }
    with serve(**settings) as service:

        def fire(_: int) -> list[int]:
            # A connection for each request: the kernel spreads them over both processes.
            barrier.wait(30)
            return [post_once(service, token, draft_of(product)) for _ in range(5)]

        with ThreadPoolExecutor(20) as threads:
            statuses = Counter(status for answers in threads.map(fire, range(20)) for status in answers)

    assert statuses == {201: 30, 429: 70}
    after = db.execute("SELECT count(*) FROM orders").fetchone()
    assert (before, after) == (before, (before[0] + 30,)) if before else False


def post_once(service: Service, token: str, body: dict[str, Any]) -> int:
    with service.client(token) as client:
        return client.post(ORDERS, json=body).status_code


def test_security_RL_01_reads_are_limited_and_a_refused_read_shows_nothing(
    serve: Serve, make_token: Callable[..., str]
) -> None:
    with serve(COUNTERFOIL_LIMIT_READ="3/3600") as service, service.client(make_token()) as client:
        with ThreadPoolExecutor(10) as threads:
            answers = list(threads.map(lambda _: client.get("/api/v1/users/me"), range(10)))
        health = [client.get("/livez").status_code for _ in range(5)]

    assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 7}
    for answer in answers:
        if answer.status_code == 429:
            assert set(answer.json()) == {"type", "title", "status", "error", "request_id"}
            assert int(answer.headers["retry-after"]) >= 3590
    assert health == [200] * 5


def test_security_RL_01_a_window_that_is_over_lets_requests_pass_again(
    serve: Serve, make_token: Callable[..., str]
) -> None:
    with serve(COUNTERFOIL_LIMIT_READ="1/2") as service, service.client(make_token()) as client:
        first, second = client.get(ORDERS), client.get(ORDERS)
        deadline = time.monotonic() + 10
        while (third := client.get(ORDERS)).status_code == 429 and time.monotonic() < deadline:
            time.sleep(0.1)

    assert (first.status_code, second.status_code, third.status_code) == (200, 429, 200)
    assert 1 <= int(second.headers["retry-after"]) <= 2


def forget_limits(database_url: str) -> None:
    """Begin anew: every test comes from the same address."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM rate_limits")


def test_security_RL_01_strangers_are_counted_by_address_and_a_forged_one_does_not_help(
    serve: Serve, nothing_written: Unchanged, database_url: str
) -> None:
    forget_limits(database_url)

    def person() -> dict[str, str]:
        return {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": "correct horse battery"}

    with serve(COUNTERFOIL_LIMIT_REGISTRATION="2/3600") as service, service.client() as client:
        passed = [client.post("/api/v1/users", json=person()).status_code for _ in range(2)]
        with nothing_written():
            refused = [
                client.post("/api/v1/users", json=person(), headers={"X-Forwarded-For": f"203.0.113.{n}"}).status_code
                for n in range(3)
            ]

    assert (passed, refused) == ([201] * 2, [429] * 3)


@pytest.mark.usefixtures("django_ready")
def test_security_RL_01_one_key_uses_half_of_what_its_account_may(serve: Serve, admin: httpx.Client) -> None:
    account = register(admin, role="support")
    keys = [mint_key(account["id"], "orders:read")["key"] for _ in range(2)]

    with serve(COUNTERFOIL_LIMIT_READ="10/3600") as service, service.client() as client:
        answers = [[client.get(ORDERS, headers=bearer(key)) for _ in range(6)] for key in keys]
        person = client.get(ORDERS, headers=bearer(sign_in(admin, account)["access_token"]))

    assert [[answer.status_code for answer in used] for used in answers] == [[200] * 5 + [429]] * 2
    assert (answers[0][0].headers["ratelimit-limit"], answers[0][0].headers["ratelimit-remaining"]) == ("5", "4")
    assert person.status_code == 429


def test_security_RL_01_a_customer_who_registers_others_is_counted_by_address(
    serve: Serve, make_token: Callable[..., str], nothing_written: Unchanged, database_url: str
) -> None:
    forget_limits(database_url)

    def person() -> dict[str, str]:
        return {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": "correct horse battery"}

    with (
        serve(COUNTERFOIL_LIMIT_REGISTRATION="2/3600") as service,
        service.client(make_token()) as customer,
        service.client(make_token("admin")) as admin,
    ):
        passed = [customer.post("/api/v1/users", json=person()).status_code for _ in range(2)]
        with nothing_written():
            refused = customer.post("/api/v1/users", json=person()).status_code
        staff = [admin.post("/api/v1/users", json=person()).status_code for _ in range(3)]

    assert (passed, refused, staff) == ([201] * 2, 429, [201] * 3)


def test_security_RL_01_wrong_credentials_are_limited_and_right_ones_from_the_same_address_are_not(
    serve: Serve, make_token: Callable[..., str], database_url: str
) -> None:
    forget_limits(database_url)
    with serve(COUNTERFOIL_LIMIT_REFUSED="3/3600") as service, service.client() as client:
        wrong = [client.get(ORDERS, headers={"Authorization": f"Bearer x{n}"}) for n in range(5)]
        right = client.get(ORDERS, headers={"Authorization": f"Bearer {make_token()}"})

    assert [answer.status_code for answer in wrong] == [401, 401, 401, 429, 429]
    assert wrong[0].headers["ratelimit-remaining"] == "2"
    assert right.status_code == 200


@pytest.mark.usefixtures("django_ready")
def test_security_RL_01_past_the_limit_of_wrong_credentials_no_unknown_key_is_looked_up(
    serve: Serve, admin: httpx.Client, make_token: Callable[..., str], database_url: str
) -> None:
    account = int(register(admin, role="support")["id"])
    known, fresh = (mint_key(account, "orders:read")["key"] for _ in range(2))
    forget_limits(database_url)

    with serve(COUNTERFOIL_LIMIT_REFUSED="3/3600") as service, service.client() as client:
        before = client.get(ORDERS, headers=bearer(known))
        wrong = [client.get(ORDERS, headers=bearer(f"cfk_{secrets.token_hex(20)}")).status_code for _ in range(6)]
        # It would be let in, had it been looked up.
        unknown = client.get(ORDERS, headers=bearer(fresh))
        again, token = (client.get(ORDERS, headers=bearer(text)) for text in (known, make_token()))

    assert wrong == [401] * 3 + [429] * 3
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (429, "RATE_LIMITED")
    assert (before.status_code, again.status_code, token.status_code) == (200, 200, 200)


def test_security_RL_01_an_error_of_a_limited_route_is_counted_and_shows_the_limit(
    serve: Serve, make_token: Callable[..., str]
) -> None:
    with serve(COUNTERFOIL_LIMIT_READ="2/3600") as service, service.client(make_token()) as client:
        answers = [client.get(path) for path in (f"{ORDERS}/{2**62}", f"{ORDERS}?cursor=x", f"{ORDERS}/{2**62}")]

    assert [answer.status_code for answer in answers] == [404, 400, 429]
    assert [answer.headers.get("ratelimit-remaining") for answer in answers] == ["1", "0", "0"]


def test_security_RL_05_without_redis_nothing_fails_and_registration_stays_limited_over_all_processes(
    serve: Serve,
    make_token: Callable[..., str],
    redis_server: Any,
    make_product: Callable[..., int],
    database_url: str,
) -> None:
    product = make_product()
    settings = {"COUNTERFOIL_LIMIT_REGISTRATION": "6/3600", "COUNTERFOIL_LIMIT_WRITE": "50/3600"}
    forget_limits(database_url)
    with serve(REDIS_URL=redis_server.url, COUNTERFOIL_WEB_PROCESSES="2", **settings) as service:
        token = make_token()
        before = [post_once(service, token, draft_of(product)) for _ in range(3)]
        redis_server.stop()
        during = [post_once(service, token, draft_of(product)) for _ in range(20)]
        registered = [register_once(service) for _ in range(10)]

    assert before == [201] * 3
    assert during == [201] * 20
    assert registered == [201] * 6 + [429] * 4


def register_once(service: Service) -> int:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": "correct horse battery"}
    with service.client() as client:
        return client.post("/api/v1/users", json=person).status_code


def test_security_RL_05_each_process_keeps_the_limit_for_itself_and_the_fallback_is_counted(
    serve: Serve, make_token: Callable[..., str], redis_server: Any
) -> None:
    redis_server.stop()
    with serve(REDIS_URL=redis_server.url, COUNTERFOIL_LIMIT_READ="4/3600") as service:
        with service.client(make_token()) as client:
            statuses = [client.get(ORDERS).status_code for _ in range(6)]
        with service.client(make_token("admin")) as admin:
            metrics = admin.get("/metrics").text

    assert statuses == [200] * 4 + [429] * 2
    failures = re.search(r'counterfoil_limit_store_failures_total\{store="primary"\} (\S+)', metrics)
    assert failures is not None
    assert 1 <= float(failures[1]) <= 3  # then the breaker is open and nobody waits for Redis
    assert 'counterfoil_limit_keys_total{store="memory"} 4.0' in metrics
    assert 'counterfoil_limit_refusals_total{class="read"} 2.0' in metrics


def test_a_full_queue_refuses_at_once_and_never_grows(
    serve: Serve, make_token: Callable[..., str], make_product: Callable[..., int], database_url: str
) -> None:
    product, token = make_product(stock=100), make_token()
    order = {"items": [{"product_id": product, "quantity": 1}]}
    settings = {"COUNTERFOIL_QUEUE_ORDERS_MAX": "1", "COUNTERFOIL_BATCH_ORDERS_MAX": "1"}
    with (
        serve(COUNTERFOIL_LIMIT_FACTOR="1000", **settings) as service,
        service.client(token) as client,
        psycopg.connect(database_url) as holder,
        ThreadPoolExecutor(12) as threads,
    ):
        # Nothing can be written while this row is held: one order is in flight, one waits, and there is no more room.
        holder.execute("SELECT FROM stock_levels WHERE product_id = %s FOR UPDATE", [product])
        futures = [threads.submit(client.post, ORDERS, json=order) for _ in range(12)]
        deadline = time.monotonic() + 20
        while sum(future.done() for future in futures) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        early = [future.result() for future in futures if future.done()]
        holder.rollback()
        answers = [future.result() for future in futures]

    assert Counter(answer.status_code for answer in answers) == {201: 2, 503: 10}
    assert {answer.json()["error"]["code"] for answer in early} == {"QUEUE_FULL"}
    assert {answer.headers["retry-after"] for answer in early} == {"1"}
