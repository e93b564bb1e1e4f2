"""What money does to an order: its axis follows, it is confirmed or reinstated, or the money goes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from django.conf import settings

from counterfoil.coupons import services as coupons
from counterfoil.infrastructure.database import no_transaction, transaction, transaction_required
from counterfoil.inventory import services as inventory
from counterfoil.kernel.ids import new_uuid7
from counterfoil.kernel.money import Money
from counterfoil.orders import pricing, repositories
from counterfoil.orders.axes import derive_payment_status
from counterfoil.orders.commands import Trace
from counterfoil.orders.confirmation import confirm_locked
from counterfoil.orders.errors import InsufficientInventory
from counterfoil.orders.history import OrderView
from counterfoil.orders.states import OrderAction, OrderStatus, Party
from counterfoil.orders.steps import declare, lock_any, record_event, require_transition
from counterfoil.payments import services as payments
from counterfoil.payments.calls import Outcome
from counterfoil.payments.errors import RefundExceedsCaptured
from counterfoil.payments.recording import RESOLVER
from counterfoil.payments.states import Operation, PaymentState
from counterfoil.payments.views import Call, Change, PaymentTotals, PaymentView, RefundView

log = structlog.get_logger(__name__)

# Money has come: somebody must decide what it is good for.
_ARRIVALS: Final = frozenset({"payment.authorized", "payment.captured"})
_OPEN: Final = frozenset({OrderStatus.CREATED, OrderStatus.CONFIRMED})
_OFF: Final = frozenset({OrderStatus.CANCELLED, OrderStatus.EXPIRED})
_WAYS_OUT: Final = frozenset({Operation.VOID, Operation.REFUND})
# Held for an order that is off: released, whatever else has become of it.
_LETTABLE: Final = frozenset({PaymentState.AUTHORIZED, PaymentState.REQUIRES_PAYMENT})


# ---------------------------------------------------------------- what a gateway has answered
@no_transaction
def settle(call: Call, outcome: Outcome) -> None:
    """Record a gateway's answer and let the order follow it, in one transaction: all of it or nothing.

    Locks the order, then its payment, then stock. Idempotent: an answer that is known, or that came from a worker who
    has lost the call to another, changes nothing.
    """
    trace = Trace(RESOLVER, call.request_id)
    with transaction():
        declare("order.settle", trace)
        before = lock_any(call.order_id)
        changes = payments.record(call, outcome, trace)
        declare("order.settle", trace)
        _follow(before, call, changes, trace)


def _follow(before: OrderView, call: Call, changes: list[Change], trace: Trace) -> None:
    view = before
    for change in changes:
        view = note_money(view, change.kind, trace, about=describe(change.payment, change.refund))
    if not changes and _is_stale(before):
        view = _note_unchanged(before, call, trace)
    for change in changes:
        if change.kind in _ARRIVALS:
            view = _use(view, change.payment, trace)
        if change.kind == "refund.failed" and change.refund is not None:
            # Nobody may be waiting for it any more, and money that should have gone back is still here.
            failure = change.refund.failure_code
            log.error("refund.failed", refund_id=change.refund.id, order_id=change.order_id, code=failure)
    _let_go(view, call, trace)


def _let_go(view: OrderView, call: Call, trace: Trace) -> None:
    """Act on what stays after a call that was not to end like this: a refused capture, void or refund."""
    payment = payments.find_payment(call.payment.id)
    assert payment is not None, "payments are never deleted"
    stored = repositories.read_stored_status(view.facts.order_id)
    if stored is OrderStatus.CREATED and call.operation in _WAYS_OUT:
        view = msgspec.structs.replace(view, status=stored)
        # What was leaving stays, and may be all that was missing.
        missing = missing_of(view).amount_minor
        if missing <= 0 and missing < view.facts.total_minor:
            confirm_locked(view, party=Party.GATEWAY, trace=trace)
    elif stored in _OFF and call.operation is not Operation.VOID and payment.status in _LETTABLE:
        # Once: a void that is refused as well is for a person.
        _give_back(view, payment, reason=f"the order is {stored}", automatic=True, trace=trace)


def _note_unchanged(before: OrderView, call: Call, trace: Trace) -> OrderView:
    """Let the order follow a payment that is what it was: what was asked of it may be off the table."""
    payment = payments.find_payment(call.payment.id)
    assert payment is not None, "payments are never deleted"
    refused = before.payment_in_flight and not payment.pending
    event = "payment.refused" if refused else "payment.status_changed"
    return note_money(before, event, trace, about={**describe(payment), "action": call.operation.value})


def _is_stale(view: OrderView) -> bool:
    """Tell whether the order says something else about its money than its payments do."""
    facts, totals = view.facts, payments.totals_of(view.facts.order_id, view.facts.currency)
    said = (view.payment_in_flight, facts.payment_unknown, *_sums(facts))
    return said != (totals.in_flight, totals.unknown, *_sums_of(totals))


def _sums(facts: Any) -> tuple[int, int, int]:
    return facts.authorized_minor, facts.captured_minor, facts.refunded_minor


def _sums_of(totals: PaymentTotals) -> tuple[int, int, int]:
    return totals.authorized.amount_minor, totals.captured.amount_minor, totals.refunded.amount_minor


def _use(view: OrderView, payment: PaymentView, trace: Trace) -> OrderView:
    """Confirm the order when it is covered now; give the money back when the order has no use for it any more."""
    stored = repositories.read_stored_status(view.facts.order_id)
    # A reservation whose time has run out is held until the job has been there: who pays first keeps it.
    view = msgspec.structs.replace(view, status=stored)
    covered = missing_of(view).amount_minor <= 0
    if stored is OrderStatus.EXPIRED and covered:
        view = _reinstate(view, trace)
    if view.status is OrderStatus.CREATED and covered:
        return confirm_locked(view, party=Party.GATEWAY, trace=trace)
    if view.status not in _OPEN:
        return _give_back(view, payment, reason=f"the order is {view.status}", automatic=True, trace=trace)
    return view


def _reinstate(view: OrderView, trace: Trace) -> OrderView:
    """Take the coupons and the stock of an expired order again, all of them; unchanged when some of it is gone."""
    facts, order_id = view.facts, view.facts.order_id
    if not coupons.retake_uses(facts.coupon_codes, order_id=order_id, user_id=facts.user_id):
        return view
    wanted = {item.product_id: item.quantity for item in facts.items}
    available = inventory.lock_available(list(wanted))
    try:
        pricing.check_stock(wanted, available)
    except InsufficientInventory:
        coupons.release_uses([order_id])
        return view
    inventory.change_reservations(order_id=order_id, deltas=wanted, actor=trace.principal)
    step = require_transition(view, OrderAction.REINSTATE, Party.GATEWAY)
    hold_seconds = settings.COUNTERFOIL.counterfoil_hold_seconds
    repositories.write_status(order_id, step.after, hold_seconds=hold_seconds, cancel_seconds=0)
    return record_event(order_id, step.event, trace)


# ---------------------------------------------------------------- giving back
@transaction_required
def refund_everything(
    order_id: int, *, reason: str, trace: Trace, automatic: bool = False, only_held: bool = False
) -> OrderView:
    """Ask for everything that was taken for an order to be given back, and for what is held to be released.

    `only_held`: release what is held, and keep what was taken.

    Joins the transaction that holds the order's lock. Workers do it after the commit. What is still under way is given
    back when it arrives, because then the order has no use for it. Repeating it changes nothing. Returns the order.
    """
    view = lock_any(order_id)
    for payment in payments.list_payments(order_id):
        if only_held and payment.status is PaymentState.CAPTURED:
            continue
        view = _give_back(view, payment, reason=reason, automatic=automatic, trace=trace)
    return view


@transaction_required
def refund_order(order_id: int, amount: Money | None, *, reason: str, trace: Trace, key: str = "") -> list[RefundView]:
    """Ask for a part of what was taken for an order (None: all of it) to be given back, of its newest payment first.

    Joins the transaction that holds the order's lock. The same `key` stands for the same refund; without one it is a
    new refund each time. Raises RefundExceedsCaptured.
    """
    view = lock_any(order_id)
    found = [payment for payment in payments.list_payments(order_id) if payment.refundable.amount_minor > 0]
    most = sum(payment.refundable.amount_minor for payment in found)
    left = most if amount is None else amount.amount_minor
    if left > most:
        raise RefundExceedsCaptured(amount_max=str(Money(most, view.facts.currency)))
    key = key or f"refund:{new_uuid7()}"
    refunds = []
    for payment in reversed(found):
        part = Money(min(left, payment.refundable.amount_minor), payment.amount.currency)
        if part.amount_minor <= 0:
            break
        left -= part.amount_minor
        refund = payments.start_refund(
            payment.id, amount=part, reason=reason, client_key=f"{key}:{payment.id}", automatic=False, trace=trace
        )
        view = note_refund(view, refund, trace)
        refunds.append(refund)
    return refunds


def refundable_of(order_id: int, currency: str) -> Money:
    """Return what of the money taken for an order is neither given back nor asked to be; true under its lock."""
    found = payments.list_payments(order_id)
    return Money(sum(max(0, payment.refundable.amount_minor) for payment in found), currency)


def _give_back(view: OrderView, payment: PaymentView, *, reason: str, automatic: bool, trace: Trace) -> OrderView:
    """Ask for a payment to be refunded or released, whichever it can be; nothing when that was asked already."""
    key = f"{'automatic' if automatic else 'order'}:{payment.id}"
    if payment.status is PaymentState.CAPTURED and payment.refundable.amount_minor > 0:
        if automatic and any(refund.automatic for refund in payments.list_refunds(payment.id)):
            return view
        refund = payments.start_refund(
            payment.id, amount=None, reason=reason, client_key=key, automatic=automatic, trace=trace
        )
        return note_refund(view, refund, trace)
    if not payment.pending and Operation.VOID in payments.allowed_payment_actions(payment):
        asked = payments.start_void(payment.id, client_key=key, trace=trace)
        return note_money(view, "payment.void_requested", trace, about=describe(asked))
    return view


# ---------------------------------------------------------------- steps
def missing_of(order: OrderView) -> Money:
    """Return what is left to pay of a locked order; less than nothing when it is overpaid.

    Money that is on its way out pays for nothing any more.
    """
    facts = order.facts
    authorized, captured, refunded = _sums(facts)
    leaving = payments.totals_of(facts.order_id, facts.currency).leaving.amount_minor
    return Money(facts.total_minor - (authorized + captured - refunded - leaving), facts.currency)


@transaction_required
def reconsider(view: OrderView, trace: Trace) -> OrderView:
    """Let an unpaid order follow its new total: what was paid of the old one may cover it now, and confirms it then.

    Joins the transaction that holds the order's lock and has written the total.
    """
    facts = view.facts
    authorized, captured, refunded = _sums(facts)
    if view.status is not OrderStatus.CREATED or authorized + captured == 0:
        return view
    follows = derive_payment_status(
        total=facts.total_minor, authorized=authorized, captured=captured, refunded=refunded
    )
    if follows is not facts.payment_status:
        view = note_money(view, "payment.status_changed", trace, about={"payment_status": follows.value})
    if missing_of(view).amount_minor <= 0:
        view = confirm_locked(view, party=Party.GATEWAY, trace=trace)
    return view


@transaction_required
def note_money(view: OrderView, event: str, trace: Trace, *, about: Mapping[str, Any]) -> OrderView:
    """Write what follows from an order's payments, with the event that tells why. Joins; the order is locked."""
    facts = view.facts
    totals = payments.totals_of(facts.order_id, facts.currency)
    authorized, captured, refunded = _sums_of(totals)
    repositories.write_money(
        facts.order_id,
        status=derive_payment_status(
            total=facts.total_minor, authorized=authorized, captured=captured, refunded=refunded
        ),
        in_flight=totals.in_flight,
        unknown=totals.unknown,
        sums=(totals.authorized.to_decimal(), totals.captured.to_decimal(), totals.refunded.to_decimal()),
    )
    return record_event(facts.order_id, event, trace, about=about)


@transaction_required
def note_refund(view: OrderView, refund: RefundView, trace: Trace) -> OrderView:
    """Tell that a refund was asked for. Joins; the order is locked."""
    payment = payments.find_payment(refund.payment_id)
    assert payment is not None, "payments are never deleted"
    return note_money(view, "refund.requested", trace, about=describe(payment, refund))


def describe(payment: PaymentView, refund: RefundView | None = None) -> dict[str, Any]:
    """Return what an event tells of a payment and a refund: ids, amounts in minor units, words of code."""
    about: dict[str, Any] = {
        "payment_id": payment.id,
        "payment_status": payment.status.value,
        "gateway": payment.gateway,
        "amount_minor": payment.amount.amount_minor,
    }
    if payment.decline_code:
        about["decline_code"] = payment.decline_code
    if refund is not None:
        about |= {
            "refund_id": refund.id,
            "refund_status": refund.status.value,
            "refund_minor": refund.amount.amount_minor,
            "automatic": refund.automatic,
        }
    return about
