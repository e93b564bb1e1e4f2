"""`counterfoil doctor`: what is configured, reachable, missing, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from counterfoil.cli.service import (
    DEFAULT_DATA,
    POSTGRES_MIN,
    TerminalError,
    locate_service,
    mask_passwords,
    set_up_django,
)

_FREE_MB_MIN: Final = 500
_MARKS: Final = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "wrong": "[red]✗[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `state` is ok, note (works, but know this) or wrong; `next_step` may be empty."""

    name: str
    state: str
    found: str
    next_step: str = ""


def doctor(
    data: Annotated[Path, typer.Option(help="Data directory of `counterfoil up`.")] = DEFAULT_DATA,
    port: Annotated[int, typer.Option(help="Port that `up` would use.")] = 8000,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the findings to FILE, or - for stdout.")
    ] = None,
) -> None:
    """Check the installation; exits with 1 when something is wrong."""
    findings = [
        replace(finding, found=mask_passwords(finding.found)) for check in _checks(data, port) for finding in check()
    ]
    if json_file is not None:
        text = json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2)
        _write(json_file, text)
    if json_file != "-":
        _show(findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def _write(target: str, text: str) -> None:
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "What", "Found", "What to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(_MARKS[finding.state], finding.name, finding.found, finding.next_step)
    Console().print(table)


def _checks(data: Path, port: int) -> list[Callable[[], Iterator[Finding]]]:
    return [
        _check_python,
        _check_settings,
        _check_door,
        _check_mail,
        _check_payments,
        _check_master_keys,
        _check_binaries,
        lambda: _check_directory(data),
        lambda: _check_service(data, port),
        lambda: _check_database(data),
        lambda: _check_key_store(data),
    ]


def _check_python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "Python",
        "ok" if good else "wrong",
        f"{platform.python_version()} ({sys.executable})",
        "" if good else "Install Python 3.11 or newer and run `make setup` again.",
    )


def _check_settings() -> Iterator[Finding]:
    try:
        set_up_django()
    except TerminalError as error:
        yield Finding("Settings", "wrong", str(error), "Correct the variable in the environment.")
        return
    secret = os.environ.get("COUNTERFOIL_SECRET")
    yield Finding(
        "Settings",
        "ok" if secret else "note",
        "all values are readable" if secret else "COUNTERFOIL_SECRET is not set",
        "" if secret else "`up` makes its own; `serve` needs one of at least 32 characters.",
    )


def _check_door() -> Iterator[Finding]:
    """Tell who may come in: what `serve` insists on, and where limits are counted."""
    try:
        set_up_django()
    except TerminalError:
        return
    from django.conf import settings

    values = settings.COUNTERFOIL
    if values.counterfoil_demo:
        yield Finding("Public address", "note", "demo mode: plain HTTP, this machine only")
    else:
        names = ("counterfoil_public_url", "counterfoil_allowed_hosts", "counterfoil_trusted_proxies")
        missing = [name.upper() for name in names if not getattr(values, name)]
        if not values.counterfoil_public_url.startswith("https://"):
            missing.insert(0, "COUNTERFOIL_PUBLIC_URL")
        yield Finding(
            "Public address",
            "note" if missing else "ok",
            f"{', '.join(missing)} not set" if missing else ", ".join(getattr(values, name) for name in names),
            "`serve` needs them, `up` does not; see docs/how-to/run-behind-a-proxy.md." if missing else "",
        )
    yield _find_limits(values)


def _find_limits(values: Any) -> Finding:
    factor = f", multiplied by {values.counterfoil_limit_factor}" if values.counterfoil_limit_factor > 1 else ""
    if not values.redis_url:
        return Finding("Rate limits", "ok", f"counted in PostgreSQL{factor}")
    import redis

    client = redis.Redis.from_url(values.redis_url, socket_connect_timeout=1, socket_timeout=1)
    try:
        client.ping()
    except redis.RedisError as error:
        return Finding(
            "Rate limits",
            "wrong",
            f"REDIS_URL does not answer ({type(error).__name__})",
            "Start Redis or unset REDIS_URL; until then each process counts for itself.",
        )
    finally:
        client.close()
    return Finding("Rate limits", "ok", f"counted in Redis{factor}")


def _check_mail() -> Iterator[Finding]:
    """Tell whether mails leave this machine."""
    try:
        set_up_django()
    except TerminalError:
        return
    from django.conf import settings

    values = settings.COUNTERFOIL
    if settings.EMAIL_HOST:
        yield Finding("Mail", "ok", f"sent by {settings.EMAIL_HOST}, port {settings.EMAIL_PORT}")
    elif values.counterfoil_demo:
        yield Finding("Mail", "ok", f"demo mode: written to files in {values.counterfoil_outbox_dir}")
    else:
        found = f"written to files in {values.counterfoil_outbox_dir}, nobody gets them"
        yield Finding("Mail", "note", found, "Set COUNTERFOIL_MAIL_URL to a mail server.")


def _check_payments() -> Iterator[Finding]:
    """Tell where payments go; that a gateway has what it needs, the settings see to."""
    try:
        set_up_django()
    except TerminalError:
        return
    from django.conf import settings

    values = settings.COUNTERFOIL
    names = " and then ".join(values.gateway_names)
    if "sandbox" in values.gateway_names and not values.counterfoil_demo:
        yield Finding("Payments", "note", f"go to {names}, which only pretends", "Set COUNTERFOIL_GATEWAY to stripe.")
    elif not values.callback_secrets and not values.counterfoil_demo:
        yield Finding("Payments", "note", f"go to {names}, no notice is believed", "Set COUNTERFOIL_CALLBACK_SECRETS.")
    else:
        yield Finding("Payments", "ok", f"go to {names}")


def _check_master_keys() -> Iterator[Finding]:
    if not os.environ.get("COUNTERFOIL_MASTER_KEYS_FILE"):
        yield Finding(
            "Master keys",
            "note",
            "COUNTERFOIL_MASTER_KEYS_FILE is not set",
            "`up` makes its own; for `serve`, set it and run `counterfoil keys rotate --new`.",
        )
        return
    from counterfoil.infrastructure.master_keys import MasterKeyFileError, read_file

    try:
        keys = read_file(Path(os.environ["COUNTERFOIL_MASTER_KEYS_FILE"]))
    except MasterKeyFileError as error:
        yield Finding("Master keys", "wrong", str(error), "Restore the file, or make one while nothing is sealed yet.")
        return
    yield Finding("Master keys", "ok", f"{len(keys)} in the file, {keys[0].id.hex()} is the current one")


def _check_binaries() -> Iterator[Finding]:
    from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgresError, find_binaries

    try:
        binaries = find_binaries()
    except EmbeddedPostgresError as error:
        yield Finding("PostgreSQL programs", "wrong", str(error), "Or set DATABASE_URL to a server of your own.")
        return
    yield Finding("PostgreSQL programs", "ok", f"{binaries.source}, version {binaries.version}")


def _check_directory(data: Path) -> Iterator[Finding]:
    existing = next(parent for parent in (data.resolve(), *data.resolve().parents) if parent.exists())
    writable = os.access(existing, os.W_OK)
    free_mb = shutil.disk_usage(existing).free // 1_000_000
    good = writable and free_mb >= _FREE_MB_MIN
    yield Finding(
        "Data directory",
        "ok" if good else "wrong",
        f"{data}, {free_mb:,} MB free" + ("" if writable else ", not writable"),
        "" if good else "Free some space, or name another directory with --data.",
    )


def _check_service(data: Path, port: int) -> Iterator[Finding]:
    try:
        service = locate_service(data)
    except TerminalError:
        yield from _check_port(port)
        return
    parts = urlsplit(service.api_url)
    with socket.socket() as probe:
        probe.settimeout(1)
        runs = probe.connect_ex((parts.hostname or "127.0.0.1", parts.port or port)) == 0
    if runs:
        yield Finding("Service", "ok", f"runs at {service.api_url}")
    else:
        yield Finding("Service", "note", "was killed and left its file behind", "Start it again with `make up`.")
        yield from _check_port(port)


def _check_port(port: int) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    yield Finding(
        f"Port {port}",
        "note" if taken else "ok",
        "something listens on it" if taken else "free",
        "If it is not this service, give `up` another --port." if taken else "",
    )


def _check_database(data: Path) -> Iterator[Finding]:
    url = os.environ.get("DATABASE_URL")
    if not url:
        try:
            url = locate_service(data).database_url
        except TerminalError:
            yield Finding(
                "Database", "note", "DATABASE_URL is not set and no service runs here", "`make up` starts its own."
            )
            return
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            yield from _look_into(connection)
    except psycopg.Error as error:
        sentence = str(error).strip().splitlines()[0]
        yield Finding("Database", "wrong", sentence, "Check DATABASE_URL, that the server runs and lets you in.")


def _check_key_store(data: Path) -> Iterator[Finding]:
    """Look whether the keys of people are where this installation looks for them, and whether the file opens them."""
    own = not os.environ.get("DATABASE_URL")
    try:
        service = locate_service(data) if own else None
    except TerminalError:
        return  # no database, which is told already
    url = os.environ.get("COUNTERFOIL_KEYS_URL") or (service.keys_url if service else "")
    url = url or (service.database_url if service else os.environ["DATABASE_URL"])
    file = os.environ.get("COUNTERFOIL_MASTER_KEYS_FILE") or (service.master_keys_file if service else "")
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            yield _look_at_keys(connection, file)
    except psycopg.Error as error:
        sentence = str(error).strip().splitlines()[0]
        yield Finding("Key store", "wrong", sentence, "Check COUNTERFOIL_KEYS_URL, or DATABASE_URL when it is empty.")


def _look_at_keys(connection: Any, file: str) -> Finding:
    from counterfoil.infrastructure.master_keys import MasterKeyFileError, read_file

    where = f"database {connection.info.dbname} of {connection.info.host or 'this machine'}"
    if connection.execute("SELECT to_regclass('counterfoil_keys.named_keys')").fetchone()[0] is None:
        advice = "Run `counterfoil migrate`, or set COUNTERFOIL_KEYS_URL to the database that has them."
        return Finding("Key store", "wrong", f"{where} has no tables of keys", advice)
    rows = connection.execute(
        "SELECT encode(master_key, 'hex'), count(*) FROM (SELECT master_key FROM counterfoil_keys.data_keys"
        " UNION ALL SELECT master_key FROM counterfoil_keys.named_keys) AS k GROUP BY 1 ORDER BY 1"
    ).fetchall()
    total = sum(count for _, count in rows)
    if not file:
        advice = "Set COUNTERFOIL_MASTER_KEYS_FILE to the file that they need."
        return Finding("Key store", "note", f"{where}, {total:,} keys; no file to open them with", advice)
    try:
        known = {key.id.hex() for key in read_file(Path(file))}
    except MasterKeyFileError:
        known = set()
    if missing := [key_id for key_id, _ in rows if key_id not in known]:
        advice = "Put this master key back into the file of COUNTERFOIL_MASTER_KEYS_FILE, or name the right file."
        found = f"{where} needs master key {', '.join(missing)}, which is not in the file"
        return Finding("Key store", "wrong", found, advice)
    return Finding("Key store", "ok", f"{where}, {total:,} keys, the file opens all of them")


def _look_into(connection: Any) -> Iterator[Finding]:
    version = connection.info.server_version
    good = version >= POSTGRES_MIN
    yield Finding(
        "Database",
        "ok" if good else "wrong",
        f"PostgreSQL {version // 10_000} answers, database {connection.info.dbname}",
        "" if good else "Use PostgreSQL 15 or newer.",
    )
    for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        value = connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0]
        state = "ok" if value not in {"off", "local"} else "note" if name == "data_checksums" else "wrong"
        advice = "Switch it on: without it an acknowledged order can be lost." if state == "wrong" else ""
        yield Finding(f"  {name}", state, value, advice)
    yield _migrations(connection)
    yield from _rights(connection)


def _rights(connection: Any) -> Iterator[Finding]:
    """Say what the login could do to the audit trail."""
    if connection.execute("SELECT to_regrole('counterfoil_app')").fetchone()[0] is None:
        return  # no schema yet, which is told already
    row = connection.execute(
        """
        SELECT session_user, rolsuper, pg_has_role(session_user, c.relowner, 'MEMBER'),
               pg_has_role(session_user, 'counterfoil_app', 'MEMBER')
        FROM pg_roles CROSS JOIN pg_class c WHERE rolname = session_user AND c.oid = to_regclass('audit_entries')
        """
    ).fetchone()
    if row is None:
        return  # the role is another database's
    name, is_superuser, is_owner, is_member = row
    if is_superuser or is_owner:
        kind = "a superuser" if is_superuser else "the owner of the tables"
        advice = (
            "Works; a login that is only a member of counterfoil_app could not change the audit trail even if stolen."
        )
        yield Finding("  login", "note", f"{name}, {kind}", advice)
    elif is_member:
        yield Finding("  login", "ok", f"{name}, may act as counterfoil_app and owns nothing")
    else:
        advice = f"As the owner of the tables run: GRANT counterfoil_app TO {name};"
        yield Finding("  login", "wrong", f"{name} may not act as counterfoil_app", advice)


def _migrations(connection: Any) -> Finding:
    from django.db.migrations.loader import MigrationLoader

    known = {name for app, name in MigrationLoader(None).disk_migrations if app == "counterfoil"}
    if connection.execute("SELECT to_regclass('django_migrations')").fetchone()[0] is None:
        return Finding("  schema", "wrong", "empty", "Run `counterfoil migrate`.")
    rows = connection.execute("SELECT name FROM django_migrations WHERE app = 'counterfoil'").fetchall()
    missing = sorted(known - {row[0] for row in rows})
    if missing:
        return Finding("  schema", "wrong", f"missing {', '.join(missing)}", "Run `counterfoil migrate`.")
    return Finding("  schema", "ok", f"up to date ({len(known)} migrations)")
