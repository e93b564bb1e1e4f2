"""What can be done with orders: place, draft, read, list, edit, cancel, expire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from counterfoil.coupons import services as coupons
from counterfoil.infrastructure.database import hot_connection, transaction, transaction_required
from counterfoil.inventory import services as inventory
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.orders import pricing, repositories
from counterfoil.orders.cancellation import cancel_order
from counterfoil.orders.commands import OrderLine, PlaceOrder, Trace
from counterfoil.orders.confirmation import confirm_locked
from counterfoil.orders.errors import OrderNotFound
from counterfoil.orders.events import TimelineEntry
from counterfoil.orders.fulfilment import forget_tracking
from counterfoil.orders.history import OrderView, order_as_of
from counterfoil.orders.holds import HoldTerms, check_holds
from counterfoil.orders.intake import Intake
from counterfoil.orders.placement import PlacedOrder
from counterfoil.orders.price_terms import PriceTerms
from counterfoil.orders.pricing import PricedOrder
from counterfoil.orders.quoting import lines_of, quote_draft, quote_order
from counterfoil.orders.remarks import forget_notes
from counterfoil.orders.repositories import HotPool, OrderFilter
from counterfoil.orders.settlement import reconsider, refund_everything
from counterfoil.orders.states import (
    BEGINNINGS,
    OrderAction,
    OrderStatus,
    Party,
    Situation,
    Transition,
    find_transition,
)
from counterfoil.orders.steps import declare, lock, party_of, record_event, record_events, require_transition, units_of
from counterfoil.users import services as users
from counterfoil.users.permissions import Actor, Permission, Role, owner_filter, require

__all__ = [
    "HotPath",
    "OrderFilter",
    "cancel_order",
    "confirm_on_terms",
    "discard_drafts",
    "draft_order",
    "expire_orders",
    "find_open_orders",
    "forget_person",
    "get_order",
    "get_order_as_of",
    "get_timeline",
    "list_orders",
    "place_draft",
    "place_order",
    "read_history",
    "update_order",
]


@dataclass(frozen=True, slots=True)
class HotPath:
    """What placing, reading and listing need in one web process: the pool and the intake in front of it."""

    pool: HotPool
    intake: Intake[PlaceOrder, PlacedOrder]


# ---------------------------------------------------------------- hot path
async def place_order(hot: HotPath, command: PlaceOrder, *, actor: Actor) -> PlacedOrder:
    """Place one order: price it, take its stock, store it; durable when this returns.

    Idempotent by the command's key. Waits for the intake's next transaction. Raises RoleMissing, ScopeMissing,
    ValidationFailed, OpenOrdersExceeded, InsufficientInventory, IdempotencyKeyReused, ClientReferenceTaken, or an
    Unavailable before anything was done.
    """
    require_may_order_for(command.user_id, actor)
    return await hot.intake.submit(command)


async def get_order(hot: HotPath, order_id: int, *, actor: Actor) -> OrderView:
    """Return one order of the caller's (staff: anybody's); raises OrderNotFound."""
    async with hot_connection(hot.pool) as connection:
        view = await repositories.read_order(connection, order_id, owner=owner_filter(actor))
    if view is None:
        raise OrderNotFound
    return view


async def list_orders(hot: HotPath, wanted: OrderFilter, *, limit: int) -> list[OrderView]:
    """Return one page of orders; `wanted.owner` comes from `owner_filter`."""
    async with hot_connection(hot.pool) as connection:
        return await repositories.read_page(connection, wanted, limit=limit)


async def get_timeline(hot: HotPath, order_id: int, *, actor: Actor) -> list[TimelineEntry]:
    """Return an order's events, oldest first; raises OrderNotFound."""
    async with hot_connection(hot.pool) as connection:
        timeline = await repositories.read_timeline(connection, order_id, owner=owner_filter(actor))
    if not timeline:
        raise OrderNotFound
    return timeline


async def get_order_as_of(hot: HotPath, order_id: int, instant: datetime, *, actor: Actor) -> OrderView:
    """Return an order as it was at `instant`; raises OrderNotFound, also when it did not exist yet."""
    view = order_as_of(await get_timeline(hot, order_id, actor=actor), instant)
    if view is None:
        raise OrderNotFound
    return view


# ---------------------------------------------------------------- changes, each in one transaction
@transaction_required
def draft_order(
    *,
    user_id: int,
    lines: Sequence[OrderLine],
    coupon_codes: Sequence[str],
    client_reference: str | None,
    actor: Actor,
    trace: Trace,
    prices: PriceTerms,
) -> OrderView:
    """Save a draft: priced for now, no stock, no use of a coupon. Joins the open transaction.

    Raises ValidationFailed, CouponUsedUp, CouponLimitReached, RoleMissing, ScopeMissing.
    """
    require_may_order_for(user_id, actor)
    declare("order.draft", trace)
    if not users.is_active(user_id):
        raise ValidationFailed([{"field": "user_id", "message": f"There is no active user {user_id}."}])
    priced = quote_draft(lines, coupon_codes, user_id=user_id, prices=prices)
    with repositories.client_reference_guard():
        order_id = repositories.insert_draft(user_id=user_id, priced=priced, client_reference=client_reference)
    return record_event(order_id, BEGINNINGS[OrderStatus.DRAFT], trace)


@transaction_required
def place_draft(
    order_id: int, *, etag: str | None, actor: Actor, trace: Trace, terms: HoldTerms, prices: PriceTerms
) -> OrderView:
    """Turn a draft into a placed order at today's prices. Joins the open transaction.

    Locks order, holds, coupons, then stock. Raises OrderNotFound, OrderChanged, ActionNotAllowed, ValidationFailed,
    OpenOrdersExceeded, CouponUsedUp, CouponLimitReached, InsufficientInventory.
    """
    declare("order.place", trace)
    before = lock(order_id, actor=actor, etag=etag)
    step = require_transition(before, OrderAction.PLACE, party_of(actor))
    lines = lines_of(before)
    _check_open_holds(before, lines, actor, terms)
    priced = quote_order(before, lines, before.facts.coupon_codes, prices=prices)
    _reserve_difference(before, lines, trace.principal)
    repositories.replace_items(order_id, priced)
    _write(before, step, priced, before.facts.client_reference, terms.seconds)
    return record_event(order_id, step.event, trace)


@transaction_required
def update_order(  # noqa: PLR0913 - three things can be changed, under the terms of two rules
    order_id: int,
    *,
    lines: Sequence[OrderLine] | None,
    coupon_codes: Sequence[str] | None,
    client_reference: str | None,
    etag: str | None,
    actor: Actor,
    trace: Trace,
    terms: HoldTerms,
    prices: PriceTerms,
) -> OrderView:
    """Replace lines, coupons and/or reference (None: keep). Joins the open transaction.

    A product that was in the placed order keeps the price it had, unless more of it is wanted; everything else is
    priced as of now. Stock and uses of coupons change by the difference. Locks and raises as `place_draft`.
    """
    declare("order.update", trace)
    before = lock(order_id, actor=actor, etag=etag)
    step = require_transition(before, OrderAction.UPDATE, party_of(actor))
    priced = None
    if lines is not None or coupon_codes is not None:
        wanted = lines_of(before) if lines is None else lines
        codes = before.facts.coupon_codes if coupon_codes is None else coupon_codes
        if before.status is OrderStatus.CREATED:
            _check_open_holds(before, wanted, actor, terms)
            priced = quote_order(before, wanted, codes, prices=prices)
            _reserve_difference(before, wanted, trace.principal)
        else:
            priced = quote_draft(wanted, codes, user_id=before.facts.user_id, prices=prices)
        repositories.replace_items(order_id, priced)
    _write(before, step, priced, client_reference or before.facts.client_reference, terms.seconds)
    return reconsider(record_event(order_id, step.event, trace), trace)


@transaction_required
def confirm_on_terms(order_id: int, *, etag: str | None, actor: Actor, trace: Trace, reason: str) -> OrderView:
    """Confirm a placed order whose money is to follow. Joins the open transaction; locks order, then stock.

    Idempotent: an order that is confirmed already is returned unchanged. Raises OrderNotFound, OrderChanged,
    ActionNotAllowed.
    """
    declare("order.confirm", trace, reason=reason)
    before = lock(order_id, actor=actor, etag=etag)
    if before.status is OrderStatus.CONFIRMED:
        return before
    return confirm_locked(before, party=party_of(actor), trace=trace)


def find_open_orders(user_id: int) -> list[OrderView]:
    """Return a user's placed orders that are not at their end yet, by id."""
    return [view for view in repositories.read_unfinished(user_id) if view.status is not OrderStatus.DRAFT]


@transaction_required
def discard_drafts(user_id: int, *, trace: Trace) -> None:
    """Discard every draft of a user. Joins the open transaction."""
    for view in repositories.read_unfinished(user_id):
        if view.status is OrderStatus.DRAFT:
            cancel_order(view.facts.order_id, etag=None, actor=Actor(user_id, Role.CUSTOMER), trace=trace)


@transaction_required
def forget_person(user_id: int) -> None:
    """Take out of a person's orders what is not a fact of a sale: notes, and what carriers know parcels by.

    Idempotent. Joins the open transaction.
    """
    forget_notes(user_id)
    forget_tracking(user_id)


def read_history(user_id: int, *, after: int, limit: int) -> list[tuple[OrderView, list[TimelineEntry]]]:
    """Return up to `limit` orders of a user by id, above `after`, each with its events, oldest first."""
    views = repositories.read_orders_of(user_id, after=after, limit=limit)
    timelines = repositories.read_timelines([view.facts.order_id for view in views])
    return [(view, timelines[view.facts.order_id]) for view in views]


def expire_orders(*, limit: int, trace: Trace) -> int:
    """Expire up to `limit` orders whose deadline has passed by the database's clock and release their stock.

    Opens its own transaction. Safe to run by several workers at once: each takes other orders. Returns how many.
    """
    step = find_transition(Situation(OrderStatus.CREATED, deadline_passed=True), OrderAction.EXPIRE, Party.JOB)
    assert step is not None
    with transaction():
        declare("order.expire", trace)
        order_ids = repositories.lock_expired(limit=limit)
        expired = repositories.read_orders(order_ids)
        if not expired:
            return 0
        _release(expired, actor=trace.principal, reason="expired")
        repositories.mark_expired(order_ids)
        record_events(repositories.read_orders(order_ids), step.event, trace)
        for view in expired:
            if view.facts.authorized_minor + view.facts.captured_minor > view.facts.refunded_minor:
                reason = "the order expired before all of it was paid"
                refund_everything(view.facts.order_id, reason=reason, trace=trace, automatic=True)
        return len(expired)


def require_may_order_for(user_id: int, actor: Actor) -> None:
    """Raise RoleMissing or ScopeMissing unless the caller may order for this user."""
    if user_id != actor.user_id:
        require(actor, Permission.ORDERS_EVERYBODY)


@transaction_required
def require_may_see(order_id: int, *, actor: Actor) -> None:
    """Raise OrderNotFound unless the caller may see this order. Joins the open transaction; locks the order."""
    lock(order_id, actor=actor)


# ---------------------------------------------------------------- steps


def _check_open_holds(before: OrderView, lines: Sequence[OrderLine], actor: Actor, terms: HoldTerms) -> None:
    """Refuse a customer more unpaid stock than one may hold; what somebody else does for them is not refused."""
    facts, places = before.facts, before.status is OrderStatus.DRAFT
    units = sum(line.quantity for line in lines)
    grows = units > sum(item.quantity for item in facts.items)
    matters = terms.capped if places else terms.units_max > 0 and grows
    if not matters or actor.user_id != facts.user_id:
        return
    held = repositories.lock_open_holds(facts.user_id, apart_from=facts.order_id, terms=terms)
    if held is not None:
        check_holds(held, terms, orders=int(places), units=units)


def _reserve_difference(before: OrderView, lines: Sequence[OrderLine], actor: str) -> None:
    items = before.facts.items if before.status is OrderStatus.CREATED else ()
    held = {item.product_id: item.quantity for item in items}
    wanted = {line.product_id: line.quantity for line in lines}
    deltas = {product_id: wanted.get(product_id, 0) - held.get(product_id, 0) for product_id in {*held, *wanted}}
    left = inventory.lock_available(list(deltas))
    # What the order holds already is available to it.
    available = {p: None if (units := left[p]) is None else units + held.get(p, 0) for p in wanted}
    pricing.check_stock(wanted, available)
    inventory.change_reservations(order_id=before.facts.order_id, deltas=deltas, actor=actor)


def _release(orders: Sequence[OrderView], *, actor: str, reason: str) -> None:
    """Give back what placed orders hold: uses of coupons first, then stock, in the order of their locks."""
    _release_coupons(orders)
    inventory.release_reservations([unit for order in orders for unit in units_of(order)], actor=actor, reason=reason)


def _release_coupons(orders: Sequence[OrderView]) -> None:
    """Give back the uses of coupons that these orders have, each once; before any stock is locked."""
    coupons.release_uses([order.facts.order_id for order in orders if order.facts.coupon_codes])


def _write(
    before: OrderView, step: Transition, priced: PricedOrder | None, reference: str | None, hold_seconds: int
) -> None:
    total = Money(before.facts.total_minor, before.facts.currency) if priced is None else priced.total
    with repositories.client_reference_guard():
        repositories.update_order(
            before.facts.order_id,
            status=step.after,
            total=total.to_decimal(),
            currency=total.currency,
            client_reference=reference,
            hold_seconds=hold_seconds,
            tax_included=None if priced is None else priced.tax_included,
        )
