"""All SQL of fulfillments, and of what an order's fulfilment is derived from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.orders.child_states import GONE_FULFILLMENTS, OPEN_FULFILLMENTS, FulfillmentState
from counterfoil.orders.states import FulfillmentStatus, ReturnStatus


@dataclass(frozen=True, slots=True)
class FulfillmentLineRecord:
    """Units of one product in a fulfillment."""

    product_id: int
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class FulfillmentRecord:
    """One consignment of an order."""

    id: int
    order_id: int
    status: FulfillmentState
    lines: tuple[FulfillmentLineRecord, ...]
    carrier: str
    tracking_number: str
    tracking_url: str
    created_by: str
    version: int
    created_at: datetime
    updated_at: datetime
    shipped_at: datetime | None
    delivered_at: datetime | None

    @property
    def etag(self) -> str:
        """Return the entity tag: it changes with every step."""
        return f'"{self.version}-{self.status}"'


@dataclass(frozen=True, slots=True)
class ItemUnits:
    """One line of an order: how many were ordered, have left the house, and are in a fulfillment that has not."""

    item_id: int
    ordered: int
    shipped: int
    open: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Units of a whole order, and whether somebody still has to do something about a return."""

    ordered: int
    shipped: int
    delivered: int
    returned: int
    has_open_return: bool
    is_held: bool


_READ: Final = """
SELECT f.id, f.order_id, f.status, f.carrier, f.tracking_number, f.tracking_url, f.created_by, f.version, f.created_at,
       f.updated_at, f.shipped_at, f.delivered_at,
       ARRAY(SELECT i.product_id FROM fulfillment_lines l JOIN order_items i ON i.id = l.order_item_id
             WHERE l.fulfillment_id = f.id ORDER BY i.line_no),
       ARRAY(SELECT i.sku FROM fulfillment_lines l JOIN order_items i ON i.id = l.order_item_id
             WHERE l.fulfillment_id = f.id ORDER BY i.line_no),
       ARRAY(SELECT l.quantity FROM fulfillment_lines l JOIN order_items i ON i.id = l.order_item_id
             WHERE l.fulfillment_id = f.id ORDER BY i.line_no)
FROM fulfillments f JOIN orders o ON o.id = f.order_id
"""


def read_fulfillment(fulfillment_id: int, *, owner: int | None) -> FulfillmentRecord | None:
    """Return one fulfillment, or None when there is none that this owner of its order (None: anybody) may see."""
    sql = f"{_READ} WHERE f.id = %(id)s AND (%(owner)s::bigint IS NULL OR o.user_id = %(owner)s)"
    row = fetch_one(sql, {"id": fulfillment_id, "owner": owner})
    return None if row is None else _record(row)


def read_fulfillments(order_ids: Sequence[int]) -> list[FulfillmentRecord]:
    """Return the fulfillments of these orders, oldest first."""
    rows = fetch_all(f"{_READ} WHERE f.order_id = ANY (%(orders)s) ORDER BY f.id", {"orders": list(order_ids)})
    return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> FulfillmentRecord:
    lines = tuple(FulfillmentLineRecord(*line) for line in zip(*row[12:], strict=True))
    return FulfillmentRecord(row[0], row[1], FulfillmentState(row[2]), lines, *row[3:12])


def read_items(order_id: int) -> dict[int, ItemUnits]:
    """Return the lines of an order by product, with what its fulfillments hold; true under the order's lock."""
    rows = fetch_all(
        """
        SELECT i.product_id, i.id, i.quantity, i.shipped, coalesce((
          SELECT sum(l.quantity) FROM fulfillment_lines l JOIN fulfillments f ON f.id = l.fulfillment_id
          WHERE l.order_item_id = i.id AND f.status = ANY (%(open)s)), 0)::integer
        FROM order_items i WHERE i.order_id = %(order)s ORDER BY i.line_no
        """,
        {"order": order_id, "open": list(OPEN_FULFILLMENTS)},
    )
    return {row[0]: ItemUnits(*row[1:]) for row in rows}


@transaction_required
def insert_fulfillment(order_id: int, *, units: Mapping[int, int], created_by: str) -> int:
    """Insert a fulfillment of `units` by order item. Joins the transaction that holds the order's lock."""
    row = fetch_one(
        """
        WITH made AS (
          INSERT INTO fulfillments (order_id, created_by, created_at, updated_at)
          VALUES (%(order)s, %(by)s, now(), now()) RETURNING id
        ), filled AS (
          INSERT INTO fulfillment_lines (fulfillment_id, order_item_id, quantity)
          SELECT made.id, l.item, l.quantity
          FROM made, unnest(%(items)s::bigint[], %(quantities)s::integer[]) AS l (item, quantity)
        )
        SELECT id FROM made
        """,
        {"order": order_id, "by": created_by, "items": list(units), "quantities": list(units.values())},
    )
    assert row is not None
    return int(row[0])


@transaction_required
def write_state(fulfillment_id: int, state: FulfillmentState) -> None:
    """Write a fulfillment's new state and the instant. Joins the transaction that holds the order's lock."""
    fetch_all(
        """
        UPDATE fulfillments
        SET status = %(state)s, version = version + 1, updated_at = now(),
            shipped_at = CASE WHEN %(state)s = 'shipped' THEN now() ELSE shipped_at END,
            delivered_at = CASE WHEN %(state)s = 'delivered' THEN now() ELSE delivered_at END
        WHERE id = %(id)s
        """,
        {"id": fulfillment_id, "state": state.value},
    )


@transaction_required
def write_shipment(fulfillment_id: int, *, carrier: str, tracking_number: str, tracking_url: str) -> None:
    """Let a fulfillment's units leave: its state and tracking, and the lines of the order.

    Joins the transaction that holds the order's lock.
    """
    fetch_all(
        """
        UPDATE fulfillments
        SET status = 'shipped', version = version + 1, updated_at = now(), shipped_at = now(), carrier = %(carrier)s,
            tracking_number = %(number)s, tracking_url = %(url)s
        WHERE id = %(id)s
        """,
        {"id": fulfillment_id, "carrier": carrier, "number": tracking_number, "url": tracking_url},
    )
    fetch_all(
        "UPDATE order_items i SET shipped = i.shipped + l.quantity FROM fulfillment_lines l"
        " WHERE l.fulfillment_id = %(id)s AND l.order_item_id = i.id",
        {"id": fulfillment_id},
    )


# ---------------------------------------------------------------- the order
def count_children(order_id: int) -> dict[str, int]:
    """Return how many fulfillments, returns, holds and notes an order has; true under the order's lock."""
    row = fetch_one(
        """
        SELECT (SELECT count(*) FROM fulfillments WHERE order_id = %(order)s),
               (SELECT count(*) FROM returns WHERE order_id = %(order)s),
               (SELECT count(*) FROM holds WHERE order_id = %(order)s),
               (SELECT count(*) FROM order_notes WHERE order_id = %(order)s)
        """,
        {"order": order_id},
    )
    assert row is not None
    return dict(zip(("fulfillments", "returns", "holds", "notes"), row, strict=True))


def read_progress(order_id: int) -> Progress:
    """Return what the axes and flags of an order follow from; true under the order's lock."""
    row = fetch_one(
        """
        SELECT sum(i.quantity)::bigint, sum(i.shipped)::bigint, coalesce((
                 SELECT sum(l.quantity) FROM fulfillments f JOIN fulfillment_lines l ON l.fulfillment_id = f.id
                 WHERE f.order_id = %(order)s AND f.status = 'delivered'), 0)::bigint,
               sum(i.returned)::bigint,
               EXISTS (SELECT FROM returns r WHERE r.order_id = %(order)s
                       AND r.status IN ('requested', 'approved', 'received')),
               EXISTS (SELECT FROM holds h WHERE h.order_id = %(order)s AND h.released_at IS NULL)
        FROM order_items i WHERE i.order_id = %(order)s
        """,
        {"order": order_id},
    )
    assert row is not None
    return Progress(*row)


@transaction_required
def write_progress(
    order_id: int,
    progress: Progress,
    *,
    fulfillment_status: FulfillmentStatus,
    return_status: ReturnStatus,
    return_days: int,
) -> None:
    """Write an order's derived axes and flags, and raise its version by one. Joins the transaction that holds its lock.

    The time for returns begins when the last unit leaves.
    """
    fetch_all(
        """
        UPDATE orders
        SET fulfillment_status = %(fulfillment)s, return_status = %(return)s, has_open_return = %(open_return)s,
            is_held = %(held)s, version = version + 1, updated_at = now(),
            return_until = CASE WHEN %(all_shipped)s
                                THEN coalesce(return_until, now() + make_interval(days => %(days)s)) END
        WHERE id = %(order)s
        """,
        {
            "order": order_id,
            "fulfillment": fulfillment_status.value,
            "return": return_status.value,
            "open_return": progress.has_open_return,
            "held": progress.is_held,
            "all_shipped": progress.shipped >= progress.ordered,
            "days": return_days,
        },
    )


@transaction_required
def lock_completable(*, limit: int) -> list[int]:
    """Lock up to `limit` orders that may be completed by the database's clock and return their ids, longest due first.

    Those that somebody works on are left for the next round.
    """
    rows = fetch_all(
        """
        SELECT id FROM orders
        WHERE status = 'confirmed' AND return_until <= now() AND fulfillment_status IN ('fulfilled', 'delivered')
          AND payment_status IN ('paid', 'overpaid', 'partially_refunded', 'refunded')
          AND NOT payment_in_flight AND NOT has_open_return
        ORDER BY return_until
        LIMIT %(limit)s
        FOR NO KEY UPDATE SKIP LOCKED
        """,
        {"limit": limit},
    )
    return [row[0] for row in rows]


@transaction_required
def mark_completed(order_ids: Sequence[int]) -> None:
    """Write the end of these orders. Joins the transaction that holds their locks."""
    fetch_all(
        "UPDATE orders SET status = 'completed', version = version + 1, updated_at = now() WHERE id = ANY (%(orders)s)",
        {"orders": list(order_ids)},
    )


@transaction_required
def forget_tracking(user_id: int) -> None:
    """Empty what carriers know a person's parcels by. Idempotent. Joins the open transaction."""
    fetch_all(
        "UPDATE fulfillments f SET tracking_number = '', tracking_url = '' FROM orders o"
        " WHERE o.id = f.order_id AND o.user_id = %(user)s AND (tracking_number <> '' OR tracking_url <> '')",
        {"user": user_id},
    )


assert GONE_FULFILLMENTS == (FulfillmentState.SHIPPED, FulfillmentState.DELIVERED)
