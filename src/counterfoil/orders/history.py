"""An order as it is and as it was, from its facts and events (rule, pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from counterfoil.orders.events import OrderFacts, TimelineEntry
from counterfoil.orders.states import BEGINNINGS, TRANSITIONS, OrderStatus


class OrderView(msgspec.Struct, frozen=True):
    """An order as it is now (or was, for `?at=`): the facts plus its four axes."""

    facts: OrderFacts
    status: OrderStatus
    payment_status: str
    fulfillment_status: str
    return_status: str
    placed_at: datetime | None
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Return the entity tag: it changes with every event and when the reservation runs out."""
        return f'"{self.facts.version}-{self.status}"'


# The status an order has after each event.
STATUS_AFTER: Final[dict[str, OrderStatus]] = {
    **{event: status for status, event in BEGINNINGS.items()},
    **{step.event: step.after for step in TRANSITIONS if step.event != "order.updated"},
}


def order_as_of(timeline: Sequence[TimelineEntry], instant: datetime) -> OrderView | None:
    """Fold the events up to and including `instant` into the order as it was; None when it did not exist yet."""
    past = [entry for entry in timeline if entry.occurred_at <= instant]
    if not past:
        return None
    status = OrderStatus.DRAFT
    placed_at = None
    for entry in past:
        status = STATUS_AFTER.get(entry.type, status)
        if entry.type == "order.created":
            placed_at = entry.occurred_at
    return OrderView(
        facts=past[-1].facts,
        status=status,
        payment_status="unpaid",
        fulfillment_status="unfulfilled",
        return_status="none",
        placed_at=placed_at,
        updated_at=past[-1].occurred_at,
    )
