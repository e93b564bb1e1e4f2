"""`counterfoil up`: everything in one command, and nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Final
from urllib.parse import urlsplit, urlunsplit

import typer
from rich.console import Console
from rich.panel import Panel

from counterfoil.cli.service import (
    DEFAULT_DATA,
    ServiceInfo,
    TerminalError,
    claim_port,
    require_free_port,
    require_master_keys,
    sandbox_journal,
    service_file,
    set_up_django,
    use_owner,
    write_private,
    write_service,
)
from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError

_READY_SECONDS_MAX: Final = 30
# Longer than the web process gives to what is in flight (35 s).
_STOP_SECONDS_MAX: Final = 40
_KEYS_DATABASE: Final = "counterfoil_keys"
console = Console(stderr=True, soft_wrap=True)


def up(
    port: Annotated[int, typer.Option(help="Port of the API.", min=1, max=65535)] = 8000,
    data: Annotated[Path, typer.Option(help="Where everything is kept.")] = DEFAULT_DATA,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write where it serves, with tokens, to this file.")
    ] = None,
) -> None:
    """Start PostgreSQL (unless DATABASE_URL is set), migrate, load demo data, serve, and say how to order."""
    started = time.monotonic()
    # Both by hand: a shell starts background jobs with SIGINT ignored, and Python would leave it so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        require_free_port("127.0.0.1", port, example=', for example: make up ARGS="--port 8001"')
        stack.enter_context(claim_port("up", port))
        given = os.environ.get("DATABASE_URL", "")
        postgres = _start_postgres(data, stack)
        _prepare_directory(data)
        _configure(data, port)
        for stale in (service_file(data), *([json_file] if json_file else [])):
            # Whoever waits for it must not read tokens and ports of an earlier run.
            _remove(stale)
        info = _prepare_database(data, port)
        login = {"DATABASE_URL": given} if postgres is None else _application_login(postgres)
        children = [_start(stack, data, login, "serve", "--port", str(port)), _start(stack, data, login, "work")]
        with console.status("Starting the service"):
            _wait_until_ready(children[0], port, data / "logs" / "serve.log")
        stack.callback(service_file(data).unlink, missing_ok=True)
        write_service(info.service, service_file(data))
        if json_file is not None:
            write_service(info.service, json_file)
        _say_hello(info, data, time.monotonic() - started)
        _wait(children, postgres, data / "logs")
    console.print("Stopped; the data is kept in", str(data))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prepare_directory(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / "logs").mkdir(exist_ok=True)
        (data / "logs" / "probe").write_bytes(b"0" * 4096)
        (data / "logs" / "probe").unlink()
    except OSError as error:
        raise TerminalError(
            f"{data} cannot be written ({error.strerror}); free some space or name another directory with --data."
        ) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TerminalError(f"{path} cannot be replaced ({error.strerror}); name another file with --json.") from error


def _configure(data: Path, port: int) -> None:
    """Set the environment of this process and its children: secret, master keys, demo mode, place of the anchors."""
    secret = data / "secret"
    if not secret.exists() or not secret.read_text(encoding="ascii").strip():
        write_private(secret, secrets.token_urlsafe(48))
    os.environ.setdefault("COUNTERFOIL_SECRET", secret.read_text(encoding="ascii").strip())
    keys = data.resolve() / "master.keys"
    if "COUNTERFOIL_MASTER_KEYS_FILE" not in os.environ:
        if not keys.exists():
            # Imported here: the module reads settings, which are complete only now.
            from counterfoil.infrastructure.master_keys import add_master_key

            add_master_key(keys)
        os.environ["COUNTERFOIL_MASTER_KEYS_FILE"] = str(keys)
    os.environ["COUNTERFOIL_DEMO"] = "1"
    # Who tries the demo, or replays a year of baskets against it, is not to be slowed down.
    os.environ.setdefault("COUNTERFOIL_LIMIT_FACTOR", "10000")
    os.environ["COUNTERFOIL_PORT"] = str(port)
    os.environ.setdefault("COUNTERFOIL_ANCHOR_DIR", str(data.resolve() / "anchors"))
    os.environ.setdefault("COUNTERFOIL_PUBLIC_URL", f"http://127.0.0.1:{port}")
    os.environ.setdefault("COUNTERFOIL_OUTBOX_DIR", str(data / "outbox"))
    os.environ.setdefault("COUNTERFOIL_SANDBOX_JOURNAL", str(sandbox_journal(data)))


def _start_postgres(data: Path, stack: contextlib.ExitStack) -> EmbeddedPostgres | None:
    """Start the embedded server and set DATABASE_URL, or return None when one is set already.

    Before anything else touches `data`: as root, the launcher makes the directory so that the server's user may pass.
    """
    if os.environ.get("DATABASE_URL"):
        use_owner()
        console.print("[green]✓[/] Using the PostgreSQL of DATABASE_URL")
        return None
    with console.status("Starting PostgreSQL") as status:
        postgres = EmbeddedPostgres(data, on_progress=status.update, more_databases=[_KEYS_DATABASE])
        try:
            os.environ["DATABASE_URL"] = postgres.start()
            # Apart from the data that they open, also in a dump.
            os.environ.setdefault("COUNTERFOIL_KEYS_URL", postgres.url_of(_KEYS_DATABASE))
        except EmbeddedPostgresError as error:
            raise TerminalError(str(error)) from error
    stack.callback(postgres.stop)
    console.print(f"[green]✓[/] PostgreSQL {postgres.binaries.version} runs, its data is in {data / 'postgres'}")
    return postgres


@dataclass(frozen=True, slots=True)
class _Started:
    service: ServiceInfo
    product_id: int
    admin_email: str
    logins: dict[str, str]


def _prepare_database(data: Path, port: int) -> _Started:
    """Migrate and load the demo's catalogue and people; returns where to go and tokens for one hour."""
    set_up_django()
    require_master_keys()
    from django import db

    from counterfoil.cli.processes import run_migrations
    from counterfoil.demo.catalogue import load_catalogue
    from counterfoil.users.permissions import Actor, Role
    from counterfoil.users.services import issue_token, read_epoch

    try:
        with console.status("Migrating the database") as status:
            applied = run_migrations(lambda name: status.update(f"Migrating the database: {name}")).applied
        console.print("[green]✓[/] The schema is up to date" + (f" ({applied} migrations applied)" if applied else ""))
        with console.status("Loading demo products and people") as status:
            accounts = load_catalogue(on_progress=status.update)
        admin_token, customer_token = (
            issue_token(Actor(user_id, role), epoch=read_epoch(user_id))
            for user_id, role in ((accounts.admin_id, Role.ADMIN), (accounts.customer_id, Role.CUSTOMER))
        )
    except db.OperationalError as error:
        raise TerminalError(
            f"The database cannot be used ({str(error).strip()}); check DATABASE_URL with `counterfoil doctor`."
        ) from error
    finally:
        db.connections.close_all()
        # Only the migration and the demo data need the owner's login: no session of it stays open.
        for each in db.connections.all():
            each.close_pool()  # type: ignore[attr-defined] # of the PostgreSQL backend
    console.print("[green]✓[/] Demo products and people are loaded")
    service = _describe(port, admin_token=admin_token, customer_token=customer_token)
    logins = _keep_logins(data / "logins.json", accounts.passwords)
    admin_email = next(email for email, user_id in accounts.user_ids.items() if user_id == accounts.admin_id)
    return _Started(service, accounts.product_id, admin_email, logins)


def _describe(port: int, *, admin_token: str, customer_token: str) -> ServiceInfo:
    from django.conf import settings

    root = f"http://127.0.0.1:{port}"
    return ServiceInfo(
        api_url=f"{root}/api/v1",
        docs_url=f"{root}/docs",
        console_url=f"{root}/console/",
        database_url=settings.COUNTERFOIL.database_url,
        admin_token=admin_token,
        customer_token=customer_token,
        keys_url=settings.COUNTERFOIL.counterfoil_keys_url,
        master_keys_file=settings.COUNTERFOIL.counterfoil_master_keys_file,
    )


def _keep_logins(path: Path, created: dict[str, str]) -> dict[str, str]:
    """Remember the passwords of accounts created now (they are stored hashed only); returns all that are known."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    known: dict[str, str] = json.loads(text) if text.strip() else {}
    known.update(created)
    write_private(path, json.dumps(known, indent=2) + "\n")
    return known


def _application_login(postgres: EmbeddedPostgres) -> dict[str, str]:
    """Return the addresses at which web process and worker use our own server: with a login that owns nothing."""
    import psycopg

    from counterfoil.infrastructure.application_login import make_application_login

    try:
        url = make_application_login(os.environ["DATABASE_URL"])
    except psycopg.Error as error:
        raise TerminalError(f"The database refuses a login for the application: {error}") from error
    login = {"DATABASE_URL": url}
    if os.environ["COUNTERFOIL_KEYS_URL"] == postgres.url_of(_KEYS_DATABASE):
        login["COUNTERFOIL_KEYS_URL"] = urlunsplit(urlsplit(url)._replace(path=f"/{_KEYS_DATABASE}"))
    return login


def _start(
    stack: contextlib.ExitStack, data: Path, login: Mapping[str, str], *arguments: str
) -> subprocess.Popen[bytes]:
    """Start one of our own processes with its log in the data directory; it is stopped when the stack unwinds."""
    log_path = data / "logs" / f"{arguments[0]}.log"
    log = stack.enter_context(log_path.open("ab"))
    # A session of its own: Ctrl-C reaches only us, and we stop the children in order.
    child = subprocess.Popen(
        [sys.executable, "-m", "counterfoil", *arguments, "--parent", str(os.getpid())],
        env={**os.environ, **login},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    stack.callback(_stop, child, arguments[0])
    return child


def _stop(child: subprocess.Popen[bytes], name: str) -> None:
    if child.poll() is not None:
        return
    with console.status(f"Stopping {name}: what is in flight is finished first"):
        child.terminate()
        try:
            child.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TerminalError(f"The web process ended while it started; its log is {log}.")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.05)
    raise TerminalError(f"The web process was not ready after {_READY_SECONDS_MAX} s; its log is {log}.")


def _wait(children: list[subprocess.Popen[bytes]], postgres: EmbeddedPostgres | None, logs: Path) -> None:
    """Watch over everything until a signal comes; a PostgreSQL that was killed is started again on its port."""
    while True:
        if postgres is not None and not postgres.is_running():
            console.print("PostgreSQL ended by itself; starting it again.")
            try:
                postgres.start()
            except EmbeddedPostgresError as error:
                raise TerminalError(str(error)) from error
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
                raise TerminalError(f"A process ended by itself (exit code {child.returncode}); its log is in {logs}.")


def _say_hello(started: _Started, data: Path, seconds: float) -> None:
    service = started.service
    lines = "\n".join(_lines(started, data))
    Console(stderr=True).print(Panel(lines, title=f"Counterfoil is up (started in {seconds:.1f} s)", expand=False))
    console.print("Place an order as a customer (the token is valid for one hour):\n")
    # The command goes to standard output on lines of its own, so that nothing has to be cut out of a frame.
    print(_curl(service, started.product_id), flush=True)
    console.print("\nStop with Ctrl-C.")


def _lines(started: _Started, data: Path) -> Iterator[str]:
    service = started.service
    yield f"API        {service.api_url}"
    yield f"Docs       {service.docs_url}"
    yield f"Console    {service.console_url}"
    password = started.logins.get(started.admin_email, "(your own password)")
    yield f"Sign in    {started.admin_email} (administrator)  {password}"
    yield f"Data       {data}"
    yield "           logs/, outbox/ (mails), logins.json (everybody's password),"
    yield "           service.json (tokens)"


def _curl(service: ServiceInfo, product_id: int) -> str:
    return (
        f"curl -sS -w '\\n' -X POST {service.api_url}/orders \\\n"
        f"  -H 'Authorization: Bearer {service.customer_token}' \\\n"
        f"  -H 'Content-Type: application/json' -H \"Idempotency-Key: first-order-$(date +%s)\" \\\n"
        f"""  -d '{{"items": [{{"product_id": {product_id}, "quantity": 2}}]}}'"""
    )
