"""All SQL of stock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.inventory.models import MovementKind


@dataclass(frozen=True, slots=True)
class Level:
    """What is there of a product and what is promised, in units."""

    product_id: int
    location: str
    on_hand: int
    reserved: int
    allocated: int
    allow_backorder: bool
    updated_at: datetime

    @property
    def available(self) -> int:
        """Units that can still be sold; negative only when back orders are allowed."""
        return self.on_hand - self.reserved - self.allocated


@dataclass(frozen=True, slots=True)
class Movement:
    """One change of counters of one product, in units."""

    product_id: int
    kind: MovementKind
    on_hand_delta: int = 0
    reserved_delta: int = 0
    allocated_delta: int = 0
    order_id: int | None = None


_LEVEL_COLUMNS = "product_id, location, on_hand, reserved, allocated, allow_backorder, updated_at"


def read_level(product_id: int) -> Level | None:
    """Return a product's level, or None when it has none (unknown or deleted product)."""
    row = fetch_one(
        f"SELECT {_LEVEL_COLUMNS} FROM stock_levels s WHERE product_id = %(id)s"
        " AND EXISTS (SELECT FROM products p WHERE p.id = s.product_id AND p.deleted_at IS NULL)",
        {"id": product_id},
    )
    return None if row is None else Level(*row)


@transaction_required
def insert_levels(product_ids: Sequence[int], *, allow_backorder: bool) -> None:
    """Open the books of new products with nothing in stock. Joins the open transaction."""
    fetch_all(
        "INSERT INTO stock_levels (product_id, allow_backorder) SELECT unnest(%(ids)s::bigint[]), %(allow)s",
        {"ids": sorted(product_ids), "allow": allow_backorder},
    )


@transaction_required
def lock_levels(product_ids: Sequence[int]) -> dict[int, Level]:
    """Lock levels in product order, so that two callers cannot wait for each other in a circle."""
    rows = fetch_all(
        f"SELECT {_LEVEL_COLUMNS} FROM stock_levels WHERE product_id = ANY(%(ids)s)"
        " ORDER BY product_id FOR NO KEY UPDATE",
        {"ids": sorted(set(product_ids))},
    )
    return {row[0]: Level(*row) for row in rows}


@transaction_required
def apply_movements(movements: Sequence[Movement], *, actor: str, reason: str = "") -> None:
    """Write movements and add them to the levels, as sets. Joins the transaction that holds the levels' locks.

    The one way, beside place_orders_v3(), in which a counter changes.
    """
    fetch_all(
        """
        WITH moved AS (
          INSERT INTO stock_movements
            (product_id, order_id, kind, on_hand_delta, reserved_delta, allocated_delta, actor, reason)
          SELECT m.*, %(actor)s, %(reason)s
          FROM unnest(%(products)s::bigint[], %(orders)s::bigint[], %(kinds)s::text[], %(on_hand)s::bigint[],
                      %(reserved)s::bigint[], %(allocated)s::bigint[]) AS m
          RETURNING product_id, on_hand_delta, reserved_delta, allocated_delta
        ), sums AS (
          SELECT product_id, sum(on_hand_delta)::bigint AS h, sum(reserved_delta)::bigint AS r,
                 sum(allocated_delta)::bigint AS a
          FROM moved GROUP BY product_id
        )
        UPDATE stock_levels s
        SET on_hand = s.on_hand + h, reserved = s.reserved + r, allocated = s.allocated + a, updated_at = now()
        FROM sums WHERE s.product_id = sums.product_id
        """,
        {
            "products": [movement.product_id for movement in movements],
            "orders": [movement.order_id for movement in movements],
            "kinds": [movement.kind.value for movement in movements],
            "on_hand": [movement.on_hand_delta for movement in movements],
            "reserved": [movement.reserved_delta for movement in movements],
            "allocated": [movement.allocated_delta for movement in movements],
            "actor": actor,
            "reason": reason,
        },
    )


@transaction_required
def set_backorder(product_id: int, *, allow: bool) -> None:
    """Allow or forbid selling more than is there. Joins the transaction that holds the level's lock."""
    fetch_all(
        "UPDATE stock_levels SET allow_backorder = %(allow)s, updated_at = now() WHERE product_id = %(id)s",
        {"id": product_id, "allow": allow},
    )


def read_movements(product_id: int, *, before: int | None, limit: int) -> list[dict[str, Any]]:
    """Return movements of a product, newest first, with ids below `before` (None: from the newest)."""
    rows = fetch_all(
        "SELECT id, kind, on_hand_delta, reserved_delta, allocated_delta, order_id, actor, reason, created_at"
        " FROM stock_movements WHERE product_id = %(id)s AND (%(before)s::bigint IS NULL OR id < %(before)s)"
        " ORDER BY id DESC LIMIT %(limit)s",
        {"id": product_id, "before": before, "limit": limit},
    )
    names = (
        "id",
        "kind",
        "on_hand_delta",
        "reserved_delta",
        "allocated_delta",
        "order_id",
        "actor",
        "reason",
        "created_at",
    )
    return [dict(zip(names, row, strict=True)) for row in rows]
