"""Returns: ask, approve or decline, receive (back on the shelf, or damaged), close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil.infrastructure.database import transaction_required
from counterfoil.inventory import services as inventory
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.orders import return_repositories as repositories
from counterfoil.orders.child_states import STEPS, ReturnAction, ReturnReason, ReturnState, allowed_steps
from counterfoil.orders.commands import OrderLine, Trace
from counterfoil.orders.errors import ReturnChanged, ReturnNotFound, StepNotAllowed, UnitsExceeded
from counterfoil.orders.history import OrderView
from counterfoil.orders.progress import require_known, require_room, write_event
from counterfoil.orders.return_repositories import ReturnLineRecord, ReturnRecord
from counterfoil.orders.settlement import refund_order, refundable_of
from counterfoil.orders.states import OrderAction
from counterfoil.orders.steps import declare, lock, party_of, require_allowed, require_visible
from counterfoil.orders.worth import worth_of
from counterfoil.users.permissions import Actor, Permission, owner_filter, require

__all__ = [
    "Arrival",
    "ReturnRecord",
    "close_return",
    "decide_return",
    "find_return",
    "list_returns",
    "read_returns_of",
    "receive_return",
    "request_return",
]


@dataclass(frozen=True, slots=True)
class Arrival:
    """Units of one product that came: back on the shelf, or damaged; `item` is the position in the caller's list."""

    product_id: int
    restocked: int
    damaged: int
    item: int = 0


def find_return(return_id: int, *, actor: Actor) -> ReturnRecord:
    """Return one return of the caller's orders (staff: anybody's); raises ReturnNotFound."""
    found = repositories.read_return(return_id, owner=owner_filter(actor))
    if found is None:
        raise ReturnNotFound
    return found


def list_returns(order_id: int, *, actor: Actor) -> list[ReturnRecord]:
    """Return the returns of an order, oldest first; raises OrderNotFound."""
    require_visible(order_id, actor=actor)
    return repositories.read_returns([order_id])


def read_returns_of(order_ids: Sequence[int]) -> list[ReturnRecord]:
    """Return the returns of these orders, oldest first; for the copy of somebody's data."""
    return repositories.read_returns(order_ids)


@transaction_required
def request_return(
    order_id: int, *, reason: ReturnReason, lines: Sequence[OrderLine], etag: str | None, actor: Actor, trace: Trace
) -> ReturnRecord:
    """Ask to give back units that were shipped and are in no other return. Joins the open transaction.

    Raises OrderNotFound, OrderChanged, ActionNotAllowed, ValidationFailed, UnitsExceeded, OrderFull.
    """
    declare("return.request", trace)
    before = lock(order_id, actor=actor, etag=etag)
    require_allowed(before, OrderAction.REQUEST_RETURN, party_of(actor))
    require_room(order_id, "returns")
    items = repositories.read_returnable(order_id)
    require_known(lines, items)
    for line in lines:
        left = items[line.product_id].shipped - items[line.product_id].returning
        if line.quantity > left:
            raise UnitsExceeded(product_id=line.product_id, left=left, requested=line.quantity)
    units = {items[line.product_id].item_id: line.quantity for line in lines}
    return_id = repositories.insert_return(order_id, reason=reason, units=units, requested_by=trace.principal)
    about = {"return_id": return_id, "units": sum(units.values()), "reason": reason.value}
    write_event(order_id, "return.requested", trace, about=about)
    return _read(return_id)


@transaction_required
def decide_return(
    return_id: int, action: ReturnAction, *, decision: str, etag: str | None, actor: Actor, trace: Trace
) -> ReturnRecord:
    """Approve or decline a return, saying why. Joins the open transaction; locks the order. Idempotent.

    Raises ReturnNotFound, ReturnChanged, StepNotAllowed.
    """
    assert action in {ReturnAction.APPROVE, ReturnAction.DECLINE}, action
    declare(f"return.{action}", trace, reason=decision)
    _, before = _lock(return_id, etag=etag, actor=actor)
    if before.status in STEPS[action].done:
        return before
    _require_step(before, action)
    repositories.write_state(return_id, ReturnState(STEPS[action].after), decision=decision)
    write_event(before.order_id, STEPS[action].event, trace, about={"return_id": return_id})
    return _read(return_id)


@transaction_required
def receive_return(
    return_id: int, *, arrivals: Sequence[Arrival], etag: str | None, actor: Actor, trace: Trace
) -> ReturnRecord:
    """Count what came of a return; repeated for every parcel. Joins the open transaction; locks order, then stock.

    Restocked units are there again, damaged ones are not. Raises ReturnNotFound, ReturnChanged, StepNotAllowed,
    ValidationFailed, UnitsExceeded.
    """
    declare("return.receive", trace)
    _, before = _lock(return_id, etag=etag, actor=actor)
    _require_step(before, ReturnAction.RECEIVE)
    lines = {line.product_id: line for line in before.lines}
    _require_expected(lines, arrivals)
    received = {lines[each.product_id].item_id: (each.restocked, each.damaged) for each in arrivals}
    repositories.add_received(return_id, received)
    repositories.write_state(return_id, ReturnState.RECEIVED)
    units = [(before.order_id, each.product_id, each.restocked) for each in arrivals]
    inventory.restock_returns(units, actor=trace.principal, reason=f"return {return_id}")
    write_event(before.order_id, STEPS[ReturnAction.RECEIVE].event, trace, about=_about(return_id, arrivals))
    return _read(return_id)


@transaction_required
def close_return(
    return_id: int, *, refund: bool, amount: str | None, etag: str | None, actor: Actor, trace: Trace
) -> ReturnRecord:
    """Close a return: nothing more is expected of it. Joins the open transaction; locks order, then payments.

    `refund` gives back what the units that came were sold for, `amount` (plain digits, the order's currency) so much
    instead. The refund is asked for here and made after the commit. Idempotent. Raises ReturnNotFound, ReturnChanged,
    StepNotAllowed, ValidationFailed, RoleMissing, ScopeMissing, RefundExceedsCaptured.
    """
    declare("return.close", trace)
    order, before = _lock(return_id, etag=etag, actor=actor)
    if before.status in STEPS[ReturnAction.CLOSE].done:
        return before
    _require_step(before, ReturnAction.CLOSE)
    repositories.write_state(return_id, ReturnState.CLOSED)
    write_event(before.order_id, STEPS[ReturnAction.CLOSE].event, trace, about={"return_id": return_id})
    if refund or amount is not None:
        require(actor, Permission.PAYMENTS_REFUND)
        currency = order.facts.currency
        _refund(before, _value_of(before, order) if amount is None else _parse(amount, currency), trace)
    return _read(return_id)


def _refund(returned: ReturnRecord, amount: Money, trace: Trace) -> None:
    """Ask for money to be given back for a return, once; workers do it after the commit."""
    if amount.amount_minor:
        reason = f"return {returned.id}"
        refund_order(returned.order_id, amount, reason=reason, trace=trace, key=f"return:{returned.id}")


def _value_of(returned: ReturnRecord, order: OrderView) -> Money:
    """Return what the units that came were sold for, at most what is left of the money that was taken."""
    facts = order.facts
    items = {item.product_id: item for item in facts.items}
    came = [(items[line.product_id], line.received) for line in returned.lines]
    worth = sum(worth_of(item, units, tax_included=facts.tax_included) for item, units in came)
    return min(Money(worth, facts.currency), refundable_of(facts.order_id, facts.currency))


# ---------------------------------------------------------------- steps
def _parse(amount: str, currency: str) -> Money:
    try:
        return Money.parse(amount, currency)
    except ValueError as error:
        raise ValidationFailed([{"field": "amount", "message": f"{error}."}]) from error


def _lock(return_id: int, *, etag: str | None, actor: Actor) -> tuple[OrderView, ReturnRecord]:
    order = lock(find_return(return_id, actor=actor).order_id, actor=actor)
    before = _read(return_id)
    if etag is not None and etag != before.etag:
        raise ReturnChanged
    return order, before


def _read(return_id: int) -> ReturnRecord:
    found = repositories.read_return(return_id, owner=None)
    assert found is not None, return_id
    return found


def _require_step(before: ReturnRecord, action: ReturnAction) -> None:
    if before.status not in STEPS[action].before:
        raise StepNotAllowed(
            kind="return",
            status=before.status.value,
            action=action.value,
            allowed_actions=list(allowed_steps(before.status)),
        )


def _require_expected(lines: Mapping[int, ReturnLineRecord], arrivals: Sequence[Arrival]) -> None:
    assert len({each.product_id for each in arrivals}) == len(arrivals), "each product once"
    require_known([OrderLine(each.product_id, 1, each.item) for each in arrivals], lines)
    for each in arrivals:
        left = lines[each.product_id].quantity - lines[each.product_id].received
        if each.restocked + each.damaged > left:
            raise UnitsExceeded(product_id=each.product_id, left=left, requested=each.restocked + each.damaged)


def _about(return_id: int, arrivals: Sequence[Arrival]) -> dict[str, Any]:
    return {
        "return_id": return_id,
        "restocked": sum(each.restocked for each in arrivals),
        "damaged": sum(each.damaged for each in arrivals),
    }
