"""Every identity is checked: a violation of each kind, planted past all constraints, is found where it is."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from planted_money import MONEY_VIOLATIONS
from planted_violations import ORDER_VIOLATIONS, Violation

from conftest import run_counterfoil, running_service
from counterfoil.proof.reconcile import CHECKS, QUERIES, open_snapshot

Rows = list[dict[str, str]]
ORDERS = "/api/v1/orders"
VIOLATIONS = (*ORDER_VIOLATIONS, *MONEY_VIOLATIONS)


@dataclass(frozen=True)
class Books:
    """A database with three people, three products and seven orders, and nothing wrong in it."""

    url: str
    ids: dict[str, int]

    def plant(self, *statements: str) -> None:
        """Run statements past every trigger and foreign key; `{name}` stands for an order, product or user."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.format(**self.ids).encode())

    def drop_checks(self) -> None:
        """Let rows be written that no code of ours could write."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for table, name in connection.execute(
                "SELECT conrelid::regclass::text, conname FROM pg_constraint"
                " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
            ).fetchall():
                connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"'.encode())


FILL = """
INSERT INTO products (sku, name, description, category, price, currency)
SELECT upper(name), initcap(name) || ', "fine"', '', '', price, currency
FROM (VALUES ('tea', 19.99, 'EUR'), ('pot', 7.50, 'EUR'), ('cup', 250, 'JPY')) AS p (name, price, currency);
INSERT INTO stock_levels (product_id, on_hand, allow_backorder) SELECT id, 100, sku = 'POT' FROM products;
INSERT INTO stock_movements (product_id, kind, on_hand_delta, actor) SELECT id, 'receipt', 100, 'test' FROM products;
"""
UNCHECKED = {"verify_signature": False}
# Name, owner, lines, and whether it is a draft.
PLAN = (
    ("live", "ada", {"tea": 2, "pot": 1}, False),
    ("other", "bob", {"tea": 3}, False),
    ("yen", "bob", {"cup": 4}, False),
    ("cancelled", "ada", {"tea": 1}, False),
    ("expired", "eve", {"pot": 5}, False),
    ("draft", "ada", {"pot": 2}, True),
    ("gone", "ada", {"pot": 2}, True),
)


@pytest.fixture(scope="module")
def template(
    make_database: Callable[[], str],
    make_token: Callable[..., str],
    postgres_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Books]:
    """Books filled through the public door, with an order in every status there is."""
    url = make_database()
    tokens = {name: make_token("customer", database_url=url) for name in ("ada", "bob", "eve")}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL)
        ids = dict(connection.execute("SELECT lower(sku), id FROM products").fetchall())
        ids |= {name: int(jwt.decode(token, options=UNCHECKED)["sub"]) for name, token in tokens.items()}
        with running_service(url, tmp_path_factory.mktemp("books")) as service, ExitStack() as clients:
            people = {name: clients.enter_context(service.client(token)) for name, token in tokens.items()}
            ids |= fill_orders(people, ids)
        expire(connection, url, ids["expired"])
        # Past its deadline and not swept yet: it still holds its stock, and that is as it should be.
        pass_deadline(connection, ids["yen"])
    yield Books(url, ids)
    drop_database(postgres_url, url.rpartition("/")[2])


def fill_orders(people: dict[str, httpx.Client], ids: dict[str, int]) -> dict[str, int]:
    orders: dict[str, int] = {}
    for name, owner, lines, draft in PLAN:
        items = [{"product_id": ids[product], "quantity": quantity} for product, quantity in lines.items()]
        headers = {"Idempotency-Key": f"key-of-order-{name}", "X-Request-ID": f"req-{name}-1"}
        answer = people[owner].post(ORDERS, json={"items": items, "draft": draft}, headers=headers)
        assert answer.status_code == 201, answer.text
        orders[name] = answer.json()["id"]
    items = [{"product_id": ids["tea"], "quantity": 4}, {"product_id": ids["pot"], "quantity": 1}]
    for name in ("live", "draft"):
        headers = {"X-Request-ID": f"req-{name}-2"}
        answer = people["ada"].put(f"{ORDERS}/{orders[name]}", json={"items": items}, headers=headers)
        assert answer.status_code == 200, answer.text
    for name in ("cancelled", "gone"):
        assert people["ada"].delete(f"{ORDERS}/{orders[name]}").status_code == 204
    return orders


def expire(connection: psycopg.Connection[Any], url: str, order_id: int) -> None:
    """Let the worker sweep an order whose deadline has passed."""
    pass_deadline(connection, order_id)
    environment = {**os.environ, "DATABASE_URL": url}
    worker = subprocess.Popen([sys.executable, "-m", "counterfoil", "work"], env=environment)
    try:
        deadline = time.monotonic() + 30
        while connection.execute("SELECT status FROM orders WHERE id = %s", [order_id]).fetchone() != ("expired",):
            assert time.monotonic() < deadline, "the order was not swept within 30 s"
            time.sleep(0.05)
    finally:
        worker.terminate()
        worker.wait(30)


def pass_deadline(connection: psycopg.Connection[Any], order_id: int) -> None:
    connection.execute("UPDATE orders SET reserved_until = now() - interval '1 s' WHERE id = %s", [order_id])


def drop_database(postgres_url: str, name: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def books(template: Books, postgres_url: str) -> Iterator[Books]:
    """A copy of the template for one test alone."""
    source, name = template.url.rpartition("/")[2], f"cf_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"'.encode())
    yield Books(template.url.replace(source, name), template.ids)
    drop_database(postgres_url, name)


def run_checks(url: str) -> dict[str, Rows]:
    """Return the differences of every check that found some, as they would be printed."""
    with open_snapshot(url) as snapshot:
        findings = [snapshot.run(check) for check in CHECKS]
    assert all(len(finding.examples) == finding.differences for finding in findings)
    return {
        finding.check.name: [{name: str(value) for name, value in row.items()} for row in finding.examples]
        for finding in findings
        if finding.differences
    }


def test_a_clean_database_has_no_differences(books: Books) -> None:
    assert run_checks(books.url) == {}


@pytest.mark.parametrize("violation", VIOLATIONS, ids=lambda violation: violation.check)
def test_a_planted_violation_is_found_by_its_check_alone(violation: Violation, books: Books) -> None:
    books.drop_checks()
    books.plant(*violation.plant)

    found = run_checks(books.url)

    assert list(found) == [violation.check], found
    expected = [{name: value.format(**books.ids) for name, value in row.items()} for row in violation.rows]
    shown = [{name: row[name] for name in expected[0]} for row in found[violation.check]]
    assert sorted(shown, key=str) == sorted(expected, key=str)


def test_every_check_has_a_planted_violation_and_every_statement_is_a_check() -> None:
    assert [violation.check for violation in VIOLATIONS] == [check.name for check in CHECKS]
    assert list(QUERIES) == ["count_rows", *(check.name for check in CHECKS)]


def test_a_lost_stock_level_is_a_difference_of_every_counter(books: Books) -> None:
    books.plant("DELETE FROM stock_levels WHERE product_id = {cup}")

    found = run_checks(books.url)

    cup = str(books.ids["cup"])
    assert found == {
        "stock_levels_equal_movements": [
            {"product_id": cup, "counter": "on_hand", "expected": "100", "found": "None"},
            {"product_id": cup, "counter": "reserved", "expected": "4", "found": "None"},
            {"product_id": cup, "counter": "allocated", "expected": "0", "found": "None"},
        ],
        "promised_stock_equals_orders": [
            {"product_id": cup, "counter": "reserved", "expected": "4", "found": "None"},
            {"product_id": cup, "counter": "allocated", "expected": "0", "found": "None"},
        ],
    }


# ---------------------------------------------------------------- the command
def test_the_command_reports_a_clean_database_and_exits_0(books: Books, tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"

    run = run_counterfoil("reconcile", "--json", str(report_path), check=False, DATABASE_URL=books.url)

    assert run.returncode == 0, run.stderr
    assert f"7 orders, {len(CHECKS)} checks, 0 differences" in run.stdout
    report = json.loads(report_path.read_text())
    assert (report["orders"], report["differences"]) == (7, 0)
    assert [(check["name"], check["differences"]) for check in report["checks"]] == [(c.name, 0) for c in CHECKS]
    rows = {check["name"]: check["rows"] for check in report["checks"]}
    assert (rows["orders_have_lines"], rows["available_is_not_negative"], rows["orders_have_one_key"]) == (7, 3, 7)


def test_the_command_counts_every_difference_shows_twenty_and_exits_1(books: Books) -> None:
    books.plant(
        "INSERT INTO orders (id, user_id, total_amount, currency, status, version)"
        " SELECT 9000 + n, {ada}, 0, 'EUR', 'draft', 1 FROM generate_series(1, 25) AS n"
    )

    run = run_counterfoil("reconcile", "--json", "-", check=False, DATABASE_URL=books.url)

    assert run.returncode == 1
    report = json.loads(run.stdout)
    checks = {check["name"]: check for check in report["checks"] if check["differences"]}
    assert {name: check["differences"] for name, check in checks.items()} == {
        "orders_have_lines": 25,
        "version_is_last_event_number": 25,
    }
    assert report["differences"] == 50
    assert len(checks["orders_have_lines"]["examples"]) == 20
    assert checks["orders_have_lines"]["examples"][0]["status"] == "draft"
    assert "25 differences (orders_have_lines)" in run.stderr
    assert "… and 5 more" in run.stderr


def test_a_database_without_our_schema_gets_one_sentence(postgres_url: str) -> None:
    url = postgres_url.rpartition("/")[0] + "/template1"

    run = run_counterfoil("reconcile", check=False, DATABASE_URL=url)

    assert run.returncode == 1
    assert "run `counterfoil migrate` on it first" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_database_out_of_reach_gets_one_sentence() -> None:
    run = run_counterfoil("reconcile", check=False, DATABASE_URL="postgresql://counterfoil@127.0.0.1:1/counterfoil")

    assert run.returncode == 3
    assert "The database cannot be reached" in run.stderr
    assert "Traceback" not in run.stderr
