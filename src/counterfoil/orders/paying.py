"""What people ask of an order's money: pay, capture, void, refund, and read about it."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.orders import repositories
from counterfoil.orders.commands import Trace
from counterfoil.orders.confirmation import confirm_locked
from counterfoil.orders.errors import AmountExceedsOpen, OrderNotFound, VoidUncoversOrder
from counterfoil.orders.history import OrderView
from counterfoil.orders.settlement import describe, missing_of, note_money, note_refund
from counterfoil.orders.states import OrderAction, OrderStatus, Party
from counterfoil.orders.steps import declare, lock, party_of, require_allowed
from counterfoil.payments import services as payments
from counterfoil.payments.errors import PaymentActionNotAllowed, PaymentInFlight, PaymentNotFound, RefundNotFound
from counterfoil.payments.recording import GATEWAY_UNAVAILABLE
from counterfoil.payments.states import Operation, PaymentState
from counterfoil.payments.views import PaymentView, RefundView
from counterfoil.users.permissions import Actor, owner_filter

_OPEN = frozenset({OrderStatus.CREATED, OrderStatus.CONFIRMED})


@dataclass(frozen=True, slots=True)
class PayTerms:
    """How an order is to be paid. `amount` is decimal text (None: what is left to pay), `method` a gateway's token."""

    method: str
    amount: str | None = None
    capture_now: bool = True
    return_url: str = ""


# ---------------------------------------------------------------- asking
@transaction_required
def pay(order_id: int, terms: PayTerms, *, client_key: str, actor: Actor, trace: Trace) -> PaymentView | OrderView:
    """Write down that an order is to be paid; a worker asks the gateway. Joins the open transaction; locks the order.

    Where nothing is left to pay, no gateway is asked: the order is confirmed and returned. Raises OrderNotFound,
    PaymentInFlight, ActionNotAllowed, AmountExceedsOpen, ValidationFailed.
    """
    declare("order.pay", trace)
    before = lock(order_id, actor=actor)
    if before.payment_in_flight and before.status in _OPEN:
        raise PaymentInFlight
    require_allowed(before, OrderAction.PAY, party_of(actor))
    missing = missing_of(before)
    if missing.amount_minor <= 0:
        view = note_money(before, "payment.not_needed", trace, about={})
        return confirm_locked(view, party=Party.GATEWAY, trace=trace)
    amount = missing if terms.amount is None else parse_amount(terms.amount, missing.currency)
    if amount.amount_minor > missing.amount_minor:
        raise AmountExceedsOpen(amount_max=str(missing))
    return _start(before, amount, terms, capture_now=terms.capture_now, client_key=client_key, trace=trace)


@transaction_required
def pay_again(payment_id: int, terms: PayTerms, *, client_key: str, actor: Actor, trace: Trace) -> PaymentView:
    """Return the payment of a request that is repeated; one that no gateway could be asked for is asked for again.

    Joins the open transaction. Raises as `pay`.
    """
    payment = read_payment(payment_id, actor=actor)
    if not could_not_be_asked(payment):
        return payment
    declare("order.pay", trace)
    before = lock(payment.order_id, actor=actor)
    payment = read_payment(payment_id, actor=actor)
    if not could_not_be_asked(payment):
        return payment
    if before.payment_in_flight and before.status in _OPEN:
        raise PaymentInFlight
    require_allowed(before, OrderAction.PAY, party_of(actor))
    if payment.amount.amount_minor > (missing := missing_of(before)).amount_minor:
        raise AmountExceedsOpen(amount_max=str(missing))
    return _start(before, payment.amount, terms, capture_now=payment.capture_now, client_key=client_key, trace=trace)


def _start(
    before: OrderView, amount: Money, terms: PayTerms, *, capture_now: bool, client_key: str, trace: Trace
) -> PaymentView:
    payment = payments.start_payment(
        order_id=before.facts.order_id,
        amount=amount,
        method=terms.method,
        capture_now=capture_now,
        gateway=settings.COUNTERFOIL.counterfoil_gateway,
        return_url=terms.return_url,
        client_key=client_key,
        trace=trace,
    )
    declare("order.pay", trace)
    note_money(before, "payment.started", trace, about={**describe(payment), "capture": capture_now})
    return payment


@transaction_required
def capture(payment_id: int, *, amount: str | None, client_key: str, actor: Actor, trace: Trace) -> PaymentView:
    """Ask for held money to be taken, all of it or a part; the rest is released. Joins; locks the order.

    Raises PaymentNotFound, PaymentActionNotAllowed (also for an order that has no use for the money), AmountTooLarge.
    """
    declare("payment.capture", trace)
    order, payment = _lock(payment_id, actor)
    if order.status not in {*_OPEN, OrderStatus.COMPLETED}:
        raise _not_allowed(payment, Operation.CAPTURE, actor)
    _require_quiet(payment, Operation.CAPTURE, actor)
    wanted = None if amount is None else parse_amount(amount, payment.amount.currency)
    asked = payments.start_capture(payment_id, amount=wanted, client_key=client_key, trace=trace)
    declare("payment.capture", trace)
    about = {**describe(asked), "capture_minor": (wanted or asked.amount).amount_minor}
    note_money(order, "payment.capture_requested", trace, about=about)
    return asked


@transaction_required
def void(payment_id: int, *, client_key: str, actor: Actor, trace: Trace) -> PaymentView:
    """Ask for held money to be released, or for a payment that waits for its buyer to be given up. Joins; locks.

    A customer may only give up what waits for them. Raises PaymentNotFound, PaymentActionNotAllowed, VoidUncoversOrder.
    """
    declare("payment.void", trace)
    order, payment = _lock(payment_id, actor)
    if Operation.VOID not in actions_of(payment, party_of(actor)):
        raise _not_allowed(payment, Operation.VOID, actor)
    _require_quiet(payment, Operation.VOID, actor)
    held = payment.amount.amount_minor if payment.status is PaymentState.AUTHORIZED else 0
    missing = missing_of(order).amount_minor
    if order.status is OrderStatus.CONFIRMED and held and missing <= 0 < missing + held:
        raise VoidUncoversOrder
    asked = payments.start_void(payment_id, client_key=client_key, trace=trace)
    declare("payment.void", trace)
    note_money(order, "payment.void_requested", trace, about=describe(asked))
    return asked


@transaction_required
def refund(
    payment_id: int, *, amount: str | None, reason: str, client_key: str, actor: Actor, trace: Trace
) -> RefundView:
    """Ask for captured money to be given back, all that is left or a part. Joins; locks the order.

    Raises PaymentNotFound, PaymentActionNotAllowed, RefundExceedsCaptured.
    """
    declare("payment.refund", trace, reason=reason)
    order, payment = _lock(payment_id, actor)
    wanted = None if amount is None else parse_amount(amount, payment.amount.currency)
    asked = payments.start_refund(
        payment_id, amount=wanted, reason=reason, client_key=client_key, automatic=False, trace=trace
    )
    declare("payment.refund", trace, reason=reason)
    note_refund(order, asked, trace)
    return asked


@transaction_required
def look_now(payment_id: int, *, actor: Actor, trace: Trace) -> PaymentView:
    """Have the gateway asked about a payment at once, also when nobody asks any more. Joins; locks the order.

    Raises PaymentNotFound.
    """
    declare("payment.look", trace)
    _lock(payment_id, actor)
    payments.look_now(payment_id, trace=trace)
    return read_payment(payment_id, actor=actor)


@transaction_required
def finish_review(payment_id: int, *, reason: str, actor: Actor, trace: Trace) -> PaymentView:
    """Say that a person has looked at what the machine did not know what to make of. Joins; locks the order.

    Raises PaymentNotFound.
    """
    declare("payment.finish_review", trace, reason=reason)
    _lock(payment_id, actor)
    return payments.finish_review(payment_id, reason=reason, trace=trace)


# ---------------------------------------------------------------- reading
def read_payment(payment_id: int, *, actor: Actor) -> PaymentView:
    """Return a payment of the caller's orders (staff: anybody's); raises PaymentNotFound."""
    payment = payments.find_payment(payment_id)
    if payment is None or not repositories.may_see(payment.order_id, owner=owner_filter(actor)):
        raise PaymentNotFound
    return payment


def read_refund(refund_id: int, *, actor: Actor) -> RefundView:
    """Return a refund of the caller's orders (staff: anybody's); raises RefundNotFound."""
    found = payments.find_refund(refund_id)
    if found is None or not repositories.may_see(found.order_id, owner=owner_filter(actor)):
        raise RefundNotFound
    return found


def list_payments(order_id: int, *, actor: Actor) -> list[PaymentView]:
    """Return an order's payments, oldest first; raises OrderNotFound."""
    if not repositories.may_see(order_id, owner=owner_filter(actor)):
        raise OrderNotFound
    return payments.list_payments(order_id)


def list_refunds(payment_id: int, *, actor: Actor) -> list[RefundView]:
    """Return a payment's refunds, oldest first; raises PaymentNotFound."""
    read_payment(payment_id, actor=actor)
    return payments.list_refunds(payment_id)


def actions_of(payment: PaymentView, party: Party) -> tuple[str, ...]:
    """Return what this party may ask of a payment now, sorted; a customer only gives up what waits for them."""
    allowed = () if payment.pending else payments.allowed_payment_actions(payment)
    if party is Party.STAFF:
        return allowed
    return allowed if payment.status is PaymentState.REQUIRES_PAYMENT else ()


def could_not_be_asked(payment: PaymentView) -> bool:
    """Tell whether a payment failed only because no gateway could be asked: the same request may be repeated."""
    return payment.status is PaymentState.FAILED and payment.decline_code == GATEWAY_UNAVAILABLE


def parse_amount(text: str, currency: str) -> Money:
    """Return exact money in an order's currency, more than nothing; raises ValidationFailed."""
    try:
        amount = Money.parse(text, currency)
    except ValueError as error:
        raise ValidationFailed([{"field": "amount", "message": f"{error}."}]) from error
    if amount.amount_minor == 0:
        raise ValidationFailed([{"field": "amount", "message": "The amount must be more than nothing."}])
    return amount


# ---------------------------------------------------------------- inside
def _lock(payment_id: int, actor: Actor) -> tuple[OrderView, PaymentView]:
    """Lock the order of a payment and return both as they are under the lock; raises PaymentNotFound."""
    order_id = read_payment(payment_id, actor=actor).order_id
    order = lock(order_id, actor=actor)
    return order, read_payment(payment_id, actor=actor)


def _require_quiet(payment: PaymentView, operation: Operation, actor: Actor) -> None:
    if payment.pending:
        raise _not_allowed(payment, operation, actor)


def _not_allowed(payment: PaymentView, operation: Operation, actor: Actor) -> PaymentActionNotAllowed:
    return PaymentActionNotAllowed(
        action=operation.value,
        status=payment.status.value,
        allowed_actions=actions_of(payment, party_of(actor)),
    )
