"""All SQL of requests to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required

_COLUMNS = "user_id, requested_at, requested_by, step, deferred_reason, completed_at"


@dataclass(frozen=True, slots=True)
class Erasure:
    """How far a request is: `step` was done last, `deferred_reason` says what it waits for."""

    user_id: int
    requested_at: datetime
    requested_by: str
    step: str
    deferred_reason: str
    completed_at: datetime | None

    @property
    def state(self) -> str:
        """Return `completed`, `deferred` or `running`."""
        return "completed" if self.completed_at else "deferred" if self.deferred_reason else "running"


@transaction_required
def insert_request(user_id: int, *, requested_by: str) -> None:
    """Record a request, or leave the one there is. Joins the open transaction."""
    fetch_all(
        "INSERT INTO erasure_requests (user_id, requested_by) VALUES (%(user)s, %(by)s) ON CONFLICT DO NOTHING",
        {"user": user_id, "by": requested_by},
    )


@transaction_required
def take_over_request(user_id: int, *, requested_by: str) -> None:
    """Record a request of `requested_by`, also in place of another's. Joins the open transaction."""
    fetch_all(
        "INSERT INTO erasure_requests (user_id, requested_by) VALUES (%(user)s, %(by)s)"
        " ON CONFLICT (user_id) DO UPDATE SET requested_by = excluded.requested_by"
        " WHERE erasure_requests.requested_by <> excluded.requested_by",
        {"user": user_id, "by": requested_by},
    )


@transaction_required
def lock_request(user_id: int) -> Erasure | None:
    """Lock a request until the end of the open transaction and return it, or None."""
    row = fetch_one(f"SELECT {_COLUMNS} FROM erasure_requests WHERE user_id = %(user)s FOR UPDATE", {"user": user_id})
    return None if row is None else Erasure(*row)


def read_request(user_id: int) -> Erasure | None:
    """Return a request, or None."""
    row = fetch_one(f"SELECT {_COLUMNS} FROM erasure_requests WHERE user_id = %(user)s", {"user": user_id})
    return None if row is None else Erasure(*row)


@transaction_required
def write_step(user_id: int, *, step: str, last: bool) -> None:
    """Record that a step was done, in its transaction."""
    fetch_all(
        "UPDATE erasure_requests SET step = %(step)s, deferred_reason = '',"
        " completed_at = CASE WHEN %(last)s THEN now() END WHERE user_id = %(user)s",
        {"user": user_id, "step": step, "last": last},
    )


@transaction_required
def write_reason(user_id: int, *, reason: str) -> None:
    """Record what a request waits for, when that is something new: each change leaves an audit entry."""
    fetch_all(
        "UPDATE erasure_requests SET deferred_reason = %(reason)s"
        " WHERE user_id = %(user)s AND completed_at IS NULL AND deferred_reason <> %(reason)s",
        {"user": user_id, "reason": reason},
    )


def read_waiting(*, waited_seconds: int, but: Sequence[int], limit: int) -> list[int]:
    """Return up to `limit` requests, oldest first, that are not completed after so many seconds, but for some."""
    rows = fetch_all(
        """
        SELECT user_id FROM erasure_requests
        WHERE completed_at IS NULL AND requested_at <= now() - make_interval(secs => %(seconds)s)
          AND user_id <> ALL (%(but)s::bigint[])
        ORDER BY requested_at LIMIT %(limit)s
        """,
        {"seconds": waited_seconds, "but": list(but), "limit": limit},
    )
    return [row[0] for row in rows]


def read_requests(*, limit: int) -> list[Erasure]:
    """Return up to `limit` requests: those not completed, oldest first, then the others, newest first."""
    rows = fetch_all(
        f"SELECT {_COLUMNS} FROM erasure_requests"
        " ORDER BY completed_at IS NOT NULL, completed_at DESC, requested_at LIMIT %(limit)s",
        {"limit": limit},
    )
    return [Erasure(*row) for row in rows]
