"""Confirming an order: its stock is no longer held for a while but set aside for it."""

from __future__ import annotations

from django.conf import settings

from counterfoil.infrastructure.database import transaction_required
from counterfoil.inventory import services as inventory
from counterfoil.orders import repositories
from counterfoil.orders.commands import Trace
from counterfoil.orders.history import OrderView
from counterfoil.orders.states import OrderAction, OrderStatus, Party
from counterfoil.orders.steps import record_event, require_transition, units_of


@transaction_required
def confirm_locked(before: OrderView, *, party: Party, trace: Trace) -> OrderView:
    """Confirm an order: because money covers it (GATEWAY), or on terms (STAFF). Returns the order after it.

    Joins the transaction that holds the order's lock, has read `before` under it and has declared the change; locks the
    stock rows. Its reservation becomes an allocation, and the time in which its customer may cancel begins. Raises
    ActionNotAllowed.
    """
    step = require_transition(before, OrderAction.CONFIRM, party)
    inventory.allocate_reservations(units_of(before), actor=trace.principal)
    repositories.write_status(
        before.facts.order_id,
        OrderStatus.CONFIRMED,
        hold_seconds=0,
        cancel_seconds=60 * settings.COUNTERFOIL.counterfoil_cancel_minutes,
    )
    return record_event(before.facts.order_id, step.event, trace)
