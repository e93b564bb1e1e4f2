"""Events written with the change they tell of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.postgres.functions import TransactionNow

from counterfoil.infrastructure.database import transaction_required
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
