"""The processes of a deployment: web, worker, migration."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from counterfoil.cli.service import (
    TerminalError,
    act_as_application,
    claim_port,
    require_database,
    require_free_port,
    require_master_keys,
    require_role,
    set_up_django,
    unusable_port,
    use_database,
    use_owner,
)

# What is in flight gets 35 s, then the process is ended.
_GRACE_SECONDS: Final = 35
# Any number that nobody else on the server uses for the same purpose: "cfmig" in ASCII.
_MIGRATION_LOCK: Final = 0x63666D6967

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data directory of `counterfoil up`, when DATABASE_URL is not set.")
]
console = Console()


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [COUNTERFOIL_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [COUNTERFOIL_PORT].")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve the API and the console. Needs DATABASE_URL, COUNTERFOIL_SECRET and COUNTERFOIL_MASTER_KEYS_FILE."""
    from counterfoil.infrastructure.process import die_with_parent

    if parent is not None:
        die_with_parent(parent=parent)
    _require_set("serve", "DATABASE_URL", "COUNTERFOIL_SECRET")
    act_as_application()
    set_up_django()
    from django.conf import settings

    values = settings.COUNTERFOIL
    address = host or values.counterfoil_host
    _require_public_address(values)
    if values.counterfoil_demo:
        _require_own_machine(address)
    require_role()
    require_master_keys()
    os.environ["COUNTERFOIL_SERVE_PID"] = str(os.getpid())
    port = port or values.counterfoil_port
    require_free_port(address, port)
    # Two that start at the same moment both find it free.
    with claim_port(f"serve-{address}", port):
        try:
            _serve(address, port, processes=values.counterfoil_web_processes)
        except OSError as error:
            raise unusable_port(port, error) from error


def _require_set(command: str, *names: str) -> None:
    for name in names:
        if not os.environ.get(name):
            raise TerminalError(
                f"{name} is not set; `{command}` needs it. `counterfoil up` starts everything by itself."
            )


def _serve(host: str, port: int, *, processes: int) -> None:
    """Run the server until it is told to stop."""
    from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    Server(
        "counterfoil.config.web:application",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=processes,
        workers_kill_timeout=_GRACE_SECONDS,
        loop=Loops.uvloop,
        # One protocol, spoken by every proxy; a head must be complete within 10 s and fit into 64 KB.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=65_536),
        # One thread for the network beside Python's: more of them take turns with the interpreter's lock.
        runtime_mode=RuntimeModes.st,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        process_name="counterfoil",
    ).serve()


def _require_public_address(values: Any) -> None:
    """Refuse to serve the world without knowing its names and its proxy; see docs/how-to/run-behind-a-proxy.md."""
    if values.counterfoil_demo:
        return
    for name in ("counterfoil_public_url", "counterfoil_allowed_hosts", "counterfoil_trusted_proxies"):
        if not getattr(values, name):
            raise TerminalError(
                f"{name.upper()} is not set; outside demo mode `serve` needs it, see docs/how-to/run-behind-a-proxy.md."
            )
    if not values.counterfoil_public_url.startswith("https://"):
        raise TerminalError("COUNTERFOIL_PUBLIC_URL must begin with https:// outside demo mode.")


def _require_own_machine(address: str) -> None:
    """Refuse to serve the demo to others: it speaks plain HTTP and takes secrets that can be guessed."""
    try:
        local = address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        local = False
    if not local:
        raise TerminalError(
            f"Demo mode listens on this machine only, and {address} is open to others; use --host 127.0.0.1, or unset"
            " COUNTERFOIL_DEMO and see docs/how-to/run-behind-a-proxy.md."
        )


def work(
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Ask payment gateways and run the periodic jobs: expiry, mails, late erasures, the audit. Any number may run."""
    from counterfoil.infrastructure.process import die_with_parent, run_until_told

    if parent is not None:
        die_with_parent(parent=parent)
    _require_set("work", "DATABASE_URL")
    act_as_application()
    use_database()
    require_role()
    require_master_keys()
    from django.conf import settings

    from counterfoil.cli.jobs import run_jobs
    from counterfoil.infrastructure.logging import configure_logging

    configure_logging(settings.COUNTERFOIL.counterfoil_log_level)
    run_until_told(run_jobs)


def migrate(data: DataOption = None) -> None:
    """Bring the database's schema up to date; safe to repeat, one runs at a time."""
    use_owner()
    use_database(data)
    done = run_migrations(lambda name: console.print(f"  applied {name}"))
    noun = "migration" if done.applied == 1 else "migrations"
    console.print("The schema is up to date." if done.applied == 0 else f"{done.applied} {noun} applied.")
    if done.people_erased:
        console.print(f"{done.people_erased} people erased again, whom a restored backup had brought back.")


@dataclass(frozen=True, slots=True)
class Migrated:
    """How many migrations were applied, and how many people a restored backup had brought back."""

    applied: int
    people_erased: int


def run_migrations(on_applied: Callable[[str], None]) -> Migrated:
    """Apply what is missing under an advisory lock, so that two starts do not race; then erase again who is erased."""
    from django import db
    from django.db.migrations.executor import MigrationExecutor

    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.key_store import prepare_store
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.privacy.services import reapply_tombstones

    require_database()
    applied = 0

    def progress(action: str, migration: Any = None, fake: bool | None = None, /) -> None:  # noqa: ARG001 - Django's signature
        nonlocal applied
        # Django's own tables come with ours; `doctor` counts the same.
        if action == "apply_success" and migration.app_label == "counterfoil":
            applied += 1
            on_applied(str(migration))

    with db.connection.cursor() as cursor:
        # Another start may hold it while it migrates: wait for it as long as a migration may take.
        cursor.execute("SET statement_timeout = '120s'; SET lock_timeout = '120s'")
        cursor.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        try:
            executor = MigrationExecutor(db.connection, progress)
            executor.migrate(executor.loader.graph.leaf_nodes())
            # Last: what it grants is for a role that a migration makes.
            prepare_store()
        except db.ProgrammingError as error:
            raise _explain_refusal(error) from error
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_MIGRATION_LOCK])
    # A database that is migrated may be one that was just restored.
    reapplied = run_in_thread(reapply_tombstones, request_id=new_request_id())
    return Migrated(applied, reapplied.people_erased)


def _explain_refusal(error: Exception) -> Exception:
    """Return the sentence of a migration that lacks a right, with what to run; any other error as it is."""
    import psycopg

    cause = error.__cause__
    if not isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return error
    hint = cause.diag.message_hint or "let the owner of the tables migrate: COUNTERFOIL_OWNER_DATABASE_URL"
    return TerminalError(f"{cause.diag.message_primary}; {hint}")
