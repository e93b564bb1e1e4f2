"""Stock: reserve, release, receive, correct. Every change is a typed movement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.inventory import repositories
from counterfoil.inventory.errors import StockTooLow
from counterfoil.inventory.models import MovementKind
from counterfoil.inventory.repositories import Level, Movement

__all__ = [
    "Level",
    "MovementKind",
    "change_reservations",
    "find_level",
    "list_movements",
    "lock_available",
    "open_level",
    "open_levels",
    "record_movement",
    "record_receipts",
    "release_reservations",
    "set_backorder",
]

# Kinds that people enter; the others follow from orders.
MANUAL_KINDS = (MovementKind.RECEIPT, MovementKind.ADJUSTMENT, MovementKind.LOSS)


def find_level(product_id: int) -> Level | None:
    """Return a product's stock level, or None when there is no such product."""
    return repositories.read_level(product_id)


def list_movements(product_id: int, *, before: int | None, limit: int) -> list[dict[str, Any]]:
    """Return the movements that explain a product's numbers, newest first."""
    return repositories.read_movements(product_id, before=before, limit=limit)


@transaction_required
def open_level(product_id: int, *, allow_backorder: bool) -> None:
    """Open the books of a new product. Joins the open transaction."""
    repositories.insert_levels([product_id], allow_backorder=allow_backorder)


@transaction_required
def open_levels(product_ids: Sequence[int], *, allow_backorder: bool) -> None:
    """Open the books of many new products at once. Joins the open transaction."""
    repositories.insert_levels(product_ids, allow_backorder=allow_backorder)


@transaction_required
def set_backorder(product_id: int, *, allow: bool) -> None:
    """Allow or forbid selling more than is there. Joins the open transaction.

    Raises StockTooLow when it is to be forbidden while more is promised than there is.
    """
    level = repositories.lock_levels([product_id])[product_id]
    if not allow and level.available < 0:
        raise StockTooLow(product_id=product_id, available=level.available, requested=0)
    repositories.set_backorder(product_id, allow=allow)


@transaction_required
def record_movement(
    *, product_id: int, kind: MovementKind, quantity: int, reason: str, actor: str, request_id: str
) -> Level:
    """Receive, correct or write off `quantity` units (signed; only adjustments may have either sign).

    Joins the open transaction. Raises StockTooLow when it would take what is already promised.
    """
    assert kind in MANUAL_KINDS, kind
    declare_change(actor=actor, action=f"stock.{kind}", request_id=request_id, reason=reason)
    level = repositories.lock_levels([product_id])[product_id]
    after = level.available + quantity
    if level.on_hand + quantity < 0 or (quantity < 0 and after < 0 and not level.allow_backorder):
        raise StockTooLow(product_id=product_id, available=level.available, requested=-quantity)
    movement = Movement(product_id, kind, on_hand_delta=quantity)
    repositories.apply_movements([movement], actor=actor, reason=reason)
    changed = repositories.read_level(product_id)
    assert changed is not None, product_id
    return changed


@transaction_required
def record_receipts(received: Mapping[int, int], *, reason: str, actor: str, request_id: str) -> None:
    """Receive units of many products at once (product id to units, 1 or more). Joins the open transaction.

    Locks the levels in product order. Nothing to refuse: a receipt takes from nobody.
    """
    assert all(quantity > 0 for quantity in received.values()), "a receipt adds at least one unit"
    if not received:
        return
    declare_change(actor=actor, action=f"stock.{MovementKind.RECEIPT}", request_id=request_id, reason=reason)
    product_ids = sorted(received)
    levels = repositories.lock_levels(product_ids)
    assert len(levels) == len(product_ids), "every received product has its books open"
    movements = [
        Movement(product_id, MovementKind.RECEIPT, on_hand_delta=received[product_id]) for product_id in product_ids
    ]
    repositories.apply_movements(movements, actor=actor, reason=reason)


@transaction_required
def lock_available(product_ids: Sequence[int]) -> dict[int, int | None]:
    """Lock the products' levels in product order and return what is available (None: sold without limit).

    Joins the open transaction. Waits at most lock_timeout (2 s).
    """
    levels = repositories.lock_levels(product_ids)
    return {product_id: None if level.allow_backorder else level.available for product_id, level in levels.items()}


@transaction_required
def change_reservations(*, order_id: int, deltas: Mapping[int, int], actor: str) -> None:
    """Reserve (positive) or release (negative) units per product for one order; zeros are skipped.

    Joins the transaction that holds the levels' locks (`lock_available`).
    """
    movements = [
        Movement(
            product_id,
            MovementKind.RESERVE if delta > 0 else MovementKind.RELEASE,
            reserved_delta=delta,
            order_id=order_id,
        )
        for product_id, delta in sorted(deltas.items())
        if delta
    ]
    if movements:
        repositories.apply_movements(movements, actor=actor)


@transaction_required
def release_reservations(reserved: Sequence[tuple[int, int, int]], *, actor: str, reason: str) -> None:
    """Release (order id, product id, units) of many orders at once. Joins the open transaction; locks the levels."""
    repositories.lock_levels([product_id for _, product_id, _ in reserved])
    movements = [
        Movement(product_id, MovementKind.RELEASE, reserved_delta=-units, order_id=order_id)
        for order_id, product_id, units in reserved
    ]
    repositories.apply_movements(movements, actor=actor, reason=reason)
