"""All SQL of orders: the hot path (asynchronous, raw) and the rest (on Django's connection)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import psycopg
import psycopg_pool
from django.db import IntegrityError

from counterfoil.infrastructure.database import fetch_all, fetch_one, load_queries, transaction_required
from counterfoil.orders.errors import ClientReferenceTaken
from counterfoil.orders.events import AdjustmentFacts, ItemFacts, OrderFacts, TimelineEntry
from counterfoil.orders.history import OrderView
from counterfoil.orders.holds import HoldTerms, OpenHolds
from counterfoil.orders.pricing import PricedOrder
from counterfoil.orders.states import FulfillmentStatus, OrderStatus, PaymentStatus, ReturnStatus

HotConnection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
HotPool: TypeAlias = psycopg_pool.AsyncConnectionPool[HotConnection]

QUERIES: Final = load_queries(Path(__file__).with_name("queries.sql"))
_items = msgspec.json.Decoder(tuple[ItemFacts, ...])
_adjustments = msgspec.json.Decoder(tuple[AdjustmentFacts, ...])
_facts = msgspec.json.Decoder(OrderFacts)
_READ_ONE: Final = QUERIES["read_orders"].format(
    where="o.id = %(order_id)s AND (%(owner)s::bigint IS NULL OR o.user_id = %(owner)s)", tail=""
)
_READ_MANY: Final = QUERIES["read_orders"].format(where="o.id = ANY (%(order_ids)s)", tail="ORDER BY o.id")

_READ_UNFINISHED: Final = QUERIES["read_orders"].format(
    where="o.user_id = %(user_id)s AND (o.status IN ('draft', 'created', 'confirmed') OR o.payment_in_flight)",
    tail="ORDER BY o.id",
)
_READ_OF: Final = QUERIES["read_orders"].format(
    where="o.user_id = %(user_id)s AND o.id > %(after)s", tail="ORDER BY o.id LIMIT %(limit)s"
)


# ---------------------------------------------------------------- hot path
async def read_order(connection: HotConnection, order_id: int, *, owner: int | None) -> OrderView | None:
    """Return one order, or None when there is none that this owner (None: anybody) may see."""
    cursor = await connection.execute(_READ_ONE, {"order_id": order_id, "owner": owner}, prepare=True)
    row = await cursor.fetchone()
    return None if row is None else _view(row)


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """What a list is limited to; None is no limit. `before` is the position after which the page starts."""

    owner: int | None
    status: OrderStatus | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    product_id: int | None = None
    text: str | None = None
    ascending: bool = False
    after: tuple[datetime, int] | None = None


async def read_page(connection: HotConnection, wanted: OrderFilter, *, limit: int) -> list[OrderView]:
    """Return up to `limit` orders by (created_at, id), newest first unless `ascending`, after `wanted.after`."""
    sql, parameters = page_statement(wanted)
    cursor = await connection.execute(sql, {**parameters, "limit": limit}, prepare=True)
    return [_view(row) for row in await cursor.fetchall()]


def page_statement(wanted: OrderFilter) -> tuple[str, dict[str, Any]]:
    """Return the statement of a page and its parameters but `limit`. Every fragment is fixed text."""
    where: list[str] = []
    parameters: dict[str, Any] = {}
    for given, fragment, values in (
        (wanted.owner, "o.user_id = %(owner)s", {"owner": wanted.owner}),
        (wanted.created_after, "o.created_at >= %(created_after)s", {"created_after": wanted.created_after}),
        (wanted.created_before, "o.created_at < %(created_before)s", {"created_before": wanted.created_before}),
        (
            wanted.product_id,
            "EXISTS (SELECT FROM order_items f WHERE f.order_id = o.id AND f.product_id = %(product_id)s)",
            {"product_id": wanted.product_id},
        ),
        (
            wanted.text,
            _TEXT_MATCHES,
            {"text": wanted.text},
        ),
        (wanted.status, _STATUS_IS.get(wanted.status or OrderStatus.DRAFT), {"status": wanted.status}),
        (
            wanted.after,
            f"(o.created_at, o.id) {'>' if wanted.ascending else '<'} (%(after_at)s, %(after_id)s)",
            {} if wanted.after is None else {"after_at": wanted.after[0], "after_id": wanted.after[1]},
        ),
    ):
        if given is not None:
            where.append(str(fragment))
            parameters.update(values)
    direction = "ASC" if wanted.ascending else "DESC"
    tail = f"ORDER BY o.created_at {direction}, o.id {direction}\nLIMIT %(limit)s"
    return QUERIES["read_orders"].format(where=" AND ".join(where) or "true", tail=tail), parameters


_TEXT_MATCHES: Final = """(o.client_reference = %(text)s OR EXISTS (
  SELECT FROM order_items f WHERE f.order_id = o.id
  AND (f.sku = %(text)s OR strpos(lower(f.name), lower(%(text)s)) > 0)))"""
# A reservation that has run out is expired for the filter too, not only in what is shown.
_STATUS_IS: Final[dict[OrderStatus, str]] = {
    **dict.fromkeys(OrderStatus, "o.status = %(status)s"),
    OrderStatus.CREATED: "o.status = %(status)s AND (o.reserved_until > now() OR o.payment_in_flight)",
    OrderStatus.EXPIRED: "(o.status = %(status)s OR (o.status = 'created' AND o.reserved_until <= now()"
    " AND NOT o.payment_in_flight))",
}


async def read_timeline(connection: HotConnection, order_id: int, *, owner: int | None) -> list[TimelineEntry]:
    """Return an order's events, oldest first; empty when this owner may not see it."""
    cursor = await connection.execute(QUERIES["read_timeline"], {"order_id": order_id, "owner": owner}, prepare=True)
    return [
        TimelineEntry(seq, kind, at, actor, cause, _facts.decode(payload))
        for seq, kind, at, actor, cause, payload in await cursor.fetchall()
    ]


# ---------------------------------------------------------------- everything else
@transaction_required
def lock_order(order_id: int, *, owner: int | None) -> OrderView | None:
    """Lock one order until the end of the open transaction and return it; None as in `read_order`."""
    if fetch_one(QUERIES["lock_order"], {"order_id": order_id, "owner": owner}) is None:
        return None
    row = fetch_one(_READ_ONE, {"order_id": order_id, "owner": owner})
    assert row is not None, order_id
    return _view(row)


def read_owner(order_id: int, *, owner: int | None) -> int | None:
    """Return whose order this is, or None when there is none that this owner (None: anybody) may see."""
    sql = "SELECT user_id FROM orders WHERE id = %(id)s AND (%(owner)s::bigint IS NULL OR user_id = %(owner)s)"
    row = fetch_one(sql, {"id": order_id, "owner": owner})
    return None if row is None else int(row[0])


@transaction_required
def lock_open_holds(user_id: int, *, apart_from: int, terms: HoldTerms) -> OpenHolds | None:
    """Return what a customer has open beside one order; None when the account is not a customer's.

    Until the end of the open transaction nobody else decides on this customer's holds. Comes after the order's lock
    and before the stock's.
    """
    fetch_one(QUERIES["lock_holds"], {"user_id": user_id})
    wanted = {"user_id": user_id, "apart_from": apart_from, "with_units": terms.units_max > 0}
    row = fetch_one(QUERIES["read_open_holds"], wanted)
    return None if row is None else OpenHolds(*row)


@transaction_required
def insert_draft(*, user_id: int, priced: PricedOrder, client_reference: str | None) -> int:
    """Insert a draft with its lines. Joins the open transaction. Returns the order's id."""
    row = fetch_one(
        QUERIES["insert_draft"],
        {
            "user_id": user_id,
            "total": priced.total.to_decimal(),
            "currency": priced.total.currency,
            "client_reference": client_reference,
            "tax_included": priced.tax_included,
        },
    )
    assert row is not None
    replace_items(int(row[0]), priced)
    return int(row[0])


@transaction_required
def replace_items(order_id: int, priced: PricedOrder) -> None:
    """Replace the lines and adjustments of an order. Joins the open transaction, which holds the order's lock."""
    fetch_all(QUERIES["delete_items"], {"order_id": order_id})
    fetch_all(QUERIES["delete_adjustments"], {"order_id": order_id})
    fetch_all(
        QUERIES["insert_items"],
        {
            "order_id": order_id,
            "products": [each.offer.product_id for each in priced.lines],
            "skus": [each.offer.sku for each in priced.lines],
            "names": [each.offer.name for each in priced.lines],
            "quantities": [each.line.quantity for each in priced.lines],
            "prices": [each.offer.price.to_decimal() for each in priced.lines],
            "tax_rates": [each.offer.tax_rate.to_decimal() for each in priced.lines],
            "taxes": [each.tax.to_decimal() for each in priced.lines],
            "discounts": [each.discount.to_decimal() for each in priced.lines],
        },
    )
    if priced.adjustments:
        fetch_all(
            QUERIES["insert_adjustments"],
            {
                "order_id": order_id,
                "kinds": [each.kind for each in priced.adjustments],
                "labels": [each.label for each in priced.adjustments],
                "amounts": [each.amount.to_decimal() for each in priced.adjustments],
                "tax_rates": [each.tax_rate.to_decimal() for each in priced.adjustments],
                "taxes": [each.tax.to_decimal() for each in priced.adjustments],
            },
        )


@transaction_required
def update_order(
    order_id: int,
    *,
    status: OrderStatus,
    total: Decimal,
    currency: str,
    client_reference: str | None,
    hold_seconds: int,
    tax_included: bool | None = None,
) -> None:
    """Write an order's new state and raise its version by one. Joins the transaction that holds its lock.

    `tax_included` None: as it is.
    """
    fetch_all(
        QUERIES["update_order"],
        {
            "order_id": order_id,
            "status": status.value,
            "total": total,
            "currency": currency,
            "client_reference": client_reference,
            "hold_seconds": hold_seconds,
            "tax_included": tax_included,
        },
    )


@contextmanager
def client_reference_guard() -> Iterator[None]:
    """Turn a second use of a user's client_reference into ClientReferenceTaken; the transaction is lost with it."""
    try:
        yield
    except IntegrityError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.errors.UniqueViolation) and (
            cause.diag.constraint_name == "uq_orders_client_reference"
        ):
            raise ClientReferenceTaken from error
        raise


def read_orders(order_ids: Sequence[int]) -> list[OrderView]:
    """Return these orders on Django's connection, by id; unknown ones are left out."""
    return [_view(row) for row in fetch_all(_READ_MANY, {"order_ids": list(order_ids)})]


def read_unfinished(user_id: int) -> list[OrderView]:
    """Return a user's orders that are not at their end: drafts, placed ones whose time has not run out, confirmed.

    And whatever their status, those whose money is under way.
    """
    views = [_view(row) for row in fetch_all(_READ_UNFINISHED, {"user_id": user_id})]
    return [view for view in views if view.status is not OrderStatus.EXPIRED or view.payment_in_flight]


def read_orders_of(user_id: int, *, after: int, limit: int) -> list[OrderView]:
    """Return up to `limit` orders of a user by id, above `after`."""
    return [_view(row) for row in fetch_all(_READ_OF, {"user_id": user_id, "after": after, "limit": limit})]


def read_timelines(order_ids: Sequence[int]) -> dict[int, list[TimelineEntry]]:
    """Return the events of these orders, oldest first, by order."""
    found: dict[int, list[TimelineEntry]] = {order_id: [] for order_id in order_ids}
    for order_id, seq, kind, at, actor, cause, payload in fetch_all(
        QUERIES["read_timelines"], {"order_ids": list(order_ids)}
    ):
        found[order_id].append(TimelineEntry(seq, kind, at, actor, cause, _facts.decode(payload)))
    return found


@transaction_required
def write_status(order_id: int, status: OrderStatus, *, hold_seconds: int, cancel_seconds: int) -> None:
    """Write an order's new status and raise its version by one. Joins the transaction that holds its lock."""
    fetch_all(
        QUERIES["write_status"],
        {
            "order_id": order_id,
            "status": status.value,
            "hold_seconds": hold_seconds,
            "cancel_seconds": cancel_seconds,
        },
    )


@transaction_required
def write_money(
    order_id: int, *, status: PaymentStatus, in_flight: bool, unknown: bool, sums: tuple[Decimal, Decimal, Decimal]
) -> None:
    """Write what follows from an order's payments, and raise its version by one.

    `sums` are what is authorized, captured and refunded. Joins the transaction that holds the order's lock.
    """
    fetch_all(
        QUERIES["write_money"],
        {
            "order_id": order_id,
            "payment_status": status.value,
            "payment_in_flight": in_flight,
            "payment_unknown": unknown,
            **dict(zip(("authorized", "captured", "refunded"), sums, strict=True)),
        },
    )


@transaction_required
def read_stored_status(order_id: int) -> OrderStatus:
    """Return the status that is written in an order whose row the caller holds."""
    row = fetch_one(QUERIES["read_stored_status"], {"order_id": order_id})
    assert row is not None, order_id
    return OrderStatus(row[0])


def may_see(order_id: int, *, owner: int | None) -> bool:
    """Tell whether there is such an order that this owner (None: anybody) may see."""
    return fetch_one(QUERIES["may_see"], {"order_id": order_id, "owner": owner}) is not None


@transaction_required
def mark_expired(order_ids: Sequence[int]) -> None:
    """Write the end of these reservations. Joins the transaction that holds the orders' locks."""
    fetch_all(QUERIES["mark_expired"], {"order_ids": list(order_ids)})


@transaction_required
def lock_expired(*, limit: int) -> list[int]:
    """Lock up to `limit` orders whose reservation has run out and return their ids, oldest deadline first."""
    return [row[0] for row in fetch_all(QUERIES["lock_expired"], {"limit": limit})]


def _view(row: tuple[Any, ...]) -> OrderView:
    facts = OrderFacts(
        order_id=row[0],
        user_id=row[1],
        currency=row[2],
        total_minor=row[3],
        client_reference=row[4],
        version=row[5],
        created_at=row[6],
        reserved_until=row[7],
        items=_items.decode(row[14]) if row[14] is not None else (),
        payment_status=PaymentStatus(row[9]),
        fulfillment_status=FulfillmentStatus(row[10]),
        return_status=ReturnStatus(row[11]),
        payment_unknown=row[15],
        authorized_minor=row[16],
        captured_minor=row[17],
        refunded_minor=row[18],
        adjustments=_adjustments.decode(row[24]) if row[24] is not None else (),
        tax_included=row[25],
    )
    return OrderView(facts, OrderStatus(row[8]), row[12], row[13], *row[19:24])
