"""Payments and refunds on the wire."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END, Amount, Line, OptionalLine
from counterfoil.orders.paying import PayTerms, actions_of, could_not_be_asked
from counterfoil.orders.states import Party
from counterfoil.payments.states import PaymentState, RefundState
from counterfoil.payments.views import PaymentView, RefundView

Method = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.:-]{1,200}" + END,
        examples=["pm_card_visa"],
        description="The token that the gateway's own form gave to the buyer's browser; never a card number.",
    ),
]
ReturnUrl = Annotated[
    str,
    Meta(
        max_length=2048,
        pattern=r"^https?://[!-~]+" + END,
        examples=["https://shop.example/thanks"],
        description="Where the buyer comes back to after an authentication.",
    ),
]


class PayIn(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """How to pay."""

    method: Method
    amount: (
        Annotated[Amount, Meta(description="In the order's currency; all that is left to pay without it.")] | None
    ) = None
    capture: Annotated[bool, Meta(description="Take the money at once; false: hold it, and capture it later.")] = True
    return_url: ReturnUrl | None = None


class CaptureIn(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """What to take of held money; the rest is released."""

    amount: Amount | None = None


class RefundIn(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """What to give back; all that is left without an amount."""

    amount: Amount | None = None
    reason: OptionalLine = ""


class ReviewIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What a person has found."""

    reason: Line


class PaymentResult(StrEnum):
    """What the payment means for whoever pays."""

    SUCCEEDED = "succeeded"
    PENDING = "payment_pending"
    REQUIRES_ACTION = "requires_action"
    DECLINED = "declined"
    UNAVAILABLE = "gateway_unavailable"
    VOIDED = "voided"


class PaymentOut(Struct, frozen=True):
    """A payment. `result` says what it means; while that is `payment_pending`, ask again at `status_url`."""

    id: int
    order_id: int
    result: PaymentResult
    status: PaymentState
    status_url: str
    amount: Decimal
    captured: Decimal
    refunded: Decimal
    currency: str
    gateway: str
    reference: Annotated[str, Meta(description="Our name of the payment at the gateway.")]
    decline_code: str | None
    action_url: Annotated[str | None, Meta(description="Where the buyer authenticates.")]
    review_reason: Annotated[str | None, Meta(description="Why a person must look; for staff.")]
    allowed_actions: tuple[str, ...]
    version: int
    created_at: datetime
    updated_at: datetime


class PaymentList(Struct, frozen=True):
    """An order's payments, oldest first."""

    items: list[PaymentOut]


class RefundOut(Struct, frozen=True):
    """A refund. Until its `status` is `succeeded` or `failed`, ask again at `status_url`."""

    id: int
    payment_id: int
    order_id: int
    status: RefundState
    status_url: str
    amount: Decimal
    currency: str
    automatic: Annotated[bool, Meta(description="The order had no use for the money.")]
    reason: str | None
    failure_code: str | None
    version: int
    created_at: datetime
    updated_at: datetime


class RefundList(Struct, frozen=True):
    """A payment's refunds, oldest first."""

    items: list[RefundOut]


def terms_of(data: PayIn) -> PayTerms:
    """Turn the body into the core's terms."""
    return PayTerms(data.method, data.amount, data.capture, data.return_url or "")


_RESULTS = {
    PaymentState.REQUIRES_PAYMENT: PaymentResult.REQUIRES_ACTION,
    PaymentState.PROCESSING: PaymentResult.PENDING,
    PaymentState.UNKNOWN: PaymentResult.PENDING,
    PaymentState.AUTHORIZED: PaymentResult.SUCCEEDED,
    PaymentState.CAPTURED: PaymentResult.SUCCEEDED,
    PaymentState.FAILED: PaymentResult.DECLINED,
    PaymentState.CANCELLED: PaymentResult.VOIDED,
}


def result_of(payment: PaymentView) -> PaymentResult:
    """Return what a payment means for whoever pays."""
    return PaymentResult.UNAVAILABLE if could_not_be_asked(payment) else _RESULTS[payment.status]


def render_payment(payment: PaymentView, party: Party) -> PaymentOut:
    """Turn the core's view into what is shown to a customer or to staff."""
    return PaymentOut(
        id=payment.id,
        order_id=payment.order_id,
        result=result_of(payment),
        status=payment.status,
        status_url=f"/api/v1/payments/{payment.id}",
        amount=payment.amount.to_decimal(),
        captured=payment.captured.to_decimal(),
        refunded=payment.refunded.to_decimal(),
        currency=payment.amount.currency,
        gateway=payment.gateway,
        reference=payment.reference,
        decline_code=payment.decline_code or None,
        action_url=payment.action_url or None,
        review_reason=(payment.review_reason or None) if party is Party.STAFF else None,
        allowed_actions=actions_of(payment, party),
        version=payment.version,
        created_at=payment.created_at,
        updated_at=payment.updated_at,
    )


def render_refund(refund: RefundView, party: Party) -> RefundOut:
    """Turn the core's view into what is shown; why money went back is between staff."""
    return RefundOut(
        id=refund.id,
        payment_id=refund.payment_id,
        order_id=refund.order_id,
        status=refund.status,
        status_url=f"/api/v1/refunds/{refund.id}",
        amount=refund.amount.to_decimal(),
        currency=refund.amount.currency,
        automatic=refund.automatic,
        reason=(refund.reason or None) if party is Party.STAFF else None,
        failure_code=refund.failure_code or None,
        version=refund.version,
        created_at=refund.created_at,
        updated_at=refund.updated_at,
    )
