"""A database of the bench's own: made fresh, filled, checked, and gone at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from counterfoil.infrastructure.database import load_queries
from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres

QUERIES: Final = load_queries(Path(__file__).with_name("queries.sql"))
# No round of the bench can sell as many, so "plenty of stock" stays true.
PLENTY: Final = 1_000_000_000
# One statement's triggers and sorts stay in memory, and progress is seen every second or two.
_FILL_ORDERS_PER_STATEMENT: Final = 20_000


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """Where the bench runs: `url` of its own database, `directory` for its files, version as in 180006 for 18.6."""

    url: str
    directory: Path
    server_version: int

    def connect_as_placement(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as whoever places orders: one who writes audit entries of their own, and gets none from triggers."""
        connection = self.connect()
        connection.execute("SET ROLE counterfoil_placement")
        return connection

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect with autocommit."""
        return psycopg.connect(self.url, autocommit=True, application_name="counterfoil-bench")


@dataclass(frozen=True, slots=True)
class Seeded:
    """Ids of what was put into the fresh database, consecutive each."""

    customers: range
    administrator: int
    products: range


@contextmanager
def fresh_database(database_url: str | None, on_progress: Callable[[str], None]) -> Iterator[BenchDatabase]:
    """Make a migrated, empty database: on this server, or on a PostgreSQL of our own. Removes all of it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="counterfoil-bench-"))
    try:
        if database_url is None:
            # The server ends with us even when we are killed, and it is ours alone: the default settings count.
            with EmbeddedPostgres(directory / "data", on_progress=on_progress) as postgres:
                yield _migrate(postgres.url, directory)
        else:
            with _own_database(database_url) as url:
                yield _migrate(url, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def second_database(database: BenchDatabase) -> Iterator[BenchDatabase]:
    """Make one more migrated, empty database on the same server, to compare with; it is gone at the end."""
    directory = database.directory / "second"
    directory.mkdir()
    with _own_database(database.url) as url:
        yield _migrate(url, directory)


@contextmanager
def _own_database(server_url: str) -> Iterator[str]:
    name = f"counterfoil_bench_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _migrate(url: str, directory: Path) -> BenchDatabase:
    # A process of its own: Django's settings are read once per process, and here they are those of another database.
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "counterfoil.config.settings"}
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--no-input", "--verbosity=0"], env=environment, check=True
    )
    with psycopg.connect(url) as connection:
        return BenchDatabase(url, directory, connection.info.server_version)


def seed(database: BenchDatabase, *, customers: int, products: int) -> Seeded:
    """Fill the fresh database with customers, an administrator, and products with plenty of stock."""
    with database.connect() as connection, connection.transaction():
        people = _ids(connection, "insert_users", {"customers": customers})
        goods = _ids(connection, "insert_products", {"products": products})
        add_stock(connection, list(goods), units=PLENTY)
    with database.connect() as connection:
        # Not the tables that are still empty: plans made for an empty table scan it, and sessions keep them.
        connection.execute("VACUUM ANALYZE users, products, stock_levels")
    return Seeded(people[:-1], people[-1], goods)


def add_stock(connection: psycopg.Connection[Any], products: Sequence[int], *, units: int) -> None:
    """Give each of these new products its stock, with the movement that explains it."""
    for name in ("insert_stock", "insert_receipts"):
        connection.execute(QUERIES[name], {"products": list(products), "units": units})


def add_product(connection: psycopg.Connection[Any], *, units: int) -> int:
    """Add one more product with this much stock and return its id."""
    with connection.transaction():
        row = connection.execute(QUERIES["insert_scarce_product"]).fetchone()
        assert row is not None
        add_stock(connection, [row[0]], units=units)
    return int(row[0])


def count_orders(connection: psycopg.Connection[Any]) -> int:
    """Count the stored orders."""
    row = connection.execute(QUERIES["count_orders"]).fetchone()
    assert row is not None
    return int(row[0])


def _ids(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> range:
    ids = sorted(row[0] for row in connection.execute(QUERIES[query], parameters))
    assert ids[-1] - ids[0] == len(ids) - 1, query
    return range(ids[0], ids[-1] + 1)


def count_violations(database: BenchDatabase, acknowledged: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Check the whole database against the (order id, user id) of every 201; returns what was broken, how often."""
    with database.connect() as connection, connection.transaction():
        connection.execute("CREATE TEMPORARY TABLE acknowledged (order_id bigint, user_id bigint) ON COMMIT DROP")
        with connection.cursor() as cursor:
            with cursor.copy("COPY acknowledged FROM STDIN") as copy:
                for row in acknowledged:
                    copy.write_row(row)
            cursor.execute("ANALYZE acknowledged")
            found = cursor.execute(QUERIES["count_violations"], {}).fetchall()
    return {rule: int(count) for rule, count in found if count}


def fill_orders(database: BenchDatabase, seeded: Seeded, *, orders: int, on_progress: Callable[[str], None]) -> None:
    """Add this many older orders with all their rows, by statements over sets, and refresh the planner's statistics."""
    with database.connect_as_placement() as connection:
        for first in range(1, orders + 1, _FILL_ORDERS_PER_STATEMENT):
            last = min(first + _FILL_ORDERS_PER_STATEMENT - 1, orders)
            on_progress(f"Filling the table: {last:,} of {orders:,} orders")
            parameters = {"first": first, "last": last, "orders": orders}
            parameters |= {"first_user": seeded.customers[0], "users": len(seeded.customers)}
            parameters |= {"first_product": seeded.products[0], "products": len(seeded.products)}
            connection.execute(QUERIES["fill_orders"], parameters)
    with database.connect() as connection:
        on_progress("Gathering statistics")
        # What autovacuum does by itself some minutes later.
        connection.execute("VACUUM ANALYZE")
