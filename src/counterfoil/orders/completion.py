"""The end of an order: shipped, paid, and past the time for returns."""

from __future__ import annotations

from counterfoil.infrastructure.database import transaction, transaction_required
from counterfoil.orders import fulfilment_repositories, repositories
from counterfoil.orders.commands import Trace
from counterfoil.orders.history import OrderView
from counterfoil.orders.states import OrderAction, OrderStatus, Party
from counterfoil.orders.steps import declare, lock, party_of, record_events, require_transition
from counterfoil.users.permissions import Actor


@transaction_required
def complete_order(order_id: int, *, etag: str | None, actor: Actor, trace: Trace) -> OrderView:
    """Complete an order before the time for returns is over. Joins the open transaction; locks the order. Idempotent.

    Raises OrderNotFound, OrderChanged, ActionNotAllowed.
    """
    declare("order.complete", trace)
    before = lock(order_id, actor=actor, etag=etag)
    if before.status is OrderStatus.COMPLETED:
        return before
    return _complete([before], party_of(actor), trace)[0]


def complete_orders(*, limit: int, trace: Trace) -> int:
    """Complete up to `limit` orders whose time for returns is over by the database's clock.

    Opens its own transaction. Safe to run by several workers at once: each takes other orders. Returns how many.
    """
    with transaction():
        declare("order.complete", trace)
        due = repositories.read_orders(fulfilment_repositories.lock_completable(limit=limit))
        return len(_complete(due, Party.JOB, trace)) if due else 0


def _complete(orders: list[OrderView], party: Party, trace: Trace) -> list[OrderView]:
    steps = {require_transition(order, OrderAction.COMPLETE, party).event for order in orders}
    [event] = steps
    order_ids = [order.facts.order_id for order in orders]
    fulfilment_repositories.mark_completed(order_ids)
    completed = repositories.read_orders(order_ids)
    record_events(completed, event, trace)
    return completed
