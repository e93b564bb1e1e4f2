"""Stripe's objects as they stand on the wire, and their translation into our words. Knows no library."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from counterfoil.kernel.money import CURRENCY_DIGITS, Money
from counterfoil.payments.gateways.base import (
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefund,
    GatewayRefundStatus,
)

# Where our reference stands in an object's metadata.
REFERENCE: Final = "counterfoil_reference"

# Currencies that Stripe counts in another unit than ISO 4217 does (its page "Supported currencies", special cases).
_DIGITS: Final = {"ISK": 2, "UGX": 2, "MGA": 0}
# With three digits, the last one must be zero.
_THREE: Final = 3

_PAYMENT_STATES: Final = {
    "requires_payment_method": GatewayPaymentStatus.DECLINED,
    "requires_confirmation": GatewayPaymentStatus.PROCESSING,
    "requires_action": GatewayPaymentStatus.REQUIRES_ACTION,
    "processing": GatewayPaymentStatus.PROCESSING,
    "requires_capture": GatewayPaymentStatus.AUTHORIZED,
    "succeeded": GatewayPaymentStatus.CAPTURED,
    "canceled": GatewayPaymentStatus.VOIDED,
}
_REFUND_STATES: Final = {
    "pending": GatewayRefundStatus.PROCESSING,
    "requires_action": GatewayRefundStatus.PROCESSING,
    "succeeded": GatewayRefundStatus.SUCCEEDED,
    "failed": GatewayRefundStatus.FAILED,
    "canceled": GatewayRefundStatus.FAILED,
}


class Failure(msgspec.Struct, frozen=True):
    """Why something failed, in an error answer or in an intent that was declined."""

    type: str = ""
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None
    payment_intent: dict[str, object] | None = None


class AnyAnswer(msgspec.Struct, frozen=True):
    """What every answer is at least: a JSON object, with an error in it if it failed."""

    error: Failure | None = None


class Redirect(msgspec.Struct, frozen=True):
    """Where the buyer authenticates."""

    url: str | None = None


class NextAction(msgspec.Struct, frozen=True):
    """What the buyer has to do."""

    redirect_to_url: Redirect | None = None


class Intent(msgspec.Struct, frozen=True):
    """A PaymentIntent."""

    id: str
    status: str
    amount: int
    currency: str
    created: int
    amount_received: int = 0
    metadata: dict[str, str] = {}
    last_payment_error: Failure | None = None
    next_action: NextAction | None = None


class Refund(msgspec.Struct, frozen=True):
    """A Refund."""

    id: str
    amount: int
    currency: str
    created: int
    payment_intent: str | None = None
    status: str | None = None
    metadata: dict[str, str] | None = None


class IntentList(msgspec.Struct, frozen=True):
    """A page of PaymentIntents, or of what a search found."""

    data: list[Intent]
    has_more: bool


class RefundList(msgspec.Struct, frozen=True):
    """A page of Refunds."""

    data: list[Refund]
    has_more: bool


class EventData(msgspec.Struct, frozen=True):
    """The object that an event is about, not read yet."""

    object: msgspec.Raw


class Event(msgspec.Struct, frozen=True):
    """A webhook's body."""

    id: str
    type: str
    created: int
    data: EventData


def payment_of(intent: Intent) -> GatewayPayment:
    """Translate; raises ValueError on a state, currency or amount that we do not know."""
    currency = intent.currency.upper()
    if intent.status not in _PAYMENT_STATES:
        raise ValueError(f"unknown state of a payment: {intent.status}")
    failure = intent.last_payment_error
    action = intent.next_action.redirect_to_url if intent.next_action else None
    return GatewayPayment(
        payment_id=intent.id,
        reference=intent.metadata.get(REFERENCE, ""),
        status=_PAYMENT_STATES[intent.status],
        amount=money_of(intent.amount, currency),
        captured=money_of(intent.amount_received, currency),
        created_at=datetime.fromtimestamp(intent.created, UTC),
        decline_code=decline_code(failure) if failure else "",
        action_url=(action.url or "") if action else "",
    )


def refund_of(refund: Refund) -> GatewayRefund:
    """Translate; raises ValueError on a state, currency or amount that we do not know."""
    status = refund.status or "pending"
    if status not in _REFUND_STATES:
        raise ValueError(f"unknown state of a refund: {status}")
    return GatewayRefund(
        refund_id=refund.id,
        payment_id=refund.payment_intent or "",
        reference=(refund.metadata or {}).get(REFERENCE, ""),
        status=_REFUND_STATES[status],
        amount=money_of(refund.amount, refund.currency.upper()),
        created_at=datetime.fromtimestamp(refund.created, UTC),
    )


def decline_code(failure: Failure) -> str:
    """Return the most exact word for a refusal."""
    return failure.decline_code or failure.code or "declined"


def stripe_amount(money: Money) -> int:
    """Return the amount in Stripe's unit; raises ValueError when Stripe cannot take it exactly."""
    digits = _DIGITS.get(money.currency, money.digits)
    amount = money.to_decimal().scaleb(digits)
    if amount % (10 if digits == _THREE else 1):
        raise ValueError(f"{money} has more digits than the gateway takes")
    return int(amount)


def money_of(amount: int, currency: str) -> Money:
    """Return Stripe's amount as Money; raises ValueError when that is not exact, or the currency unknown."""
    digits = _DIGITS.get(currency, CURRENCY_DIGITS.get(currency, 0))
    return Money.from_decimal(Decimal(amount).scaleb(-digits), currency)
