"""A process that is killed at any point of a payment's way leaves nothing that the next one does not finish."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from counterfoil.infrastructure.failpoints import EXIT_CODE, NAMES
from counterfoil.payments.gateways.sandbox_book import SandboxBook

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def own_database(make_database: Callable[[], str]) -> str:
    """A database in which no other test leaves calls that a worker would make."""
    return make_database()


def place_order(db: psycopg.Connection[Any]) -> int:
    """An order of 40.00 EUR, by hand: the service of the session looks at another database."""
    row = db.execute(
        "WITH buyer AS (INSERT INTO users (role, password) VALUES ('customer', '!') RETURNING id)"
        " INSERT INTO orders (user_id, total_amount, currency, status, placed_at, reserved_until)"
        " SELECT id, 40, 'EUR', 'created', now(), now() + interval '1 hour' FROM buyer RETURNING id"
    ).fetchone()
    assert row is not None
    return int(row[0])


def run(url: str, order_id: int, journal: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "payment_process.py"), str(order_id)],
        env={
            **os.environ,
            "DATABASE_URL": url,
            "COUNTERFOIL_SANDBOX_JOURNAL": str(journal),
            "COUNTERFOIL_RESOLVER_SPEED": "1000",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# Not only at the first passing: captures and refunds come by as well.
LATER = ("call.answered:2", "record.ledger_written:2", "settle.committed:3")


@pytest.mark.parametrize("name", [*NAMES, *LATER])
def test_a_process_killed_at_any_point_is_finished_by_the_next_one(
    own_database: str, tmp_path: Path, name: str
) -> None:
    journal = tmp_path / "journal.jsonl"
    with psycopg.connect(own_database, autocommit=True) as db:
        order_id = place_order(db)
        killed = run(own_database, order_id, journal, COUNTERFOIL_FAILPOINTS=name)
        assert killed.returncode == EXIT_CODE, killed.stdout + killed.stderr
        # Let the lease of the killed worker end.
        db.execute("UPDATE payment_attempts SET next_at = now() WHERE state = 'running'")

        finished = run(own_database, order_id, journal)

        assert finished.returncode == 0, finished.stdout + finished.stderr
        payments = db.execute(
            "SELECT status, captured_amount, refunded_amount, review_reason FROM payments WHERE order_id = %s",
            [order_id],
        ).fetchall()
        assert [(row[0], int(row[1]), int(row[2]), row[3]) for row in payments] == [("captured", 30, 10, "")]
        open_calls = (
            "SELECT count(*) FROM payment_attempts WHERE next_at IS NOT NULL OR is_unknown OR finished_at IS NULL"
        )
        assert db.execute(open_calls.encode()).fetchone() == (0,)
        entries = (
            "SELECT count(*), -sum(amount) FILTER (WHERE account = 'order') FROM ledger_entries WHERE order_id = %s"
        )
        assert db.execute(entries.encode(), [order_id]).fetchone() == (4, 20)
        book = SandboxBook(journal)
        with book.locked():
            assert [payment.captured.amount_minor for payment in book.payments.values()] == [3000]
            assert [refund.amount.amount_minor for refund in book.refunds.values()] == [1000]
