"""Holds and notes on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END, Line
from counterfoil.orders.remarks import HoldRecord, NoteRecord


class PlaceHoldIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Why an order must not be fulfilled for now."""

    reason: Annotated[Line, Meta(description="For staff; kept, so without personal data.", examples=["address check"])]


class HoldOut(Struct, frozen=True):
    """A hold; open while `released_at` is null."""

    id: int
    order_id: int
    reason: str
    placed_by: str
    created_at: datetime
    released_at: datetime | None
    released_by: str


class HoldList(Struct, frozen=True):
    """The holds on an order, released ones too, oldest first."""

    items: list[HoldOut]


class AddNoteIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What staff wants to remember of an order. Stored sealed, and emptied when the customer is erased."""

    text: Annotated[str, Meta(min_length=1, max_length=2000, pattern=r"^[^\x00]*[^\x00\s][^\x00]*" + END)]


class NoteOut(Struct, frozen=True):
    """A note on an order; `text` is null once the customer was erased."""

    id: int
    order_id: int
    text: str | None
    author: str
    created_at: datetime


class NoteList(Struct, frozen=True):
    """The notes on an order, oldest first."""

    items: list[NoteOut]


def render_hold(hold: HoldRecord) -> HoldOut:
    """Turn the core's record into what is shown."""
    return HoldOut(
        hold.id, hold.order_id, hold.reason, hold.placed_by, hold.created_at, hold.released_at, hold.released_by
    )


def render_note(note: NoteRecord) -> NoteOut:
    """Turn the core's record into what is shown."""
    return NoteOut(note.id, note.order_id, note.text, note.author, note.created_at)
