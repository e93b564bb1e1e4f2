"""Payments and refunds as everybody above sees them (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from counterfoil.kernel.money import Money
from counterfoil.payments.states import Operation, PaymentState, RefundState, allowed_operations


class Trace(Protocol):
    """On whose behalf and because of what a change is made."""

    @property
    def principal(self) -> str:
        """Who: `user:12`, `job:payments`."""

    @property
    def request_id(self) -> str:
        """Because of which request."""


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment. `captured` was taken, `refunded` given back of it, `refundable` is not asked back yet.

    `pending` names the call that is under way (authorise, capture, void), empty if there is none; `is_unknown` that its
    outcome is not known. `review_reason` says why a person must look.
    """

    id: int
    order_id: int
    gateway: str
    reference: str
    gateway_payment_id: str
    status: PaymentState
    amount: Money
    captured: Money
    refunded: Money
    refundable: Money
    capture_now: bool
    decline_code: str
    action_url: str
    review_reason: str
    pending: str
    is_unknown: bool
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RefundView:
    """A refund of a payment. `failure_code` is the gateway's word when it failed."""

    id: int
    payment_id: int
    order_id: int
    reference: str
    gateway_refund_id: str
    amount: Money
    status: RefundState
    reason: str
    automatic: bool
    failure_code: str
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentTotals:
    """The money of one order. `authorized` is held and not taken.

    `leaving` is in these sums and on its way out: held and to be released, or taken and to be given back.
    `in_flight`: a call is due, running or of unknown outcome, or the buyer has to act; `unknown`: one's outcome is not
    known.
    """

    authorized: Money
    captured: Money
    refunded: Money
    leaving: Money
    in_flight: bool
    unknown: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a recorded answer changed; `kind` is the type of the event that tells it."""

    kind: str
    order_id: int
    payment: PaymentView
    refund: RefundView | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt in a worker's hands: all that asking the gateway and recording its answer need.

    `was_sent`: an earlier try may have been executed, so the gateway is looked at first. `is_watch`: nothing is sent;
    the buyer or the gateway is waited for. `sent_seconds` have passed since it was first sent, `waiting_seconds` since
    it was written. `looks` of it ended without knowing.
    """

    attempt_id: int
    fence: int
    operation: Operation
    gateway: str
    key: str
    amount: Money
    method: str
    return_url: str
    was_sent: bool
    is_watch: bool
    is_unknown: bool
    looks: int
    first_sent_at: datetime
    claimed_at: datetime
    sent_seconds: float
    waiting_seconds: float
    principal: str
    request_id: str
    payment: PaymentView
    refund: RefundView | None

    @property
    def order_id(self) -> int:
        """The order that the money is for."""
        return self.payment.order_id


def allowed_payment_actions(view: PaymentView) -> tuple[str, ...]:
    """Return what may be asked of a payment now: capture, void, refund; sorted."""
    return allowed_operations(
        view.status,
        is_busy=view.pending in {Operation.CAPTURE, Operation.VOID},
        is_refundable=view.refundable.amount_minor > 0,
    )
