"""Talking to PostgreSQL: three transaction words, the pool of the hot path, and named queries.

Two pools in a web process: Django's own (services that run in threads) and one of asynchronous connections for
placing, reading and listing orders. Both take their limits from the settings.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import psycopg
import psycopg_pool
from django import db
from django.conf import settings
from django.db import transaction as django_transaction
from psycopg import sql

from counterfoil.kernel.errors import DomainError, ServiceUnavailable, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

# Waiting for a connection (2 s) and a statement that runs into its own limit (5 s) end before this.
HOT_SECONDS_MAX: Final = 8.0

# Rows that somebody else holds for longer than lock_timeout (2 s): the database is busy, nothing was written.
_BUSY: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
    psycopg.errors.SerializationFailure,
)


# Lost, refused, full, or a primary that has just become a standby.
_AWAY: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg_pool.PoolClosed,
)


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached right now; try again shortly, with the same Idempotency-Key if you sent one."""

    code = "DATABASE_UNAVAILABLE"


class DatabaseBusy(Unavailable):
    """The database is too busy with the same rows; nothing was done, try again shortly."""

    code = "DATABASE_BUSY"


def translate_database_error(error: BaseException) -> DomainError | None:
    """Return what a driver's error means for a caller, or None when it is a bug of ours."""
    cause = error.__cause__ if isinstance(error, db.Error) else error
    if isinstance(cause, _BUSY):
        return DatabaseBusy()
    if isinstance(cause, psycopg_pool.PoolTimeout):
        return ServiceUnavailable()
    if isinstance(cause, _AWAY):
        return DatabaseUnavailable()
    return None


# ---------------------------------------------------------------- the three transaction words
@contextmanager
def transaction() -> Iterator[None]:
    """Open the transaction of one use case; refuses to nest. Commits at the end, rolls back on any exception."""
    with django_transaction.atomic(durable=True):
        yield


def transaction_required(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that joins the open transaction; calling it outside of one is a bug."""

    @functools.wraps(function)
    def joined(*args: P.args, **kwargs: P.kwargs) -> R:
        assert db.connection.in_atomic_block, f"{function.__qualname__} joins a transaction and none is open"
        return function(*args, **kwargs)

    return joined


def no_transaction(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that talks to the outside; calling it inside a transaction is a bug."""

    @functools.wraps(function)
    def apart(*args: P.args, **kwargs: P.kwargs) -> R:
        assert not db.connection.in_atomic_block, f"{function.__qualname__} must not run in a transaction"
        return function(*args, **kwargs)

    return apart


def run_in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a synchronous service in a worker thread; its connection goes back to the pool at the end.

    Driver errors that mean "not now" leave as `Unavailable`.
    """
    try:
        return function(*args, **kwargs)
    except (db.Error, psycopg.Error, psycopg_pool.PoolTimeout) as error:
        if (translated := translate_database_error(error)) is not None:
            raise translated from error
        raise
    finally:
        db.connections.close_all()


def fetch_all(sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """Run one statement on Django's connection and return its rows (none for a statement without a result)."""
    with db.connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def fetch_one(sql: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...] | None:
    """Run one statement on Django's connection and return its first row, or None."""
    rows = fetch_all(sql, parameters)
    return rows[0] if rows else None


def refresh_statistics(*tables: str) -> None:
    """Tell the planner how large these tables are now, after a bulk load. Never for empty tables.

    An empty table's statistics promise that reading all of it is cheap, and sessions keep plans made on that promise.
    """
    with db.connection.cursor() as cursor:
        for table in tables:
            cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))


# ---------------------------------------------------------------- the hot path
def connection_string(url: str) -> str:
    """Return libpq's connection string for a database URL with our timeouts in it."""
    return psycopg.conninfo.make_conninfo(
        url, options=settings.CONNECTION_OPTIONS, application_name="counterfoil", connect_timeout=5
    )


def make_hot_pool(*, size: int) -> psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]:
    """Make the pool for placing, reading and listing; unopened. `size` connections, kept and checked on failure."""
    return psycopg_pool.AsyncConnectionPool(
        connection_string(settings.COUNTERFOIL.database_url),
        min_size=1,
        max_size=size,
        timeout=settings.POOL_WAIT_SECONDS,
        # How long a broken database is retried in the background before the pool gives up and starts anew.
        reconnect_timeout=10,
        open=False,
        kwargs={"autocommit": True},
    )


@asynccontextmanager
async def hot_connection(
    pool: psycopg_pool.AsyncConnectionPool[Any], *, seconds: float = HOT_SECONDS_MAX
) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
    """Lend a connection (autocommit) of the hot pool; driver errors that mean "not now" leave as `Unavailable`.

    The block has `seconds`. The server's own timeouts do not help when it is the server that stands still.
    """
    try:
        async with asyncio.timeout(seconds), pool.connection() as connection:
            yield connection
    except TimeoutError as error:
        raise DatabaseUnavailable from error
    except (psycopg.Error, psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed) as error:
        if (translated := translate_database_error(error)) is not None:
            raise translated from error
        raise


# ---------------------------------------------------------------- named queries
_NAME: Final = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load_queries(path: Path) -> dict[str, str]:
    """Read a queries.sql: each statement follows a line `-- name: verb_noun`. Returns name → statement."""
    parts = _NAME.split(path.read_text(encoding="utf-8"))
    texts = ["\n".join(line for line in text.splitlines() if not line.startswith("--")) for text in parts[2::2]]
    return {name: text.strip().rstrip(";") for name, text in zip(parts[1::2], texts, strict=True)}
