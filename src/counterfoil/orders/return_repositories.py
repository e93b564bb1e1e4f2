"""All SQL of returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.orders.child_states import ReturnReason, ReturnState


@dataclass(frozen=True, slots=True)
class ReturnLineRecord:
    """Units of one product in a return; what was received is back on the shelf or damaged."""

    item_id: int
    product_id: int
    sku: str
    quantity: int
    restocked: int
    damaged: int

    @property
    def received(self) -> int:
        """Return how many units came."""
        return self.restocked + self.damaged


@dataclass(frozen=True, slots=True)
class ReturnRecord:
    """One return of an order."""

    id: int
    order_id: int
    status: ReturnState
    reason: ReturnReason
    lines: tuple[ReturnLineRecord, ...]
    decision: str
    requested_by: str
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Return the entity tag: it changes with every step."""
        return f'"{self.version}-{self.status}"'


@dataclass(frozen=True, slots=True)
class ReturnableUnits:
    """One line of an order: how many have left the house, and how many of them are in a return that counts."""

    item_id: int
    shipped: int
    returning: int


_LINES: Final = "FROM return_lines l JOIN order_items i ON i.id = l.order_item_id WHERE l.return_id = r.id"
_COLUMNS: Final = ("i.id", "i.product_id", "i.sku", "l.quantity", "l.restocked", "l.damaged")
_ARRAYS: Final = ", ".join(f"ARRAY(SELECT {column} {_LINES} ORDER BY i.line_no)" for column in _COLUMNS)
_READ: Final = f"""
SELECT r.id, r.order_id, r.status, r.reason, r.decision, r.requested_by, r.version, r.created_at, r.updated_at,
       {_ARRAYS}
FROM returns r JOIN orders o ON o.id = r.order_id
"""


def read_return(return_id: int, *, owner: int | None) -> ReturnRecord | None:
    """Return one return, or None when there is none that this owner of its order (None: anybody) may see."""
    sql = f"{_READ} WHERE r.id = %(id)s AND (%(owner)s::bigint IS NULL OR o.user_id = %(owner)s)"
    row = fetch_one(sql, {"id": return_id, "owner": owner})
    return None if row is None else _record(row)


def read_returns(order_ids: Sequence[int]) -> list[ReturnRecord]:
    """Return the returns of these orders, oldest first."""
    rows = fetch_all(f"{_READ} WHERE r.order_id = ANY (%(orders)s) ORDER BY r.id", {"orders": list(order_ids)})
    return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> ReturnRecord:
    lines = tuple(ReturnLineRecord(*line) for line in zip(*row[9:], strict=True))
    return ReturnRecord(row[0], row[1], ReturnState(row[2]), ReturnReason(row[3]), lines, *row[4:9])


def read_returnable(order_id: int) -> dict[int, ReturnableUnits]:
    """Return the lines of an order by product, with what its returns hold; true under the order's lock.

    A return counts with what was asked for until it is closed, and from then on with what came.
    """
    rows = fetch_all(
        """
        SELECT i.product_id, i.id, i.shipped, coalesce((
          SELECT sum(CASE r.status WHEN 'closed' THEN l.restocked + l.damaged ELSE l.quantity END)
          FROM return_lines l JOIN returns r ON r.id = l.return_id
          WHERE l.order_item_id = i.id AND r.status <> 'declined'), 0)::integer
        FROM order_items i WHERE i.order_id = %(order)s ORDER BY i.line_no
        """,
        {"order": order_id},
    )
    return {row[0]: ReturnableUnits(*row[1:]) for row in rows}


@transaction_required
def insert_return(order_id: int, *, reason: ReturnReason, units: Mapping[int, int], requested_by: str) -> int:
    """Insert a return of `units` by order item. Joins the transaction that holds the order's lock."""
    row = fetch_one(
        """
        WITH made AS (
          INSERT INTO returns (order_id, reason, requested_by, created_at, updated_at)
          VALUES (%(order)s, %(reason)s, %(by)s, now(), now()) RETURNING id
        ), filled AS (
          INSERT INTO return_lines (return_id, order_item_id, quantity)
          SELECT made.id, l.item, l.quantity
          FROM made, unnest(%(items)s::bigint[], %(quantities)s::integer[]) AS l (item, quantity)
        )
        SELECT id FROM made
        """,
        {
            "order": order_id,
            "reason": reason.value,
            "by": requested_by,
            "items": list(units),
            "quantities": list(units.values()),
        },
    )
    assert row is not None
    return int(row[0])


@transaction_required
def write_state(return_id: int, state: ReturnState, *, decision: str | None = None) -> None:
    """Write a return's new state, and what staff said to it. Joins the transaction that holds the order's lock."""
    fetch_all(
        "UPDATE returns SET status = %(state)s, decision = coalesce(%(decision)s, decision), version = version + 1,"
        " updated_at = now() WHERE id = %(id)s",
        {"id": return_id, "state": state.value, "decision": decision},
    )


@transaction_required
def add_received(return_id: int, received: Mapping[int, tuple[int, int]]) -> None:
    """Add (restocked, damaged) units by order item to a return and to the order's lines.

    Joins the transaction that holds the order's lock.
    """
    fetch_all(
        """
        WITH came AS (
          SELECT * FROM unnest(%(items)s::bigint[], %(restocked)s::integer[], %(damaged)s::integer[])
            AS c (item, restocked, damaged)
        ), counted AS (
          UPDATE return_lines l SET restocked = l.restocked + c.restocked, damaged = l.damaged + c.damaged
          FROM came c WHERE l.return_id = %(id)s AND l.order_item_id = c.item
        )
        UPDATE order_items i SET returned = i.returned + c.restocked + c.damaged FROM came c WHERE i.id = c.item
        """,
        {
            "id": return_id,
            "items": list(received),
            "restocked": [restocked for restocked, _ in received.values()],
            "damaged": [damaged for _, damaged in received.values()],
        },
    )
