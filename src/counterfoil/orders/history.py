"""An order as it is and as it was, from its facts and events (rule, pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from counterfoil.orders.axes import is_covered
from counterfoil.orders.events import OrderFacts, TimelineEntry
from counterfoil.orders.states import BEGINNINGS, TRANSITIONS, OrderStatus, Situation


class OrderView(msgspec.Struct, frozen=True):
    """An order as it is now (or was, for `?at=`): the facts, its status, and what else decides what may be done.

    The flags and windows are those of the database's clock when the order was read.
    """

    facts: OrderFacts
    status: OrderStatus
    placed_at: datetime | None
    updated_at: datetime
    payment_in_flight: bool = False
    is_held: bool = False
    has_open_return: bool = False
    within_cancel_window: bool = True
    within_return_window: bool = True

    @property
    def situation(self) -> Situation:
        """Return what the guards of transitions look at."""
        facts = self.facts
        return Situation(
            status=self.status,
            payment_status=facts.payment_status,
            fulfillment_status=facts.fulfillment_status,
            return_status=facts.return_status,
            payment_in_flight=self.payment_in_flight,
            is_covered=is_covered(
                total=facts.total_minor,
                authorized=facts.authorized_minor,
                captured=facts.captured_minor,
                refunded=facts.refunded_minor,
            ),
            has_captured=facts.captured_minor > facts.refunded_minor,
            is_held=self.is_held,
            has_open_return=self.has_open_return,
            within_cancel_window=self.within_cancel_window,
            within_return_window=self.within_return_window,
        )

    @property
    def etag(self) -> str:
        """Return the entity tag: it changes with every event and when the reservation runs out."""
        return f'"{self.facts.version}-{self.status}"'


# The status an order has after each event.
STATUS_AFTER: Final[dict[str, OrderStatus]] = {
    **{event: status for status, event in BEGINNINGS.items()},
    **{step.event: step.after for step in TRANSITIONS if step.before is not step.after},
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
        placed_at=placed_at,
        updated_at=past[-1].occurred_at,
    )
