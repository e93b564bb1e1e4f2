"""Events and audit entries written with the change they tell of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from psycopg.types.json import Jsonb

from counterfoil.infrastructure.database import fetch_all, transaction_required
from counterfoil.infrastructure.models import OutboxEvent
from counterfoil.kernel.ids import new_uuid7


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One event to append: the `seq`-th of its aggregate, counted from 1 without a gap."""

    aggregate: str
    aggregate_id: int
    seq: int
    type: str
    payload: dict[str, Any]


@transaction_required
def append_events(events: Sequence[NewEvent], *, actor: str, cause: str) -> None:
    """Append events in one statement. Joins the open transaction, which holds the row locks of their aggregates."""
    OutboxEvent.objects.bulk_create(
        OutboxEvent(
            event_id=new_uuid7(),
            aggregate=event.aggregate,
            aggregate_id=event.aggregate_id,
            seq=event.seq,
            type=event.type,
            payload=event.payload,
            actor=actor,
            cause=cause,
            # The clock of the change itself: the column's default would be that of this statement.
            occurred_at=TransactionNow(),
        )
        for event in events
    )


def read_audit_about_user(user_id: int, *, after: int, limit: int) -> list[tuple[Any, ...]]:
    """Return (id, instant, actor, action, request, reason) of up to `limit` entries about an account, above `after`.

    That is what was done to it, and who of the staff has read it.
    """
    return fetch_all(
        """
        SELECT id, occurred_at, actor, action, request_id, reason FROM audit_entries
        WHERE id > %(after)s AND target = 'user'
          AND (target_id = %(user)s OR (action = 'user.read' AND changes -> 'users' @> to_jsonb(%(user)s::bigint)))
        ORDER BY id LIMIT %(limit)s
        """,
        {"user": user_id, "after": after, "limit": limit},
    )


@transaction_required
def append_audit(
    *,
    actor: str,
    action: str,
    target: str,
    target_ids: Sequence[int],
    request_id: str,
    reason: str = "",
    changes: dict[str, Any] | None = None,
) -> None:
    """Append one audit entry per target in one statement. Joins the open transaction of the change itself."""
    # Not through the model: for the thousands of targets of a bulk load its objects cost ten times the insert.
    fetch_all(
        """
        INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id, reason, changes)
        SELECT now(), %(actor)s, %(action)s, %(target)s, target_id, %(request)s, %(reason)s, %(changes)s::jsonb
        FROM unnest(%(targets)s::bigint[]) AS target_id
        """,
        {
            "actor": actor,
            "action": action,
            "target": target,
            "request": request_id,
            "reason": reason,
            "changes": None if changes is None else Jsonb(changes),
            "targets": list(target_ids),
        },
    )
