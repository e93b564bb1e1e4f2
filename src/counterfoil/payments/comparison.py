"""Whether a payment or refund of ours and the gateway's are the same (rule, pure): the first difference, in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefund,
    GatewayRefundStatus,
)
from counterfoil.payments.states import UNDECIDED, PaymentState, RefundState

_SAME_PAYMENT: Final[dict[PaymentState, frozenset[GatewayPaymentStatus]]] = {
    PaymentState.REQUIRES_PAYMENT: frozenset({GatewayPaymentStatus.REQUIRES_ACTION}),
    PaymentState.PROCESSING: frozenset({GatewayPaymentStatus.PROCESSING}),
    PaymentState.UNKNOWN: frozenset({GatewayPaymentStatus.PROCESSING}),
    PaymentState.AUTHORIZED: frozenset({GatewayPaymentStatus.AUTHORIZED}),
    PaymentState.CAPTURED: frozenset({GatewayPaymentStatus.CAPTURED}),
    PaymentState.FAILED: frozenset({GatewayPaymentStatus.DECLINED, GatewayPaymentStatus.VOIDED}),
    PaymentState.CANCELLED: frozenset({GatewayPaymentStatus.VOIDED, GatewayPaymentStatus.DECLINED}),
}
_SAME_REFUND: Final[dict[RefundState, frozenset[GatewayRefundStatus]]] = {
    RefundState.REQUESTED: frozenset({GatewayRefundStatus.PROCESSING}),
    RefundState.PROCESSING: frozenset({GatewayRefundStatus.PROCESSING}),
    RefundState.UNKNOWN: frozenset({GatewayRefundStatus.PROCESSING}),
    RefundState.SUCCEEDED: frozenset({GatewayRefundStatus.SUCCEEDED}),
    RefundState.FAILED: frozenset({GatewayRefundStatus.FAILED}),
}
# At the gateway these mean that no money was taken and none is held.
_WITHOUT_MONEY: Final = frozenset({GatewayPaymentStatus.DECLINED, GatewayPaymentStatus.VOIDED})
# Ours, if they are right, must be at the gateway.
MUST_BE_THERE: Final = (PaymentState.AUTHORIZED, PaymentState.CAPTURED)


@dataclass(frozen=True, slots=True)
class BookedPayment:
    """A payment as we have it. `is_under_way`: a call is due, running or of unknown outcome."""

    id: int
    order_id: int
    reference: str
    gateway_payment_id: str
    status: PaymentState
    amount: Money
    captured: Money
    is_under_way: bool
    review_reason: str
    version: int
    created_at: datetime

    @property
    def is_open(self) -> bool:
        """Tell whether it is still on its way, and nobody was called to look at it."""
        return (self.is_under_way or self.status in UNDECIDED) and not self.review_reason


@dataclass(frozen=True, slots=True)
class BookedRefund:
    """A refund as we have it."""

    id: int
    payment_id: int
    order_id: int
    reference: str
    gateway_refund_id: str
    gateway_payment_id: str
    status: RefundState
    amount: Money
    is_under_way: bool
    version: int
    created_at: datetime

    @property
    def is_open(self) -> bool:
        """Tell whether it is still on its way."""
        return self.is_under_way or self.status not in {RefundState.SUCCEEDED, RefundState.FAILED}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing on which we and the gateway disagree. `subject` names it, `code` is stable, `sentence` for a person."""

    code: str
    subject: str
    sentence: str
    subject_at: datetime
    order_id: int | None = None
    payment_id: int | None = None
    refund_id: int | None = None


def compare_payment(ours: BookedPayment | None, seen: GatewayPayment) -> Difference | None:
    """Return the first difference between a payment at the gateway and ours (None: we have none)."""
    is_ours = ours is not None and ours.gateway_payment_id in {"", seen.payment_id}
    if not is_ours and seen.status in _WITHOUT_MONEY:
        return None
    if ours is None:
        told = f"has {seen.amount} with reference {seen.reference or '(none)'}, which we do not know"
        return _of_payment("payment_missing_here", seen, ours, told)
    tests = (
        (
            "made_twice",
            not is_ours,
            f"has a second one with reference {seen.reference}: {ours.gateway_payment_id} is ours",
        ),
        ("currency_differs", ours.amount.currency != seen.amount.currency, _told(seen.amount, ours.amount)),
        ("amount_differs", ours.amount != seen.amount, _told(seen.amount, ours.amount)),
        ("state_differs", seen.status not in _SAME_PAYMENT[ours.status], _told(seen.status, ours.status)),
        ("captured_differs", ours.captured != seen.captured, f"has taken {seen.captured}, we have {ours.captured}"),
        ("reference_differs", ours.reference != seen.reference, _told(seen.reference or "(none)", ours.reference)),
    )
    return next((_of_payment(f"payment_{code}", seen, ours, told) for code, differs, told in tests if differs), None)


def _told(theirs: object, ours: object) -> str:
    return f"has {theirs}, we have {ours}"


def payment_missing_there(ours: BookedPayment) -> Difference:
    """Return the difference of a payment that the gateway does not have."""
    return Difference(
        "payment_missing_there",
        f"payment {ours.reference}",
        f"The gateway has no payment {ours.gateway_payment_id or ours.reference}; we have it as {ours.status},"
        f" {ours.amount}.",
        ours.created_at,
        ours.order_id,
        ours.id,
    )


def compare_refund(ours: BookedRefund | None, seen: GatewayRefund) -> Difference | None:
    """Return the first difference between a refund at the gateway and ours (None: we have none)."""
    if ours is None:
        if seen.status is GatewayRefundStatus.FAILED:
            return None
        told = f"has given back {seen.amount} of {seen.payment_id}, which we do not know"
        return _of_refund("refund_missing_here", seen, ours, told)
    is_ours = ours.gateway_refund_id in {"", seen.refund_id}
    tests = (
        (
            "payment_differs",
            ours.gateway_payment_id != seen.payment_id,
            _told(seen.payment_id, ours.gateway_payment_id),
        ),
        (
            "made_twice",
            not is_ours,
            f"has a second one with reference {seen.reference}: {ours.gateway_refund_id} is ours",
        ),
        ("currency_differs", ours.amount.currency != seen.amount.currency, _told(seen.amount, ours.amount)),
        ("amount_differs", ours.amount != seen.amount, _told(seen.amount, ours.amount)),
        ("state_differs", seen.status not in _SAME_REFUND[ours.status], _told(seen.status, ours.status)),
    )
    return next((_of_refund(f"refund_{code}", seen, ours, told) for code, differs, told in tests if differs), None)


def refund_missing_there(ours: BookedRefund) -> Difference:
    """Return the difference of a refund that the gateway does not have."""
    return Difference(
        "refund_missing_there",
        f"refund {ours.reference}",
        f"The gateway has no refund {ours.gateway_refund_id or ours.reference} of {ours.gateway_payment_id}; we have"
        f" it as {ours.status}, {ours.amount}.",
        ours.created_at,
        ours.order_id,
        ours.payment_id,
        ours.id,
    )


def _of_payment(code: str, seen: GatewayPayment, ours: BookedPayment | None, told: str) -> Difference:
    sentence = f"For payment {seen.payment_id} the gateway {told}."
    subject = f"payment {seen.payment_id}"
    if ours is None:
        return Difference(code, subject, sentence, seen.created_at)
    return Difference(code, subject, sentence, seen.created_at, ours.order_id, ours.id)


def _of_refund(code: str, seen: GatewayRefund, ours: BookedRefund | None, told: str) -> Difference:
    sentence = f"For refund {seen.refund_id} the gateway {told}."
    subject = f"refund {seen.refund_id}"
    if ours is None:
        return Difference(code, subject, sentence, seen.created_at)
    return Difference(code, subject, sentence, seen.created_at, ours.order_id, ours.payment_id, ours.id)
