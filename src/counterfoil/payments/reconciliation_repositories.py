"""All SQL of comparisons with gateways."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.kernel.money import Money
from counterfoil.payments.comparison import MUST_BE_THERE, BookedPayment, BookedRefund, Difference
from counterfoil.payments.gateways.base import TimeSpan
from counterfoil.payments.states import PaymentState, RefundState

# A daily comparison that has not ended after this was left by a worker that died.
_RUNNING_HOURS_MAX: Final = 6
# A gateway that was away is asked again after this, not a day later.
_FAILED_MINUTES: Final = 30

_OPEN: Final = "('due', 'running', 'unknown')"
_PAYMENTS: Final = f"""
SELECT p.id, p.order_id, p.reference, p.gateway_payment_id, p.status, p.amount, p.captured_amount, p.currency,
       EXISTS (SELECT FROM payment_attempts a
               WHERE a.payment_id = p.id AND a.operation <> 'refund' AND (a.state IN {_OPEN} OR a.next_at IS NOT NULL)),
       p.review_reason, p.version, p.created_at
FROM payments p
"""
_REFUNDS: Final = f"""
SELECT r.id, r.payment_id, r.order_id, r.reference, r.gateway_refund_id, p.gateway_payment_id, r.status, r.amount,
       r.currency, EXISTS (SELECT FROM payment_attempts a WHERE a.refund_id = r.id AND a.state IN {_OPEN}),
       r.version, r.created_at
FROM refunds r JOIN payments p ON p.id = r.payment_id
"""


def read_booked_payments(gateway: str, *, references: Sequence[str], gateway_ids: Sequence[str]) -> list[BookedPayment]:
    """Return our payments at a gateway that have one of these references or one of these ids of the gateway's."""
    return [
        _payment(row)
        for row in fetch_all(
            f"{_PAYMENTS} WHERE p.reference = ANY (%(references)s)"
            f" UNION {_PAYMENTS} WHERE p.gateway = %(gateway)s AND p.gateway_payment_id = ANY (%(ids)s)",
            {"gateway": gateway, "references": list(references), "ids": list(gateway_ids)},
        )
    ]


def read_booked_payment(payment_id: int) -> BookedPayment:
    """Return one of our payments as it is now."""
    row = fetch_one(f"{_PAYMENTS} WHERE p.id = %(id)s", {"id": payment_id})
    assert row is not None
    return _payment(row)


def list_booked_payments(gateway: str, span: TimeSpan, *, after: int, limit: int) -> list[BookedPayment]:
    """Return up to `limit` of our payments of a span, above an id, that the gateway must have, by id."""
    return [
        _payment(row)
        for row in fetch_all(
            f"{_PAYMENTS} WHERE p.gateway = %(gateway)s AND p.id > %(after)s AND p.status = ANY (%(statuses)s)"
            " AND p.created_at >= %(start)s AND p.created_at < %(end)s ORDER BY p.id LIMIT %(limit)s",
            {
                "gateway": gateway,
                "after": after,
                "statuses": [status.value for status in MUST_BE_THERE],
                "start": span.start,
                "end": span.end,
                "limit": limit,
            },
        )
    ]


def read_booked_refunds(gateway: str, *, references: Sequence[str], gateway_ids: Sequence[str]) -> list[BookedRefund]:
    """Return our refunds at a gateway that have one of these references or one of these ids of the gateway's."""
    return [
        _refund(row)
        for row in fetch_all(
            f"{_REFUNDS} WHERE p.gateway = %(gateway)s AND r.id IN ("
            " SELECT id FROM refunds WHERE reference = ANY (%(references)s)"
            " UNION SELECT id FROM refunds WHERE gateway_refund_id = ANY (%(ids)s) AND gateway_refund_id <> '')",
            {"gateway": gateway, "references": list(references), "ids": list(gateway_ids)},
        )
    ]


def read_booked_refund(refund_id: int) -> BookedRefund:
    """Return one of our refunds as it is now."""
    row = fetch_one(f"{_REFUNDS} WHERE r.id = %(id)s", {"id": refund_id})
    assert row is not None
    return _refund(row)


def list_booked_refunds(gateway: str, span: TimeSpan, *, after: int, limit: int) -> list[BookedRefund]:
    """Return up to `limit` of our succeeded refunds of a span, above an id, by id."""
    return [
        _refund(row)
        for row in fetch_all(
            f"{_REFUNDS} WHERE p.gateway = %(gateway)s AND r.id > %(after)s AND r.status = 'succeeded'"
            " AND r.created_at >= %(start)s AND r.created_at < %(end)s ORDER BY r.id LIMIT %(limit)s",
            {"gateway": gateway, "after": after, "start": span.start, "end": span.end, "limit": limit},
        )
    ]


def _payment(row: tuple[Any, ...]) -> BookedPayment:
    return BookedPayment(
        id=row[0],
        order_id=row[1],
        reference=row[2],
        gateway_payment_id=row[3],
        status=PaymentState(row[4]),
        amount=Money.from_decimal(row[5], row[7]),
        captured=Money.from_decimal(row[6], row[7]),
        is_under_way=row[8],
        review_reason=row[9],
        version=row[10],
        created_at=row[11],
    )


def _refund(row: tuple[Any, ...]) -> BookedRefund:
    return BookedRefund(
        id=row[0],
        payment_id=row[1],
        order_id=row[2],
        reference=row[3],
        gateway_refund_id=row[4],
        gateway_payment_id=row[5],
        status=RefundState(row[6]),
        amount=Money.from_decimal(row[7], row[8]),
        is_under_way=row[9],
        version=row[10],
        created_at=row[11],
    )


# ---------------------------------------------------------------- comparisons and findings
def read_clock() -> datetime:
    """Return the database's time."""
    row = fetch_one("SELECT clock_timestamp()")
    assert row is not None
    instant = row[0]
    assert isinstance(instant, datetime)
    return instant


@transaction_required
def begin_comparison(gateway: str, span: TimeSpan) -> int:
    """Note that a comparison begins, asked for by a person; returns its id."""
    row = fetch_one(
        "INSERT INTO gateway_reconciliations (gateway, is_daily, span_start, span_end)"
        " VALUES (%(gateway)s, false, %(start)s, %(end)s) RETURNING id",
        {"gateway": gateway, "start": span.start, "end": span.end},
    )
    assert row is not None
    return int(row[0])


@transaction_required
def begin_daily_comparison(gateway: str, *, days: int) -> tuple[int, TimeSpan] | None:
    """Note that today's comparison begins, if it is due and nobody else makes it; returns its id and span."""
    fetch_all(
        """
        UPDATE gateway_reconciliations SET outcome = 'failed', finished_at = now()
        WHERE gateway = %(gateway)s AND outcome = 'running' AND is_daily
          AND started_at < now() - make_interval(hours => %(hours)s)
        """,
        {"gateway": gateway, "hours": _RUNNING_HOURS_MAX},
    )
    row = fetch_one(
        """
        INSERT INTO gateway_reconciliations (gateway, is_daily, span_start, span_end)
        SELECT %(gateway)s, true, now() - make_interval(days => %(days)s), now()
        WHERE NOT EXISTS (
          SELECT FROM gateway_reconciliations WHERE gateway = %(gateway)s AND is_daily
            AND (started_at > now() - interval '1 day' AND outcome = 'done'
                 OR started_at > now() - make_interval(mins => %(minutes)s) AND outcome = 'failed'))
        ON CONFLICT DO NOTHING
        RETURNING id, span_start, span_end
        """,
        {"gateway": gateway, "days": days, "minutes": _FAILED_MINUTES},
    )
    return None if row is None else (int(row[0]), TimeSpan(row[1], row[2]))


@transaction_required
def write_findings(gateway: str, found: Sequence[Difference]) -> None:
    """Store differences: a new one is first seen now, a known one is seen again."""
    fetch_all(
        """
        INSERT INTO gateway_findings (gateway, code, subject, sentence, order_id, payment_id, refund_id, subject_at)
        SELECT DISTINCT ON (code, subject) %(gateway)s, code, subject, sentence, order_id, payment_id, refund_id,
               subject_at
        FROM unnest(%(codes)s::text[], %(subjects)s::text[], %(sentences)s::text[], %(orders)s::bigint[],
                    %(payments)s::bigint[], %(refunds)s::bigint[], %(instants)s::timestamptz[])
          AS f (code, subject, sentence, order_id, payment_id, refund_id, subject_at)
        ON CONFLICT (gateway, code, subject) WHERE resolved_at IS NULL
          DO UPDATE SET last_seen_at = now(), sentence = excluded.sentence
        """,
        {
            "gateway": gateway,
            "codes": [each.code for each in found],
            "subjects": [each.subject for each in found],
            "sentences": [each.sentence for each in found],
            "orders": [each.order_id for each in found],
            "payments": [each.payment_id for each in found],
            "refunds": [each.refund_id for each in found],
            "instants": [each.subject_at for each in found],
        },
    )


@transaction_required
def finish_comparison(
    comparison_id: int, *, outcome: str, payments: int = 0, refunds: int = 0, findings: int = 0
) -> None:
    """Note how a comparison ended; one that was done has resolved what it did not see again in its span."""
    fetch_all(
        """
        UPDATE gateway_reconciliations SET outcome = %(outcome)s, finished_at = now(), payments = %(payments)s,
               refunds = %(refunds)s, findings = %(findings)s
        WHERE id = %(id)s
        """,
        {"id": comparison_id, "outcome": outcome, "payments": payments, "refunds": refunds, "findings": findings},
    )
    if outcome == "done":
        fetch_all(
            """
            UPDATE gateway_findings f SET resolved_at = now() FROM gateway_reconciliations c
            WHERE c.id = %(id)s AND f.gateway = c.gateway AND f.resolved_at IS NULL AND f.last_seen_at < c.started_at
              AND f.subject_at >= c.span_start AND f.subject_at < c.span_end
            """,
            {"id": comparison_id},
        )


# How many findings are open, and for how long no comparison has been done (0 when none ever was).
RECONCILIATION_STATE: Final = """
SELECT (SELECT count(*) FROM gateway_findings WHERE resolved_at IS NULL),
       (SELECT coalesce(extract(epoch FROM now() - max(finished_at)), 0)::float
        FROM gateway_reconciliations WHERE outcome = 'done')
"""
