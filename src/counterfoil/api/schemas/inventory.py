"""Stock on the wire. All quantities are units."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import OptionalLine
from counterfoil.inventory.services import Level

# Ten times the largest line of an order.
UNITS_MAX = 10_000_000


class ManualKind(StrEnum):
    """Why somebody changes the stock: goods came in, a count differs, goods were lost."""

    RECEIPT = "receipt"
    ADJUSTMENT = "adjustment"
    LOSS = "loss"


class MovementIn(Struct, forbid_unknown_fields=True, frozen=True):
    """A change of what is there. Receipts are positive, losses negative, adjustments either; never zero."""

    kind: ManualKind
    quantity: Annotated[int, Meta(ge=-UNITS_MAX, le=UNITS_MAX, examples=[100])]
    reason: OptionalLine = ""


class LevelOut(Struct, frozen=True):
    """What is there and what is promised; available = on_hand - reserved - allocated."""

    product_id: int
    location: str
    on_hand: int
    reserved: int
    allocated: int
    available: int
    allow_backorder: bool
    updated_at: datetime


class MovementOut(Struct, frozen=True):
    """One change that explains the numbers."""

    id: int
    kind: str
    on_hand_delta: int
    reserved_delta: int
    allocated_delta: int
    order_id: int | None
    actor: str
    reason: str
    created_at: datetime


class MovementPage(Struct, frozen=True):
    """One page, newest first; `next` is the address of the following one, null on the last."""

    items: list[MovementOut]
    next_cursor: str | None
    next: str | None


def render_level(level: Level) -> LevelOut:
    """Turn the core's level into what is shown."""
    return LevelOut(
        product_id=level.product_id,
        location=level.location,
        on_hand=level.on_hand,
        reserved=level.reserved,
        allocated=level.allocated,
        available=level.available,
        allow_backorder=level.allow_backorder,
        updated_at=level.updated_at,
    )


def render_movement(row: dict[str, Any]) -> MovementOut:
    """Turn one row into what is shown."""
    return MovementOut(**row)
