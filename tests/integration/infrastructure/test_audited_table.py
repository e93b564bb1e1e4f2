"""What a later migration gets from `audited_table`, and what the migration does to a database that is in use."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import run_counterfoil, with_database
from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres
from counterfoil.infrastructure.migration_operations import audited_table

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def db(make_database: Callable[[], str]) -> Iterator[Connection]:
    with psycopg.connect(make_database(), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE keys (id uuid PRIMARY KEY, hint text, secret text, sealed bytea, used_at timestamptz)"
        )
        yield connection


def run(db: Connection, statements: Any) -> None:
    for statement in statements:
        db.execute(statement.encode())


def entries(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT action, target, target_id, target_key, changes, encode(before_hash, 'hex'), encode(after_hash, 'hex')"
        " FROM audit_entries ORDER BY id"
    ).fetchall()


def test_a_table_with_uuids_ciphertext_and_secrets_joins_the_trail_and_leaves_it(db: Connection) -> None:
    operation = audited_table("keys", "api_key", secret_columns=("secret", "not_there_yet"))
    key = "0190f5fe-7c00-7a00-8000-000000000001"
    run(db, operation.sql)

    # Whatever a session has set, the same row has the same text, and so the same hash.
    db.execute("SET timezone = 'Asia/Kathmandu'")
    db.execute("SET bytea_output = 'escape'")
    db.execute("INSERT INTO keys VALUES (%s, 'abc', 'sesame', '\\x00ff', '2026-01-01T00:00:00Z')", [key])
    db.execute("RESET timezone")
    db.execute("RESET bytea_output")
    db.execute("UPDATE keys SET hint = 'def', sealed = NULL")
    db.execute("DELETE FROM keys")
    found = entries(db)
    run(db, operation.reverse_sql)
    db.execute("INSERT INTO keys (id) VALUES (%s)", [key])

    stored = f"sha256:{hashlib.sha256(bytes([0, 255])).hexdigest()}"
    inserted, updated, deleted = found
    assert inserted[:5] == (
        "api_key.insert",
        "api_key",
        0,
        key,
        {
            "id": [None, key],
            "hint": [None, "abc"],
            "secret": [None, "hidden"],
            "sealed": [None, stored],
            "used_at": [None, "2026-01-01T00:00:00+00:00"],
        },
    )
    assert updated[4] == {"hint": ["abc", "def"], "sealed": [stored, None]}
    assert deleted[4] == {
        "id": [key, None],
        "hint": ["def", None],
        "secret": ["hidden", None],
        "used_at": ["2026-01-01T00:00:00+00:00", None],
    }
    # Each entry begins with what the one before has left.
    assert (inserted[5], deleted[6]) == (None, None)
    assert (updated[5], deleted[5]) == (inserted[6], updated[6])
    assert entries(db) == found


def test_the_explanation_names_the_audited_tables(db: Connection) -> None:
    page = Path(__file__).parents[3] / "docs" / "explanation" / "audit.md"
    sentence = re.search(r"Audited\s+are (.*?)\. A new", page.read_text(encoding="utf-8"), re.DOTALL)
    tables = db.execute("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'audit_update'").fetchall()

    assert sentence is not None
    assert sorted(re.findall(r"`(\w+)`", sentence[1])) == sorted(table for (table,) in tables)


# What an entry would show of a column that holds "ada", and whether it may be a hash.
HIDE = r"""
SELECT audit_hide_v1(jsonb_build_object(name, CASE WHEN is_bytes THEN '\x616461' ELSE 'ada' END),
                     CASE WHEN is_bytes THEN ARRAY[name] ELSE '{}' END, %s::text[]) ->> name,
       is_bytes OR name = 'password'
FROM (SELECT attname::text AS name, atttypid = 'bytea'::regtype AS is_bytes FROM pg_attribute
      WHERE attrelid = %s::regclass AND attname = %s) AS c
"""


def test_every_personal_column_of_an_audited_table_is_hidden(db: Connection) -> None:
    from counterfoil.privacy.register import PERSONAL

    rows = db.execute(
        "SELECT tgrelid::regclass::text, string_to_array(encode(tgargs, 'escape'), '\\000') FROM pg_trigger"
        " WHERE tgname = 'audit_insert'"
    ).fetchall()
    arguments = dict(rows)
    audited = [name.split(".") for name in PERSONAL if name.split(".")[0] in arguments]
    shown = []
    for table, column in audited:
        row = db.execute(HIDE, [arguments[table][2:], table, column]).fetchone()
        assert row is not None
        value, may_be_hashed = row
        if value != "hidden" and not (may_be_hashed and value.startswith("sha256:")):
            shown.append(f"{table}.{column}: {value}")

    assert len(audited) > 10
    assert shown == []


def test_the_name_of_an_api_key_stands_in_no_entry(db: Connection) -> None:
    db.execute("INSERT INTO users (role, password) VALUES ('customer', '!')")
    db.execute(
        "INSERT INTO api_keys (user_id, name, prefix, secret_hash, scopes, created_by, expires_at)"
        " SELECT id, 'laptop of Ada', 'p', 'h', '{}', 'user:1', now() FROM users"
    )

    changes = db.execute("SELECT changes FROM audit_entries WHERE target = 'api_key'").fetchone()
    assert changes is not None
    assert changes[0]["name"] == [None, "hidden"]
    assert db.execute("SELECT count(*) FROM audit_entries WHERE changes::text LIKE '%Ada%'").fetchone() == (0,)


def test_a_row_that_gets_another_number_is_told_under_both(db: Connection) -> None:
    db.execute("INSERT INTO products (sku, name, price, currency) VALUES ('a', 'A', 1, 'EUR'), ('b', 'B', 1, 'EUR')")
    db.execute("UPDATE products SET id = id + 100 WHERE sku = 'a'")

    assert [(entry[2], entry[5] is None, entry[6] is None) for entry in entries(db)[2:]] in (
        [(1, False, True), (101, True, False)],
        [(101, True, False), (1, False, True)],
    )


@pytest.mark.parametrize(
    ("table", "target"), [("keys; DROP TABLE users", "key"), ("keys", "key' , 'x"), ("keys", "a" * 21)]
)
def test_a_name_that_is_none_is_refused(table: str, target: str) -> None:
    with pytest.raises(AssertionError):
        audited_table(table, target)


def migrate(url: str, target: str) -> None:
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "counterfoil.config.settings"}
    command = [sys.executable, "-m", "django", "migrate", "counterfoil", target, "--verbosity=0"]
    subprocess.run(command, env=environment, check=True)


def test_entries_of_the_release_before_are_chained_first_and_the_migration_can_be_taken_back(
    postgres_url: str,
) -> None:
    name = f"cf_test_{secrets.token_hex(6)}"
    url = with_database(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"'.encode())
        migrate(url, "0002")
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(
                "INSERT INTO audit_entries (actor, action, target, target_id, request_id)"
                " SELECT 'user:1', 'order.place', 'order', n, 'req' FROM generate_series(1, 1500) AS n"
            )
            run_counterfoil("migrate", DATABASE_URL=url)
            db.execute("INSERT INTO products (sku, name, price, currency) VALUES ('a', 'A', 1, 'EUR')")
            assert db.execute("SELECT seal_audit_entries_v1(10000)").fetchone() == (1501,)
            verified = run_counterfoil("audit", "verify", DATABASE_URL=url)
            assert "1,501 entries chained, 0 waiting" in verified.stderr

            migrate(url, "0002")
            assert db.execute("SELECT count(*) FROM audit_entries").fetchone() == (1501,)
            db.execute("UPDATE products SET price = 2")
            assert db.execute("SELECT count(*) FROM audit_entries").fetchone() == (1501,)
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def test_databases_of_a_new_server_that_are_migrated_at_once_share_its_roles(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            for number in range(3):
                connection.execute(f"CREATE DATABASE shop_{number}".encode())
        urls = [with_database(server.url, f"shop_{number}") for number in range(3)]

        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda url: run_counterfoil("migrate", check=False, DATABASE_URL=url), urls))

        assert [result.returncode for result in results] == [0, 0, 0], [result.stderr for result in results]
        with psycopg.connect(server.url) as connection:
            roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'counterfoil\\__%' ORDER BY 1")
            assert roles.fetchall() == [("counterfoil_app",), ("counterfoil_placement",)]
