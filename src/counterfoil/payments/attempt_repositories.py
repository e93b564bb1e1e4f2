"""All SQL of the calls to gateways: writing them down, taking them, keeping them, ending them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.kernel.money import Money
from counterfoil.payments import repositories
from counterfoil.payments.states import AttemptState, Operation
from counterfoil.payments.views import Call, PaymentView, RefundView

# Woken when a call is due; whoever does not listen looks once a second.
CALLS_CHANNEL: Final = "counterfoil_calls"


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """A call to be made; its key is new, or that of one that was certainly not executed."""

    payment_id: int
    refund_id: int | None
    operation: Operation
    gateway: str
    gateway_key: str
    amount: Money
    created_by: str
    request_id: str
    method: str = ""
    return_url: str = ""


@transaction_required
def insert_attempt(attempt: NewAttempt) -> None:
    """Write a call down, due now, and wake a worker; one that was not executed becomes due again with its key."""
    row = fetch_one(
        """
        INSERT INTO payment_attempts AS a (payment_id, refund_id, operation, gateway, gateway_key, amount, method,
                                           return_url, created_by, request_id)
        VALUES (%(payment_id)s, %(refund_id)s, %(operation)s, %(gateway)s, %(gateway_key)s, %(amount)s, %(method)s,
                %(return_url)s, %(created_by)s, %(request_id)s)
        ON CONFLICT (gateway_key) DO UPDATE
          SET state = 'due', next_at = now(), tries = 0, first_sent_at = NULL, finished_at = NULL,
              method = excluded.method, return_url = excluded.return_url
          WHERE a.state = 'not_executed' AND a.payment_id = excluded.payment_id
        RETURNING 1
        """,
        {
            "payment_id": attempt.payment_id,
            "refund_id": attempt.refund_id,
            "operation": attempt.operation.value,
            "gateway": attempt.gateway,
            "gateway_key": attempt.gateway_key,
            "amount": attempt.amount.to_decimal(),
            "method": attempt.method,
            "return_url": attempt.return_url,
            "created_by": attempt.created_by,
            "request_id": attempt.request_id,
        },
    )
    assert row is not None, "a key stands for one call"
    repositories.notify(CALLS_CHANNEL)


def find_attempt(gateway_key: str) -> tuple[int, Any] | None:
    """Return (payment id, amount) of the call with a key, or None."""
    row = fetch_one("SELECT payment_id, amount FROM payment_attempts WHERE gateway_key = %(key)s", {"key": gateway_key})
    return None if row is None else (row[0], row[1])


def first_gateway(payment_id: int) -> str:
    """Return the gateway that was to be asked first for a payment."""
    row = fetch_one(
        "SELECT gateway FROM payment_attempts WHERE payment_id = %(payment)s ORDER BY id LIMIT 1",
        {"payment": payment_id},
    )
    assert row is not None
    return str(row[0])


def has_unknown(payment_id: int) -> bool:
    """Tell whether the outcome of a call of this payment is not known."""
    sql = "SELECT 1 FROM payment_attempts WHERE payment_id = %(payment)s AND is_unknown LIMIT 1"
    return fetch_one(sql, {"payment": payment_id}) is not None


def count_rejected(payment_id: int, operation: Operation) -> int:
    """Count the calls of this kind that the gateway refused for good."""
    row = fetch_one(
        "SELECT count(*) FROM payment_attempts WHERE payment_id = %(payment)s AND operation = %(operation)s"
        " AND state IN ('declined', 'rejected')",
        {"payment": payment_id, "operation": operation.value},
    )
    assert row is not None
    return int(row[0])


_CLAIM: Final = """
WITH due AS (
  SELECT id, first_sent_at, finished_at FROM payment_attempts WHERE next_at <= now()
  ORDER BY next_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
UPDATE payment_attempts a
SET state = 'running', tries = a.tries + 1, fence = a.fence + 1, lease_until = now() + make_interval(secs => %(lease)s),
    next_at = now() + make_interval(secs => %(lease)s), first_sent_at = coalesce(a.first_sent_at, now()),
    noticed_at = NULL
FROM due WHERE a.id = due.id
RETURNING a.payment_id, a.refund_id, a.amount, a.id, a.fence, a.operation, a.gateway, a.gateway_key, a.method,
          a.return_url, due.first_sent_at IS NOT NULL, due.finished_at IS NOT NULL, a.is_unknown, a.tries - 1,
          a.first_sent_at, now(), extract(epoch FROM now() - a.first_sent_at)::float,
          extract(epoch FROM now() - a.created_at)::float, a.created_by, a.request_id
"""


@transaction_required
def claim_attempts(*, limit: int, lease_seconds: float) -> list[Call]:
    """Take up to `limit` calls that are due, or whose holder is gone, for `lease_seconds`; others skip them."""
    rows = fetch_all(_CLAIM, {"limit": limit, "lease": lease_seconds})
    if not rows:
        return []
    payment_ids, refund_ids = [row[0] for row in rows], [row[1] for row in rows if row[1] is not None]
    payments = {view.id: view for view in repositories.read_payments("p.id = ANY (%(ids)s)", {"ids": payment_ids})}
    known = repositories.read_refunds("id = ANY (%(ids)s)", {"ids": refund_ids}) if refund_ids else []
    refunds = {view.id: view for view in known}
    return [_call(row, payments[row[0]], refunds.get(row[1])) for row in rows]


def _call(row: tuple[Any, ...], payment: PaymentView, refund: RefundView | None) -> Call:
    return Call(
        payment=payment,
        refund=refund,
        amount=Money.from_decimal(row[2], payment.amount.currency),
        attempt_id=row[3],
        fence=row[4],
        operation=Operation(row[5]),
        gateway=row[6],
        key=row[7],
        method=row[8],
        return_url=row[9],
        was_sent=row[10],
        is_watch=row[11],
        is_unknown=row[12],
        looks=row[13],
        first_sent_at=row[14],
        claimed_at=row[15],
        sent_seconds=row[16],
        waiting_seconds=row[17],
        principal=row[18],
        request_id=row[19],
    )


def extend_leases(held: Sequence[tuple[int, int]], *, lease_seconds: float) -> None:
    """Keep the calls (id, fence) that are still being made; those taken over meanwhile are left alone.

    Like everything that locks several calls, in the order of their ids.
    """
    fetch_all(
        """
        UPDATE payment_attempts a
        SET lease_until = now() + make_interval(secs => %(lease)s), next_at = now() + make_interval(secs => %(lease)s)
        FROM (SELECT c.id, h.fence FROM payment_attempts c
              JOIN unnest(%(ids)s::bigint[], %(fences)s::bigint[]) AS h (id, fence) ON h.id = c.id
              ORDER BY c.id FOR UPDATE OF c) AS h
        WHERE a.id = h.id AND a.fence = h.fence AND a.state = 'running'
        """,
        {"lease": lease_seconds, "ids": [each[0] for each in held], "fences": [each[1] for each in held]},
    )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call leaves a worker's hands. `next_seconds` until it is taken again, None: never.

    `was_not_sent`: the gateway has certainly not seen it, so the next try is a first one.
    """

    state: AttemptState
    next_seconds: float | None
    error: str = ""
    is_unknown: bool = False
    was_not_sent: bool = False


@transaction_required
def end_attempt(call: Call, ending: Ending) -> bool:
    """Put a call down; False when somebody else has taken it since. What was secret in it goes when it is finished."""
    is_finished = ending.state not in {AttemptState.DUE, AttemptState.RUNNING, AttemptState.UNKNOWN}
    row = fetch_one(
        """
        UPDATE payment_attempts
        SET state = %(state)s, lease_until = NULL,
            next_at = now() + make_interval(secs => CASE
              WHEN noticed_at IS NOT NULL AND %(state)s <> 'due' AND %(next)s::float IS NOT NULL THEN 0
              ELSE %(next)s END),
            last_error = %(error)s, is_unknown = %(unknown)s,
            first_sent_at = CASE WHEN %(not_sent)s THEN NULL ELSE first_sent_at END,
            finished_at = CASE WHEN %(finished)s THEN coalesce(finished_at, now()) END,
            method = CASE WHEN %(finished)s THEN '' ELSE method END,
            return_url = CASE WHEN %(finished)s THEN '' ELSE return_url END
        WHERE id = %(id)s AND fence = %(fence)s AND state = 'running'
        RETURNING 1
        """,
        {
            "id": call.attempt_id,
            "fence": call.fence,
            "state": ending.state.value,
            "next": ending.next_seconds,
            "error": ending.error[:200],
            "unknown": ending.is_unknown,
            "not_sent": ending.was_not_sent,
            "finished": is_finished,
        },
    )
    return row is not None


@transaction_required
def end_watch(payment_id: int) -> None:
    """Stop waiting for a payment's buyer; a look that is under way can record nothing any more."""
    fetch_all(
        """
        UPDATE payment_attempts
        SET state = 'succeeded', next_at = NULL, lease_until = NULL, fence = fence + 1, is_unknown = false, method = '',
            return_url = '', finished_at = coalesce(finished_at, now())
        WHERE payment_id = %(payment)s AND operation = 'authorise' AND next_at IS NOT NULL
        """,
        {"payment": payment_id},
    )


# The last look found no decision. While another call of the same payment is open, that one tells.
_IS_FORGOTTEN: Final = """
a.state = 'succeeded' AND (
  (a.operation = 'refund' AND EXISTS (SELECT FROM refunds r WHERE r.id = a.refund_id AND r.status = 'processing'))
  OR (a.operation = 'authorise'
      AND EXISTS (SELECT FROM payments p
                  WHERE p.id = a.payment_id AND p.status IN ('processing', 'requires_payment'))
      AND NOT EXISTS (SELECT FROM payment_attempts o WHERE o.payment_id = a.payment_id AND o.operation <> 'refund'
                      AND o.state IN ('due', 'running', 'unknown'))))
"""


@transaction_required
def look_now(payment_id: int) -> int:
    """Let a payment's open calls go on at once, and those that are being made right after; returns how many.

    What the gateway has taken and not decided is waited for again, also when nobody looks by themselves any more.
    """
    rows = fetch_all(
        f"""
        UPDATE payment_attempts a
        SET noticed_at = now(), next_at = CASE WHEN a.state = 'running' THEN a.next_at ELSE now() END
        WHERE a.id IN (SELECT id FROM payment_attempts WHERE payment_id = %(payment)s ORDER BY id FOR UPDATE)
          AND (a.next_at IS NOT NULL OR a.state IN ('due', 'unknown') OR {_IS_FORGOTTEN})
        RETURNING 1
        """,
        {"payment": payment_id},
    )
    if rows:
        repositories.notify(CALLS_CHANNEL)
    return len(rows)


# How many calls wait, how many outcomes are not known, for how long the oldest has not been, how many need a person.
PAYMENT_STATE: Final = """
SELECT (SELECT count(*) FROM payment_attempts WHERE next_at <= now()),
       (SELECT count(*) FROM payment_attempts WHERE is_unknown),
       (SELECT coalesce(extract(epoch FROM now() - min(first_sent_at)), 0)::float
        FROM payment_attempts WHERE is_unknown),
       (SELECT count(*) FROM payments WHERE review_reason <> '')
"""
