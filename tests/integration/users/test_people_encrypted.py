"""The migration that seals people: there with their data, and back with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import run_counterfoil

PEOPLE = [(f"person-{n}@example.com", f"Jürgen {n}", "customer" if n else "admin") for n in range(1201)]
PROFILE = ("+49 30 1", "Unter den Linden 1", "", "10117", "Berlin", "DE")
FILL = """
INSERT INTO profiles (user_id, phone, address_line1, address_line2, postal_code, city, country_code)
SELECT id, '+49 30 1', 'Unter den Linden 1', '', '10117', 'Berlin', 'DE' FROM users WHERE id % 2 = 0;
INSERT INTO idempotency_keys (principal, key, fingerprint, response_status, response_body, resource_id, expires_at)
VALUES ('email:0123', 'a-registration-01', 'f', 201, '{"id":1,"email":"person-1@example.com"}', NULL, now()),
       ('user:1', 'an-account-made-01', 'f', 201, '{"id":1,"email":"person-1@example.com"}', NULL, now()),
       ('user:1', 'a-product-made-01', 'f', 201, '{"id":1,"sku":"T"}', NULL, now());
"""
WHO = "SELECT id, email, name, role FROM users ORDER BY id"
WHERE = (
    "SELECT user_id, phone, address_line1, address_line2, postal_code, city, country_code FROM profiles"
    " ORDER BY user_id"
)


pytestmark = pytest.mark.usefixtures("django_ready")


def migrate_to(url: str, name: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "counterfoil", name, "--verbosity=0"],
        env={**os.environ, "DATABASE_URL": url},
        check=True,
        timeout=120,
    )


def fetch(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql).fetchall()


def test_people_are_sealed_where_they_are_and_opened_on_the_way_back(
    empty_database: Callable[[], str], tmp_path: Path
) -> None:
    url = empty_database()
    # Imported here: a migration reads the settings, which are complete once a database is named.
    before = import_module("counterfoil.migrations.0004_people_encrypted").Migration.dependencies[0][1]
    migrate_to(url, before)
    with psycopg.connect(url) as connection:
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO users (email, name, role, password) VALUES (%s, %s, %s, '!')", PEOPLE)
        connection.execute(FILL)
    who, where = fetch(url, WHO), fetch(url, WHERE)

    run_counterfoil("migrate", DATABASE_URL=url)

    sealed = fetch(url, "SELECT count(*), count(DISTINCT email), count(DISTINCT email_index) FROM users")
    assert sealed == [(1201, 1201, 1201)]
    assert fetch(url, "SELECT key FROM idempotency_keys") == [("a-product-made-01",)]
    assert fetch(url, "SELECT count(*) FROM users WHERE position('example'::bytea IN email) > 0") == [(0,)]
    out = tmp_path / "export.json"
    run_counterfoil("privacy", "export", "PERSON-1@example.com", str(out), DATABASE_URL=url)
    exported = json.loads(out.read_text(encoding="utf-8"))
    assert (exported["account"]["email"], exported["account"]["name"]) == PEOPLE[1][:2]
    assert tuple(exported["profile"].values()) == PROFILE
    run_counterfoil("privacy", "erase", "person-3@example.com", DATABASE_URL=url)

    migrate_to(url, before)

    back = fetch(url, WHO)
    assert [row for row in back if row[0] != 4] == [row for row in who if row[0] != 4]
    assert back[3] == (4, "user-4@erased.invalid", "", "customer")
    assert fetch(url, WHERE) == [row if row[0] != 4 else (4, *[""] * 6) for row in where]
    assert fetch(url, "SELECT conname FROM pg_constraint WHERE conname LIKE 'users_email%' AND contype = 'u'") != []

    run_counterfoil("migrate", DATABASE_URL=url)

    assert fetch(url, "SELECT count(*) FROM users WHERE email IS NULL OR email_index IS NULL") == [(0,)]
