"""What is known about a person's payments: amounts and what became of them; the means of payment is the gateway's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from counterfoil.payments import services as payments
from counterfoil.payments.views import PaymentView, RefundView


class PaidIn(msgspec.Struct, frozen=True):
    """A payment of an order; amounts as text, exact."""

    id: int
    order_id: int
    gateway: str
    reference: str
    status: str
    amount: str
    captured: str
    refunded: str
    currency: str
    decline_code: str
    created_at: datetime
    updated_at: datetime


class PaidBack(msgspec.Struct, frozen=True):
    """Money that went back, or is to."""

    id: int
    payment_id: int
    order_id: int
    status: str
    amount: str
    currency: str
    reason: str
    created_at: datetime
    updated_at: datetime


def collect_money(order_ids: Iterable[int]) -> tuple[list[PaidIn], list[PaidBack]]:
    """Return the payments and refunds of these orders, which are those that have any."""
    found = [payment for order_id in order_ids for payment in payments.list_payments(order_id)]
    back = [
        refund for payment in found if payment.captured.amount_minor for refund in payments.list_refunds(payment.id)
    ]
    return [_paid_in(payment) for payment in found], [_paid_back(refund) for refund in back]


def _paid_in(payment: PaymentView) -> PaidIn:
    return PaidIn(
        id=payment.id,
        order_id=payment.order_id,
        gateway=payment.gateway,
        reference=payment.reference,
        status=payment.status.value,
        amount=str(payment.amount.to_decimal()),
        captured=str(payment.captured.to_decimal()),
        refunded=str(payment.refunded.to_decimal()),
        currency=payment.amount.currency,
        decline_code=payment.decline_code,
        created_at=payment.created_at,
        updated_at=payment.updated_at,
    )


def _paid_back(refund: RefundView) -> PaidBack:
    return PaidBack(
        id=refund.id,
        payment_id=refund.payment_id,
        order_id=refund.order_id,
        status=refund.status.value,
        amount=str(refund.amount.to_decimal()),
        currency=refund.amount.currency,
        reason=refund.reason,
        created_at=refund.created_at,
        updated_at=refund.updated_at,
    )
