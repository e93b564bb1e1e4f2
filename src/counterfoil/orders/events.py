"""Facts about orders, as they are stored and sent: ids, amounts and versions, never personal data."""

from __future__ import annotations

from datetime import datetime

import msgspec


class ItemFacts(msgspec.Struct, frozen=True):
    """One line as sold; `unit_price_minor` counts the smallest unit of the order's currency."""

    product_id: int
    sku: str
    name: str
    quantity: int
    unit_price_minor: int


class OrderFacts(msgspec.Struct, frozen=True):
    """Payload of every `order.*` event: the whole order after the event."""

    order_id: int
    user_id: int
    currency: str
    total_minor: int
    client_reference: str | None
    version: int
    created_at: datetime
    reserved_until: datetime | None
    items: tuple[ItemFacts, ...]


class TimelineEntry(msgspec.Struct, frozen=True):
    """One event of an order: what happened, when, by whom, because of which request."""

    seq: int
    type: str
    occurred_at: datetime
    actor: str
    request_id: str
    facts: OrderFacts
