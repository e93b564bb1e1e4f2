"""AN-03: guessing passwords is slow, and a stranger cannot lock anybody out."""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from accounts import logged

from conftest import Service, running_service

PASSWORD = "correct horse battery"
Unchanged = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def guarded(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service behind a proxy on this machine, so that a test can come from any address; sign-ins are not limited."""
    directory: Path = tmp_path_factory.mktemp("guarded")
    settings = {
        "COUNTERFOIL_LIMIT_FACTOR": "1",
        "COUNTERFOIL_LIMIT_SIGN_IN": "100000/60",
        "COUNTERFOIL_LIMIT_REGISTRATION": "100000/60",
        "COUNTERFOIL_TRUSTED_PROXIES": "127.0.0.0/8",
    }
    with running_service(database_url, directory, **settings) as running:
        yield running


@pytest.fixture
def client(guarded: Service) -> Iterator[httpx.Client]:
    with guarded.client() as found:
        yield found


def register(client: httpx.Client) -> str:
    email = f"{secrets.token_hex(6)}@example.com"
    answer = client.post("/api/v1/users", json={"email": email, "name": "Ada", "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return email


def try_to_sign_in(client: httpx.Client, email: str, password: str, address: str) -> httpx.Response:
    return client.post(
        "/api/v1/auth/token", json={"email": email, "password": password}, headers={"X-Forwarded-For": address}
    )


def some_network() -> str:
    return f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}"


def test_security_AN_03_ten_wrong_guesses_from_ten_addresses_slow_strangers_and_not_the_owner(
    client: httpx.Client, nothing_written: Unchanged
) -> None:
    email, network = register(client), some_network()
    home = "192.0.2.44"
    assert try_to_sign_in(client, email, PASSWORD, home).status_code == 200

    with nothing_written():
        guesses = [try_to_sign_in(client, email, f"guess {n}", f"{network}.{n}") for n in range(10)]
        stranger = try_to_sign_in(client, email, PASSWORD, f"{network}.99")
    owner = [try_to_sign_in(client, email, PASSWORD, home).status_code for _ in range(3)]

    assert [answer.status_code for answer in guesses] == [401] * 10
    assert {answer.json()["error"]["code"] for answer in guesses} == {"LOGIN_FAILED"}
    # The right password does not help either: otherwise the eleventh guess would be as good as the first.
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (429, "TOO_MANY_ATTEMPTS")
    assert 1 <= int(stranger.headers["retry-after"]) <= 900
    assert owner == [200] * 3


def test_security_AN_03_an_unknown_account_is_slowed_down_alike(client: httpx.Client) -> None:
    email, network = f"{secrets.token_hex(6)}@example.com", some_network()

    statuses = [try_to_sign_in(client, email, "guess", f"{network}.{n}").status_code for n in range(11)]

    assert statuses == [401] * 10 + [429]


def test_security_AN_03_five_guesses_from_one_address_and_no_more_even_at_once(
    client: httpx.Client, guarded: Service, nothing_written: Unchanged
) -> None:
    email, address = register(client), f"{some_network()}.1"

    def guess(n: int) -> int:
        with guarded.client() as one:
            return try_to_sign_in(one, email, f"guess {n}", address).status_code

    with nothing_written(), ThreadPoolExecutor(10) as threads:
        statuses = Counter(threads.map(guess, range(20)))

    # 503: two passwords are compared at a time, and nobody waits for more than a second. That is no guess, and is given
    # back; whoever then repeats it has the rest of five.
    assert statuses[401] <= 5
    assert statuses.keys() <= {401, 429, 503}
    while statuses[401] < 5:
        assert guess(statuses[401]) == 401
        statuses[401] += 1
    assert guess(99) == 429


def test_security_AN_03_one_address_that_tries_many_accounts_is_slowed_down(client: httpx.Client) -> None:
    address = f"{some_network()}.1"

    statuses = [
        try_to_sign_in(client, f"{secrets.token_hex(6)}@example.com", "guess", address).status_code for _ in range(32)
    ]

    assert statuses == [401] * 30 + [429] * 2


def test_right_passwords_are_never_slowed_down(client: httpx.Client) -> None:
    email, address = register(client), f"{some_network()}.1"

    statuses = [try_to_sign_in(client, email, PASSWORD, address).status_code for _ in range(12)]

    assert statuses == [200] * 12


def test_security_AN_03_the_console_is_slowed_down_with_the_same_counts(client: httpx.Client) -> None:
    email, address = register(client), f"{some_network()}.1"

    shown = [sign_in_to_console(client, email, f"guess {n}", address).status_code for n in range(3)]
    api = [try_to_sign_in(client, email, "guess", address).status_code for _ in range(2)]
    refused = sign_in_to_console(client, email, PASSWORD, address)

    assert (shown, api) == ([200] * 3, [401] * 2)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 900
    assert "Too many attempts" in refused.text
    assert "script-src 'self'" in refused.headers["content-security-policy"]


def test_security_AN_03_what_is_kept_of_an_attempt_names_neither_account_nor_address(
    client: httpx.Client, db: psycopg.Connection[tuple[bytes]]
) -> None:
    email, address = register(client), "203.0.113.77"
    try_to_sign_in(client, email, "guess", address)

    keys = [
        bytes(row[0]).decode() for row in db.execute("SELECT key FROM rate_limits WHERE key LIKE 'attempt:%'::bytea")
    ]

    assert len(keys) >= 3
    assert [key for key in keys if "@" in key or email.partition("@")[0] in key or "203.0" in key] == []


class _Nobody:
    """An observer that keeps nothing."""

    def limits_counted(self, *, hits: int, store: str) -> None: ...

    def store_failed(self, *, store: str) -> None: ...


@pytest.fixture
def limiter_of_this_process(django_ready: None) -> Iterator[None]:
    """A limiter that counts in memory, in a loop of its own, for services that are called from here."""
    from counterfoil.infrastructure.limit_stores import MemoryStore
    from counterfoil.infrastructure.rate_limiter import RateLimiter, use_limiter

    assert django_ready is None
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> None:
        store = MemoryStore(time.monotonic)
        use_limiter(RateLimiter(primary=store, strict=None, seconds_max=1, observer=_Nobody(), clock=time.monotonic))

    async def end() -> None:
        use_limiter(None)

    asyncio.run_coroutine_threadsafe(begin(), loop).result()
    yield
    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.usefixtures("limiter_of_this_process")
def test_an_attempt_that_nobody_could_look_at_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.kernel.errors import ServiceUnavailable
    from counterfoil.users import passwords, sessions
    from counterfoil.users.errors import LoginFailed, TooManyAttempts

    def busy(*_: object) -> bool:
        raise ServiceUnavailable

    def guess() -> type[Exception]:
        with pytest.raises((ServiceUnavailable, LoginFailed, TooManyAttempts)) as raised:
            run_in_thread(
                sessions.check_credentials,
                email="nobody-at-all@example.com",
                password="guess",
                address="192.0.2.201",
                request_id="req-1",
            )
        return raised.type

    with monkeypatch.context() as patched:
        patched.setattr(passwords, "is_right", busy)
        unlooked = [guess() for _ in range(12)]
    guesses = [guess() for _ in range(6)]

    assert unlooked == [ServiceUnavailable] * 12
    assert guesses == [LoginFailed] * 5 + [TooManyAttempts]


def test_what_is_logged_of_a_failed_sign_in_names_the_request_and_hashes_the_address(
    client: httpx.Client, guarded: Service
) -> None:
    email, address, request = register(client), f"{some_network()}.1", f"req-{secrets.token_hex(8)}"
    body = {"email": email, "password": "guess"}

    for _ in range(6):
        client.post("/api/v1/auth/token", json=body, headers={"X-Forwarded-For": address, "X-Request-ID": request})

    failed = logged(guarded, "security.login_failed", request_id=request)
    slowed = logged(guarded, "security.sign_in_slowed", request_id=request)
    assert (len(failed), len(slowed)) == (5, 1)
    assert len({line["from_address"] for line in (*failed, *slowed)}) == 1
    assert address not in str(failed + slowed)
    assert (slowed[0]["account_spent"], len(slowed[0]["from_address"])) == (True, 32)


def test_a_new_password_wants_the_current_one_and_wrong_ones_are_counted_as_guesses(
    client: httpx.Client, nothing_written: Unchanged
) -> None:
    email, address = register(client), f"{some_network()}.1"
    token = try_to_sign_in(client, email, PASSWORD, address).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}

    def change(**current: str) -> httpx.Response:
        return client.put("/api/v1/users/me", json={"password": "another horse battery", **current}, headers=headers)

    with nothing_written():
        missing = change()
        wrong = [change(current_password=f"guess {n}") for n in range(5)]
        spent = change(current_password=PASSWORD)
    elsewhere = client.put(
        "/api/v1/users/me",
        json={"password": "another horse battery", "current_password": PASSWORD},
        headers={**headers, "X-Forwarded-For": f"{some_network()}.2"},
    )

    assert [answer.status_code for answer in (missing, *wrong)] == [400] * 6
    assert {answer.json()["error"]["details"]["fields"][0]["field"] for answer in (missing, *wrong)} == {
        "current_password"
    }
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "TOO_MANY_ATTEMPTS")
    assert elsewhere.status_code == 200


def make_strangers_wait(client: httpx.Client, email: str) -> None:
    network = some_network()
    guesses = [try_to_sign_in(client, email, f"guess {n}", f"{network}.{n}").status_code for n in range(11)]
    assert guesses == [401] * 10 + [429]


def test_whoever_sets_a_new_password_with_a_link_is_no_stranger_where_he_did(
    client: httpx.Client, db: psycopg.Connection[tuple[Any, ...]], django_ready: None
) -> None:
    from counterfoil.users.access import hash_token
    from counterfoil.users.recovery import make_token

    assert django_ready is None
    email, address = register(client), f"{some_network()}.1"
    make_strangers_wait(client, email)
    client.post("/api/v1/auth/password-reset", json={"email": email}, headers={"X-Forwarded-For": address})
    wish = db.execute("SELECT id FROM one_time_tokens WHERE purpose = 'reset_password' ORDER BY id DESC").fetchone()
    assert wish is not None
    # What the worker does with it, without a mail.
    db.execute(
        "UPDATE one_time_tokens SET token_hash = %s, sent_at = now(), next_attempt_at = NULL,"
        " expires_at = now() + interval '1 hour' WHERE id = %s",
        [hash_token(make_token(wish[0])), wish[0]],
    )

    changed = client.post(
        "/api/v1/auth/password-reset/confirm",
        json={"token": make_token(wish[0]), "password": "another horse battery"},
        headers={"X-Forwarded-For": address},
    )

    assert changed.status_code == 204, changed.text
    assert try_to_sign_in(client, email, "another horse battery", address).status_code == 200
    assert try_to_sign_in(client, email, "another horse battery", f"{some_network()}.2").status_code == 429


def test_an_owner_is_no_stranger_after_a_crash_that_empties_the_counts_nor_after_the_console(
    client: httpx.Client, db: psycopg.Connection[tuple[Any, ...]]
) -> None:
    email, home, desk = register(client), f"{some_network()}.1", f"{some_network()}.2"
    assert try_to_sign_in(client, email, PASSWORD, home).status_code == 200
    db.execute("UPDATE users SET role = 'support' WHERE id = (SELECT max(user_id) FROM sign_ins)")
    assert sign_in_to_console(client, email, PASSWORD, desk).status_code == 302
    db.execute("DELETE FROM rate_limits")
    make_strangers_wait(client, email)

    owner = [try_to_sign_in(client, email, PASSWORD, address).status_code for address in (home, desk)]

    assert owner == [200, 200]
    stored = db.execute("SELECT address_hash FROM sign_ins ORDER BY created_at DESC LIMIT 4").fetchall()
    assert {len(row[0]) for row in stored} == {32}


def sign_in_to_console(client: httpx.Client, email: str, password: str, address: str) -> httpx.Response:
    page = client.get("/console/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token is not None
    form = {"csrfmiddlewaretoken": token[1], "username": email, "password": password}
    return client.post("/console/login/", data=form, headers={"X-Forwarded-For": address})
