"""All SQL of what staff puts on an order: holds and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A reason not to fulfil an order for now; open while `released_at` is None."""

    id: int
    order_id: int
    reason: str
    placed_by: str
    created_at: datetime
    released_at: datetime | None
    released_by: str


@dataclass(frozen=True, slots=True)
class NoteRow:
    """A note as it is stored: the text is sealed, or gone with its customer."""

    id: int
    order_id: int
    body: bytes | None
    author: str
    created_at: datetime


_HOLD: Final = "SELECT id, order_id, reason, placed_by, created_at, released_at, released_by FROM holds"


def read_holds(order_ids: Sequence[int]) -> list[HoldRecord]:
    """Return the holds of these orders, released ones too, oldest first."""
    rows = fetch_all(f"{_HOLD} WHERE order_id = ANY (%(orders)s) ORDER BY id", {"orders": list(order_ids)})
    return [HoldRecord(*row) for row in rows]


def read_hold(hold_id: int, *, order_id: int) -> HoldRecord | None:
    """Return a hold of this order, or None."""
    row = fetch_one(f"{_HOLD} WHERE id = %(id)s AND order_id = %(order)s", {"id": hold_id, "order": order_id})
    return None if row is None else HoldRecord(*row)


def first_open_hold(order_id: int) -> int | None:
    """Return the id of the oldest hold that stops an order, or None."""
    row = fetch_one("SELECT min(id) FROM holds WHERE order_id = %(order)s AND released_at IS NULL", {"order": order_id})
    return None if row is None else row[0]


@transaction_required
def insert_hold(order_id: int, *, reason: str, placed_by: str) -> int:
    """Insert a hold. Joins the transaction that holds the order's lock. Returns its id."""
    row = fetch_one(
        "INSERT INTO holds (order_id, reason, placed_by, created_at) VALUES (%(order)s, %(reason)s, %(by)s, now())"
        " RETURNING id",
        {"order": order_id, "reason": reason, "by": placed_by},
    )
    assert row is not None
    return int(row[0])


@transaction_required
def release_hold(hold_id: int, *, released_by: str) -> None:
    """End a hold. Joins the transaction that holds the order's lock."""
    fetch_all(
        "UPDATE holds SET released_at = now(), released_by = %(by)s WHERE id = %(id)s AND released_at IS NULL",
        {"id": hold_id, "by": released_by},
    )


# ---------------------------------------------------------------- notes
@transaction_required
def insert_note(order_id: int, *, body: bytes, author: str) -> NoteRow:
    """Insert a note whose text is sealed. Joins the open transaction."""
    row = fetch_one(
        "INSERT INTO order_notes (order_id, body, author, created_at) VALUES (%(order)s, %(body)s, %(author)s, now())"
        " RETURNING id, order_id, body, author, created_at",
        {"order": order_id, "body": body, "author": author},
    )
    assert row is not None
    return NoteRow(*row)


def read_notes(order_ids: Sequence[int]) -> list[NoteRow]:
    """Return the notes on these orders, oldest first."""
    rows = fetch_all(
        "SELECT id, order_id, body, author, created_at FROM order_notes WHERE order_id = ANY (%(orders)s) ORDER BY id",
        {"orders": list(order_ids)},
    )
    return [NoteRow(*row) for row in rows]


@transaction_required
def forget_notes(user_id: int) -> None:
    """Empty the notes on a person's orders. Idempotent. Joins the open transaction."""
    fetch_all(
        "UPDATE order_notes SET body = NULL FROM orders o"
        " WHERE o.id = order_notes.order_id AND o.user_id = %(user)s AND body IS NOT NULL",
        {"user": user_id},
    )
