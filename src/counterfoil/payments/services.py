"""What can be done with payments: start, capture, void, refund, read; and a worker's three steps with a call."""

from __future__ import annotations

from typing import Final

from django.conf import settings

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction, transaction_required
from counterfoil.infrastructure.failpoints import failpoint
from counterfoil.kernel.ids import new_request_id
from counterfoil.kernel.money import Money
from counterfoil.payments import attempt_repositories as attempts
from counterfoil.payments import calls, recording, repositories
from counterfoil.payments.attempt_repositories import PAYMENT_STATE, NewAttempt
from counterfoil.payments.calls import Outcome
from counterfoil.payments.errors import (
    AmountNotPositive,
    AmountTooLarge,
    PaymentActionNotAllowed,
    PaymentInFlight,
    PaymentKeyReused,
    PaymentNotFound,
    RefundExceedsCaptured,
)
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.keys import gateway_key, hash_client_key, payment_reference, refund_reference
from counterfoil.payments.recording import GATEWAY_REJECTED, GATEWAY_UNAVAILABLE, RESOLVER
from counterfoil.payments.repositories import KeyOwner, NewPayment, NewRefund
from counterfoil.payments.states import Operation, PaymentState
from counterfoil.payments.timetable import Timetable
from counterfoil.payments.views import (
    Call,
    Change,
    PaymentTotals,
    PaymentView,
    RefundView,
    Trace,
    allowed_payment_actions,
)

__all__ = [
    "PAYMENT_STATE",
    "allowed_payment_actions",
    "claim_calls",
    "execute",
    "extend_leases",
    "find_payment",
    "find_refund",
    "finish_review",
    "list_payments",
    "list_refunds",
    "look_now",
    "read_balance",
    "record",
    "start_capture",
    "start_payment",
    "start_refund",
    "start_void",
    "totals_of",
]

# A worker that is killed leaves its calls for so long; one that lives keeps them with a beat every ten seconds.
LEASE_SECONDS: Final = 45.0


# ---------------------------------------------------------------- starting
@transaction_required
def start_payment(
    *,
    order_id: int,
    amount: Money,
    method: str,
    capture_now: bool,
    gateway: str,
    return_url: str,
    client_key: str,
    trace: Trace,
) -> PaymentView:
    """Write down that money is wanted; a worker asks the gateway. Joins the open transaction; the order is locked.

    The same client's key gives the same payment. When the gateway could not be asked it is asked again with the same
    gateway key; only after a definite decline there is a new payment, with a new one. Raises PaymentInFlight,
    PaymentKeyReused, AmountNotPositive.
    """
    failpoint("start.begun")
    if amount.amount_minor <= 0:
        raise AmountNotPositive
    declare_change(actor=trace.principal, action="payment.start", request_id=trace.request_id)
    hashed = hash_client_key(trace.principal, client_key)
    generation = 1
    if (earlier := repositories.find_by_client_key(trace.principal, hashed)) is not None:
        payment = _lock(earlier[0])
        if (payment.order_id, payment.amount, payment.capture_now) != (order_id, amount, capture_now):
            raise PaymentKeyReused
        if not _is_declined(payment):
            return _start_again(payment, method=method, return_url=return_url, trace=trace)
        generation = earlier[1] + 1
    reference = payment_reference(
        order_id=order_id, principal=trace.principal, client_key=hashed, generation=generation
    )
    owner = KeyOwner(trace.principal, hashed, generation)
    payment_id = repositories.insert_payment(
        NewPayment(order_id, gateway, reference, amount, capture_now=capture_now, owner=owner)
    )
    if payment_id is None:
        raise PaymentInFlight
    failpoint("start.payment_written")
    return _ask_to_authorise(_read(payment_id), method=method, return_url=return_url, trace=trace)


def _is_declined(payment: PaymentView) -> bool:
    """Tell whether the gateway has refused the payment for good, as opposed to us or nobody."""
    return payment.status is PaymentState.FAILED and payment.decline_code not in {GATEWAY_UNAVAILABLE, GATEWAY_REJECTED}


def _start_again(payment: PaymentView, *, method: str, return_url: str, trace: Trace) -> PaymentView:
    """Return a payment that was asked for before; if no gateway has seen it, ask once more, with the key it had."""
    if payment.status is not PaymentState.FAILED or payment.decline_code != GATEWAY_UNAVAILABLE:
        return payment
    if repositories.has_undecided(payment.order_id):
        raise PaymentInFlight
    gateway = attempts.first_gateway(payment.id)
    values = {"status": PaymentState.PROCESSING.value, "decline_code": "", "gateway": gateway}
    repositories.change_payment(payment.id, values)
    return _ask_to_authorise(_read(payment.id), method=method, return_url=return_url, trace=trace)


def _ask_to_authorise(payment: PaymentView, *, method: str, return_url: str, trace: Trace) -> PaymentView:
    owner = repositories.read_key_owner(payment.id)
    key = gateway_key(
        principal=owner.principal,
        client_key=owner.client_key,
        purpose=f"authorise:{payment.gateway}",
        generation=owner.generation,
    )
    _ask(payment, Operation.AUTHORISE, payment.amount, key, trace, method=method, return_url=return_url)
    return _read(payment.id)


@transaction_required
def start_capture(payment_id: int, *, amount: Money | None, client_key: str, trace: Trace) -> PaymentView:
    """Ask for held money to be taken, all of it without an amount; the rest is released. Joins the open transaction.

    Repeating it with the same key changes nothing. Raises PaymentNotFound, PaymentActionNotAllowed, AmountTooLarge,
    AmountNotPositive, PaymentKeyReused.
    """
    payment = _lock(payment_id)
    wanted = payment.amount if amount is None else amount
    _require_amount(wanted, payment)
    key = _action_key(payment, Operation.CAPTURE, client_key, trace)
    if _is_asked(payment, key, wanted):
        return payment
    _require_action(payment, Operation.CAPTURE)
    if wanted.amount_minor > payment.amount.amount_minor:
        raise AmountTooLarge(amount_max=str(payment.amount))
    declare_change(actor=trace.principal, action="payment.start_capture", request_id=trace.request_id)
    _ask(payment, Operation.CAPTURE, wanted, key, trace)
    return _read(payment_id)


@transaction_required
def start_void(payment_id: int, *, client_key: str, trace: Trace) -> PaymentView:
    """Ask for held money to be released, or for a payment that waits for its buyer to be given up. Joins.

    Repeating it with the same key changes nothing. Raises PaymentNotFound, PaymentActionNotAllowed.
    """
    payment = _lock(payment_id)
    key = _action_key(payment, Operation.VOID, client_key, trace)
    if _is_asked(payment, key, payment.amount):
        return payment
    _require_action(payment, Operation.VOID)
    declare_change(actor=trace.principal, action="payment.start_void", request_id=trace.request_id)
    attempts.end_watch(payment_id)
    _ask(payment, Operation.VOID, payment.amount, key, trace)
    return _read(payment_id)


@transaction_required
def start_refund(
    payment_id: int, *, amount: Money | None, reason: str, client_key: str, automatic: bool, trace: Trace
) -> RefundView:
    """Ask for captured money to be given back, all that is left without an amount. Joins the open transaction.

    Repeating it with the same key returns the same refund, and a payment's second automatic one is its first. Raises
    PaymentNotFound, PaymentActionNotAllowed, RefundExceedsCaptured, AmountNotPositive, PaymentKeyReused.
    """
    payment = _lock(payment_id)
    hashed = hash_client_key(trace.principal, client_key)
    reference = refund_reference(payment.reference, principal=trace.principal, client_key=hashed)
    known = repositories.read_refunds(
        "reference = %(reference)s OR (%(automatic)s AND automatic AND payment_id = %(payment)s)",
        {"reference": reference, "automatic": automatic, "payment": payment_id},
    )
    if known:
        if not automatic and amount is not None and amount != known[0].amount:
            raise PaymentKeyReused
        return known[0]
    if payment.status is not PaymentState.CAPTURED:
        raise _not_allowed(payment, Operation.REFUND)
    wanted = payment.refundable if amount is None else amount
    if amount is not None:
        _require_amount(wanted, payment)
    declare_change(actor=trace.principal, action="refund.start", request_id=trace.request_id, reason=reason)
    owner = KeyOwner(trace.principal, hashed, 1)
    new = NewRefund(payment_id, reference, wanted, reason, automatic=automatic, owner=owner)
    refund_id = repositories.insert_refund(new) if wanted.amount_minor > 0 else None
    if refund_id is None:
        raise RefundExceedsCaptured(amount_max=str(payment.refundable))
    failpoint("refund.written")
    key = gateway_key(principal=trace.principal, client_key=hashed, purpose=f"refund:{reference}", generation=1)
    _ask(payment, Operation.REFUND, wanted, key, trace, refund_id=refund_id)
    refund = repositories.read_refund(refund_id)
    assert refund is not None
    return refund


@transaction_required
def look_now(payment_id: int, *, trace: Trace) -> int:
    """Let the gateway be asked about a payment's open calls at once, also when nobody asks any more; returns how many.

    Joins the open transaction. Raises PaymentNotFound.
    """
    _lock(payment_id)
    declare_change(actor=trace.principal, action="payment.look", request_id=trace.request_id)
    return attempts.look_now(payment_id)


@transaction_required
def finish_review(payment_id: int, *, reason: str, trace: Trace) -> PaymentView:
    """Note that a person has looked at a payment, and what they found. Joins. Raises PaymentNotFound."""
    payment = _lock(payment_id)
    if payment.review_reason:
        declare_change(
            actor=trace.principal, action="payment.finish_review", request_id=trace.request_id, reason=reason
        )
        repositories.change_payment(payment_id, {"review_reason": ""})
    return _read(payment_id)


# ---------------------------------------------------------------- reading
def find_payment(payment_id: int) -> PaymentView | None:
    """Return a payment, or None."""
    return repositories.read_payment(payment_id)


def find_refund(refund_id: int) -> RefundView | None:
    """Return a refund, or None."""
    return repositories.read_refund(refund_id)


def list_payments(order_id: int) -> list[PaymentView]:
    """Return an order's payments, oldest first."""
    return repositories.read_payments("p.order_id = %(order)s", {"order": order_id})


def list_refunds(payment_id: int) -> list[RefundView]:
    """Return a payment's refunds, oldest first."""
    return repositories.read_refunds("payment_id = %(payment)s", {"payment": payment_id})


def totals_of(order_id: int, currency: str) -> PaymentTotals:
    """Return what is held, taken and given back for an order, and whether something is under way."""
    return repositories.read_totals(order_id, currency)


def read_balance(order_id: int, currency: str) -> Money:
    """Return what the ledger says is in an order: captured and not given back."""
    return repositories.read_balance(order_id, currency)


# ---------------------------------------------------------------- a worker's three steps
def claim_calls(*, limit: int) -> list[Call]:
    """Take up to `limit` calls that are due, or whose worker is gone, for LEASE_SECONDS. Opens a transaction."""
    failpoint("claim.begun")
    with transaction():
        declare_change(actor=RESOLVER, action="payment.claim", request_id=new_request_id())
        claimed = attempts.claim_attempts(limit=limit, lease_seconds=LEASE_SECONDS)
        failpoint("claim.written")
    failpoint("claim.committed")
    return claimed


def extend_leases(held: list[Call]) -> None:
    """Keep calls that are still being made for another LEASE_SECONDS. Opens a transaction."""
    with transaction():
        declare_change(actor=RESOLVER, action="payment.keep", request_id=new_request_id())
        attempts.extend_leases([(call.attempt_id, call.fence) for call in held], lease_seconds=LEASE_SECONDS)


def execute(call: Call, gateways: Gateways) -> Outcome:
    """Make a call, or find out how an earlier try of it ended; in no transaction, holding no connection."""
    return calls.execute(call, gateways, timetable=_timetable())


@transaction_required
def record(call: Call, outcome: Outcome, trace: Trace) -> list[Change]:
    """Record how a call ended. Joins the open transaction, whose caller holds the order's lock.

    Returns what changed; nothing when somebody else has taken the call over since, or when all of it was known.
    """
    return recording.record(call, outcome, trace, timetable=_timetable())


def _timetable() -> Timetable:
    return Timetable(speed=settings.COUNTERFOIL.counterfoil_resolver_speed)


# ---------------------------------------------------------------- inside
def _lock(payment_id: int) -> PaymentView:
    payment = repositories.lock_payment(payment_id)
    if payment is None:
        raise PaymentNotFound
    return payment


def _read(payment_id: int) -> PaymentView:
    payment = repositories.read_payment(payment_id)
    assert payment is not None
    return payment


def _ask(
    payment: PaymentView,
    operation: Operation,
    amount: Money,
    key: str,
    trace: Trace,
    *,
    refund_id: int | None = None,
    method: str = "",
    return_url: str = "",
) -> None:
    """Write a call down for a worker."""
    attempts.insert_attempt(
        NewAttempt(
            payment_id=payment.id,
            refund_id=refund_id,
            operation=operation,
            gateway=payment.gateway,
            gateway_key=key,
            amount=amount,
            created_by=trace.principal,
            request_id=trace.request_id,
            method=method,
            return_url=return_url,
        )
    )
    failpoint("start.attempt_written")


def _action_key(payment: PaymentView, operation: Operation, client_key: str, trace: Trace) -> str:
    return gateway_key(
        principal=trace.principal,
        client_key=hash_client_key(trace.principal, client_key),
        purpose=f"{operation}:{payment.reference}",
        generation=1 + attempts.count_rejected(payment.id, operation),
    )


def _is_asked(payment: PaymentView, key: str, amount: Money) -> bool:
    """Tell whether this very call was written down before; raises PaymentKeyReused when it was for another amount."""
    known = attempts.find_attempt(key)
    if known is None:
        return False
    if known != (payment.id, amount.to_decimal()):
        raise PaymentKeyReused
    return True


def _require_amount(amount: Money, payment: PaymentView) -> None:
    if amount.amount_minor <= 0 or amount.currency != payment.amount.currency:
        raise AmountNotPositive


def _require_action(payment: PaymentView, operation: Operation) -> None:
    if operation.value not in allowed_payment_actions(payment):
        raise _not_allowed(payment, operation)


def _not_allowed(payment: PaymentView, operation: Operation) -> PaymentActionNotAllowed:
    return PaymentActionNotAllowed(
        action=operation.value, status=payment.status.value, allowed_actions=allowed_payment_actions(payment)
    )
