"""An erasure leaves no access behind, whatever comes between its steps, and damaged data does not stop it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

pytestmark = pytest.mark.usefixtures("django_ready")
USERS, TOKEN, KEYS = "/api/v1/users", "/api/v1/auth/token", "/api/v1/api-keys"
PASSWORD = "correct horse battery"
Database = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def person(anonymous: httpx.Client) -> tuple[int, str]:
    """Somebody who has signed in: id and address."""
    email = f"{secrets.token_hex(6)}@example.com"
    user_id = anonymous.post(USERS, json={"email": email, "name": "Ada", "password": PASSWORD}).json()["id"]
    assert anonymous.post(TOKEN, json={"email": email, "password": PASSWORD}).status_code == 200
    return user_id, email


def run(function: Callable[..., Any], *arguments: Any, **values: Any) -> Any:
    from counterfoil.infrastructure.database import run_in_thread

    return run_in_thread(function, *arguments, **values)


def erase(user_id: int) -> Any:
    from counterfoil.privacy.services import erase_person

    return run(erase_person, user_id, actor="test", request_id="test-erase")


def request(database_url: str, *user_ids: int) -> None:
    """Leave requests as an interrupted process does, older than the worker's patience."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for user_id in user_ids:
            connection.execute(
                "INSERT INTO erasure_requests (user_id, requested_by, requested_at)"
                " VALUES (%s, 'test', now() - interval '3 days')",
                [user_id],
            )


def advance(user_id: int, *, steps: int) -> None:
    from counterfoil.privacy.services import advance_erasure

    for _ in range(steps):
        run(advance_erasure, user_id, actor="test", request_id="test-advance")


def access_of(db: Database, user_id: int) -> tuple[Any, ...]:
    row = db.execute(
        "SELECT u.password, u.is_active, (SELECT count(*) FROM sign_ins WHERE user_id = u.id),"
        " (SELECT count(*) FROM one_time_tokens WHERE user_id = u.id),"
        " (SELECT count(*) FROM api_keys WHERE user_id = u.id AND (name <> '' OR revoked_at IS NULL))"
        " FROM users u WHERE u.id = %s",
        [user_id],
    ).fetchone()
    assert row is not None
    return row


NO_ACCESS = ("!", False, 0, 0, 0)


# ---------------------------------------------------------------- access
def test_an_account_that_is_being_erased_is_not_opened_again(
    person: tuple[int, str],
    admin: httpx.Client,
    anonymous: httpx.Client,
    db: Database,
    database_url: str,
    nothing_written: Callable[[], Any],
) -> None:
    user_id, email = person
    request(database_url, user_id)
    advance(user_id, steps=2)
    key = {"user_id": user_id, "name": "laptop of Ada", "scopes": ["orders:read"], "expires_in_days": 30}

    with nothing_written():
        opened = admin.put(f"{USERS}/{user_id}", json={"is_active": True, "password": "another horse battery"})
        made = admin.post(KEYS, json=key)
    asked = anonymous.post("/api/v1/auth/password-reset", json={"email": email})

    assert [(a.status_code, a.json()["error"]["code"]) for a in (opened, made)] == [(409, "ERASURE_REQUESTED")] * 2
    assert asked.status_code == 202
    assert erase(user_id).state == "completed"
    assert access_of(db, user_id) == NO_ACCESS


def test_access_that_came_between_the_steps_of_an_erasure_ends_with_it(
    person: tuple[int, str], db: Database, database_url: str
) -> None:
    user_id, _ = person
    request(database_url, user_id)
    advance(user_id, steps=2)
    with psycopg.connect(database_url, autocommit=True) as connection:
        # As processes of the release before would do it.
        connection.execute("UPDATE users SET is_active = true, password = 'x' WHERE id = %s", [user_id])
        connection.execute(
            "INSERT INTO sign_ins (id, user_id, expires_at) VALUES (gen_random_uuid(), %s, now() + interval '1 day')",
            [user_id],
        )
        connection.execute(
            "INSERT INTO api_keys (user_id, name, prefix, secret_hash, scopes, created_by, expires_at)"
            " VALUES (%s, 'laptop of Ada', 'cfk_', %s, '{}', 'test', now() + interval '1 day')",
            [user_id, secrets.token_bytes(32)],
        )

    erasure = erase(user_id)

    assert erasure.state == "completed"
    assert access_of(db, user_id) == NO_ACCESS


@pytest.mark.parametrize("what", ["key", "link"])
def test_an_erasure_finds_what_is_being_added_at_the_same_moment(
    person: tuple[int, str], db: Database, what: str
) -> None:
    user_id, email = person
    added, waiting = threading.Event(), threading.Event()

    def add() -> None:
        from counterfoil.infrastructure.database import transaction
        from counterfoil.users.api_keys import create_key
        from counterfoil.users.permissions import Permission
        from counterfoil.users.recovery import request_password_reset

        with transaction():
            if what == "link":
                request_password_reset(email, request_id="test-late")
            else:
                scopes = [Permission.ORDERS_READ]
                create_key(user_id=user_id, name="late", scopes=scopes, days=9, actor=None, request_id="test-late")
            added.set()
            assert waiting.wait(20)

    late = threading.Thread(target=run, args=[add])
    late.start()
    assert added.wait(20)
    erased = threading.Thread(target=erase, args=[user_id])
    erased.start()
    while not db.execute(
        "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE NOT l.granted AND a.datname = current_database() AND a.query ILIKE '%FOR NO KEY UPDATE%'"
    ).fetchall():
        assert erased.is_alive(), "the erasure did not wait"
    waiting.set()
    late.join(20)
    erased.join(20)

    assert erase(user_id).state == "completed"
    assert access_of(db, user_id) == NO_ACCESS


# ---------------------------------------------------------------- damage
@pytest.mark.parametrize("damaged", ["data", "key"])
def test_a_person_whose_data_does_not_open_is_erased_like_any_other(
    person: tuple[int, str], db: Database, database_url: str, damaged: str
) -> None:
    user_id, _ = person
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE users SET name = set_byte(name, 20, get_byte(name, 20) # 1) WHERE id = %s"
            if damaged == "data"
            else "UPDATE counterfoil_keys.data_keys SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"
            " WHERE subject = (SELECT subject_id FROM users WHERE id = %s)",
            [user_id],
        )

    erasure = erase(user_id)

    assert erasure.state == "completed"
    left = "SELECT email, name, (SELECT count(*) FROM counterfoil_keys.data_keys d WHERE d.subject = u.subject_id)"
    assert db.execute(f"{left} FROM users u WHERE id = %s", [user_id]).fetchone() == (None, None, 0)


def test_an_erasure_that_fails_keeps_nobody_elses_waiting(
    person: tuple[int, str], anonymous: httpx.Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from counterfoil.privacy import services

    bad, _ = person
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Eve", "password": PASSWORD}
    good = anonymous.post(USERS, json=body).json()["id"]
    request(database_url, bad, good)
    real = services.STEPS["close_account"]

    def fails_for_one(case: Any) -> None:
        if case.user_id == bad:
            raise RuntimeError("no luck")
        real(case)

    monkeypatch.setitem(services.STEPS, "close_account", fails_for_one)

    done = run(services.retry_erasures, limit=100, request_id="test-retry")

    assert done == 1
    states = {e.user_id: e.state for e in services_list()}
    assert (states[bad], states[good]) == ("running", "completed")
    monkeypatch.undo()
    assert erase(bad).state == "completed"


def services_list() -> list[Any]:
    from counterfoil.privacy.services import list_erasures

    found: list[Any] = run(list_erasures, limit=10_000)
    return found


# ---------------------------------------------------------------- the trail
def test_an_erasure_that_waits_leaves_no_entry_a_try(person: tuple[int, str], db: Database, database_url: str) -> None:
    from counterfoil.privacy.services import retry_erasures

    user_id, _ = person
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO orders (user_id, total_amount, currency, status) VALUES (%s, 0, 'EUR', 'confirmed')", [user_id]
        )
    waits = erase(user_id)
    last = db.execute("SELECT max(id) FROM audit_entries").fetchone()

    for _ in range(3):
        run(retry_erasures, limit=100, request_id="test-retry", retry_seconds=0)

    written = "SELECT action, actor FROM audit_entries WHERE id > %s"
    assert waits.state == "deferred"
    assert last is not None
    assert db.execute(written, [last[0]]).fetchall() == []
    requests = "SELECT DISTINCT actor FROM audit_entries WHERE target = 'erasure_request' AND target_id = %s"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM orders WHERE user_id = %s", [user_id])
    assert erase(user_id).state == "completed"
    assert db.execute(requests, [user_id]).fetchall() == [("test",)]
