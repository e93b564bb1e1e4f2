"""Asking a gateway: what is sent, what is looked at first, and what the answer means for the money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Final, TypeVar

from counterfoil.infrastructure.database import no_transaction
from counterfoil.infrastructure.failpoints import failpoint
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    ActionRefused,
    GatewayError,
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefund,
    GatewayRefundStatus,
    NotExecuted,
    OutcomeUnknown,
    PaymentDeclined,
    PaymentGateway,
    PaymentRequest,
    RequestRejected,
    TimeSpan,
    find_payments,
    find_refunds,
)
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.states import Operation
from counterfoil.payments.timetable import Timetable
from counterfoil.payments.views import Call

T = TypeVar("T")

# What the clocks of a gateway and of our database may be apart.
_CLOCKS_APART: Final = timedelta(minutes=10)


class Finding(Enum):
    """What is known after a call."""

    SEEN = "the gateway has said where the payment or refund stands, and its amounts are ours"
    DECLINED = "refused for good"
    UNKNOWN = "it may have been done or not"
    NOT_EXECUTED = "certainly nothing was done, by this try or one before it"
    REJECTED = "the gateway does not take the call: the payment does not allow it, or the call is wrong"
    MISMATCH = "the gateway has something else than we asked for"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `code` is one word for logs; `next_gateway` may be asked instead, when nothing was done.

    A rejected call has the `payment` with it that the gateway has, and `is_our_fault` when nothing explains it.
    """

    finding: Finding
    code: str = ""
    payment: GatewayPayment | None = None
    refund: GatewayRefund | None = None
    retry_after_seconds: float = 0.0
    next_gateway: str = ""
    is_our_fault: bool = False


@no_transaction
def execute(call: Call, gateways: Gateways, *, timetable: Timetable | None = None) -> Outcome:
    """Make a call, or find out how an earlier try ended; holds no transaction and no connection.

    What an earlier try may have done is looked for first. Only what is not there is sent again, with the same key, and
    only while the gateway remembers keys. Returns also what went wrong; raises only for bugs.
    """
    try:
        gateway = gateways.named(call.gateway)
        return _STEPS[call.operation](call, gateway, timetable or Timetable())
    except NotExecuted as error:
        return _not_executed(call, gateways, error)
    except PaymentDeclined as error:
        return Outcome(Finding.DECLINED, error.code, payment=None)
    except RequestRejected as error:
        # After a try that may have been executed, a refusal of the next one proves nothing about the first.
        finding = Finding.UNKNOWN if call.was_sent else Finding.REJECTED
        return Outcome(finding, error.code, is_our_fault=True)
    except GatewayError as error:
        return Outcome(Finding.UNKNOWN, error.code, retry_after_seconds=error.retry_after_seconds or 0.0)


def _not_executed(call: Call, gateways: Gateways, error: NotExecuted) -> Outcome:
    wait = error.retry_after_seconds or 0.0
    if call.was_sent or call.is_watch:
        return Outcome(Finding.UNKNOWN, error.code, retry_after_seconds=wait)
    other = gateways.fallback if call.operation is Operation.AUTHORISE else ""
    return Outcome(
        Finding.NOT_EXECUTED,
        error.code,
        retry_after_seconds=wait,
        next_gateway=other if other != call.gateway else "",
    )


# ---------------------------------------------------------------- one step for each operation
def _authorise(call: Call, gateway: PaymentGateway, timetable: Timetable) -> Outcome:
    if call.was_sent or call.is_watch:
        found = _look_for_payment(call, gateway)
        if found is not None:
            return found
        if call.is_watch or not timetable.may_resend(call.sent_seconds):
            return Outcome(Finding.UNKNOWN, "not_found")
    request = PaymentRequest(
        key=call.key,
        reference=call.payment.reference,
        amount=call.amount,
        method=call.method,
        capture_now=call.payment.capture_now,
        return_url=call.return_url,
    )
    return _judge_payment(call, _sent(lambda: gateway.authorise(request)))


def _capture(call: Call, gateway: PaymentGateway, timetable: Timetable) -> Outcome:
    payment_id = call.payment.gateway_payment_id
    return _act(
        call,
        gateway,
        timetable,
        send=lambda: gateway.capture(payment_id, amount=call.amount, key=call.key),
        wanted=GatewayPaymentStatus.CAPTURED,
    )


def _void(call: Call, gateway: PaymentGateway, timetable: Timetable) -> Outcome:
    payment_id = call.payment.gateway_payment_id
    return _act(
        call,
        gateway,
        timetable,
        send=lambda: gateway.void(payment_id, key=call.key),
        wanted=GatewayPaymentStatus.VOIDED,
    )


def _act(
    call: Call,
    gateway: PaymentGateway,
    timetable: Timetable,
    *,
    send: Callable[[], GatewayPayment],
    wanted: GatewayPaymentStatus,
) -> Outcome:
    """Change a payment that the gateway knows, unless it has become something that ends the matter."""
    payment_id = call.payment.gateway_payment_id
    if call.was_sent:
        seen = _looked(lambda: gateway.read_payment(payment_id))
        if seen.status not in _STILL_OPEN:
            return _judge_end(call, seen, wanted, code="found")
        if not timetable.may_resend(call.sent_seconds):
            return Outcome(Finding.UNKNOWN, "not_found")
    try:
        seen = _sent(send)
    except (ActionRefused, PaymentDeclined) as error:
        return _judge_end(call, gateway.read_payment(payment_id), wanted, code=error.code)
    return _judge_end(call, seen, wanted, code="unexpected_state")


def _refund(call: Call, gateway: PaymentGateway, timetable: Timetable) -> Outcome:
    assert call.refund is not None, "the call of a refund has one"
    payment_id, reference = call.payment.gateway_payment_id, call.refund.reference
    if call.was_sent or call.is_watch:
        found = _looked(lambda: find_refunds(gateway, payment_id, reference=reference))
        if found:
            return _judge_refund(call, found)
        if call.is_watch or not timetable.may_resend(call.sent_seconds):
            return Outcome(Finding.UNKNOWN, "not_found")
    try:
        answer = _sent(lambda: gateway.refund(payment_id, amount=call.amount, reference=reference, key=call.key))
    except ActionRefused as error:
        found = find_refunds(gateway, payment_id, reference=reference)
        if found:
            return _judge_refund(call, found)
        # An earlier try may still be on its way: what is not there yet may come, and must not be given back again.
        return Outcome(Finding.UNKNOWN if call.was_sent else Finding.REJECTED, error.code, is_our_fault=True)
    return _judge_refund(call, (answer,))


_Step = Callable[[Call, PaymentGateway, Timetable], Outcome]
_STEPS: Final[dict[Operation, _Step]] = {
    Operation.AUTHORISE: _authorise,
    Operation.CAPTURE: _capture,
    Operation.VOID: _void,
    Operation.REFUND: _refund,
}
_STILL_OPEN: Final = frozenset(
    {GatewayPaymentStatus.AUTHORIZED, GatewayPaymentStatus.REQUIRES_ACTION, GatewayPaymentStatus.PROCESSING}
)


# ---------------------------------------------------------------- looking and sending
def _look_for_payment(call: Call, gateway: PaymentGateway) -> Outcome | None:
    """Find what an earlier try did; None when there is certainly nothing of it."""
    if call.payment.gateway_payment_id:
        return _judge_payment(call, _looked(lambda: gateway.read_payment(call.payment.gateway_payment_id)))
    span = TimeSpan(call.first_sent_at - _CLOCKS_APART, call.claimed_at + _CLOCKS_APART)
    found = _looked(lambda: find_payments(gateway, call.payment.reference, span=span))
    if not found:
        return None
    alive = [payment for payment in found if payment.status is not GatewayPaymentStatus.DECLINED]
    if len(alive) > 1:
        return Outcome(Finding.MISMATCH, "several_payments")
    return _judge_payment(call, (alive or found)[0])


def _looked(look: Callable[[], T]) -> T:
    """Read something; whoever does not let us read has told us nothing about what was sent before."""
    failpoint("call.before_look")
    try:
        found = look()
    except RequestRejected as error:
        raise OutcomeUnknown(error.code, gateway=error.gateway) from error
    failpoint("call.looked")
    return found


def _sent(send: Callable[[], T]) -> T:
    failpoint("call.before_send")
    answer = send()
    failpoint("call.answered")
    return answer


# ---------------------------------------------------------------- judging
def _judge_payment(call: Call, seen: GatewayPayment) -> Outcome:
    """Compare what the gateway has with what we asked for, before anything of it is believed."""
    ours = call.payment
    if seen.reference != ours.reference:
        return Outcome(Finding.MISMATCH, "reference_mismatch")
    if seen.amount != ours.amount:
        return Outcome(Finding.MISMATCH, "amount_mismatch", payment=seen)
    if seen.status is GatewayPaymentStatus.CAPTURED and seen.captured != _captured_by(call, seen):
        return Outcome(Finding.MISMATCH, "amount_mismatch", payment=seen)
    if seen.status is GatewayPaymentStatus.DECLINED:
        return Outcome(Finding.DECLINED, seen.decline_code or "declined", payment=seen)
    return Outcome(Finding.SEEN, payment=seen)


def _captured_by(call: Call, seen: GatewayPayment) -> Money:
    """Return what must have been captured; when a void came too late, whatever was is only read."""
    if call.operation is Operation.VOID and 0 < seen.captured.amount_minor <= seen.amount.amount_minor:
        return Money(seen.captured.amount_minor, call.payment.amount.currency)
    return call.amount


def _judge_end(call: Call, seen: GatewayPayment, wanted: GatewayPaymentStatus, *, code: str) -> Outcome:
    """Judge a payment that was to be captured or voided: done, or become something else."""
    outcome = _judge_payment(call, seen)
    if outcome.finding is Finding.MISMATCH or seen.status is wanted:
        return outcome
    is_final = seen.status not in _STILL_OPEN
    if seen.status is GatewayPaymentStatus.PROCESSING:
        return Outcome(Finding.UNKNOWN, "processing")
    if call.was_sent and not is_final:  # an earlier try may still be on its way
        return Outcome(Finding.UNKNOWN, code, is_our_fault=True)
    return replace(outcome, finding=Finding.REJECTED, code=code, payment=seen, is_our_fault=not is_final)


def _judge_refund(call: Call, found: tuple[GatewayRefund, ...]) -> Outcome:
    """Compare the refund that the gateway has with ours; several with our reference are one too many."""
    if len(found) > 1:
        return Outcome(Finding.MISMATCH, "several_refunds")
    refund = found[0]
    if refund.amount != call.amount or refund.payment_id != call.payment.gateway_payment_id:
        return Outcome(Finding.MISMATCH, "amount_mismatch", refund=refund)
    if refund.status is GatewayRefundStatus.FAILED:
        return Outcome(Finding.DECLINED, "refund_failed", refund=refund)
    return Outcome(Finding.SEEN, refund=refund)
