"""People of the security tests: registered through the API, signed in with tokens of their own."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx

from conftest import Service

AUTH = "/api/v1/auth"
USERS = "/api/v1/users"
KEYS = "/api/v1/api-keys"
ORDERS = "/api/v1/orders"
PASSWORD = "correct horse battery"
NEW_PASSWORD = "another horse battery"
# The promise of the design: rights that were taken away are gone after this.
SECONDS_MAX = 5.0


def register(client: httpx.Client, **values: Any) -> dict[str, Any]:
    """Register somebody, or make an account as an administrator; returns the account with its password."""
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD, **values}
    answer = client.post(USERS, json=body)
    assert answer.status_code == 201, answer.text
    return {**answer.json(), "password": body["password"]}


def sign_in(client: httpx.Client, account: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Sign somebody in; returns the tokens."""
    body = {"email": account["email"], "password": account["password"], **values}
    answer = client.post(f"{AUTH}/token", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make_key(admin: httpx.Client, user_id: int, *scopes: str, **values: Any) -> dict[str, Any]:
    """Make an API key through the API; returns it with its secret."""
    answer = admin.post(KEYS, json={"user_id": user_id, "name": "test", "scopes": list(scopes), **values})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def mint_key(user_id: int, *scopes: str) -> dict[str, Any]:
    """Make an API key for any account, as the terminal does; returns its id and secret."""
    from counterfoil.infrastructure.database import run_in_thread, transaction
    from counterfoil.users.api_keys import create_key
    from counterfoil.users.permissions import Permission

    def create() -> dict[str, Any]:
        with transaction():
            record, key = create_key(
                user_id=user_id,
                name="test",
                scopes=[Permission(scope) for scope in scopes],
                days=90,
                actor=None,
                request_id="test-request",
            )
        return {"id": record.id, "key": key}

    return run_in_thread(create)


def seconds_until(condition: Callable[[], bool]) -> float:
    """Return how long it took until a condition held; fails when that is longer than the promise."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < SECONDS_MAX + 1, "it never came true"
        time.sleep(0.02)
    return time.monotonic() - started


def logged(service: Service, event: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the lines of the service's log with this event and these fields."""
    lines = [json.loads(line) for line in service.log_path.read_text().splitlines() if f'"{event}"' in line]
    return [line for line in lines if line["event"] == event and fields.items() <= line.items()]


def refused(client: httpx.Client, token: str) -> bool:
    return client.get(f"{USERS}/me", headers=bearer(token)).status_code == 401
