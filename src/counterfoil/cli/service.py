"""Where the running service is: what `up` wrote about itself, or the environment."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

DEFAULT_DATA: Final = Path(".counterfoil")
_FILE: Final = "service.json"
POSTGRES_MIN: Final = 150_000
# What migrations/sql/audit_roles_v1.sql makes: everything but changing the audit trail.
APP_ROLE: Final = "counterfoil_app"

# `scheme://user:password@host`, whose password may hold any character but a space, and `password=…`.
_PASSWORD: Final = re.compile(r"(://[^\s:/?#@]*:)\S*(@)|(password=)(?:'[^']*'|[^\s&\"']+)", re.IGNORECASE)


class TerminalError(Exception):
    """One clear sentence with the next step, shown without a traceback; the command exits with 1."""


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """Addresses and, in demo mode, tokens of a running service."""

    api_url: str
    docs_url: str
    console_url: str
    database_url: str
    admin_token: str
    customer_token: str
    # Empty where an older `up` wrote the file, or where keys are kept in the same database.
    keys_url: str = ""
    master_keys_file: str = ""


def write_service(info: ServiceInfo, path: Path) -> None:
    """Write where a service is, with its tokens; see `write_private`."""
    write_private(path, json.dumps(asdict(info), indent=2) + "\n")


def write_private(path: Path, text: str | bytes) -> None:
    """Write a file in one step, readable by its owner only; raises TerminalError when that is not possible.

    A reader sees the old file or the whole new one. The name it is written under first cannot be guessed, so nobody
    can lay a link in its way.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        Path(temporary).replace(path)
    except OSError as error:
        raise TerminalError(
            f"{path} cannot be written ({error.strerror}); name another place or free some space."
        ) from error


@contextmanager
def claim_port(role: str, port: int) -> Iterator[None]:
    """Hold a port against another counterfoil of the same role; raises TerminalError when it has a holder."""
    from counterfoil.infrastructure import process

    try:
        with process.claim_port(role, port):
            yield
    except process.PortClaimed as error:
        raise TerminalError(
            f"Another counterfoil serves on port {port} already; stop it, or choose another one with --port."
        ) from error


def require_free_port(host: str, port: int, *, example: str = "") -> None:
    """Try to bind an address as the only one; raises TerminalError when something else has it, or it is not ours.

    The web server itself shares its socket (SO_REUSEPORT), so it would share a port with another service in silence.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server does: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise unusable_port(port, error, example=example) from error


def unusable_port(port: int, error: Exception, *, example: str = "") -> TerminalError:
    """Return the sentence about a port that nobody can listen on."""
    reason = getattr(error, "strerror", None) or str(error)
    return TerminalError(
        f"Port {port} cannot be used ({reason}); stop what uses it, or choose another one with --port{example}."
    )


def service_file(data: Path) -> Path:
    """Return where `up --data DIR` writes about itself."""
    return data / _FILE


def locate_service(data: Path | None = None) -> ServiceInfo:
    """Read what the running `up` of this data directory wrote; raises TerminalError when there is none."""
    path = service_file(data or DEFAULT_DATA)
    try:
        return ServiceInfo(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TerminalError(
            f"No running service found ({path} does not exist); start one with `make up`, or name its data directory"
            " with --data or its database with DATABASE_URL."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise TerminalError(f"{path} cannot be read ({error}); stop the service and start it again.") from error


def sandbox_journal(data: Path) -> Path:
    """Return where a service of this data directory keeps the sandbox's pretended money."""
    return data.resolve() / "sandbox.jsonl"


def use_database(data: Path | None = None) -> str:
    """Point this process at the database of DATABASE_URL or else of the running service, and set Django up.

    Returns the database's URL. To be called before anything of the core is imported.
    """
    url = os.environ.get("DATABASE_URL")
    if not url:
        service = locate_service(data)
        url = service.database_url
        _require_listener(url, service_file(data or DEFAULT_DATA))
        os.environ.setdefault("COUNTERFOIL_KEYS_URL", service.keys_url)
        os.environ.setdefault("COUNTERFOIL_MASTER_KEYS_FILE", service.master_keys_file)
        # Else a comparison with the sandbox would find a gateway that has forgotten everything.
        os.environ.setdefault("COUNTERFOIL_SANDBOX_JOURNAL", str(sandbox_journal(data or DEFAULT_DATA)))
    os.environ["DATABASE_URL"] = url
    set_up_django()
    return url


def require_database() -> None:
    """Look at the database of DATABASE_URL once; raises TerminalError when it is out of reach or too old."""
    import psycopg

    try:
        with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5) as connection:
            version = connection.info.server_version
    except psycopg.Error as error:
        sentence = mask_passwords(str(error).strip().splitlines()[0])
        raise TerminalError(
            f"The database cannot be used ({sentence}); check that it runs and DATABASE_URL with `counterfoil doctor`."
        ) from error
    if version < POSTGRES_MIN:
        raise TerminalError(
            f"The database is PostgreSQL {version // 10_000}; use 15 or newer, or unset DATABASE_URL and let"
            " `counterfoil up` start its own."
        )


def mask_passwords(text: str) -> str:
    """Replace the passwords of addresses, of any scheme, and of connection strings."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[3]}***{found[2] or ''}", text)


def use_owner() -> None:
    """Point this process at the login that owns the tables, when it has one of its own, with all of its rights."""
    os.environ.pop("COUNTERFOIL_DATABASE_ROLE", None)
    if owner := os.environ.get("COUNTERFOIL_OWNER_DATABASE_URL"):
        os.environ["DATABASE_URL"] = owner


def act_as_application() -> None:
    """Let this process and its children act as the application's role; to be called before Django is set up."""
    os.environ.setdefault("COUNTERFOIL_DATABASE_ROLE", APP_ROLE)


def require_role() -> None:
    """Try the application's role once; raises TerminalError when the database has none or the login may not be it.

    A database that is away is nothing to complain about here: it may come.
    """
    import psycopg
    from psycopg import sql

    role = os.environ["COUNTERFOIL_DATABASE_ROLE"]
    if not role:
        return
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5) as connection:
            user = connection.info.user
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    except psycopg.errors.InvalidParameterValue as error:
        raise TerminalError(f"The database has no role {role}; run `counterfoil migrate` on it first.") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise TerminalError(
            f"The login {user} may not act as {role}; as the owner of the tables run: GRANT {role} TO {user};"
        ) from error
    except psycopg.OperationalError:
        return


def require_master_keys() -> None:
    """Look at the file of master keys; raises TerminalError when it is missing, weak or open to others."""
    from counterfoil.infrastructure.master_keys import MasterKeyFileError, check_master_keys

    try:
        check_master_keys()
    except MasterKeyFileError as error:
        raise TerminalError(f"{str(error)[:1].upper()}{str(error)[1:]}; {_master_keys_hint()}.") from error


def _master_keys_hint() -> str:
    """Say what to do about a file of master keys that cannot be used: a new key opens nothing that is sealed."""
    from django.conf import settings

    name = settings.COUNTERFOIL.counterfoil_master_keys_file
    if not name:
        return "set it to the file of master keys; for a new installation `counterfoil keys rotate --new` makes one"
    path = Path(name)
    if not path.exists():
        return (
            "correct COUNTERFOIL_MASTER_KEYS_FILE or restore the file; only where nothing is sealed yet,"
            " `counterfoil keys rotate --new` makes one"
        )
    if path.is_file() and path.stat().st_mode & 0o077:
        return f"run: chmod 600 {path}"
    if not os.access(path, os.R_OK):
        return "let the user of this process own the file"
    return "restore the file from your vault; a new key cannot open what the old one has sealed"


def _require_listener(database_url: str, path: Path) -> None:
    """Tell a service that was killed, and left its file behind, from a database that is away."""
    parts = urlsplit(database_url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5432), timeout=5):
            return
    except OSError as error:
        raise TerminalError(f"The service that {path} names no longer runs; start it with `make up`.") from error


def set_up_django() -> None:
    """Load the settings from the environment; raises TerminalError that names every wrong variable."""
    from pydantic import ValidationError

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counterfoil.config.settings")
    # The pool tells of every failed attempt by itself; in a terminal one sentence at the end is enough.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    import django

    try:
        django.setup()
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join([*map(str.upper, map(str, problem["loc"][:1])), problem["msg"].removeprefix("Value error, ")])
            for problem in error.errors()
        )
        raise TerminalError(f"The settings are not right. {wrong}.") from error
