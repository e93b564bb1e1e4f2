"""What staff puts on an order: holds that stop it, notes that explain it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from counterfoil.infrastructure.database import transaction_required
from counterfoil.infrastructure.encryption import open_seal, seal
from counterfoil.infrastructure.key_store import create_keys, read_keys
from counterfoil.orders import remark_repositories as repositories
from counterfoil.orders.commands import Trace
from counterfoil.orders.errors import CustomerErased, HoldNotFound
from counterfoil.orders.progress import require_room, write_event
from counterfoil.orders.remark_repositories import HoldRecord, NoteRow
from counterfoil.orders.states import OrderAction
from counterfoil.orders.steps import declare, lock, party_of, require_allowed, require_visible, user_of
from counterfoil.users import services as users
from counterfoil.users.permissions import Actor

__all__ = [
    "HoldRecord",
    "NoteRecord",
    "add_note",
    "forget_notes",
    "list_holds",
    "list_notes",
    "place_hold",
    "read_holds_of",
    "read_notes_of",
    "release_hold",
    "subject_of",
]


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """A note on an order; `text` is None once its customer was erased."""

    id: int
    order_id: int
    text: str | None
    author: str
    created_at: datetime


# ---------------------------------------------------------------- holds
def list_holds(order_id: int, *, actor: Actor) -> list[HoldRecord]:
    """Return the holds on an order, released ones too, oldest first; raises OrderNotFound."""
    require_visible(order_id, actor=actor)
    return repositories.read_holds([order_id])


def read_holds_of(order_ids: Sequence[int]) -> list[HoldRecord]:
    """Return the holds on these orders, oldest first; for the copy of somebody's data."""
    return repositories.read_holds(order_ids)


@transaction_required
def place_hold(order_id: int, *, reason: str, etag: str | None, actor: Actor, trace: Trace) -> HoldRecord:
    """Stop an order's fulfilment until the hold is released. Joins the open transaction; locks the order.

    Raises OrderNotFound, OrderChanged, ActionNotAllowed, OrderFull.
    """
    declare("order.hold", trace, reason=reason)
    before = lock(order_id, actor=actor, etag=etag)
    require_allowed(before, OrderAction.HOLD, party_of(actor))
    require_room(order_id, "holds")
    hold_id = repositories.insert_hold(order_id, reason=reason, placed_by=trace.principal)
    write_event(order_id, "order.held", trace, about={"hold_id": hold_id})
    return _hold(hold_id, order_id)


@transaction_required
def release_hold(order_id: int, hold_id: int, *, etag: str | None, actor: Actor, trace: Trace) -> HoldRecord:
    """Release a hold. Joins the open transaction; locks the order. Idempotent.

    Raises OrderNotFound, HoldNotFound, OrderChanged, ActionNotAllowed.
    """
    declare("order.release_hold", trace)
    before = lock(order_id, actor=actor, etag=etag)
    hold = _hold(hold_id, order_id)
    if hold.released_at is not None:
        return hold
    require_allowed(before, OrderAction.RELEASE_HOLD, party_of(actor))
    repositories.release_hold(hold_id, released_by=trace.principal)
    write_event(order_id, "order.hold_released", trace, about={"hold_id": hold_id})
    return _hold(hold_id, order_id)


def _hold(hold_id: int, order_id: int) -> HoldRecord:
    found = repositories.read_hold(hold_id, order_id=order_id)
    if found is None:
        raise HoldNotFound
    return found


# ---------------------------------------------------------------- notes
def subject_of(order_id: int, *, actor: Actor) -> UUID:
    """Return whose order this is; raises OrderNotFound."""
    return users.find_subject(user_of(order_id, actor=actor))


@transaction_required
def add_note(order_id: int, *, text: str, actor: Actor, trace: Trace) -> NoteRecord:
    """Write a note on an order, sealed with its customer's key. Joins the open transaction; locks the order.

    Raises OrderNotFound, ActionNotAllowed, OrderFull, CustomerErased, KeyStoreUnavailable.
    """
    declare("order.note", trace)
    before = lock(order_id, actor=actor)
    require_allowed(before, OrderAction.NOTE, party_of(actor))
    require_room(order_id, "notes")
    subject = users.find_subject(before.facts.user_id)
    key = create_keys([subject]).get(subject)
    if key is None:
        raise CustomerErased
    row = repositories.insert_note(
        order_id, body=seal(key, text.encode(), place=_place(subject)), author=trace.principal
    )
    write_event(order_id, "order.noted", trace, about={"note_id": row.id})
    return NoteRecord(row.id, row.order_id, text, row.author, row.created_at)


def list_notes(order_id: int, *, actor: Actor) -> list[NoteRecord]:
    """Return the notes on an order, oldest first; raises OrderNotFound."""
    subject = subject_of(order_id, actor=actor)
    return _open(repositories.read_notes([order_id]), subject, read_keys([subject]))


def read_notes_of(user_id: int, order_ids: Sequence[int]) -> list[NoteRecord]:
    """Return the notes on these orders, all of one user, oldest first; for the copy of their data."""
    rows = repositories.read_notes(order_ids)
    subject = users.find_subject(user_id)
    return _open(rows, subject, read_keys([subject]) if rows else {})


@transaction_required
def forget_notes(user_id: int) -> None:
    """Empty the notes on a person's orders. Idempotent. Joins the open transaction."""
    repositories.forget_notes(user_id)


def _open(rows: Iterable[NoteRow], subject: UUID, keys: Mapping[UUID, bytes]) -> list[NoteRecord]:
    key = keys.get(subject)

    def text(row: NoteRow) -> str | None:
        if row.body is None or key is None:
            return None
        return open_seal(key, bytes(row.body), place=_place(subject)).decode()

    return [NoteRecord(row.id, row.order_id, text(row), row.author, row.created_at) for row in rows]


def _place(subject: UUID) -> str:
    return f"order_notes.body|{subject}"
