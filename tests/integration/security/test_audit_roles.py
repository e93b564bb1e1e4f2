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
    "DELETE FROM auth_group",
    "UPDATE auth_permission SET codename = 'all'",
    "UPDATE outbox_events SET payload = '{}'",
    "DELETE FROM outbox_events",
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
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {login}".encode())
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
    allow_temporary(db, member_url)
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


def allow_temporary(db: Connection, url: str) -> None:
    """Let the login make temporary tables, as where the database's owner was not there to forbid it."""
    statement = f"GRANT TEMPORARY ON DATABASE {urlsplit(url).path[1:]} TO {urlsplit(url).username}"
    db.execute(statement.encode())


# A trigger's function that runs as its owner, on a table of the attacker's own: making text of the row calls a cast of
# theirs, which then is the owner.
ESCALATION = (
    "CREATE TYPE pg_temp.bait AS ENUM ('a')",
    """
    CREATE FUNCTION pg_temp.act(pg_temp.bait) RETURNS json LANGUAGE plpgsql AS $f$
    BEGIN
      EXECUTE 'CREATE FUNCTION public.own(text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS'
              ' $b$BEGIN EXECUTE $1; RETURN current_user; END$b$';
      RETURN to_json(current_user::text);
    END $f$
    """,
    "CREATE CAST (pg_temp.bait AS json) WITH FUNCTION pg_temp.act(pg_temp.bait)",
    "CREATE TEMPORARY TABLE hook (id bigint, v pg_temp.bait)",
)
BAIT = """
CREATE TRIGGER x AFTER INSERT ON pg_temp.hook REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION audit_changes_v1('order', 'id')
"""


def test_security_AU_03_a_function_of_the_trail_cannot_be_put_on_a_table_of_ones_own(
    member_url: str, db: Connection
) -> None:
    with (
        psycopg.connect(member_url, autocommit=True, options="-c role=counterfoil_app") as application,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="temporary"),
    ):
        application.execute(ESCALATION[-1].replace(", v pg_temp.bait", "").encode())
    allow_temporary(db, member_url)

    # Without the role taken on: the right to temporary tables is the login's.
    with psycopg.connect(member_url, autocommit=True) as application:
        for statement in ESCALATION:
            application.execute(statement.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit_changes_v1"):
            application.execute(BAIT.encode())
        application.execute(b"INSERT INTO pg_temp.hook VALUES (1, 'a')")

    assert db.execute("SELECT to_regproc('public.own')").fetchone() == (None,)


def test_security_AU_03_no_function_of_ours_is_for_everybody_or_looks_where_the_session_says(db: Connection) -> None:
    for_everybody = db.execute(
        "SELECT p.oid::regproc::text FROM pg_proc p"
        " CROSS JOIN aclexplode(coalesce(proacl, acldefault('f', proowner))) AS granted"
        " WHERE pronamespace = 'public'::regnamespace AND granted.grantee = 0"
    ).fetchall()
    misled = db.execute(
        "SELECT p.oid::regproc::text FROM pg_proc p JOIN pg_language l ON l.oid = prolang"
        " WHERE pronamespace = 'public'::regnamespace AND (lanname = 'plpgsql' OR prosecdef)"
        " AND NOT coalesce('search_path=pg_catalog, public, pg_temp' = ANY (proconfig), false)"
    ).fetchall()
    definers = db.execute(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
    ).fetchone()

    assert (for_everybody, misled) == ([], [])
    assert definers == (5,)  # those who need it: three that place orders, the sealer and the trail's trigger


def test_security_AU_03_temporary_tables_cannot_stand_in_for_those_of_the_access_triggers(
    member_url: str, db: Connection, make_token: Callable[..., str]
) -> None:
    make_token("customer")
    sign_in = db.execute(
        "INSERT INTO sign_ins (id, user_id, expires_at) SELECT gen_random_uuid(), max(id), now() + interval '1 day'"
        " FROM users WHERE role = 'customer' RETURNING id, user_id"
    ).fetchone()
    assert sign_in is not None
    allow_temporary(db, member_url)
    with psycopg.connect(member_url, autocommit=True) as application:
        for table in ("access_revocations", "sign_ins"):
            application.execute(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING ALL)".encode())
        application.execute("UPDATE public.users SET token_epoch = token_epoch + 1 WHERE id = %s", [sign_in[1]])
        caught = application.execute("SELECT count(*) FROM pg_temp.access_revocations").fetchone()

    assert caught == (0,)
    assert db.execute("SELECT revoked_at IS NULL FROM sign_ins WHERE id = %s", [sign_in[0]]).fetchone() == (False,)
    assert db.execute("SELECT count(*) > 0 FROM access_revocations WHERE user_id = %s", [sign_in[1]]).fetchone() == (
        True,
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
