"""All SQL of payments and refunds, of the ledger and of notices; the calls are in attempt_repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.kernel.money import Money
from counterfoil.payments.states import UNDECIDED, NoticeVerdict, PaymentState, RefundState
from counterfoil.payments.views import PaymentTotals, PaymentView, RefundView

_UNDECIDED: Final = sorted(state.value for state in UNDECIDED)
_OPEN: Final = "('due', 'running', 'unknown')"
_PAYMENTS: Final = f"""
SELECT p.id, p.order_id, p.gateway, p.reference, p.gateway_payment_id, p.status, p.amount, p.currency,
       p.captured_amount, p.refunded_amount,
       (SELECT coalesce(sum(r.amount), 0) FROM refunds r WHERE r.payment_id = p.id AND r.status <> 'failed'),
       p.capture_now, p.decline_code, p.action_url, p.review_reason, coalesce(a.operation, ''),
       p.status = 'unknown' OR coalesce(a.is_unknown, false), p.version, p.created_at, p.updated_at
FROM payments p
LEFT JOIN payment_attempts a ON a.payment_id = p.id AND a.operation <> 'refund' AND a.state IN {_OPEN}
"""
_REFUNDS: Final = """
SELECT id, payment_id, order_id, reference, gateway_refund_id, amount, currency, status, reason, automatic,
       failure_code, version, created_at, updated_at
FROM refunds
"""
_LIST_MAX: Final = 1000


# ---------------------------------------------------------------- reading
def read_payments(where: str, parameters: dict[str, Any]) -> list[PaymentView]:
    """Return payments by id; `where` is fixed text of this package."""
    rows = fetch_all(f"{_PAYMENTS} WHERE {where} ORDER BY p.id LIMIT {_LIST_MAX}", parameters)
    return [_payment(row) for row in rows]


def read_payment(payment_id: int) -> PaymentView | None:
    """Return one payment, or None."""
    return next(iter(read_payments("p.id = %(id)s", {"id": payment_id})), None)


def read_refunds(where: str, parameters: dict[str, Any]) -> list[RefundView]:
    """Return refunds by id; `where` is fixed text of this package."""
    return [_refund(row) for row in fetch_all(f"{_REFUNDS} WHERE {where} ORDER BY id LIMIT {_LIST_MAX}", parameters)]


def read_refund(refund_id: int) -> RefundView | None:
    """Return one refund, or None."""
    return next(iter(read_refunds("id = %(id)s", {"id": refund_id})), None)


def _payment(row: tuple[Any, ...]) -> PaymentView:
    currency = row[7]
    captured, asked_back = Money.from_decimal(row[8], currency), Money.from_decimal(row[10], currency)
    return PaymentView(
        id=row[0],
        order_id=row[1],
        gateway=row[2],
        reference=row[3],
        gateway_payment_id=row[4],
        status=PaymentState(row[5]),
        amount=Money.from_decimal(row[6], currency),
        captured=captured,
        refunded=Money.from_decimal(row[9], currency),
        refundable=captured + asked_back * -1,
        capture_now=row[11],
        decline_code=row[12],
        action_url=row[13],
        review_reason=row[14],
        pending=row[15],
        is_unknown=row[16],
        version=row[17],
        created_at=row[18],
        updated_at=row[19],
    )


def _refund(row: tuple[Any, ...]) -> RefundView:
    return RefundView(
        id=row[0],
        payment_id=row[1],
        order_id=row[2],
        reference=row[3],
        gateway_refund_id=row[4],
        amount=Money.from_decimal(row[5], row[6]),
        status=RefundState(row[7]),
        reason=row[8],
        automatic=row[9],
        failure_code=row[10],
        version=row[11],
        created_at=row[12],
        updated_at=row[13],
    )


def read_totals(order_id: int, currency: str) -> PaymentTotals:
    """Return the sums of an order's payments; all of them are in the order's currency."""
    row = fetch_one(
        f"""
        SELECT coalesce(sum(p.amount) FILTER (WHERE p.status = 'authorized'), 0),
               coalesce(sum(p.captured_amount), 0), coalesce(sum(p.refunded_amount), 0),
               coalesce(bool_or(p.status = ANY (%(undecided)s)), false)
                 OR EXISTS (SELECT FROM payment_attempts a JOIN payments o ON o.id = a.payment_id
                            WHERE o.order_id = %(order)s AND a.state IN {_OPEN}),
               coalesce(bool_or(p.status = 'unknown'), false)
                 OR EXISTS (SELECT FROM payment_attempts a JOIN payments o ON o.id = a.payment_id
                            WHERE o.order_id = %(order)s AND a.is_unknown),
               coalesce(sum(p.amount) FILTER (WHERE p.status = 'authorized' AND EXISTS (
                   SELECT FROM payment_attempts a
                   WHERE a.payment_id = p.id AND a.operation = 'void' AND a.state IN {_OPEN})), 0)
                 + (SELECT coalesce(sum(r.amount), 0) FROM refunds r
                    WHERE r.order_id = %(order)s AND r.status NOT IN ('succeeded', 'failed'))
        FROM payments p WHERE p.order_id = %(order)s AND p.currency = %(currency)s
        """,
        {"order": order_id, "currency": currency, "undecided": _UNDECIDED},
    )
    assert row is not None
    authorized, captured, refunded = (Money.from_decimal(amount, currency) for amount in row[:3])
    leaving = Money.from_decimal(row[5], currency)
    return PaymentTotals(authorized, captured, refunded, leaving, in_flight=row[3], unknown=row[4])


def find_by_client_key(principal: str, client_key: str) -> tuple[int, int] | None:
    """Return (id, generation) of the latest payment that was asked for with a client's key, or None."""
    row = fetch_one(
        "SELECT id, generation FROM payments WHERE principal = %(principal)s AND client_key = %(key)s"
        " ORDER BY generation DESC LIMIT 1",
        {"principal": principal, "key": client_key},
    )
    return None if row is None else (row[0], row[1])


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Where a payment's keys come from."""

    principal: str
    client_key: str
    generation: int


def read_key_owner(payment_id: int) -> KeyOwner:
    """Return what the keys of a payment's calls are made of."""
    row = fetch_one("SELECT principal, client_key, generation FROM payments WHERE id = %(id)s", {"id": payment_id})
    assert row is not None
    return KeyOwner(*row)


def has_undecided(order_id: int) -> bool:
    """Tell whether a payment of an order is undecided."""
    return (
        fetch_one(
            "SELECT 1 FROM payments WHERE order_id = %(order)s AND status = ANY (%(undecided)s) LIMIT 1",
            {"order": order_id, "undecided": _UNDECIDED},
        )
        is not None
    )


# ---------------------------------------------------------------- writing
@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment to be written down."""

    order_id: int
    gateway: str
    reference: str
    amount: Money
    capture_now: bool
    owner: KeyOwner


@dataclass(frozen=True, slots=True)
class NewRefund:
    """A refund to be written down."""

    payment_id: int
    reference: str
    amount: Money
    reason: str
    automatic: bool
    owner: KeyOwner


@transaction_required
def insert_payment(new: NewPayment) -> int | None:
    """Insert a payment; None when its order has an undecided one, or its client's key was used, at this moment."""
    row = fetch_one(
        """
        INSERT INTO payments (order_id, gateway, reference, amount, currency, capture_now, principal, client_key,
                              generation)
        VALUES (%(order_id)s, %(gateway)s, %(reference)s, %(amount)s, %(currency)s, %(capture_now)s, %(principal)s,
                %(client_key)s, %(generation)s)
        ON CONFLICT DO NOTHING RETURNING id
        """,
        {
            "order_id": new.order_id,
            "gateway": new.gateway,
            "reference": new.reference,
            "amount": new.amount.to_decimal(),
            "currency": new.amount.currency,
            "capture_now": new.capture_now,
            "principal": new.owner.principal,
            "client_key": new.owner.client_key,
            "generation": new.owner.generation,
        },
    )
    return None if row is None else int(row[0])


@transaction_required
def lock_payment(payment_id: int) -> PaymentView | None:
    """Lock a payment and return it as it is then, or None. Its order is locked before it, its refunds after."""
    if fetch_one("SELECT 1 FROM payments WHERE id = %(id)s FOR UPDATE", {"id": payment_id}) is None:
        return None
    # A statement of its own: what others have committed while this one waited is seen by the next.
    return read_payment(payment_id)


@transaction_required
def change_payment(payment_id: int, values: dict[str, Any]) -> None:
    """Set columns of a payment that is locked; the version rises by one. Names of columns are fixed in this package."""
    assignments = ", ".join(f"{column} = %({column})s" for column in values)
    fetch_all(
        f"UPDATE payments SET {assignments}, version = version + 1, updated_at = now() WHERE id = %(payment)s",
        {**values, "payment": payment_id},
    )


@transaction_required
def insert_refund(new: NewRefund) -> int | None:
    """Insert a refund if all of them together stay within what was captured; the payment must be locked.

    None when they do not, or when it is a second automatic one.
    """
    row = fetch_one(
        """
        INSERT INTO refunds (payment_id, order_id, reference, amount, currency, reason, automatic, principal,
                             client_key)
        SELECT p.id, p.order_id, %(reference)s, %(amount)s, p.currency, %(reason)s, %(automatic)s, %(principal)s,
               %(client_key)s
        FROM payments p
        WHERE p.id = %(payment_id)s AND p.captured_amount >= %(amount)s::numeric + (
          SELECT coalesce(sum(r.amount), 0) FROM refunds r WHERE r.payment_id = p.id AND r.status <> 'failed')
        ON CONFLICT DO NOTHING RETURNING id
        """,
        {
            "payment_id": new.payment_id,
            "reference": new.reference,
            "amount": new.amount.to_decimal(),
            "reason": new.reason,
            "automatic": new.automatic,
            "principal": new.owner.principal,
            "client_key": new.owner.client_key,
        },
    )
    return None if row is None else int(row[0])


@transaction_required
def change_refund(refund_id: int, *, status: RefundState, gateway_refund_id: str, failure_code: str) -> None:
    """Set a refund's state; its payment is locked."""
    fetch_all(
        """
        UPDATE refunds SET status = %(status)s, failure_code = %(code)s, version = version + 1, updated_at = now(),
               gateway_refund_id = CASE WHEN %(gateway_id)s = '' THEN gateway_refund_id ELSE %(gateway_id)s END
        WHERE id = %(id)s
        """,
        {"id": refund_id, "status": status.value, "gateway_id": gateway_refund_id, "code": failure_code},
    )


@transaction_required
def insert_posting(
    *,
    posting: UUID,
    order_id: int,
    payment_id: int,
    refund_id: int | None,
    gateway: str,
    kind: str,
    entries: Sequence[tuple[str, Money]],
) -> None:
    """Insert the entries (account, amount) of one posting."""
    fetch_all(
        """
        INSERT INTO ledger_entries (posting, order_id, payment_id, refund_id, gateway, account, amount, currency, kind)
        SELECT %(posting)s, %(order)s, %(payment)s, %(refund)s, %(gateway)s, account, amount, %(currency)s, %(kind)s
        FROM unnest(%(accounts)s::text[], %(amounts)s::numeric[]) AS e (account, amount)
        """,
        {
            "posting": posting,
            "order": order_id,
            "payment": payment_id,
            "refund": refund_id,
            "gateway": gateway,
            "currency": entries[0][1].currency,
            "kind": kind,
            "accounts": [account for account, _ in entries],
            "amounts": [amount.to_decimal() for _, amount in entries],
        },
    )


def read_balance(order_id: int, currency: str) -> Money:
    """Return what the ledger says is in an order: captured and not given back."""
    row = fetch_one(
        "SELECT coalesce(-sum(amount), 0) FROM ledger_entries WHERE order_id = %(order)s AND account = 'order'",
        {"order": order_id},
    )
    assert row is not None
    return Money.from_decimal(row[0], currency)


# ---------------------------------------------------------------- notices and wake-ups
@transaction_required
def insert_notice(values: dict[str, Any], *, verdict: NoticeVerdict) -> bool:
    """Write a notice down; False when it was accepted before."""
    row = fetch_one(
        """
        INSERT INTO gateway_notices (gateway, event_id, type, verdict, detail, payment_id, body_hash)
        VALUES (%(gateway)s, %(event_id)s, %(type)s, %(verdict)s, %(detail)s, %(payment_id)s, %(body_hash)s)
        ON CONFLICT DO NOTHING RETURNING id
        """,
        {**values, "verdict": verdict.value},
    )
    return row is not None


@transaction_required
def insert_unbelieved_notice(values: dict[str, Any], *, verdict: NoticeVerdict, minute_max: int) -> bool:
    """Write down a notice that anybody may have sent; False when the last minute has `minute_max` of them.

    Roughly: those that are being written at this moment are not seen.
    """
    row = fetch_one(
        """
        INSERT INTO gateway_notices (gateway, event_id, type, verdict, detail, body_hash)
        SELECT %(gateway)s, '', '', %(verdict)s, %(detail)s, %(body_hash)s
        WHERE (SELECT count(*) FROM (
                 SELECT FROM gateway_notices
                 WHERE received_at > now() - interval '1 minute' AND verdict IN ('forged', 'stale', 'malformed')
                 LIMIT %(most)s) AS lately) < %(most)s
        RETURNING id
        """,
        {**values, "verdict": verdict.value, "most": minute_max},
    )
    return row is not None


@transaction_required
def delete_notices(*, days: int, limit: int) -> int:
    """Delete up to `limit` notices older than so many days; returns how many."""
    row = fetch_one(
        """
        WITH gone AS (
          DELETE FROM gateway_notices WHERE id IN (
            SELECT id FROM gateway_notices WHERE received_at < now() - make_interval(days => %(days)s)
            ORDER BY received_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
          RETURNING 1)
        SELECT count(*) FROM gone
        """,
        {"days": days, "limit": limit},
    )
    assert row is not None
    return int(row[0])


@transaction_required
def notify(channel: str, payload: str = "") -> None:
    """Wake whoever listens, when the transaction commits."""
    fetch_all("SELECT pg_notify(%(channel)s, %(payload)s)", {"channel": channel, "payload": payload})
