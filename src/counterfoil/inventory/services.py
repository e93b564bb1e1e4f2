"""Stock: reserve, release, receive, correct. Every change is a typed movement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.inventory import repositories
from counterfoil.inventory.errors import NotOnHand, StockTooLow
from counterfoil.inventory.models import MovementKind
from counterfoil.inventory.repositories import Level, Movement

__all__ = [
    "Level",
    "MovementKind",
    "OrderUnits",
    "allocate_reservations",
    "change_reservations",
    "dispatch_allocations",
    "find_level",
    "list_movements",
    "lock_available",
    "open_level",
    "open_levels",
    "record_movement",
    "record_receipts",
    "release_allocations",
    "release_reservations",
    "restock_returns",
    "set_backorder",
    "write_off",
]

# (order id, product id, units)
OrderUnits: TypeAlias = tuple[int, int, int]

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
def release_reservations(reserved: Sequence[OrderUnits], *, actor: str, reason: str) -> None:
    """Release (order id, product id, units) of many orders at once. Joins the open transaction; locks the levels."""
    _move(reserved, MovementKind.RELEASE, reserved=-1, actor=actor, reason=reason)


@transaction_required
def allocate_reservations(reserved: Sequence[OrderUnits], *, actor: str) -> None:
    """Turn reservations of confirmed orders into allocations: from here on they wait for dispatch, not for money.

    Joins the open transaction; locks the levels in product order.
    """
    _move(reserved, MovementKind.ALLOCATE, reserved=-1, allocated=1, actor=actor)


@transaction_required
def release_allocations(allocated: Sequence[OrderUnits], *, actor: str, reason: str) -> None:
    """Give back what was allocated to an order that is cancelled. Joins the open transaction; locks the levels."""
    _move(allocated, MovementKind.DEALLOCATE, allocated=-1, actor=actor, reason=reason)


@transaction_required
def dispatch_allocations(allocated: Sequence[OrderUnits], *, actor: str) -> None:
    """Let allocated units leave the house. Joins the open transaction; locks the levels in product order.

    Raises NotOnHand.
    """
    _move(allocated, MovementKind.DISPATCH, on_hand=-1, allocated=-1, actor=actor)


@transaction_required
def restock_returns(returned: Sequence[OrderUnits], *, actor: str, reason: str) -> None:
    """Put returned units back on the shelf. Joins the open transaction; locks the levels in product order."""
    _move(returned, MovementKind.RETURN, on_hand=1, actor=actor, reason=reason)


@transaction_required
def write_off(lost: Sequence[OrderUnits], *, actor: str, reason: str) -> None:
    """Write off units of an order that will not be sold again. Joins the open transaction; locks the levels.

    The units are no longer promised to anybody (released or deallocated before). Raises NotOnHand.
    """
    _move(lost, MovementKind.LOSS, on_hand=-1, actor=actor, reason=reason)


def _move(
    units: Sequence[OrderUnits],
    kind: MovementKind,
    *,
    on_hand: int = 0,
    reserved: int = 0,
    allocated: int = 0,
    actor: str,
    reason: str = "",
) -> None:
    """Write one movement for each (order, product): its units times the given signs."""
    if not units:
        return
    levels = repositories.lock_levels([product_id for _, product_id, _ in units])
    if on_hand < 0:
        _require_on_hand(levels, units)
    movements = [
        Movement(
            product_id,
            kind,
            on_hand_delta=on_hand * count,
            reserved_delta=reserved * count,
            allocated_delta=allocated * count,
            order_id=order_id,
        )
        for order_id, product_id, count in units
        if count
    ]
    if movements:
        repositories.apply_movements(movements, actor=actor, reason=reason)


def _require_on_hand(levels: Mapping[int, Level], units: Sequence[OrderUnits]) -> None:
    """Refuse to let more leave than there is: what was sold ahead of its delivery has to come in first."""
    leaving: Counter[int] = Counter()
    for _, product_id, count in units:
        leaving[product_id] += count
    for product_id, count in sorted(leaving.items()):
        if count > levels[product_id].on_hand:
            raise NotOnHand(product_id=product_id, on_hand=levels[product_id].on_hand, requested=count)
