"""Where cancelling an order and closing a return ask for money to be given back: one call site each.

Money is asked for in the transaction that says why, and given back by the worker after its commit: to cancel and to
refund are two steps, and the second may fail without undoing the first.
"""

from __future__ import annotations

from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.money import Money
from counterfoil.orders.commands import Trace
from counterfoil.users.permissions import Actor


@transaction_required
def refund_all(order_id: int, *, reason: str, trace: Trace) -> None:
    """Let go what is held and give back what was taken. Joins the transaction that holds the order's lock."""


@transaction_required
def refund_part(order_id: int, *, amount: Money, reason: str, actor: Actor, trace: Trace) -> None:
    """Give back a part. Joins the transaction that holds the order's lock."""
