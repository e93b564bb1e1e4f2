"""What every change of an order is made of: lock it, find the allowed step, write it, append its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.infrastructure.outbox import NewEvent, append_events
from counterfoil.orders import repositories
from counterfoil.orders.commands import Trace
from counterfoil.orders.errors import ActionNotAllowed, OrderChanged, OrderNotFound
from counterfoil.orders.history import OrderView
from counterfoil.orders.states import OrderAction, Party, Transition, allowed_actions, find_transition, may
from counterfoil.users import permissions
from counterfoil.users.permissions import Actor, Permission, owner_filter


def party_of(actor: Actor) -> Party:
    """Return what a caller is to an order: staff (services too), or a customer."""
    return Party.STAFF if permissions.may(actor, Permission.ORDERS_EVERYBODY) else Party.CUSTOMER


@transaction_required
def lock(order_id: int, *, actor: Actor, etag: str | None = None) -> OrderView:
    """Lock an order that the caller may see; raises OrderNotFound, and OrderChanged if its tag is not `etag`."""
    before = repositories.lock_order(order_id, owner=owner_filter(actor))
    if before is None:
        raise OrderNotFound
    if etag is not None and etag != before.etag:
        raise OrderChanged
    return before


@transaction_required
def lock_any(order_id: int) -> OrderView:
    """Lock an order on behalf of a job or a gateway, who see all; raises OrderNotFound."""
    before = repositories.lock_order(order_id, owner=None)
    if before is None:
        raise OrderNotFound
    return before


def require_visible(order_id: int, *, actor: Actor) -> None:
    """Raise OrderNotFound unless the caller may see this order."""
    user_of(order_id, actor=actor)


def user_of(order_id: int, *, actor: Actor) -> int:
    """Return whose order this is; raises OrderNotFound."""
    user_id = repositories.read_owner(order_id, owner=owner_filter(actor))
    if user_id is None:
        raise OrderNotFound
    return user_id


def require_transition(before: OrderView, action: OrderAction, party: Party) -> Transition:
    """Return the step that is allowed now; raises ActionNotAllowed with those that are."""
    step = find_transition(before.situation, action, party)
    if step is None:
        raise _refusal(before, action, party)
    return step


def require_allowed(before: OrderView, action: OrderAction, party: Party) -> None:
    """Raise ActionNotAllowed unless the action is allowed now."""
    if not may(before.situation, action, party):
        raise _refusal(before, action, party)


def _refusal(before: OrderView, action: OrderAction, party: Party) -> ActionNotAllowed:
    allowed = list(allowed_actions(before.situation, party))
    return ActionNotAllowed(status=before.status.value, action=action.value, allowed_actions=allowed)


def units_of(order: OrderView) -> list[tuple[int, int, int]]:
    """Return what an order still holds of each product: (order id, product id, units that have not been shipped)."""
    return [(order.facts.order_id, item.product_id, item.quantity - item.shipped) for item in order.facts.items]


def declare(action: str, trace: Trace, *, reason: str = "") -> None:
    """Say who makes the change and why, before the first write of the open transaction."""
    declare_change(actor=trace.principal, action=action, request_id=trace.request_id, reason=reason)


@transaction_required
def record_event(order_id: int, event_type: str, trace: Trace, *, about: Mapping[str, Any] | None = None) -> OrderView:
    """Append an event with the order as it is now, and return it.

    Joins the transaction that has just raised the order's version for this event.
    """
    [view] = repositories.read_orders([order_id])
    record_events([view], event_type, trace, about=about)
    return view


@transaction_required
def record_events(
    views: Sequence[OrderView], event_type: str, trace: Trace, *, about: Mapping[str, Any] | None = None
) -> None:
    """Append an event of the same type for each of these orders."""
    append_events(
        [
            NewEvent(
                "order",
                view.facts.order_id,
                view.facts.version,
                event_type,
                {**msgspec.to_builtins(view.facts), "about": dict(about or {})},
            )
            for view in views
        ],
        actor=trace.principal,
        cause=trace.request_id,
    )
