"""`counterfoil load-demo` on a real database: loads once, repeats without effect, survives a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import argon2
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PRODUCTS = 9_000  # four and a half batches, so that a kill can fall between two


@pytest.fixture
def fresh_database(make_database: Callable[[], str]) -> str:
    return make_database()


@pytest.fixture(scope="module")
def catalogue(make_database: Callable[[], str]) -> tuple[str, dict[str, Any]]:
    """A database with the catalogue in it, and what its first load reported."""
    url = make_database()
    return url, load_demo(url)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journey of 9,000 products: product p is sold twice, p % 7 + 1 pieces each time, at p cents a piece."""
    directory = tmp_path_factory.mktemp("journey")
    sold = [product for product in range(1, PRODUCTS + 1) for _ in range(2)]
    quantities = [product % 7 + 1 for product in sold]
    pq.write_table(
        pa.table(
            {
                "household_id": [product % 50 + 1 for product in sold],
                "basket_id": sold,
                "product_id": sold,
                "quantity": quantities,
                "sales_value": [product * q / 100 for product, q in zip(sold, quantities, strict=True)],
                "retail_disc": [0.0] * len(sold),
                "transaction_timestamp": pa.array([datetime(2017, 1, 1, 12)] * len(sold), pa.timestamp("ns")),  # noqa: DTZ001 - as in the file
            }
        ),
        directory / "transactions.parquet",
    )
    ids = list(range(1, PRODUCTS + 1))
    pq.write_table(
        pa.table(
            {
                "product_id": ids,
                "manufacturer_id": [69] * PRODUCTS,
                "department": ["GROCERY"] * PRODUCTS,
                "brand": ["Private"] * PRODUCTS,
                "product_category": ["HOT CEREAL"] * PRODUCTS,
                "product_type": ["STANDARD  OATMEAL"] * PRODUCTS,
                "package_size": ["18 OZ"] * PRODUCTS,
            }
        ),
        directory / "products.parquet",
    )
    return directory


def load_demo(database_url: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        command(*arguments), env=environment(database_url), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "counterfoil", "load-demo", "--json", "-", *arguments]


def environment(database_url: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": database_url}


def fetch(database_url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(sql).fetchall()


def contents(database_url: str) -> list[tuple[Any, ...]]:
    """Everything that loading writes, except the ids that a refused insert may burn."""
    return [
        *fetch(database_url, "SELECT sku, name, price, currency, active, version FROM products ORDER BY sku"),
        *fetch(database_url, "SELECT product_id, on_hand, reserved, allocated FROM stock_levels ORDER BY product_id"),
        *fetch(database_url, "SELECT product_id, kind, on_hand_delta FROM stock_movements ORDER BY id"),
        *fetch(database_url, "SELECT email, name, role, password, version FROM users ORDER BY email"),
        *fetch(database_url, "SELECT action, target, target_id, actor FROM audit_entries ORDER BY id"),
    ]


def test_the_catalogue_is_loaded_once(catalogue: tuple[str, dict[str, Any]]) -> None:
    url, first = catalogue
    before = contents(url)
    second = load_demo(url)

    assert (first["products_created"], first["users_created"]) == (61, 7)
    assert len(set(first["passwords"].values())) == 7
    assert (second["products_created"], second["users_created"], second["passwords"]) == (0, 0, {})
    assert contents(url) == before
    assert fetch(url, "SELECT role, count(*) FROM users GROUP BY role ORDER BY role") == [
        ("admin", 1),
        ("customer", 3),
        ("manager", 1),
        ("service", 1),
        ("support", 1),
    ]
    assert fetch(url, "SELECT sku FROM products WHERE NOT active") == [("STA-CALENDAR-2025",)]
    assert fetch(url, "SELECT count(*) FROM stock_levels WHERE allow_backorder") == [(2,)]


def test_the_passwords_of_new_accounts_are_theirs(catalogue: tuple[str, dict[str, Any]]) -> None:
    url, first = catalogue
    hashes = fetch(url, "SELECT password FROM users ORDER BY id")

    # In the order in which they were created; their addresses are sealed.
    for (stored,), password in zip(hashes, first["passwords"].values(), strict=True):
        argon2.PasswordHasher().verify(stored.removeprefix("argon2"), password)


def test_a_product_that_was_deleted_stays_deleted(catalogue: tuple[str, dict[str, Any]]) -> None:
    url, _ = catalogue
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE products SET deleted_at = now() WHERE sku = 'TEA-MINT-75'")

    assert load_demo(url)["products_created"] == 0

    assert fetch(url, "SELECT count(*) FROM products WHERE deleted_at IS NULL") == [(60,)]


def test_a_journey_becomes_products_with_exact_prices_and_stock_for_three_replays(
    fresh_database: str, journey: Path
) -> None:
    report = load_demo(fresh_database, "--source", "complete-journey", "--journey-files", str(journey))

    assert (report["products_created"], report["users_created"]) == (PRODUCTS, 50)
    assert report["cleaning"]["lines_kept"] == 2 * PRODUCTS
    assert fetch(
        fresh_database,
        "SELECT p.sku, p.name, p.category, p.price::text, p.currency, s.on_hand, s.reserved, s.allow_backorder"
        " FROM products p JOIN stock_levels s ON s.product_id = p.id WHERE sku IN ('CJ-1', 'CJ-8999') ORDER BY sku",
    ) == [
        ("CJ-1", "Standard Oatmeal, 18 oz, private label", "Hot Cereal", "0.0100", "USD", 12, 0, False),
        ("CJ-8999", "Standard Oatmeal, 18 oz, private label", "Hot Cereal", "89.9900", "USD", 30, 0, False),
    ]
    assert fetch(fresh_database, "SELECT count(*) FROM users WHERE password LIKE '!%' AND role = 'customer'") == [(50,)]
    assert fetch(fresh_database, "SELECT count(*) FROM profiles") == [(50,)]


def test_a_load_that_was_killed_is_completed_by_repeating_it(fresh_database: str, journey: Path) -> None:
    arguments = ("--source", "complete-journey", "--journey-files", str(journey))
    with subprocess.Popen(
        command(*arguments), env=environment(fresh_database), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        wait_for_first_batch(fresh_database)
        killed.kill()

    report = load_demo(fresh_database, *arguments)
    before = contents(fresh_database)
    repeated = load_demo(fresh_database, *arguments)

    # The kill fell between two batches; what was committed had its stock with it, and nothing is there twice.
    assert 0 < report["products_created"] < PRODUCTS
    assert (repeated["products_created"], repeated["users_created"], repeated["units_received"]) == (0, 0, 0)
    assert contents(fresh_database) == before
    assert fetch(
        fresh_database,
        "SELECT count(*) FROM products p JOIN stock_levels s ON s.product_id = p.id"
        " JOIN stock_movements m ON m.product_id = p.id AND m.kind = 'receipt' AND m.on_hand_delta = s.on_hand"
        " WHERE s.on_hand = 6 * (substr(p.sku, 4)::bigint % 7 + 1)",
    ) == [(PRODUCTS,)]
    assert fetch(
        fresh_database,
        "SELECT action, target, count(*) FROM audit_entries GROUP BY action, target ORDER BY action, target",
    ) == [
        ("product.create", "product", PRODUCTS),
        ("product.create", "stock_level", PRODUCTS),
        ("stock.receipt", "stock_level", PRODUCTS),
        ("stock.receipt", "stock_movement", PRODUCTS),
        ("user.create", "profile", 50),
        ("user.create", "user", 50),
    ]


def wait_for_first_batch(database_url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if fetch(database_url, "SELECT count(*) FROM products") != [(0,)]:
            return
        time.sleep(0.01)
    pytest.fail("no batch was committed in 60 s")


def test_a_database_without_the_schema_is_told_in_one_sentence(postgres_url: str) -> None:
    done = subprocess.run(
        command(), env=environment(postgres_url), capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "run `counterfoil migrate` on it first" in done.stderr
    assert "Traceback" not in done.stderr
