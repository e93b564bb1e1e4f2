"""The comparison with the gateway finds every difference, invents none, and repairs nothing in silence (G19)."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from conftest import run_counterfoil
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefund,
    GatewayRefundStatus,
    RateLimited,
)
from counterfoil.payments.gateways.sandbox import SandboxGateway
from counterfoil.payments.gateways.sandbox_book import Line

PAYMENTS = int(os.environ.get("COUNTERFOIL_TEST_RECONCILED_PAYMENTS", "5000"))
OF_EACH_KIND = 10
NOW = datetime.now(UTC).replace(microsecond=0)

INSERT_ORDERS = """
WITH person AS (INSERT INTO users (role, password) VALUES ('customer', '!') RETURNING id)
INSERT INTO orders (user_id, total_amount, currency, status, version)
SELECT id, 0, 'EUR', 'draft', 1 FROM person, generate_series(0, 20) RETURNING id
"""
INSERT_PAYMENTS = """
INSERT INTO payments (order_id, gateway, gateway_payment_id, reference, amount, currency, capture_now, status,
                      captured_amount, refunded_amount, principal, client_key, created_at)
SELECT order_id, 'sandbox', gateway_id, reference, amount, currency, true, status, captured, 0, 'user:1', reference, at
FROM unnest(%(orders)s::bigint[], %(gateway_ids)s::text[], %(references)s::text[], %(amounts)s::numeric[],
            %(currencies)s::text[], %(statuses)s::text[], %(captured)s::numeric[], %(instants)s::timestamptz[])
  AS p (order_id, gateway_id, reference, amount, currency, status, captured, at)
RETURNING reference, id
"""
INSERT_REFUNDS = """
INSERT INTO refunds (payment_id, order_id, reference, gateway_refund_id, amount, currency, status, principal,
                     client_key, created_at)
SELECT p.id, p.order_id, r.reference, r.gateway_id, r.amount, p.currency, 'succeeded', 'user:1', r.reference, r.at
FROM unnest(%(payments)s::text[], %(gateway_ids)s::text[], %(references)s::text[], %(amounts)s::numeric[],
            %(instants)s::timestamptz[]) AS r (payment, gateway_id, reference, amount, at)
JOIN payments p ON p.gateway_payment_id = r.payment
"""
INSERT_ATTEMPT = """
INSERT INTO payment_attempts (payment_id, operation, gateway, gateway_key, amount, state, is_unknown, next_at,
                              first_sent_at, created_by, request_id)
SELECT id, 'authorise', 'sandbox', reference, amount, 'unknown', true, now() + interval '1 hour', now(), 'user:1', 'r'
FROM payments WHERE status = 'unknown'
"""


@dataclass
class Books:
    """Both sides: ours in a database, theirs in the sandbox's journal. `planted` says what must be found."""

    url: str
    journal: Path
    orders: list[int]
    ours: list[GatewayPayment] = field(default_factory=list)
    theirs: list[GatewayPayment] = field(default_factory=list)
    our_refunds: list[GatewayRefund] = field(default_factory=list)
    their_refunds: list[GatewayRefund] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    planted: list[tuple[str, str]] = field(default_factory=list)

    def write(self) -> None:
        lines = [Line(payment=each) for each in self.theirs] + [Line(refund=each) for each in self.their_refunds]
        self.journal.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        states = {"declined": "failed", "voided": "cancelled"}
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                INSERT_PAYMENTS,
                {
                    "orders": [self._order_of(p) for p in self.ours],
                    "gateway_ids": ["" if p.payment_id in self.unknown else p.payment_id for p in self.ours],
                    "references": [p.reference for p in self.ours],
                    "amounts": [p.amount.to_decimal() for p in self.ours],
                    "currencies": [p.amount.currency for p in self.ours],
                    "statuses": [
                        "unknown" if p.payment_id in self.unknown else states.get(p.status, p.status) for p in self.ours
                    ],
                    "captured": [
                        Decimal(0) if p.payment_id in self.unknown else p.captured.to_decimal() for p in self.ours
                    ],
                    "instants": [p.created_at for p in self.ours],
                },
            )
            connection.execute(
                INSERT_REFUNDS,
                {
                    "payments": [r.payment_id for r in self.our_refunds],
                    "gateway_ids": [r.refund_id for r in self.our_refunds],
                    "references": [r.reference for r in self.our_refunds],
                    "amounts": [r.amount.to_decimal() for r in self.our_refunds],
                    "instants": [r.created_at for r in self.our_refunds],
                },
            )

    def _order_of(self, made: GatewayPayment) -> int:
        """One order for all payments, but for those that are unknown: an order has one of them at most."""
        return self.orders[1 + self.unknown.index(made.payment_id) if made.payment_id in self.unknown else 0]

    def reconcile(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        run = run_counterfoil(
            "reconcile-gateway",
            "--json",
            "-",
            *arguments,
            check=False,
            DATABASE_URL=self.url,
            COUNTERFOIL_SANDBOX_JOURNAL=str(self.journal),
        )
        assert run.returncode in {0, 1}, run.stderr
        return run.returncode, json.loads(run.stdout)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def template(make_database: Callable[[], str]) -> tuple[str, list[int]]:
    """A database with a few orders, and their ids."""
    url = make_database()
    with psycopg.connect(url, autocommit=True) as connection:
        return url, [row[0] for row in connection.execute(INSERT_ORDERS).fetchall()]


@pytest.fixture
def books(template: tuple[str, list[int]], postgres_url: str, tmp_path: Path) -> Iterator[Books]:
    """A copy of the template for one test alone."""
    source, name = template[0].rpartition("/")[2], f"cf_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"'.encode())
    yield Books(template[0].replace(source, name), tmp_path / "sandbox.jsonl", template[1])
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def payment(number: int, status: GatewayPaymentStatus = GatewayPaymentStatus.CAPTURED) -> GatewayPayment:
    amount = Money(1000 + number, "EUR")
    return GatewayPayment(
        payment_id=f"pay_{number:06d}",
        reference=f"ref-{number:06d}",
        status=status,
        amount=amount,
        captured=amount if status is GatewayPaymentStatus.CAPTURED else Money(0, "EUR"),
        created_at=NOW - timedelta(days=3) + timedelta(seconds=number * 200_000 // PAYMENTS),
    )


def refund(of: GatewayPayment, number: int) -> GatewayRefund:
    return GatewayRefund(
        refund_id=f"ref_{number:06d}",
        payment_id=of.payment_id,
        reference=f"refund-{number:06d}",
        status=GatewayRefundStatus.SUCCEEDED,
        amount=Money(100, "EUR"),
        created_at=of.created_at + timedelta(minutes=5),
    )


def fill(books: Books, count: int) -> None:
    """Make payments that agree, in every state; some refunded, some whose answer we still look for."""
    kinds = {
        0: GatewayPaymentStatus.DECLINED,
        1: GatewayPaymentStatus.VOIDED,
        2: GatewayPaymentStatus.AUTHORIZED,
    }
    for number in range(count):
        made = payment(number, kinds.get(number % 20, GatewayPaymentStatus.CAPTURED))
        books.ours.append(made)
        books.theirs.append(made)
        if number % 20 == 3:
            books.our_refunds.append(refund(made, number))
            books.their_refunds.append(refund(made, number))
    books.unknown = [made.payment_id for made in books.ours[4::500]]


def plant(books: Books) -> None:
    """Plant fifty mismatches, ten of each kind of the goal, in captured payments."""
    for n in range(OF_EACH_KIND):
        first = (n + 1) * (PAYMENTS // (OF_EACH_KIND + 1)) // 20 * 20
        missing, amount, currency, extra, orphan = (first + offset for offset in (5, 6, 7, 8, 9))
        books.theirs[missing] = replace(books.theirs[missing], payment_id="")
        books.planted.append(("payment_missing_there", f"payment {books.ours[missing].reference}"))
        books.ours[extra] = replace(books.ours[extra], payment_id="")
        books.planted.append(("payment_missing_here", f"payment {books.theirs[extra].payment_id}"))
        seen = books.theirs[amount]
        more = Money(seen.amount.amount_minor + 1, "EUR")
        books.theirs[amount] = replace(seen, amount=more, captured=more)
        books.planted.append(("payment_amount_differs", f"payment {seen.payment_id}"))
        seen = books.theirs[currency]
        dollars = Money(seen.amount.amount_minor, "USD")
        books.theirs[currency] = replace(seen, amount=dollars, captured=dollars)
        books.planted.append(("payment_currency_differs", f"payment {seen.payment_id}"))
        books.their_refunds.append(refund(books.theirs[orphan], 900_000 + n))
        books.planted.append(("refund_missing_here", f"refund ref_{900_000 + n:06d}"))
    books.theirs = [each for each in books.theirs if each.payment_id]
    books.ours = [each for each in books.ours if each.payment_id]


def test_fifty_mismatches_in_five_thousand_payments_are_found_and_none_is_invented(books: Books) -> None:
    fill(books, PAYMENTS)
    plant(books)
    books.write()
    books.execute(INSERT_ATTEMPT)

    code, report = books.reconcile()

    assert code == 1
    found = [(finding["code"], finding["subject"]) for finding in report["findings"]]
    assert sorted(found) == sorted(books.planted)
    assert len(found) == 50
    gateway = report["gateways"][0]
    assert (gateway["payments"], gateway["refunds"]) == (len(books.theirs), len(books.their_refunds))
    # What is open here and decided there is no difference: it is looked at again at once.
    assert gateway["looked_at_again"] == len(books.unknown)
    due = "SELECT count(*) FROM payment_attempts WHERE next_at <= now() AND state = 'unknown'"
    assert books.execute(due) == [(len(books.unknown),)]
    assert books.execute("SELECT count(*) FROM payments WHERE version > 1") == [(0,)]


def test_a_finding_is_kept_until_a_comparison_no_longer_sees_it(books: Books) -> None:
    fill(books, 40)
    seen = books.theirs[6]
    more = Money(seen.amount.amount_minor + 1, "EUR")
    books.theirs[6] = replace(seen, amount=more, captured=more)
    books.write()
    stored = "SELECT code, subject, resolved_at IS NULL, last_seen_at > first_seen_at FROM gateway_findings"

    first, _ = books.reconcile()
    again, _ = books.reconcile()

    assert (first, again) == (1, 1)
    assert books.execute(stored) == [("payment_amount_differs", f"payment {seen.payment_id}", True, True)]
    books.theirs[6] = seen
    books.journal.write_bytes(b"".join(msgspec.json.encode(Line(payment=each)) + b"\n" for each in books.theirs))
    books.execute("DELETE FROM refunds")
    assert books.reconcile() == (0, {"findings": [], "gateways": [_any_gateway(books)]})
    assert books.execute(stored) == [("payment_amount_differs", f"payment {seen.payment_id}", False, True)]


def _any_gateway(books: Books) -> Any:
    class Summary:
        def __eq__(self, other: object) -> bool:
            assert isinstance(other, dict)
            return (other["gateway"], other["payments"], other["refunds"]) == ("sandbox", len(books.theirs), 0)

        __hash__ = None  # type: ignore[assignment]

    return Summary()


# What else two books can disagree on: (code, how the gateway's side differs).
OTHER_DIFFERENCES: dict[str, Callable[[GatewayPayment], GatewayPayment]] = {
    "payment_state_differs": lambda seen: replace(
        seen, status=GatewayPaymentStatus.AUTHORIZED, captured=Money(0, "EUR")
    ),
    "payment_captured_differs": lambda seen: replace(seen, captured=Money(seen.amount.amount_minor - 1, "EUR")),
    "payment_reference_differs": lambda seen: replace(seen, reference="somebody-else"),
}


@pytest.mark.parametrize("code", OTHER_DIFFERENCES)
def test_a_payment_that_became_something_else_is_found(code: str, books: Books) -> None:
    fill(books, 40)
    books.theirs[6] = OTHER_DIFFERENCES[code](books.theirs[6])
    books.write()

    _, report = books.reconcile()

    assert [(each["code"], each["subject"]) for each in report["findings"]] == [
        (code, f"payment {books.theirs[6].payment_id}")
    ]


def test_a_second_charge_with_one_reference_is_found(books: Books) -> None:
    fill(books, 40)
    books.theirs.append(replace(books.theirs[6], payment_id="pay_second"))
    books.write()

    _, report = books.reconcile()

    assert [(each["code"], each["subject"]) for each in report["findings"]] == [
        ("payment_made_twice", "payment pay_second")
    ]


def test_a_refund_that_the_gateway_lacks_or_counts_otherwise_is_found(books: Books) -> None:
    fill(books, 60)
    gone = books.their_refunds.pop(0)
    other = books.their_refunds[0]
    books.their_refunds[0] = replace(other, amount=Money(99, "EUR"))
    books.write()

    _, report = books.reconcile()

    assert sorted((each["code"], each["subject"]) for each in report["findings"]) == [
        ("refund_amount_differs", f"refund {other.refund_id}"),
        ("refund_missing_there", f"refund {gone.reference}"),
    ]


def test_only_the_given_span_is_looked_at(books: Books) -> None:
    fill(books, 40)
    books.theirs[6] = replace(books.theirs[6], reference="somebody-else")
    books.write()
    after = (books.theirs[6].created_at + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")

    code, report = books.reconcile("--since", after)

    assert (code, report["findings"]) == (0, [])


# ---------------------------------------------------------------- once a day, by one worker
class _Quiet(SandboxGateway):
    """A gateway without payments, of a name that nobody pays with."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]


class _Away(_Quiet):
    def list_payments(self, span: Any, *, after: str = "") -> Any:
        del span, after
        raise RateLimited("rate_limited", gateway=self.name)


def _in_threads(count: int, run: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def go() -> None:
        barrier.wait()
        results.append(run())

    threads = [threading.Thread(target=go) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def test_eight_workers_make_one_comparison_a_day(django_ready: None, db: psycopg.Connection[Any]) -> None:
    assert django_ready is None
    from counterfoil.orders.commands import Trace
    from counterfoil.payments.reconciliation import reconcile_if_due

    gateway = _Quiet("quiet")
    trace = Trace("job:reconcile-gateway", "test-request")

    made = _in_threads(8, lambda: reconcile_if_due(gateway, trace))

    assert len([each for each in made if each is not None]) == 1
    assert reconcile_if_due(gateway, trace) is None
    db.execute("UPDATE gateway_reconciliations SET started_at = now() - interval '25 h' WHERE gateway = 'quiet'")
    assert reconcile_if_due(gateway, trace) is not None


def test_a_gateway_that_is_away_is_asked_again_later_and_nothing_is_concluded(
    django_ready: None, db: psycopg.Connection[Any]
) -> None:
    assert django_ready is None
    from counterfoil.orders.commands import Trace
    from counterfoil.payments.reconciliation import GatewayAway, reconcile_if_due

    trace = Trace("job:reconcile-gateway", "test-request")

    with pytest.raises(GatewayAway):
        reconcile_if_due(_Away("away"), trace)

    assert reconcile_if_due(_Quiet("away"), trace) is None
    outcomes = "SELECT outcome FROM gateway_reconciliations WHERE gateway = 'away' ORDER BY id"
    assert db.execute(outcomes).fetchall() == [("failed",)]
    db.execute("UPDATE gateway_reconciliations SET started_at = now() - interval '31 min' WHERE gateway = 'away'")
    assert reconcile_if_due(_Quiet("away"), trace) is not None
    assert db.execute(outcomes).fetchall() == [("failed",), ("done",)]


def test_a_comparison_that_a_dead_worker_left_is_made_again(django_ready: None, db: psycopg.Connection[Any]) -> None:
    assert django_ready is None
    from counterfoil.orders.commands import Trace
    from counterfoil.payments.reconciliation import reconcile_if_due

    db.execute(
        "INSERT INTO gateway_reconciliations (gateway, is_daily, span_start, span_end, started_at)"
        " VALUES ('left', true, now() - interval '8 days', now(), now() - interval '7 hours')"
    )

    made = reconcile_if_due(_Quiet("left"), Trace("job:reconcile-gateway", "test-request"))

    assert made is not None
    outcomes = "SELECT outcome FROM gateway_reconciliations WHERE gateway = 'left' ORDER BY id"
    assert db.execute(outcomes).fetchall() == [("failed",), ("done",)]
