"""Sign-ins: refresh tokens that work once, and access that ends in seconds (AN)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from accounts import (
    AUTH,
    KEYS,
    NEW_PASSWORD,
    SECONDS_MAX,
    USERS,
    bearer,
    logged,
    make_key,
    refused,
    register,
    seconds_until,
    sign_in,
)

from conftest import Service, running_service

Unchanged = Callable[[], AbstractContextManager[None]]
Connection = psycopg.Connection[tuple[Any, ...]]


def refresh(client: httpx.Client, token: str) -> httpx.Response:
    return client.post(f"{AUTH}/refresh", json={"refresh_token": token})


def test_a_refresh_gives_new_tokens_for_the_same_account_and_session(anonymous: httpx.Client, db: Connection) -> None:
    account = register(anonymous)
    first = sign_in(anonymous, account)

    answer = refresh(anonymous, first["refresh_token"])

    assert answer.status_code == 200, answer.text
    second = answer.json()
    assert sorted(second) == ["access_token", "expires_in", "refresh_expires_in", "refresh_token", "token_type"]
    assert (second["token_type"], second["expires_in"]) == ("Bearer", 3600)
    assert 30 * 86_400 - 10 <= second["refresh_expires_in"] <= 30 * 86_400
    assert second["refresh_token"] != first["refresh_token"]
    me = anonymous.get(f"{USERS}/me", headers=bearer(second["access_token"]))
    assert me.json()["id"] == account["id"]
    assert db.execute("SELECT count(*) FROM sign_ins WHERE user_id = %s", [account["id"]]).fetchone() == (1,)


def test_security_AN_04_a_refresh_token_works_once_and_its_reuse_ends_the_family(
    anonymous: httpx.Client, db: Connection, service: Service
) -> None:
    account = register(anonymous)
    stolen = sign_in(anonymous, account)
    other_device = sign_in(anonymous, account)
    newest = refresh(anonymous, stolen["refresh_token"]).json()

    reused = refresh(anonymous, stolen["refresh_token"])

    assert (reused.status_code, reused.json()["error"]["code"]) == (401, "REFRESH_TOKEN_INVALID")
    after = refresh(anonymous, newest["refresh_token"])
    assert (after.status_code, after.json()["error"]["code"]) == (401, "REFRESH_TOKEN_INVALID")
    took = seconds_until(lambda: refused(anonymous, newest["access_token"]))
    assert took < SECONDS_MAX
    entries = db.execute(
        "SELECT target, reason FROM audit_entries WHERE action = 'session.reuse' AND actor = %s",
        [f"user:{account['id']}"],
    ).fetchall()
    assert entries == [("sign_in", "a refresh token was used twice")]
    assert len(logged(service, "security.refresh_reused", user_id=account["id"])) == 1
    assert refresh(anonymous, other_device["refresh_token"]).status_code == 200


def test_security_AN_04_of_50_concurrent_uses_of_a_refresh_token_one_succeeds(
    anonymous: httpx.Client, service: Service, db: Connection
) -> None:
    account = register(anonymous)
    token = sign_in(anonymous, account)["refresh_token"]
    line = threading.Barrier(50)

    def use(_: int) -> httpx.Response:
        with service.client() as client:
            client.get("/livez")
            line.wait(20)
            return refresh(client, token)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(use, range(50)))

    assert sorted({answer.status_code for answer in answers}) == [200, 401]
    [winner] = [answer for answer in answers if answer.status_code == 200]
    family = db.execute("SELECT revoke_reason FROM sign_ins WHERE user_id = %s", [account["id"]]).fetchall()
    assert family == [("refresh token reused",)]
    issued = db.execute(
        "SELECT count(*), count(used_at) FROM refresh_tokens r JOIN sign_ins s ON s.id = r.sign_in_id"
        " WHERE s.user_id = %s",
        [account["id"]],
    ).fetchone()
    assert issued == (2, 1)
    assert refresh(anonymous, winner.json()["refresh_token"]).status_code == 401


@pytest.mark.parametrize("token", ["cfr_" + "x" * 43, "cft_" + "x" * 43, "notatoken"])
def test_an_unknown_refresh_token_is_refused_and_changes_nothing(
    anonymous: httpx.Client, nothing_written: Unchanged, token: str
) -> None:
    with nothing_written():
        answer = refresh(anonymous, token)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "REFRESH_TOKEN_INVALID")
    assert answer.headers["www-authenticate"] == 'Bearer realm="counterfoil"'


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE refresh_tokens SET expires_at = now() WHERE sign_in_id IN (SELECT id FROM sign_ins WHERE user_id = %s)",
        "UPDATE sign_ins SET expires_at = now() WHERE user_id = %s",
        "UPDATE users SET is_active = false WHERE id = %s",
    ],
    ids=["token expired", "family expired", "account inactive"],
)
def test_a_refresh_token_ends_with_its_time_its_family_and_its_account(
    anonymous: httpx.Client, db: Connection, statement: str
) -> None:
    account = register(anonymous)
    token = sign_in(anonymous, account)["refresh_token"]
    db.execute(statement, [account["id"]])

    answer = refresh(anonymous, token)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "REFRESH_TOKEN_INVALID")


def test_a_family_ends_after_90_days_however_often_it_is_refreshed(anonymous: httpx.Client, db: Connection) -> None:
    account = register(anonymous)
    token = sign_in(anonymous, account)["refresh_token"]
    db.execute("UPDATE sign_ins SET expires_at = now() + interval '60 s' WHERE user_id = %s", [account["id"]])

    answer = refresh(anonymous, token)

    assert answer.status_code == 200
    assert 50 <= answer.json()["refresh_expires_in"] <= 60


def test_tokens_never_lie_in_the_table_of_idempotency_keys(anonymous: httpx.Client, db: Connection) -> None:
    account = register(anonymous)
    key = {"Idempotency-Key": secrets.token_hex(16)}
    body = {"email": account["email"], "password": account["password"]}

    answers = [anonymous.post(f"{AUTH}/token", json=body, headers=key) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["refresh_token"] != answers[1].json()["refresh_token"]
    stored = db.execute("SELECT count(*) FROM idempotency_keys WHERE key = %s", [key["Idempotency-Key"]]).fetchone()
    assert stored == (0,)


# ---------------------------------------------------------------- the end of access
def log_out_with_the_access_token(client: httpx.Client, _: httpx.Client, account: Any, tokens: Any) -> None:
    answer = client.post(f"{AUTH}/logout", json={}, headers=bearer(tokens["access_token"]))
    assert (answer.status_code, answer.content) == (204, b""), account


def log_out_with_the_refresh_token(client: httpx.Client, _: httpx.Client, account: Any, tokens: Any) -> None:
    answer = client.post(f"{AUTH}/logout", json={"refresh_token": tokens["refresh_token"]})
    assert answer.status_code == 204, account


def log_out_everywhere(client: httpx.Client, _: httpx.Client, account: Any, tokens: Any) -> None:
    other = sign_in(client, account)
    body = {"everywhere": True}
    assert client.post(f"{AUTH}/logout", json=body, headers=bearer(other["access_token"])).status_code == 204, tokens


def change_the_password(client: httpx.Client, _: httpx.Client, account: Any, tokens: Any) -> None:
    change = {"password": NEW_PASSWORD, "current_password": account["password"]}
    answer = client.put(f"{USERS}/me", json=change, headers=bearer(tokens["access_token"]))
    assert answer.status_code == 200, account


def take_the_role_away(_: httpx.Client, admin: httpx.Client, account: Any, tokens: Any) -> None:
    assert admin.put(f"{USERS}/{account['id']}", json={"role": "customer"}).status_code == 200, tokens


def deactivate(_: httpx.Client, admin: httpx.Client, account: Any, tokens: Any) -> None:
    assert admin.put(f"{USERS}/{account['id']}", json={"is_active": False}).status_code == 200, tokens


@pytest.mark.parametrize(
    "act",
    [
        log_out_with_the_access_token,
        log_out_with_the_refresh_token,
        log_out_everywhere,
        change_the_password,
        take_the_role_away,
        deactivate,
    ],
)
def test_security_AN_05_access_ends_within_5_s_of(
    anonymous: httpx.Client, admin: httpx.Client, act: Callable[..., None]
) -> None:
    account = register(admin, role="support")
    tokens = sign_in(anonymous, account)
    assert not refused(anonymous, tokens["access_token"])

    act(anonymous, admin, account, tokens)
    took = seconds_until(lambda: refused(anonymous, tokens["access_token"]))

    print(f"{act.__name__}: access ended after {took:.2f} s")
    assert took < SECONDS_MAX
    answer = anonymous.get(f"{USERS}/me", headers=bearer(tokens["access_token"]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TOKEN_INVALID")
    assert refresh(anonymous, tokens["refresh_token"]).status_code == 401


@pytest.mark.parametrize("column", ["role = 'customer'", "is_active = false", "password = '!'", "token_epoch = 0"])
def test_security_AN_05_a_change_by_hand_in_the_database_ends_access_too(
    anonymous: httpx.Client, admin: httpx.Client, db: Connection, column: str
) -> None:
    account = register(admin, role="support")
    tokens = sign_in(anonymous, account)
    db.execute("UPDATE users SET token_epoch = 7 WHERE id = %s", [account["id"]])
    newer = sign_in(anonymous, account)
    assert not refused(anonymous, newer["access_token"])

    db.execute(f"UPDATE users SET {column} WHERE id = %s", [account["id"]])  # noqa: S608 - fixed text
    took = seconds_until(lambda: refused(anonymous, newer["access_token"]))

    assert took < SECONDS_MAX
    assert refused(anonymous, tokens["access_token"])


def test_security_AN_05_two_web_processes_see_the_same_revocation(
    anonymous: httpx.Client, service: Service, tmp_path: Path
) -> None:
    account = register(anonymous)
    tokens = sign_in(anonymous, account)
    with running_service(service.database_url, tmp_path) as second, second.client() as other:
        assert not refused(other, tokens["access_token"])

        anonymous.post(f"{AUTH}/logout", json={}, headers=bearer(tokens["access_token"]))
        started = time.monotonic()
        seconds_until(lambda: refused(anonymous, tokens["access_token"]) and refused(other, tokens["access_token"]))
        took = time.monotonic() - started

    assert took < SECONDS_MAX


def test_security_AN_05_a_revocation_that_commits_late_is_not_overlooked(
    anonymous: httpx.Client, service: Service
) -> None:
    account = register(anonymous)
    late, early = sign_in(anonymous, account), sign_in(anonymous, register(anonymous))
    with psycopg.connect(service.database_url) as slow:
        slow.execute("UPDATE sign_ins SET revoked_at = now() WHERE user_id = %s", [account["id"]])
        # Written later and committed earlier: a reader that remembers the highest id it saw would skip the first.
        anonymous.post(f"{AUTH}/logout", json={}, headers=bearer(early["access_token"]))
        seconds_until(lambda: refused(anonymous, early["access_token"]))
        assert not refused(anonymous, late["access_token"])

        slow.commit()
    took = seconds_until(lambda: refused(anonymous, late["access_token"]))

    assert took < SECONDS_MAX


def test_a_process_that_starts_later_knows_what_was_revoked_before(
    anonymous: httpx.Client, service: Service, tmp_path: Path
) -> None:
    tokens = sign_in(anonymous, register(anonymous))
    anonymous.post(f"{AUTH}/logout", json={}, headers=bearer(tokens["access_token"]))

    with running_service(service.database_url, tmp_path) as second, second.client() as other:
        answer = other.get(f"{USERS}/me", headers=bearer(tokens["access_token"]))

    assert answer.status_code == 401


def test_logging_out_one_device_leaves_the_others(anonymous: httpx.Client) -> None:
    account = register(anonymous)
    one, two = sign_in(anonymous, account), sign_in(anonymous, account)

    anonymous.post(f"{AUTH}/logout", json={}, headers=bearer(one["access_token"]))
    seconds_until(lambda: refused(anonymous, one["access_token"]))

    assert not refused(anonymous, two["access_token"])
    assert refresh(anonymous, two["refresh_token"]).status_code == 200


def test_logging_out_needs_something_to_end_and_does_not_tell_which_tokens_exist(
    anonymous: httpx.Client, nothing_written: Unchanged
) -> None:
    with nothing_written():
        without = anonymous.post(f"{AUTH}/logout", json={})
        unknown = anonymous.post(f"{AUTH}/logout", json={"refresh_token": "cfr_" + "x" * 43, "everywhere": True})

    assert (without.status_code, without.json()["error"]["code"]) == (401, "CREDENTIALS_MISSING")
    assert (unknown.status_code, unknown.content) == (204, b"")


def test_a_used_refresh_token_ends_its_own_session_and_no_other(anonymous: httpx.Client) -> None:
    account = register(anonymous)
    one, two = sign_in(anonymous, account), sign_in(anonymous, account)
    refresh(anonymous, one["refresh_token"])

    answer = anonymous.post(f"{AUTH}/logout", json={"refresh_token": one["refresh_token"], "everywhere": True})

    assert answer.status_code == 204
    seconds_until(lambda: refused(anonymous, one["access_token"]))
    assert not refused(anonymous, two["access_token"])


def test_a_sign_in_with_the_old_password_that_loses_the_race_leaves_no_session(
    anonymous: httpx.Client, service: Service, db: Connection
) -> None:
    account = register(anonymous)
    with psycopg.connect(service.database_url) as change, ThreadPoolExecutor(1) as pool:
        change.execute("UPDATE users SET password = '!' WHERE id = %s", [account["id"]])
        body = {"email": account["email"], "password": account["password"]}
        late = pool.submit(anonymous.post, f"{AUTH}/token", json=body)
        wait_for_a_waiter(db)
        change.commit()
        answer = late.result(20)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "LOGIN_FAILED")
    assert db.execute("SELECT count(*) FROM sign_ins WHERE user_id = %s", [account["id"]]).fetchone() == (0,)


def wait_for_a_waiter(db: Connection) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%sign_ins%%'"
        if db.execute(waiting).fetchone():
            return
        time.sleep(0.01)
    pytest.fail("nobody waited for the account's row")


# ---------------------------------------------------------------- stored secrets
def test_security_AN_07_a_dump_holds_hashes_of_keys_and_refresh_tokens_only(
    anonymous: httpx.Client, admin: httpx.Client, db: Connection
) -> None:
    account = register(admin, role="service")
    tokens = sign_in(anonymous, account)
    idempotency = {"Idempotency-Key": secrets.token_hex(16)}
    body = {"user_id": account["id"], "name": "dump", "scopes": ["orders:read"]}
    created = admin.post(KEYS, json=body, headers=idempotency)
    replayed = admin.post(KEYS, json=body, headers=idempotency)
    key = created.json()["key"]

    dump = "".join(dump_of(db))

    for secret in (key, tokens["refresh_token"], tokens["access_token"], account["password"]):
        assert secret not in dump
        assert secret.encode().hex() not in dump
    assert key[:10] in dump
    assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (201, "true")
    assert replayed.json() == {**created.json(), "key": None}
    assert "key" not in admin.get(KEYS, params={"limit": 200}).json()["items"][-1]
    assert anonymous.get("/api/v1/orders", headers=bearer(key)).status_code == 200


def dump_of(db: Connection) -> list[str]:
    tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
    return [str(row[0]) for (name,) in tables for row in db.execute(f'SELECT t::text FROM "{name}" t').fetchall()]  # noqa: S608


def test_keys_are_made_for_tests_by_administrators_only(admin: httpx.Client, customer: httpx.Client) -> None:
    program = register(admin, role="service")["id"]

    assert make_key(admin, program, "orders:read")["scopes"] == ["orders:read"]
    assert customer.post(KEYS, json={"user_id": program, "name": "x", "scopes": ["orders:read"]}).status_code == 403


def test_an_api_key_ends_nobodys_session(admin: httpx.Client, anonymous: httpx.Client) -> None:
    account = register(admin, role="service")
    token = sign_in(anonymous, account)["access_token"]
    key = make_key(admin, account["id"], "account:self")["key"]

    answers = [anonymous.post(f"{AUTH}/logout", json=body, headers=bearer(key)) for body in ({}, {"everywhere": True})]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "SIGN_IN_REQUIRED")] * 2
    time.sleep(SECONDS_MAX)
    assert not refused(anonymous, token)
