"""Cancelling an order, with the choices that staff have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from counterfoil.coupons import services as coupons
from counterfoil.infrastructure.database import transaction_required
from counterfoil.inventory import services as inventory
from counterfoil.orders import repositories
from counterfoil.orders.child_states import CancelReason
from counterfoil.orders.commands import Trace
from counterfoil.orders.fulfilment import cancel_open_fulfillments
from counterfoil.orders.history import OrderView
from counterfoil.orders.settlement import refund_everything
from counterfoil.orders.states import OrderAction, OrderStatus
from counterfoil.orders.steps import declare, lock, party_of, record_event, require_transition, units_of
from counterfoil.users.permissions import Actor, Permission, require


@dataclass(frozen=True, slots=True)
class CancelTerms:
    """Why, whether the goods can be sold again, and whether what was taken goes back; what is held always does."""

    reason: CancelReason = CancelReason.OTHER
    restock: bool = True
    refund: bool = True


PLAIN: Final = CancelTerms()


@transaction_required
def cancel_order(
    order_id: int, *, etag: str | None, actor: Actor, trace: Trace, terms: CancelTerms = PLAIN
) -> OrderView:
    """Cancel a placed order and give its stock back, or discard a draft. Joins the open transaction.

    Locks order, coupons, stock, payments. What is in a fulfillment and has not left is cancelled with it. Idempotent:
    an order that is cancelled already is returned unchanged. Raises OrderNotFound, OrderChanged, ActionNotAllowed,
    NotOnHand, and RoleMissing or ScopeMissing for choices that are not the caller's.
    """
    if not (terms.restock and terms.refund):
        require(actor, Permission.ORDERS_FULFIL)
    before = lock(order_id, actor=actor, etag=etag)
    if before.status is OrderStatus.CANCELLED:
        return before
    action = OrderAction.DISCARD if before.status is OrderStatus.DRAFT else OrderAction.CANCEL
    step = require_transition(before, action, party_of(actor))
    declare(f"order.{action}", trace, reason=terms.reason)
    if before.status is OrderStatus.CONFIRMED:
        cancel_open_fulfillments(before, trace=trace)
    _give_back(before, terms, trace)
    repositories.write_status(order_id, step.after, hold_seconds=0, cancel_seconds=0)
    about = {"reason": terms.reason.value, "restock": terms.restock, "refund": terms.refund}
    record_event(order_id, step.event, trace, about=about)
    # Asked for here and done after the commit: a refund that fails does not bring the order back.
    return refund_everything(order_id, reason=f"cancelled: {terms.reason}", trace=trace, only_held=not terms.refund)


def _give_back(before: OrderView, terms: CancelTerms, trace: Trace) -> None:
    """Release what the order holds, coupons before stock; what cannot be sold again is written off at once."""
    units = units_of(before)
    if before.status is not OrderStatus.DRAFT and before.facts.coupon_codes:
        coupons.release_uses([before.facts.order_id])
    if before.status is OrderStatus.CREATED:
        inventory.release_reservations(units, actor=trace.principal, reason="cancelled")
    elif before.status is OrderStatus.CONFIRMED:
        inventory.release_allocations(units, actor=trace.principal, reason="cancelled")
    else:
        return
    if not terms.restock:
        inventory.write_off(units, actor=trace.principal, reason=f"cancelled: {terms.reason}")
