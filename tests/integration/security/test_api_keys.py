"""API keys: scopes, expiry, revocation, last use (issue 3, item 2)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from accounts import (
    KEYS,
    ORDERS,
    SECONDS_MAX,
    USERS,
    bearer,
    logged,
    make_key,
    mint_key,
    register,
    seconds_until,
    sign_in,
)

from conftest import Service, run_counterfoil

Unchanged = Callable[[], AbstractContextManager[None]]
Connection = psycopg.Connection[tuple[Any, ...]]


def opens(client: httpx.Client, key: str, path: str = ORDERS) -> bool:
    answer = client.get(path, headers=bearer(key))
    if answer.status_code == 401:
        assert answer.json()["error"]["code"] == "API_KEY_INVALID"
        assert answer.headers["www-authenticate"] == 'Bearer realm="counterfoil"'
    return answer.status_code == 200


@pytest.fixture
def program(admin: httpx.Client) -> int:
    """An account of a program."""
    return int(register(admin, role="service")["id"])


def test_a_key_opens_the_door_in_either_header_within_role_and_scopes(
    admin: httpx.Client, anonymous: httpx.Client, program: int, make_product: Callable[..., int]
) -> None:
    made = make_key(admin, program, "orders:read", "inventory:read")

    product = make_product()
    by_bearer = anonymous.get(f"/api/v1/inventory/{product}", headers=bearer(made["key"]))
    by_header = anonymous.get(f"/api/v1/inventory/{product}", headers={"X-API-Key": made["key"]})
    beyond_scope = anonymous.post(ORDERS, json={}, headers=bearer(made["key"]))
    beyond_role = anonymous.get(USERS, headers=bearer(made["key"]))

    assert (by_bearer.status_code, by_header.status_code) == (200, 200)
    assert (beyond_scope.status_code, beyond_scope.json()["error"]["code"]) == (403, "SCOPE_MISSING")
    assert beyond_scope.json()["error"]["details"] == {"scope": "orders:write"}
    assert (beyond_role.status_code, beyond_role.json()["error"]["code"]) == (403, "ROLE_MISSING")


def test_a_key_registers_nobody_without_the_scope(
    admin: httpx.Client, anonymous: httpx.Client, program: int, nothing_written: Unchanged
) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": "correct horse battery"}
    owner = int(admin.get(f"{USERS}/me").json()["id"])
    keys = [make_key(admin, account, "orders:read")["key"] for account in (program, owner)]

    with nothing_written():
        answers = [anonymous.post(USERS, json=person, headers=bearer(key)) for key in keys]
    allowed = anonymous.post(USERS, json=person, headers=bearer(make_key(admin, owner, "users:write")["key"]))

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(403, "SCOPE_MISSING")] * 2
    assert answers[0].json()["error"]["details"] == {"scope": "users:write"}
    assert allowed.status_code == 201


def test_a_new_key_is_shown_once_with_what_it_may_do(admin: httpx.Client, program: int) -> None:
    made = make_key(admin, program, "orders:write", "orders:read", "orders:read", expires_in_days=7)

    listed = walk(admin)[made["id"]]
    assert made["key"].startswith(made["prefix"])
    assert (len(made["key"]), made["prefix"][:4], len(made["prefix"])) == (47, "cfk_", 10)
    assert made["scopes"] == ["orders:read", "orders:write"]
    assert listed == {**{k: v for k, v in made.items() if k != "key"}, "last_used_at": None, "revoked_at": None}
    assert made["expires_at"] > made["created_at"]


def walk(admin: httpx.Client) -> dict[int, Any]:
    found: dict[int, Any] = {}
    page = admin.get(KEYS, params={"limit": 50}).json()
    while True:
        found.update({item["id"]: item for item in page["items"]})
        if page["next"] is None:
            return found
        page = admin.get(page["next"]).json()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": ["users:write"]}, "scopes"),
        ({"user_id": 2**62}, "user_id"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": 731}, "expires_in_days"),
        ({"key": "cfk_mine"}, "key"),
    ],
    ids=str,
)
def test_a_key_that_cannot_be_is_refused(
    admin: httpx.Client, program: int, nothing_written: Unchanged, wrong: dict[str, Any], field: str
) -> None:
    with nothing_written():
        answer = admin.post(KEYS, json={"user_id": program, "name": "x", "scopes": ["orders:read"], **wrong})

    assert answer.status_code == 400, answer.text
    assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == [field]


def test_a_key_neither_makes_nor_revokes_keys(
    admin: httpx.Client, anonymous: httpx.Client, program: int, nothing_written: Unchanged
) -> None:
    boss = register(admin, role="admin")
    keeper = mint_key(boss["id"], "api-keys:write", "orders:read")
    body = {"user_id": program, "name": "x", "scopes": ["orders:read"]}
    repeated = {"Idempotency-Key": secrets.token_hex(16)}
    token = sign_in(anonymous, boss)["access_token"]
    assert anonymous.post(KEYS, json=body, headers=bearer(token) | repeated).status_code == 201

    with nothing_written():
        answers = [
            anonymous.post(KEYS, json=body, headers=bearer(keeper["key"])),
            anonymous.post(KEYS, json={**body, "user_id": boss["id"]}, headers=bearer(keeper["key"])),
            anonymous.post(KEYS, json=body, headers=bearer(keeper["key"]) | repeated),
            anonymous.delete(f"{KEYS}/{keeper['id']}", headers=bearer(keeper["key"])),
        ]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "SIGN_IN_REQUIRED")] * 4


def test_an_administrator_makes_keys_for_himself_and_for_programs_and_for_no_other_person(
    admin: httpx.Client, program: int, nothing_written: Unchanged
) -> None:
    me = admin.get(f"{USERS}/me").json()["id"]
    others = [register(admin, role=role)["id"] for role in ("customer", "support", "manager", "admin")]

    with nothing_written():
        refused = [
            admin.post(KEYS, json={"user_id": other, "name": "x", "scopes": ["account:self"]}) for other in others
        ]

    assert [answer.status_code for answer in refused] == [400] * 4
    assert {answer.json()["error"]["details"]["fields"][0]["field"] for answer in refused} == {"user_id"}
    assert [make_key(admin, user, "orders:read")["user_id"] for user in (me, program)] == [me, program]


def test_a_key_does_not_set_its_accounts_password(
    admin: httpx.Client, anonymous: httpx.Client, nothing_written: Unchanged
) -> None:
    account = register(admin, role="manager")
    key = mint_key(account["id"], "account:self")["key"]

    with nothing_written():
        taken_over = anonymous.put(f"{USERS}/me", json={"password": "another horse battery"}, headers=bearer(key))
    renamed = anonymous.put(f"{USERS}/me", json={"name": "Warehouse"}, headers=bearer(key))

    assert (taken_over.status_code, taken_over.json()["error"]["code"]) == (403, "SIGN_IN_REQUIRED")
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Warehouse")


def test_a_key_gives_nobody_a_password_a_role_or_an_end(
    admin: httpx.Client, anonymous: httpx.Client, nothing_written: Unchanged
) -> None:
    boss, other = register(admin, role="admin"), register(anonymous)
    key = mint_key(boss["id"], "users:write")["key"]
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Eve", "password": "correct horse battery"}

    with nothing_written():
        answers = [
            anonymous.put(f"{USERS}/{account['id']}", json=change, headers=bearer(key))
            for account in (boss, other)
            for change in ({"password": "another horse battery"}, {"role": "admin"}, {"is_active": False})
        ]
        answers.append(anonymous.post(USERS, json={**person, "role": "admin"}, headers=bearer(key)))
    renamed = anonymous.put(f"{USERS}/{other['id']}", json={"name": "Ada L."}, headers=bearer(key))
    made = anonymous.post(USERS, json=person, headers=bearer(key))

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "SIGN_IN_REQUIRED")] * 7
    assert (renamed.status_code, made.status_code) == (200, 201)


@pytest.mark.parametrize("key", ["cfk_" + "x" * 43, "cfk_", "cfk_' OR 1=1 --", "cfk_" + "x" * 1500])
def test_an_unknown_key_is_refused(anonymous: httpx.Client, nothing_written: Unchanged, key: str) -> None:
    with nothing_written():
        assert not opens(anonymous, key)


@pytest.mark.parametrize("header", ["", "x", "cfr_" + "x" * 43, "cfk_" + "x" * 3000])
def test_what_is_no_key_is_refused_in_the_keys_header(anonymous: httpx.Client, header: str) -> None:
    answer = anonymous.get(ORDERS, headers={"X-API-Key": header})

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "CREDENTIALS_MISSING")


def test_a_revoked_key_ends_within_5_s_and_for_good(
    admin: httpx.Client, anonymous: httpx.Client, program: int, db: Connection
) -> None:
    made = make_key(admin, program, "orders:read")
    assert opens(anonymous, made["key"])

    revoked = [admin.delete(f"{KEYS}/{made['id']}") for _ in range(2)]
    took = seconds_until(lambda: not opens(anonymous, made["key"]))

    assert [(answer.status_code, answer.content) for answer in revoked] == [(204, b"")] * 2
    assert took < SECONDS_MAX
    assert walk(admin)[made["id"]]["revoked_at"] is not None
    actions = db.execute(
        "SELECT action FROM audit_entries WHERE target = 'api_key' AND target_id = %s ORDER BY id", [made["id"]]
    ).fetchall()
    assert actions == [("api_key.create",), ("api_key.revoke",)]
    missing = admin.delete(f"{KEYS}/{2**62}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "API_KEY_NOT_FOUND")


def test_a_key_ends_with_its_time(admin: httpx.Client, anonymous: httpx.Client, program: int, db: Connection) -> None:
    made = make_key(admin, program, "orders:read")
    db.execute("UPDATE api_keys SET expires_at = now() + interval '1.5 s' WHERE id = %s", [made["id"]])
    assert opens(anonymous, made["key"])

    # It is in the process's memory now, and ends there too.
    took = seconds_until(lambda: not opens(anonymous, made["key"]))

    assert took < 2.5


def test_a_key_ends_with_its_account_and_follows_its_role(admin: httpx.Client, anonymous: httpx.Client) -> None:
    account = register(admin, role="support")
    key = mint_key(account["id"], "inventory:read", "orders:read")["key"]
    level = "/api/v1/inventory/1/movements"
    assert anonymous.get(level, headers=bearer(key)).status_code in {200, 404}

    admin.put(f"{USERS}/{account['id']}", json={"role": "customer"})
    demoted = seconds_until(lambda: anonymous.get(level, headers=bearer(key)).status_code == 403)
    assert opens(anonymous, key)
    admin.put(f"{USERS}/{account['id']}", json={"is_active": False})
    ended = seconds_until(lambda: not opens(anonymous, key))

    assert demoted < SECONDS_MAX
    assert ended < SECONDS_MAX


def test_a_key_survives_a_password_change_of_its_account(admin: httpx.Client, anonymous: httpx.Client) -> None:
    account = register(admin, role="support")
    key = mint_key(account["id"], "orders:read")["key"]
    token = sign_in(anonymous, account)["access_token"]

    admin.put(f"{USERS}/{account['id']}", json={"password": "another horse battery"})
    seconds_until(lambda: anonymous.get(ORDERS, headers=bearer(token)).status_code == 401)

    assert opens(anonymous, key)


def test_the_last_use_is_written_in_batches_and_not_with_every_request(
    admin: httpx.Client, anonymous: httpx.Client, program: int, db: Connection
) -> None:
    made = make_key(admin, program, "orders:read")
    for _ in range(20):
        assert opens(anonymous, made["key"])

    deadline = time.monotonic() + 15
    while walk(admin)[made["id"]]["last_used_at"] is None:
        assert time.monotonic() < deadline, "the use was never written"
        time.sleep(0.1)

    before = db.execute("SELECT last_used_at, xmin::text FROM api_keys WHERE id = %s", [made["id"]]).fetchone()
    for _ in range(20):
        assert opens(anonymous, made["key"])
    after = db.execute("SELECT last_used_at, xmin::text FROM api_keys WHERE id = %s", [made["id"]]).fetchone()
    assert before is not None
    assert before == after


def test_security_AU_04_a_key_beyond_its_scope_is_a_line_in_the_security_log(
    admin: httpx.Client, anonymous: httpx.Client, program: int, service: Service
) -> None:
    made = make_key(admin, program, "orders:read")
    request_id = f"req-{secrets.token_hex(8)}"

    anonymous.post(ORDERS, json={}, headers={**bearer(made["key"]), "X-Request-ID": request_id})

    [line] = logged(service, "security.access_denied", request_id=request_id)
    assert (line["code"], line["actor"], line["key_id"]) == ("SCOPE_MISSING", f"user:{program}", made["id"])
    assert made["key"] not in service.log_path.read_text()


# ---------------------------------------------------------------- command line
def test_the_command_line_makes_a_key_and_prints_it_once(
    admin: httpx.Client, anonymous: httpx.Client, service: Service
) -> None:
    account = register(admin, role="service")
    arguments = ("create-api-key", "--name", "warehouse", "--scope", "orders:read", "--scope", "inventory:read")

    by_address = run_counterfoil(*arguments, "--user", account["email"].upper(), DATABASE_URL=service.database_url)
    by_id = run_counterfoil(
        *arguments, "--user", str(account["id"]), "--days", "1", "--json", DATABASE_URL=service.database_url
    )

    key, found = by_address.stdout.strip(), json.loads(by_id.stdout)
    assert opens(anonymous, key)
    assert opens(anonymous, found["key"])
    assert found["scopes"] == ["inventory:read", "orders:read"]
    assert walk(admin)[found["id"]]["created_by"] == "cli"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--user", "1", "--scope", "orders:everything"), "There is no scope orders:everything"),
        (("--user", "nobody@example.com", "--scope", "orders:read"), "There is no account nobody@example.com."),
        (("--user", "no address", "--scope", "orders:read"), "is neither an id nor an e-mail address"),
        (("--user", "999999999", "--scope", "orders:read"), "There is no active user 999999999."),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_sentence(
    service: Service, nothing_written: Unchanged, arguments: tuple[str, ...], sentence: str
) -> None:
    with nothing_written():
        failed = run_counterfoil(
            "create-api-key", "--name", "x", *arguments, check=False, DATABASE_URL=service.database_url
        )

    assert (failed.returncode, failed.stdout) == (1, "")
    assert sentence in failed.stderr


def test_the_log_says_which_key_was_used_and_nothing_where_none_was(
    admin: httpx.Client, anonymous: httpx.Client, program: int, service: Service
) -> None:
    made = make_key(admin, program, "orders:read")
    by_key, by_person = f"req-{secrets.token_hex(8)}", f"req-{secrets.token_hex(8)}"

    anonymous.get(ORDERS, headers={**bearer(made["key"]), "X-Request-ID": by_key})
    admin.get(ORDERS, headers={"X-Request-ID": by_person})

    # Written after the answer.
    seconds_until(lambda: all(logged(service, "http.request", request_id=each) for each in (by_key, by_person)))
    [line] = logged(service, "http.request", request_id=by_key)
    [other] = logged(service, "http.request", request_id=by_person)
    assert (line["key_id"], line["actor"]) == (made["id"], f"user:{program}")
    assert "key_id" not in other
