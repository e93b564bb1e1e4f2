"""Fulfilment: put units of a confirmed order into consignments, let them leave, hear that they arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from counterfoil.infrastructure.database import transaction_required
from counterfoil.inventory import services as inventory
from counterfoil.orders import fulfilment_repositories as repositories
from counterfoil.orders import remark_repositories
from counterfoil.orders.child_states import STEPS, FulfillmentAction, FulfillmentState, allowed_steps
from counterfoil.orders.commands import OrderLine, Trace
from counterfoil.orders.errors import (
    FulfillmentChanged,
    FulfillmentNotFound,
    HoldOpen,
    NothingLeft,
    StepNotAllowed,
    UnitsExceeded,
)
from counterfoil.orders.fulfilment_repositories import FulfillmentRecord, ItemUnits
from counterfoil.orders.history import OrderView
from counterfoil.orders.progress import require_known, require_room, write_event
from counterfoil.orders.states import OrderAction, OrderStatus
from counterfoil.orders.steps import declare, lock, party_of, require_allowed, require_visible
from counterfoil.users.permissions import Actor, owner_filter

__all__ = [
    "FulfillmentRecord",
    "Tracking",
    "cancel_open_fulfillments",
    "create_fulfillment",
    "find_fulfillment",
    "forget_tracking",
    "list_fulfillments",
    "read_fulfillments_of",
    "step_fulfillment",
]


@dataclass(frozen=True, slots=True)
class Tracking:
    """Who carries a consignment, and how it is followed."""

    carrier: str = ""
    number: str = ""
    url: str = ""


def find_fulfillment(fulfillment_id: int, *, actor: Actor) -> FulfillmentRecord:
    """Return one fulfillment of the caller's orders (staff: anybody's); raises FulfillmentNotFound."""
    found = repositories.read_fulfillment(fulfillment_id, owner=owner_filter(actor))
    if found is None:
        raise FulfillmentNotFound
    return found


def list_fulfillments(order_id: int, *, actor: Actor) -> list[FulfillmentRecord]:
    """Return the fulfillments of an order, oldest first; raises OrderNotFound."""
    require_visible(order_id, actor=actor)
    return repositories.read_fulfillments([order_id])


def read_fulfillments_of(order_ids: Sequence[int]) -> list[FulfillmentRecord]:
    """Return the fulfillments of these orders, oldest first; for the copy of somebody's data."""
    return repositories.read_fulfillments(order_ids)


@transaction_required
def create_fulfillment(
    order_id: int, *, lines: Sequence[OrderLine] | None, etag: str | None, actor: Actor, trace: Trace
) -> FulfillmentRecord:
    """Put units of an order into a new fulfillment; without `lines` all that are in none. Joins the open transaction.

    Raises OrderNotFound, OrderChanged, HoldOpen, ActionNotAllowed, ValidationFailed for a product that is not in the
    order, UnitsExceeded, NothingLeft, OrderFull.
    """
    declare("fulfillment.create", trace)
    before = lock(order_id, actor=actor, etag=etag)
    _require_fulfillable(before, actor)
    require_room(order_id, "fulfillments")
    units = _choose(repositories.read_items(order_id), lines)
    fulfillment_id = repositories.insert_fulfillment(order_id, units=units, created_by=trace.principal)
    about = {"fulfillment_id": fulfillment_id, "units": sum(units.values())}
    write_event(order_id, "fulfillment.created", trace, about=about)
    return _read(fulfillment_id)


@transaction_required
def step_fulfillment(
    fulfillment_id: int,
    action: FulfillmentAction,
    *,
    etag: str | None,
    actor: Actor,
    trace: Trace,
    tracking: Tracking | None = None,
) -> FulfillmentRecord:
    """Start, ship, deliver or cancel a fulfillment. Joins the open transaction; locks order, then stock.

    Idempotent: what was done before is returned unchanged. Shipping takes its units out of the house. Raises
    FulfillmentNotFound, FulfillmentChanged, StepNotAllowed, HoldOpen, ActionNotAllowed, NotOnHand.
    """
    declare(f"fulfillment.{action}", trace)
    order = lock(find_fulfillment(fulfillment_id, actor=actor).order_id, actor=actor)
    before = _read(fulfillment_id)
    if etag is not None and etag != before.etag:
        raise FulfillmentChanged
    step = STEPS[action]
    if before.status in step.done:
        return before
    if before.status not in step.before:
        raise StepNotAllowed(
            kind="fulfillment",
            status=before.status.value,
            action=action.value,
            allowed_actions=list(allowed_steps(before.status)),
        )
    if action in {FulfillmentAction.START, FulfillmentAction.SHIP}:
        _require_fulfillable(order, actor)
    _write(before, action, tracking or Tracking(), trace)
    write_event(before.order_id, step.event, trace, about=_about(before))
    return _read(fulfillment_id)


@transaction_required
def cancel_open_fulfillments(order: OrderView, *, trace: Trace) -> None:
    """Cancel the fulfillments of an order that have not left. Joins the transaction that holds the order's lock."""
    step = STEPS[FulfillmentAction.CANCEL]
    for each in repositories.read_fulfillments([order.facts.order_id]):
        if each.status in step.before:
            repositories.write_state(each.id, FulfillmentState.CANCELLED)
            write_event(each.order_id, step.event, trace, about=_about(each))


@transaction_required
def forget_tracking(user_id: int) -> None:
    """Empty what carriers know a person's parcels by. Idempotent. Joins the open transaction."""
    repositories.forget_tracking(user_id)


# ---------------------------------------------------------------- steps
def _read(fulfillment_id: int) -> FulfillmentRecord:
    found = repositories.read_fulfillment(fulfillment_id, owner=None)
    assert found is not None, fulfillment_id
    return found


def _about(fulfillment: FulfillmentRecord) -> dict[str, int]:
    return {"fulfillment_id": fulfillment.id, "units": sum(line.quantity for line in fulfillment.lines)}


def _require_fulfillable(order: OrderView, actor: Actor) -> None:
    """Refuse to go on with an order that is held or not to be fulfilled; the hold is named."""
    if order.status is OrderStatus.CONFIRMED and order.is_held:
        raise HoldOpen(hold_id=remark_repositories.first_open_hold(order.facts.order_id))
    require_allowed(order, OrderAction.FULFILL, party_of(actor))


def _choose(items: dict[int, ItemUnits], lines: Sequence[OrderLine] | None) -> dict[int, int]:
    """Return units by order item: those of `lines`, or all that are left."""
    if lines is None:
        left = {item.item_id: item.ordered - item.shipped - item.open for item in items.values()}
        if not any(left.values()):
            raise NothingLeft
        return {item_id: units for item_id, units in left.items() if units}
    require_known(lines, items)
    for line in lines:
        item = items[line.product_id]
        left_of_it = item.ordered - item.shipped - item.open
        if line.quantity > left_of_it:
            raise UnitsExceeded(product_id=line.product_id, left=left_of_it, requested=line.quantity)
    return {items[line.product_id].item_id: line.quantity for line in lines}


def _write(before: FulfillmentRecord, action: FulfillmentAction, tracking: Tracking, trace: Trace) -> None:
    if action is not FulfillmentAction.SHIP:
        repositories.write_state(before.id, FulfillmentState(STEPS[action].after))
        return
    units = [(before.order_id, line.product_id, line.quantity) for line in before.lines]
    inventory.dispatch_allocations(units, actor=trace.principal)
    repositories.write_shipment(
        before.id, carrier=tracking.carrier, tracking_number=tracking.number, tracking_url=tracking.url
    )
