"""What a gateway's answer changes: the attempt, the payment or refund, and the ledger; once, whoever reports it."""

from __future__ import annotations

import random
from typing import Any, Final

import structlog

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.infrastructure.failpoints import failpoint
from counterfoil.kernel.money import Money
from counterfoil.payments import attempt_repositories as attempts
from counterfoil.payments import ledger, repositories
from counterfoil.payments.attempt_repositories import Ending, NewAttempt
from counterfoil.payments.calls import Finding, Outcome
from counterfoil.payments.gateways.base import GatewayPayment, GatewayPaymentStatus, GatewayRefundStatus
from counterfoil.payments.keys import gateway_key, hash_client_key
from counterfoil.payments.states import (
    AttemptState,
    Operation,
    PaymentState,
    RefundState,
    may_become,
    refund_may_become,
)
from counterfoil.payments.timetable import Timetable
from counterfoil.payments.views import Call, Change, PaymentView, RefundView, Trace

log = structlog.get_logger(__name__)

# Woken with a payment's id when something about it was recorded.
PAYMENTS_CHANNEL: Final = "counterfoil_payments"
# The decline code of a payment for which no gateway could be asked: the same request may try again.
GATEWAY_UNAVAILABLE: Final = "gateway_unavailable"
GATEWAY_REJECTED: Final = "gateway_rejected"
UNKNOWN_FOR_A_DAY: Final = "unknown_for_a_day"
WAITING_FOR_A_DAY: Final = "waiting_for_a_day"
UNDECIDED_FOR_DAYS: Final = "undecided_for_three_days"
RESOLVER: Final = "job:payments"

_STATES: Final = {
    GatewayPaymentStatus.REQUIRES_ACTION: PaymentState.REQUIRES_PAYMENT,
    GatewayPaymentStatus.PROCESSING: PaymentState.PROCESSING,
    GatewayPaymentStatus.AUTHORIZED: PaymentState.AUTHORIZED,
    GatewayPaymentStatus.CAPTURED: PaymentState.CAPTURED,
    GatewayPaymentStatus.DECLINED: PaymentState.FAILED,
    GatewayPaymentStatus.VOIDED: PaymentState.CANCELLED,
}
_REFUND_STATES: Final = {
    GatewayRefundStatus.PROCESSING: RefundState.PROCESSING,
    GatewayRefundStatus.SUCCEEDED: RefundState.SUCCEEDED,
    GatewayRefundStatus.FAILED: RefundState.FAILED,
}
_EVENTS: Final = {
    PaymentState.REQUIRES_PAYMENT: "payment.requires_action",
    PaymentState.AUTHORIZED: "payment.authorized",
    PaymentState.CAPTURED: "payment.captured",
    PaymentState.FAILED: "payment.failed",
    PaymentState.CANCELLED: "payment.voided",
    PaymentState.UNKNOWN: "payment.unknown",
}
_REFUND_EVENTS: Final = {
    RefundState.SUCCEEDED: "refund.succeeded",
    RefundState.FAILED: "refund.failed",
    RefundState.UNKNOWN: "refund.unknown",
}


@transaction_required
def record(call: Call, outcome: Outcome, trace: Trace, *, timetable: Timetable | None = None) -> list[Change]:
    """Record how a call ended. Joins the open transaction, whose caller holds the order's lock.

    Returns what changed, for the order's events; nothing when somebody else has taken the call over since, or when all
    of it was known. Whoever waits for the payment is woken at the commit.
    """
    failpoint("record.begun")
    declare_change(actor=trace.principal, action=f"payment.{call.operation}", request_id=trace.request_id)
    payment = repositories.lock_payment(call.payment.id)
    assert payment is not None, "payments are never deleted"
    if not attempts.end_attempt(call, _ending(call, outcome, timetable or Timetable())):
        log.warning("payment.fence_lost", attempt_id=call.attempt_id, payment_id=payment.id)
        return []
    failpoint("record.attempt_written")
    _note_review(call, outcome, payment, timetable or Timetable())
    if call.operation is Operation.REFUND:
        changes = _record_refund(call, outcome)
    else:
        changes = _record_payment(call, outcome, payment, timetable or Timetable())
    repositories.notify(PAYMENTS_CHANNEL, str(payment.id))
    failpoint("record.notified")
    return changes


# ---------------------------------------------------------------- the attempt
_ENDS: Final = {Finding.DECLINED: AttemptState.DECLINED, Finding.REJECTED: AttemptState.REJECTED}


def _ending(call: Call, outcome: Outcome, timetable: Timetable) -> Ending:
    """Decide how the attempt goes on."""
    if outcome.finding in _ENDS:
        return Ending(_ENDS[outcome.finding], None, outcome.code)
    if outcome.finding is Finding.NOT_EXECUTED:
        return _ending_of_nothing(call, outcome, timetable)
    wait = timetable.wait_seconds(call.looks, age_seconds=call.sent_seconds, uniform=random.uniform)
    if outcome.finding is Finding.SEEN:
        waits = _is_waited_for(outcome) and not _is_given_up(call, outcome, timetable)
        return Ending(AttemptState.SUCCEEDED, wait if waits else None)
    if call.is_watch:  # a look that did not come through: what was known before is still known
        return Ending(AttemptState.SUCCEEDED, _at_least(wait, outcome), outcome.code)
    return Ending(AttemptState.UNKNOWN, _at_least(wait, outcome), outcome.code, is_unknown=True)


def _ending_of_nothing(call: Call, outcome: Outcome, timetable: Timetable) -> Ending:
    """Decide after a call that was not made: tell a buyer at once, try what nobody waits for until it can be made."""
    if call.operation is Operation.AUTHORISE:
        return Ending(AttemptState.NOT_EXECUTED, None, outcome.code, was_not_sent=True)
    wait = timetable.wait_seconds(call.looks, age_seconds=call.waiting_seconds, uniform=random.uniform)
    return Ending(AttemptState.DUE, _at_least(wait, outcome), outcome.code, was_not_sent=True)


def _at_least(wait: float | None, outcome: Outcome) -> float | None:
    """Return a wait that respects the gateway's own wish."""
    return None if wait is None else max(wait, outcome.retry_after_seconds)


def _is_waited_for(outcome: Outcome) -> bool:
    if outcome.refund is not None:
        return outcome.refund.status is GatewayRefundStatus.PROCESSING
    waiting = {GatewayPaymentStatus.REQUIRES_ACTION, GatewayPaymentStatus.PROCESSING}
    return outcome.payment is not None and outcome.payment.status in waiting


def _is_given_up(call: Call, outcome: Outcome, timetable: Timetable) -> bool:
    return (
        outcome.payment is not None
        and outcome.payment.status is GatewayPaymentStatus.REQUIRES_ACTION
        and timetable.buyer_has_left(call.sent_seconds)
    )


def _is_forgotten(call: Call, outcome: Outcome, timetable: Timetable) -> bool:
    """Tell whether the gateway has not decided, and nobody looks by themselves any more."""
    waits = _is_waited_for(outcome) and not _is_given_up(call, outcome, timetable)
    return waits and timetable.is_over(call.sent_seconds)


def _note_review(call: Call, outcome: Outcome, payment: PaymentView, timetable: Timetable) -> None:
    """Say why a person must look, or that what they had to look for is settled."""
    reason = payment.review_reason
    if outcome.finding is Finding.MISMATCH:
        reason = outcome.code
    elif outcome.is_our_fault:
        reason = f"{outcome.finding.name.lower()}:{outcome.code}"
    elif call.operation is Operation.REFUND and outcome.finding is Finding.DECLINED:
        # Nobody may be waiting for it any more, and the money is still here.
        reason = f"refund_failed:{outcome.code}"
    elif outcome.finding is Finding.SEEN and _is_forgotten(call, outcome, timetable):
        reason = reason or UNDECIDED_FOR_DAYS
    elif outcome.finding in {Finding.UNKNOWN, Finding.NOT_EXECUTED}:
        reason = reason or _overdue(call, outcome, timetable)
    elif call.is_unknown or call.is_watch or reason in {UNKNOWN_FOR_A_DAY, WAITING_FOR_A_DAY}:
        # Another call of this payment may still be what the reason is about.
        reason = reason if attempts.has_unknown(payment.id) else ""
    if reason == payment.review_reason:
        return
    repositories.change_payment(payment.id, {"review_reason": reason[:120]})
    if reason:
        tell = log.error if outcome.is_our_fault or outcome.finding is Finding.MISMATCH else log.warning
        tell("payment.needs_review", payment_id=payment.id, order_id=payment.order_id, reason=reason)


def _overdue(call: Call, outcome: Outcome, timetable: Timetable) -> str:
    """Return the reason to look at a call that has been open for too long, or nothing."""
    if outcome.finding is Finding.UNKNOWN:
        return UNKNOWN_FOR_A_DAY if timetable.needs_review(call.sent_seconds) else ""
    is_waiting = call.operation is not Operation.AUTHORISE and timetable.needs_review(call.waiting_seconds)
    return WAITING_FOR_A_DAY if is_waiting else ""


# ---------------------------------------------------------------- the payment
def _record_payment(call: Call, outcome: Outcome, payment: PaymentView, timetable: Timetable) -> list[Change]:
    if outcome.finding is Finding.NOT_EXECUTED:
        return _record_not_executed(call, outcome, payment)
    if outcome.finding in {Finding.UNKNOWN, Finding.MISMATCH}:
        return _record_unknown(call, payment)
    if outcome.payment is not None:
        changes = _follow(payment, outcome.payment, outcome.code)
        if _is_given_up(call, outcome, timetable):
            _give_up(payment)
        return changes
    if call.operation is not Operation.AUTHORISE:
        return []  # refused, and nothing has become of the payment
    code = outcome.code if outcome.finding is Finding.DECLINED else GATEWAY_REJECTED
    return _become(payment, PaymentState.FAILED, {"decline_code": code[:100], "action_url": ""})


def _record_not_executed(call: Call, outcome: Outcome, payment: PaymentView) -> list[Change]:
    if call.operation is not Operation.AUTHORISE:
        return []
    if outcome.next_gateway:
        _ask_other_gateway(call, outcome.next_gateway)
        return []
    return _become(payment, PaymentState.FAILED, {"decline_code": GATEWAY_UNAVAILABLE})


def _ask_other_gateway(call: Call, gateway: str) -> None:
    """Turn to another gateway, which is safe only because the first one has certainly done nothing."""
    log.warning("payment.fallback", payment_id=call.payment.id, before=call.gateway, after=gateway)
    repositories.change_payment(call.payment.id, {"gateway": gateway})
    owner = repositories.read_key_owner(call.payment.id)
    key = gateway_key(
        principal=owner.principal,
        client_key=owner.client_key,
        purpose=f"authorise:{gateway}",
        generation=owner.generation,
    )
    attempts.insert_attempt(
        NewAttempt(
            payment_id=call.payment.id,
            refund_id=None,
            operation=Operation.AUTHORISE,
            gateway=gateway,
            gateway_key=key,
            amount=call.amount,
            created_by=call.principal,
            request_id=call.request_id,
            method=call.method,
            return_url=call.return_url,
        )
    )


def _record_unknown(call: Call, payment: PaymentView) -> list[Change]:
    """Tell once that the outcome is not known. A payment that was held stays so: only what was to follow is open."""
    if call.is_watch or call.is_unknown:
        return []
    if may_become(payment.status, PaymentState.UNKNOWN):
        return _become(payment, PaymentState.UNKNOWN, {})
    return [Change(_EVENTS[PaymentState.UNKNOWN], payment.order_id, _now(payment))]


def _follow(payment: PaymentView, seen: GatewayPayment, code: str) -> list[Change]:
    """Let a payment become what it is at the gateway; what it is already, or cannot become, changes nothing."""
    target = _STATES[seen.status]
    values: dict[str, Any] = {"gateway_payment_id": seen.payment_id, "action_url": seen.action_url[:2048]}
    if target is PaymentState.FAILED:
        values["decline_code"] = (seen.decline_code or code)[:100]
    if target is payment.status and seen.payment_id != payment.gateway_payment_id:
        repositories.change_payment(payment.id, values)
    if not may_become(payment.status, target):
        return []
    if target is not PaymentState.CAPTURED:
        return _become(payment, target, values)
    changes = _become(payment, target, {**values, "captured_amount": seen.captured.to_decimal()})
    ledger.post_capture(payment, seen.captured)
    failpoint("record.ledger_written")
    return changes


def _become(payment: PaymentView, target: PaymentState, values: dict[str, Any]) -> list[Change]:
    if not may_become(payment.status, target):
        return []
    repositories.change_payment(payment.id, {**values, "status": target.value})
    failpoint("record.payment_written")
    return [Change(_EVENTS[target], payment.order_id, _now(payment))] if target in _EVENTS else []


def _give_up(payment: PaymentView) -> None:
    """Void a payment whose buyer has left."""
    client_key = hash_client_key(RESOLVER, payment.reference)
    key = gateway_key(principal=RESOLVER, client_key=client_key, purpose=f"void:{payment.reference}", generation=1)
    attempts.insert_attempt(
        NewAttempt(
            payment_id=payment.id,
            refund_id=None,
            operation=Operation.VOID,
            gateway=payment.gateway,
            gateway_key=key,
            amount=payment.amount,
            created_by=RESOLVER,
            request_id=payment.reference,
        )
    )


def _now(payment: PaymentView) -> PaymentView:
    view = repositories.read_payment(payment.id)
    assert view is not None
    return view


# ---------------------------------------------------------------- the refund
def _record_refund(call: Call, outcome: Outcome) -> list[Change]:
    assert call.refund is not None, "the call of a refund has one"
    refund = repositories.read_refund(call.refund.id)
    assert refund is not None
    target = _refund_target(call, outcome)
    if target is None or not refund_may_become(refund.status, target):
        return []
    gateway_id = outcome.refund.refund_id if outcome.refund else ""
    code = outcome.code[:100] if target is RefundState.FAILED else ""
    repositories.change_refund(refund.id, status=target, gateway_refund_id=gateway_id, failure_code=code)
    failpoint("record.refund_written")
    if target is RefundState.SUCCEEDED:
        _give_back(refund, refund.amount)
    if target not in _REFUND_EVENTS:
        return []
    payment = repositories.read_payment(refund.payment_id)
    assert payment is not None
    return [Change(_REFUND_EVENTS[target], refund.order_id, payment, repositories.read_refund(refund.id))]


def _refund_target(call: Call, outcome: Outcome) -> RefundState | None:
    if outcome.finding in {Finding.DECLINED, Finding.REJECTED}:
        return RefundState.FAILED
    if outcome.finding in {Finding.UNKNOWN, Finding.MISMATCH}:
        return None if call.is_watch else RefundState.UNKNOWN
    if outcome.finding is Finding.NOT_EXECUTED or outcome.refund is None:
        return None
    return _REFUND_STATES[outcome.refund.status]


def _give_back(refund: RefundView, amount: Money) -> None:
    payment = repositories.read_payment(refund.payment_id)
    assert payment is not None
    repositories.change_payment(payment.id, {"refunded_amount": (payment.refunded + amount).to_decimal()})
    ledger.post_refund(payment, refund)
    failpoint("record.ledger_written")
