"""AN-03: guessing passwords is slow, and a stranger cannot lock anybody out."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psycopg
import pytest

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

    # 503: two passwords are hashed at a time, and nobody waits for more than a second.
    assert statuses[401] + statuses[503] == 5
    assert statuses[429] == 15


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

    def sign_in(password: str) -> httpx.Response:
        page = client.get("/console/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": email, "password": password}
        return client.post("/console/login/", data=form, headers={"X-Forwarded-For": address})

    shown = [sign_in(f"guess {n}").status_code for n in range(3)]
    api = [try_to_sign_in(client, email, "guess", address).status_code for _ in range(2)]
    refused = sign_in(PASSWORD)

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
