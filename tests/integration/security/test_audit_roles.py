"""AU-03: the application's own login cannot change the trail, and says so when it is given too much."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from audit_rows import Connection

from conftest import run_counterfoil, running_service

REFUSED = (
    "UPDATE audit_entries SET actor = 'nobody'",
    "UPDATE audit_entries SET actor = 'nobody' WHERE false",
    "DELETE FROM audit_entries",
    "TRUNCATE audit_entries",
    "UPDATE audit_seals SET hashes = ''",
    "DELETE FROM audit_seals",
    "TRUNCATE audit_seals",
    "MERGE INTO audit_entries e USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO audit_entries (actor, action, target, target_id, request_id, xact) VALUES ('a', 'b', 'c', 1, '', '1')",
    "INSERT INTO audit_entries (id, actor, action, target, target_id, request_id) VALUES (1, 'a', 'b', 'c', 1, 'd')",
    "INSERT INTO audit_seals SELECT 2, 1, '{}', '', '0', 0, 0, 0, now()",
    "ALTER TABLE audit_entries DISABLE TRIGGER audit_written_once",
    "ALTER TABLE products DISABLE TRIGGER audit_update",
    "DROP TRIGGER audit_update ON products",
    "CREATE OR REPLACE FUNCTION audit_changes_v1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE FUNCTION place_orders_v3() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "SET session_replication_role = replica",
    "SET ROLE counterfoil_placement",
    "DROP TABLE audit_entries CASCADE",
    "TRUNCATE users CASCADE",
    "DELETE FROM django_migrations",
    "ALTER ROLE counterfoil_app SUPERUSER",
)


def with_login(url: str, login: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}:{password}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
def member_url(postgres_url: str, database_url: str) -> Iterator[str]:
    """A login that is a member of the application's role and nothing else."""
    login, password = f"member_{secrets.token_hex(4)}", secrets.token_hex(12)
    with psycopg.connect(postgres_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{password}' IN ROLE counterfoil_app".encode())
        yield with_login(database_url, login, password)
        # What a session made for itself is dropped by the server after the client has gone: wait for the end of it.
        superuser.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s", [login])
        superuser.execute(f"DROP ROLE {login}".encode())


@pytest.mark.parametrize("statement", REFUSED)
def test_security_AU_03_the_applications_login_can_only_add_to_the_trail(
    statement: str, member_url: str, nothing_written: Callable[[], object]
) -> None:
    with psycopg.connect(member_url, autocommit=True, options="-c role=counterfoil_app") as application:
        for reset in (False, True):
            if reset:  # nothing is gained by taking the role off
                application.execute("RESET ROLE")
            with nothing_written(), pytest.raises(psycopg.errors.InsufficientPrivilege):  # type: ignore[attr-defined]
                application.execute(statement.encode())


def test_security_AU_03_a_temporary_function_of_the_same_name_is_not_the_silent_one(
    member_url: str, db: Connection, make_product: Callable[..., int]
) -> None:
    product = make_product(stock=0)
    before = db.execute("SELECT count(*) FROM audit_entries").fetchone()
    with psycopg.connect(member_url, autocommit=True) as application:
        application.execute(
            b"CREATE FUNCTION pg_temp.place_orders_v2(p bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS"
            b" 'BEGIN UPDATE products SET price = 9 WHERE id = p; END'"
        )
        application.execute("SELECT pg_temp.place_orders_v2(%s)", [product])
        # A table of the session cannot stand in for one of ours inside the real function either.
        application.execute("CREATE TEMPORARY TABLE orders (id bigint)")

    assert before is not None
    assert db.execute("SELECT count(*) FROM audit_entries").fetchone() == (before[0] + 1,)
    assert db.execute("SELECT action, target_id, changes FROM audit_entries ORDER BY id DESC LIMIT 1").fetchone() == (
        "product.update",
        product,
        {"price": [19.99, 9.0]},
    )


def test_security_AU_03_even_the_owner_is_stopped_by_mistake(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        for statement in ("UPDATE audit_entries SET actor = ''", "DELETE FROM audit_seals", "TRUNCATE audit_entries"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is written once"):
                owner.execute(statement.encode())


def test_security_AU_03_the_service_runs_with_a_login_that_owns_nothing(
    member_url: str, make_token: Callable[..., str], tmp_path: Path, make_product: Callable[..., int], db: Connection
) -> None:
    product = make_product()
    with (
        running_service(member_url, tmp_path) as service,
        service.client(make_token("customer")) as customer,
        service.client(make_token("admin")) as admin,
    ):
        placed = customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 1}]})
        updated = customer.put(
            f"/api/v1/orders/{placed.json()['id']}", json={"items": [{"product_id": product, "quantity": 2}]}
        )
        created = admin.post(
            "/api/v1/products", json={"sku": secrets.token_hex(8), "name": "Pot", "price": "1.00", "currency": "EUR"}
        )
        metrics = admin.get("/metrics").text
        users = db.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity"
            " WHERE application_name = 'counterfoil' AND usename LIKE 'member%'"
        ).fetchall()
    found = run_counterfoil("doctor", "--json", "-", check=False, DATABASE_URL=member_url)

    assert (placed.status_code, updated.status_code, created.status_code) == (201, 200, 201)
    assert len(users) == 1
    assert "counterfoil_audit_unsealed_entries" in metrics
    assert f"{users[0][0]}, may act as counterfoil_app and owns nothing" in found.stdout


def test_security_AU_03_the_doctor_names_a_login_that_could_change_the_trail(database_url: str) -> None:
    found = run_counterfoil("doctor", check=False, DATABASE_URL=database_url)

    assert "a superuser" in " ".join(found.stdout.split())


def test_a_login_without_the_role_is_told_what_to_run(postgres_url: str, database_url: str) -> None:
    login, password = f"stranger_{secrets.token_hex(4)}", secrets.token_hex(12)
    with psycopg.connect(postgres_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{password}'".encode())
        try:
            for command in ("serve", "work"):
                refused = run_counterfoil(command, check=False, DATABASE_URL=with_login(database_url, login, password))
                assert refused.returncode == 1
                assert refused.stderr == (
                    f"Error: The login {login} may not act as counterfoil_app; as the owner of the tables run:"
                    f" GRANT counterfoil_app TO {login};\n"
                )
        finally:
            superuser.execute(f"DROP ROLE {login}".encode())


def test_an_owner_who_may_not_make_roles_is_told_what_to_run_and_can_migrate_then(
    postgres_url: str, database_url: str
) -> None:
    assert database_url  # its migration has made the roles of this server
    owner, password, name = f"owner_{secrets.token_hex(4)}", secrets.token_hex(12), f"cf_test_{secrets.token_hex(6)}"
    url = with_login(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")), owner, password)
    with psycopg.connect(postgres_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {owner} LOGIN PASSWORD '{password}'".encode())
        superuser.execute(f"CREATE DATABASE {name} OWNER {owner}".encode())
        try:
            refused = run_counterfoil("migrate", check=False, DATABASE_URL=url)
            superuser.execute(f"GRANT counterfoil_app, counterfoil_placement TO {owner}".encode())
            migrated = run_counterfoil(
                "migrate", DATABASE_URL="postgresql://nobody@127.0.0.1/", COUNTERFOIL_OWNER_DATABASE_URL=url
            )
            with psycopg.connect(url) as connection:
                rights = connection.execute(
                    "SELECT has_table_privilege('counterfoil_app', 'users', 'UPDATE'),"
                    " has_table_privilege('counterfoil_app', 'django_session', 'DELETE'),"
                    " has_table_privilege('counterfoil_app', 'audit_entries', 'UPDATE'),"
                    " has_schema_privilege('counterfoil_placement', 'public', 'CREATE')"
                ).fetchone()
            back = run_django_migrate(url, "0002")
        finally:
            superuser.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            superuser.execute(f"DROP ROLE {owner}".encode())

    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert f'The role "{owner}" may not make or act as the role "counterfoil_app"' in refused.stderr
    assert "GRANT counterfoil_app, counterfoil_placement TO" in refused.stderr
    assert "applied counterfoil.0003_audit" in migrated.stdout
    assert rights == (True, True, False, False)
    assert back == 0


def run_django_migrate(url: str, target: str) -> int:
    import os
    import subprocess
    import sys

    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "counterfoil.config.settings"}
    command = [sys.executable, "-m", "django", "migrate", "counterfoil", target, "--verbosity=0"]
    return subprocess.run(command, env=environment, check=False).returncode
