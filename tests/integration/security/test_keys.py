"""Master keys: rotation beside a running service, forgetting, and files that nobody should start with."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from private_shop import Shop, make_shop

from conftest import PRODUCTION, Service, run_counterfoil

USERS = "/api/v1/users"
PASSWORD = "correct horse battery"


@pytest.fixture
def shop(empty_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(empty_database, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def service(shop: Shop) -> Iterator[Service]:
    with shop.serve() as running:
        yield running


@pytest.fixture
def admin(shop: Shop, service: Service, make_token: Callable[..., str]) -> Iterator[httpx.Client]:
    with service.client(make_token("admin", database_url=shop.url)) as client:
        yield client


def listed(shop: Shop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shop.run("keys", "list", "--json").stdout)["keys"]
    return found


def make_person(admin: httpx.Client) -> tuple[int, str]:
    email = f"{secrets.token_hex(6)}@example.com"
    answer = admin.post(USERS, json={"email": email, "name": "Ada", "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], email


def emails(admin: httpx.Client) -> dict[int, str]:
    return {user["id"]: user["email"] for user in admin.get(USERS, params={"limit": 200}).json()["items"]}


def test_keys_are_rotated_while_people_come_and_go(shop: Shop, admin: httpx.Client) -> None:
    people = dict(make_person(admin) for _ in range(20))
    leaving = [make_person(admin)[0] for _ in range(10)]
    [old] = listed(shop)
    fingerprinted = {"Idempotency-Key": f"across-a-rotation-{secrets.token_hex(8)}"}
    product = {"sku": f"K-{secrets.token_hex(4)}", "name": "Tea", "price": "1", "currency": "EUR"}
    first = admin.post("/api/v1/products", json=product, headers=fingerprinted)
    done = threading.Event()

    def come() -> dict[int, str]:
        came = {}
        while not done.is_set():
            came |= [make_person(admin)]
        return came

    def go() -> None:
        for user_id in leaving:
            shop.run("privacy", "erase", str(user_id))

    with ThreadPoolExecutor(2) as pool:
        coming, going = pool.submit(come), pool.submit(go)
        while not coming.running():
            pass
        rotated = [json.loads(shop.run("keys", "rotate", *new, "--json").stdout) for new in (["--new"], [])]
        going.result()
        done.set()
        people |= coming.result()
    # A registration that was under way when the file changed may still have used the old key.
    shop.run("keys", "rotate")

    found = listed(shop)
    assert rotated[0]["rewrapped"] > 10
    assert [(key["wraps"] > 0, key["current"], key["in_file"]) for key in found] == [
        (True, True, True),
        (False, False, True),
    ]
    assert found[1]["key_id"] == old["key_id"]
    shown = emails(admin)
    assert {user_id: shown[user_id] for user_id in people} == people
    assert [shown[user_id] for user_id in leaving] == [""] * 10
    assert shop.fetch("SELECT count(*) FROM counterfoil_keys.tombstones", keys=True) == [(10,)]

    forgotten = shop.run("keys", "forget", old["key_id"])

    assert "is forgotten" in forgotten.stderr
    assert [key["key_id"] for key in listed(shop)] == [found[0]["key_id"]]
    assert shop.keys_file.read_text().count("\n") == 1
    trail = "SELECT action, changes FROM audit_entries WHERE actor = 'cli:keys' ORDER BY id"
    entries = shop.fetch(trail)
    assert ("keys.rotate", {"current": found[0]["key_id"], "rewrapped": rotated[0]["rewrapped"]}) in entries
    assert ("keys.forget", {"key": old["key_id"]}) in entries
    user_id, email = make_person(admin)
    assert emails(admin) == {**shown, user_id: email}
    again = admin.post("/api/v1/products", json=product, headers=fingerprinted)
    assert (again.status_code, again.content) == (201, first.content)


def test_a_key_in_use_is_not_forgotten(shop: Shop, admin: httpx.Client) -> None:
    make_person(admin)
    before = shop.keys_file.read_bytes()
    [key] = listed(shop)

    current = shop.run("keys", "forget", key["key_id"], check=False)
    unknown = shop.run("keys", "forget", "00" * 8, check=False)
    shop.run("keys", "rotate", "--new")
    make_person(admin)
    # As a person's row of a backup might be: wrapped by the older key.
    shop.fetch(
        "UPDATE counterfoil_keys.data_keys SET master_key = decode(%s, 'hex') WHERE subject ="
        " (SELECT min(subject::text)::uuid FROM counterfoil_keys.data_keys)",
        key["key_id"],
        keys=True,
    )
    used = shop.run("keys", "forget", key["key_id"], check=False)

    assert [result.returncode for result in (current, unknown, used)] == [1, 1, 1]
    assert "is the current master key" in current.stderr
    assert "There is no master key" in unknown.stderr
    assert "still wraps keys" in used.stderr
    assert before in shop.keys_file.read_bytes()


def test_a_key_that_is_missing_from_the_file_is_named(shop: Shop, admin: httpx.Client, tmp_path: Path) -> None:
    make_person(admin)
    other = tmp_path / "other.keys"
    shop_elsewhere = Shop(shop.url, shop.keys_url, other, tmp_path)
    shop_elsewhere.run("keys", "list", check=False)

    refused = shop_elsewhere.run("keys", "rotate", "--new", check=False)

    assert refused.returncode == 3
    assert "which is not in the file of master keys" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


def test_nothing_is_forgotten_while_the_file_lacks_a_key_in_use(
    shop: Shop, admin: httpx.Client, tmp_path: Path
) -> None:
    make_person(admin)
    other = tmp_path / "other.keys"
    elsewhere = Shop(shop.url, shop.keys_url, other, tmp_path)
    for _ in range(2):
        elsewhere.run("keys", "rotate", "--new", check=False)
    before = other.read_bytes()
    unused = hashlib.sha256(base64.b64decode(before.split()[1])).digest()[:8].hex()

    refused = elsewhere.run("keys", "forget", unused, check=False)

    assert refused.returncode == 3
    assert "which is not in the file of master keys" in " ".join(refused.stderr.split())
    assert other.read_bytes() == before


# ---------------------------------------------------------------- starting
@pytest.mark.parametrize("command", ["serve", "work"])
@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (None, 0o600, "cannot be read (No such file or directory)"),
        ("", 0o600, "is empty"),
        (base64.b64encode(b"short").decode(), 0o600, "has 5 bytes instead of 32"),
        (base64.b64encode(bytes(32)).decode(), 0o600, "is not random"),
        (base64.b64encode(b"changeme" * 4).decode(), 0o600, "is not random"),
        (base64.b64encode(bytes(range(128, 160))).decode(), 0o644, "needs mode 0600"),
    ],
)
def test_nothing_starts_with_a_weak_key(
    database_url: str, tmp_path: Path, command: str, text: str | None, mode: int, problem: str
) -> None:
    path = tmp_path / "master.keys"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)

    environment = {**PRODUCTION, "DATABASE_URL": database_url, "COUNTERFOIL_MASTER_KEYS_FILE": str(path)}
    refused = run_counterfoil(command, check=False, **environment)

    assert refused.returncode == 1
    assert problem in refused.stderr
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "work", "load-demo"])
def test_without_a_file_the_setting_is_named(database_url: str, command: str) -> None:
    refused = run_counterfoil(command, check=False, DATABASE_URL=database_url, COUNTERFOIL_MASTER_KEYS_FILE="")

    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: COUNTERFOIL_MASTER_KEYS_FILE is not set; set it to the file of master keys; for a new installation"
        " `counterfoil keys rotate --new` makes one.\n"
    )


@pytest.mark.parametrize(
    ("text", "mode", "hint"),
    [
        (None, 0o600, "correct COUNTERFOIL_MASTER_KEYS_FILE or restore the file; only where nothing is sealed yet"),
        (base64.b64encode(bytes(range(128, 160))).decode(), 0o644, "run: chmod 600 {path}.\n"),
        ("torn", 0o600, "restore the file from your vault; a new key cannot open what the old one has sealed.\n"),
    ],
)
def test_each_trouble_with_the_file_has_its_own_remedy(
    database_url: str, tmp_path: Path, text: str | None, mode: int, hint: str
) -> None:
    path = tmp_path / "master.keys"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)

    refused = run_counterfoil(
        "keys", "list", check=False, DATABASE_URL=database_url, COUNTERFOIL_MASTER_KEYS_FILE=str(path)
    )

    assert refused.returncode == 1
    assert f"; {hint.format(path=path)}" in refused.stderr


def test_two_at_once_make_one_store(empty_database: Callable[[], str], tmp_path: Path) -> None:
    data, keys = empty_database(), empty_database()
    shop = Shop(data, keys, tmp_path / "master.keys", tmp_path)
    shop.run("keys", "rotate", "--new")
    program = (
        "import django; django.setup()\n"
        "from counterfoil.infrastructure import key_store\n"
        "key_store.prepare_store()\n"
        "print(key_store.named_key('fingerprint').hex())\n"
    )
    environment = {**os.environ, **shop.environment}
    shop.fetch("DROP SCHEMA counterfoil_keys CASCADE", keys=True)

    started = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) for _ in range(4)
    ]
    made = {process.communicate(timeout=60)[0] for process in started}

    assert [process.returncode for process in started] == [0] * 4
    assert len(made) == 1
    assert len(made.pop()) == 65
    assert shop.fetch("SELECT version FROM counterfoil_keys.versions", keys=True) == [(1,)]


def test_the_role_of_the_processes_can_use_keys_and_not_take_a_tombstone_back(shop: Shop, postgres_url: str) -> None:
    role = "DO $$ BEGIN CREATE ROLE counterfoil_app NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(role)
    shop.run("migrate")

    allowed = {
        (table, right)
        for table, right in shop.fetch(
            "SELECT t, r FROM unnest(ARRAY['master_keys', 'data_keys', 'named_keys', 'tombstones', 'versions']) AS t,"
            " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS r"
            " WHERE has_table_privilege('counterfoil_app', 'counterfoil_keys.' || t, r)",
            keys=True,
        )
    }

    every = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert allowed == {
        *((table, right) for table in ("master_keys", "data_keys", "named_keys") for right in every),
        ("tombstones", "SELECT"),
        ("tombstones", "INSERT"),
        ("versions", "SELECT"),
    }
