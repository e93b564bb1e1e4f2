"""An erasure that is killed goes on where it stopped; two at once, and registrations at once, end as one."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

pytestmark = pytest.mark.usefixtures("django_ready")
USERS, TOKEN = "/api/v1/users", "/api/v1/auth/token"
PASSWORD = "correct horse battery"
Database = psycopg.Connection[tuple[Any, ...]]

# Does so many steps of an erasure, begins one more when told to, and is gone.
KILLED = """
import os, signal, sys
import django; django.setup()
from counterfoil.infrastructure.database import run_in_thread, transaction
from counterfoil.orders.commands import Trace
from counterfoil.privacy import repositories, services

user_id, steps, begin = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "begin"

def request():
    with transaction():
        repositories.insert_request(user_id, requested_by="test")

run_in_thread(request)
for _ in range(steps):
    run_in_thread(services.advance_erasure, user_id, actor="test", request_id="test-killed")
if begin:
    with transaction():
        services._advance(user_id, Trace("test", "test-killed"))
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def person(anonymous: httpx.Client) -> tuple[int, str]:
    """Somebody with a profile: id and token."""
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}
    key = {"Idempotency-Key": f"registration-{secrets.token_hex(8)}"}
    user_id = anonymous.post(USERS, json=body, headers=key).json()["id"]
    token = anonymous.post(TOKEN, json={"email": body["email"], "password": PASSWORD}).json()["access_token"]
    header = {"Authorization": f"Bearer {token}"}
    assert anonymous.put(f"{USERS}/me", json={"profile": {"city": "Berlin"}}, headers=header).status_code == 200
    return user_id, token


def left_of(db: Database, user_id: int) -> tuple[Any, ...]:
    """Whether anything is left, in the order of the steps."""
    row = db.execute(
        """
        SELECT u.is_active OR u.password <> '!',
               EXISTS (SELECT FROM idempotency_keys k
                       WHERE k.subject_id = u.subject_id OR k.principal = 'user:' || u.id),
               u.email IS NOT NULL OR u.email_index IS NOT NULL OR u.name IS NOT NULL OR p.city IS NOT NULL,
               EXISTS (SELECT FROM counterfoil_keys.data_keys d WHERE d.subject = u.subject_id)
               OR NOT EXISTS (SELECT FROM counterfoil_keys.tombstones t WHERE t.subject = u.subject_id)
        FROM users u JOIN profiles p ON p.user_id = u.id WHERE u.id = %s
        """,
        [user_id],
    ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("begun", ["begin", "between"])
@pytest.mark.parametrize("steps", range(4))
def test_an_erasure_that_was_killed_goes_on(
    person: tuple[int, str], db: Database, database_url: str, steps: int, begun: str
) -> None:
    user_id, _ = person

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(user_id), str(steps), begun],
        env={**os.environ, "DATABASE_URL": database_url},
        check=False,
        timeout=60,
    )
    interrupted = left_of(db, user_id)
    erasure = erase(user_id)

    assert killed.returncode == -signal.SIGKILL
    # The key goes with a commit of its own, so its step alone leaves a trace when it is begun.
    key_left = not (steps == 3 and begun == "begin")
    assert interrupted == (steps < 1, steps < 2, steps < 3, key_left)
    assert erasure.state == "completed"
    assert left_of(db, user_id) == (False, False, False, False)
    done = db.execute(
        "SELECT changes ->> 'step' FROM audit_entries WHERE action = 'user.erase' AND target_id = %s ORDER BY id",
        [user_id],
    ).fetchall()
    assert [step for (step,) in done] == ["close_account", "forget_answers", "forget_person", "shred_key"]


def erase(user_id: int) -> Any:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.privacy.services import erase_person

    return run_in_thread(erase_person, user_id, actor="test", request_id="test-erase")


def test_two_erasures_at_once_are_one(person: tuple[int, str], db: Database, service: Any) -> None:
    user_id, token = person

    def delete(_: int) -> int:
        with service.client(token) as client:
            return int(client.delete(f"{USERS}/me").status_code)

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(delete, range(4)))

    assert set(statuses) <= {204, 401}
    assert 204 in statuses
    assert left_of(db, user_id) == (False, False, False, False)
    count = db.execute(
        "SELECT count(*) FROM audit_entries WHERE action = 'user.erase' AND target_id = %s", [user_id]
    ).fetchone()
    assert count == (4,)


def test_the_worker_finishes_what_waited(
    person: tuple[int, str], db: Database, service: Any, make_product: Callable[..., int]
) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.privacy.services import retry_erasures

    user_id, token = person
    with service.client(token) as client:
        order = client.post("/api/v1/orders", json={"items": [{"product_id": make_product(), "quantity": 1}]}).json()[
            "id"
        ]
        assert client.delete(f"{USERS}/me").status_code == 202

        waiting = run_in_thread(retry_erasures, limit=100, request_id="test-retry", retry_seconds=0)
        state = left_of(db, user_id)
        assert client.delete(f"/api/v1/orders/{order}").status_code == 204
        too_early = run_in_thread(retry_erasures, limit=100, request_id="test-retry")
        done = run_in_thread(retry_erasures, limit=100, request_id="test-retry", retry_seconds=0)

    assert (waiting, state, too_early, done) == (0, (True, True, True, True), 0, 1)
    assert left_of(db, user_id) == (False, False, False, False)


def test_the_worker_process_goes_on_with_what_was_interrupted(
    person: tuple[int, str], db: Database, database_url: str, tmp_path: Path
) -> None:
    user_id, _ = person
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO erasure_requests (user_id, requested_by, requested_at)"
            " VALUES (%s, 'test', now() - interval '2 minutes')",
            [user_id],
        )

    with (tmp_path / "work.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "work"],
            env={**os.environ, "DATABASE_URL": database_url},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while left_of(db, user_id) != (False, False, False, False):
            assert worker.poll() is None, (tmp_path / "work.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "work.log").read_text()
            time.sleep(0.05)
    finally:
        worker.terminate()
        worker.wait(20)

    actors = "SELECT DISTINCT actor FROM audit_entries WHERE action = 'user.erase' AND target_id = %s"
    assert db.execute(actors, [user_id]).fetchall() == [("job:erase-people",)]


def test_an_order_that_comes_while_the_account_is_closed_is_waited_for(
    person: tuple[int, str], db: Database, database_url: str
) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.privacy.services import STEPS, advance_erasure

    user_id, _ = person
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO erasure_requests (user_id, requested_by) VALUES (%s, 'test')", [user_id])
        closed = [
            run_in_thread(advance_erasure, user_id, actor="test", request_id="test-late")
            for _ in list(STEPS)[: list(STEPS).index("forget_person")]
        ]
        connection.execute(
            "INSERT INTO orders (user_id, total_amount, currency, status) VALUES (%s, 0, 'EUR', 'confirmed')", [user_id]
        )
        erasure = erase(user_id)
        left = left_of(db, user_id)
        connection.execute("DELETE FROM orders WHERE user_id = %s", [user_id])

    assert closed == [True, True]
    assert erasure.state == "deferred"
    assert "(confirmed)" in erasure.deferred_reason
    assert left == (False, False, True, True)
    assert erase(user_id).state == "completed"


def test_one_address_registered_by_many_at_once_is_one_account(anonymous: httpx.Client, db: Database) -> None:
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}
    count = (
        "SELECT (SELECT count(*) FROM users WHERE email_index IS NOT NULL),"
        " (SELECT count(*) FROM counterfoil_keys.data_keys)"
    )
    before = db.execute(count).fetchone()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: anonymous.post(USERS, json=body), range(6)))

    statuses = [answer.status_code for answer in answers]
    after = db.execute(count).fetchone()
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 503}
    assert before is not None
    # Those who came too late left no key behind.
    assert after == (before[0] + 1, before[1] + 1)


def test_an_erased_account_cannot_be_changed(
    person: tuple[int, str], admin: httpx.Client, nothing_written: Callable[[], Any]
) -> None:
    user_id, _ = person
    erase(user_id)

    with nothing_written():
        answers = [
            admin.put(f"{USERS}/{user_id}", json=change)
            for change in ({"name": "Eve"}, {"profile": {"city": "Paris"}}, {"is_active": True}, {"password": PASSWORD})
        ]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(404, "USER_NOT_FOUND")] * 4


def test_an_answer_whose_person_is_gone_is_gone(anonymous: httpx.Client, db: Database, database_url: str) -> None:
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}
    key = {"Idempotency-Key": f"registration-{secrets.token_hex(8)}"}
    user_id = anonymous.post(USERS, json=body, headers=key).json()["id"]
    row = db.execute(
        "SELECT k.response_body, k.subject_id = u.subject_id FROM idempotency_keys k, users u"
        " WHERE k.key = %s AND u.id = %s",
        [key["Idempotency-Key"], user_id],
    ).fetchone()
    assert row is not None
    assert (body["email"].encode() in bytes(row[0]), row[1]) == (False, True)
    # As in a restored backup: the answer is back, the key is not.
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM counterfoil_keys.data_keys WHERE subject = (SELECT subject_id FROM users WHERE id = %s)",
            [user_id],
        )

    answer = anonymous.post(USERS, json=body, headers=key)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ANSWER_ERASED")
