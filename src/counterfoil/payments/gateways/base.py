"""What a payment gateway must do, in our words, and what is known about the money when a call fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from counterfoil.kernel.money import Money

T = TypeVar("T")

# Every call of an adapter ends within this time: the total, not the wait for one packet.
ATTEMPT_SECONDS_MAX: Final = 30.0
CONNECT_SECONDS_MAX: Final = 2.0
# Entries of one page of a list, and refunds of one payment: what gateways give in one answer.
PAGE_ENTRIES_MAX: Final = 100


# What every gateway carries unchanged: in a header, in metadata, inside quotes of a search.
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


def check_identifiers(**identifiers: str) -> None:
    """Raise ValueError when one of our keys or references could not be carried by a gateway."""
    for name, text in identifiers.items():
        if not _IDENTIFIER.fullmatch(text):
            raise ValueError(f"{name} must be 1 to 200 of A-Z a-z 0-9 _ . : -")


# ---------------------------------------------------------------- values
class GatewayPaymentStatus(StrEnum):
    """Where a payment stands at the gateway."""

    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"


class GatewayRefundStatus(StrEnum):
    """Where a refund stands at the gateway."""

    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """One attempt to take money. Raises ValueError on a key or reference that a gateway could not carry.

    `reference` is ours and finds the payment again when its answer is lost; `method` is the token that the gateway's
    own form gave to the buyer's browser, so no card number passes through here. `capture_now` takes the money at once
    instead of holding it. `return_url` is where the buyer comes back to after an authentication.
    """

    key: str
    reference: str
    amount: Money
    method: str
    capture_now: bool = False
    return_url: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not be searched for later."""
        check_identifiers(key=self.key, reference=self.reference)


@dataclass(frozen=True, slots=True)
class GatewayPayment:
    """A payment as the gateway sees it. `amount` was asked for, `captured` was taken, refunds not subtracted.

    `decline_code` is the gateway's word for the last refusal, `action_url` where the buyer authenticates.
    """

    payment_id: str
    reference: str
    status: GatewayPaymentStatus
    amount: Money
    captured: Money
    created_at: datetime
    decline_code: str = ""
    action_url: str = ""


@dataclass(frozen=True, slots=True)
class GatewayRefund:
    """A refund as the gateway sees it; `reference` is ours."""

    refund_id: str
    payment_id: str
    reference: str
    status: GatewayRefundStatus
    amount: Money
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """From `start` up to but not including `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some entries of a list, newest first; `next_after` continues it, empty at the end."""

    entries: tuple[T, ...]
    next_after: str = ""


@dataclass(frozen=True, slots=True)
class Callback:
    """A notice whose signature was checked. It tells where to look, not what to believe: read the payment again.

    Notices repeat and overtake each other; `event_id` is the same in every delivery. `payment` and `refund` are both
    empty for a notice of something that we do not follow.
    """

    event_id: str
    type: str
    occurred_at: datetime
    payment: GatewayPayment | None = None
    refund: GatewayRefund | None = None


# ---------------------------------------------------------------- what can go wrong
class GatewayError(Exception):
    """A call without a result. The class tells what is known about the money, and thereby what may be done next.

    `code` is one stable word for logs and metrics. `retry_after_seconds` is the gateway's own wish, if it has one.
    """

    may_have_executed: ClassVar[bool] = False
    is_permanent: ClassVar[bool] = False

    def __init__(
        self, code: str, *, gateway: str, retry_after_seconds: float | None = None, request_id: str = ""
    ) -> None:
        """Keep what is known; `request_id` is the gateway's, for its support."""
        super().__init__(f"{gateway}: {code}")
        self.code = code
        self.gateway = gateway
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id


class NotExecuted(GatewayError):
    """Certainly nothing was done: the same call may be repeated, and another gateway may be asked."""


class Unreachable(NotExecuted):
    """No connection came about: no address, refused, no TLS."""


class RateLimited(NotExecuted):
    """The gateway has no time for us."""


class CircuitOpen(NotExecuted):
    """The gateway has failed too often lately; it was not asked."""


class BulkheadFull(NotExecuted):
    """Too many calls to the gateway are under way in this process; it was not asked."""


class OutcomeUnknown(GatewayError):
    """It may have been done or not. Repeat with the same key at the same gateway, or look; nothing else is safe.

    `is_worth_repeating` is False when the gateway has stored this answer for the key and will only repeat it.
    """

    may_have_executed = True

    def __init__(
        self,
        code: str,
        *,
        gateway: str,
        retry_after_seconds: float | None = None,
        request_id: str = "",
        is_worth_repeating: bool = True,
    ) -> None:
        super().__init__(code, gateway=gateway, retry_after_seconds=retry_after_seconds, request_id=request_id)
        self.is_worth_repeating = is_worth_repeating


class StillRunning(OutcomeUnknown):
    """A call with the same key is being executed now: wait, then repeat it or look."""


class PaymentDeclined(GatewayError):
    """The payment was refused for good; a new attempt needs a new key. `payment_id` is empty when there is none."""

    is_permanent = True

    def __init__(self, code: str, *, gateway: str, payment_id: str = "", request_id: str = "") -> None:
        super().__init__(code, gateway=gateway, request_id=request_id)
        self.payment_id = payment_id


class RequestRejected(GatewayError):
    """The gateway did not understand or accept the call: our bug or our configuration; nothing of it was done."""

    is_permanent = True


class ActionRefused(RequestRejected):
    """What the payment has become does not allow this (captured twice, refunded too much): read it and decide anew."""


class CallbackRejected(Exception):
    """A notice that is not to be believed; `code` says why: missing, forged, stale or malformed."""

    def __init__(self, code: str) -> None:
        """Keep the reason; the notice itself is never part of it."""
        super().__init__(code)
        self.code = code


# ---------------------------------------------------------------- the protocol
class PaymentGateway(Protocol):
    """A gateway behind our words. Blocking; to be called with no transaction, lock or pooled connection held.

    Every call that moves money takes an idempotency key: the same key with the same arguments gives the same outcome
    and moves money once, however often it is sent. Every call returns or raises a GatewayError within
    ATTEMPT_SECONDS_MAX. One object serves any number of threads.
    """

    @property
    def name(self) -> str:
        """The gateway's name in the registry, in metrics and in callback addresses."""

    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        """Hold the money (or take it, with `capture_now`). The answer may say that the buyer has to act first.

        Raises PaymentDeclined when the payment is refused.
        """

    def capture(self, payment_id: str, *, amount: Money, key: str) -> GatewayPayment:
        """Take held money. Once for each payment: what is not taken is released. Raises ActionRefused."""

    def void(self, payment_id: str, *, key: str) -> GatewayPayment:
        """Release held money, or give up a payment that waits for the buyer. Raises ActionRefused once captured."""

    def refund(self, payment_id: str, *, amount: Money, reference: str, key: str) -> GatewayRefund:
        """Give captured money back, in part or all. Raises ActionRefused beyond what is left."""

    def read_payment(self, payment_id: str) -> GatewayPayment:
        """Return a payment as it is now; raises RequestRejected when there is none."""

    def search_payments(self, reference: str) -> tuple[GatewayPayment, ...]:
        """Return the payments with our reference, quickly, as they were a minute ago: finding none proves nothing."""

    def refunds_of(self, payment_id: str) -> tuple[GatewayRefund, ...]:
        """Return a payment's newest refunds, PAGE_ENTRIES_MAX at most; never lags."""

    def list_payments(self, span: TimeSpan, *, after: str = "") -> Page[GatewayPayment]:
        """Return payments created in the span, declined ones included; never lags. `after` continues a page."""

    def list_refunds(self, span: TimeSpan, *, after: str = "") -> Page[GatewayRefund]:
        """Return refunds created in the span; never lags. `after` continues a page."""

    def parse_callback(self, body: bytes, headers: Mapping[str, str]) -> Callback:
        """Check a notice's signature on the raw bytes, and read it; raises CallbackRejected. Asks nobody.

        Names in `headers` are in lower case.
        """


def each_payment(gateway: PaymentGateway, span: TimeSpan) -> Iterator[GatewayPayment]:
    """Yield every payment created in the span, page by page; each page is a call that may raise."""
    page = gateway.list_payments(span)
    yield from page.entries
    while page.next_after:
        page = gateway.list_payments(span, after=page.next_after)
        yield from page.entries


def each_refund(gateway: PaymentGateway, span: TimeSpan) -> Iterator[GatewayRefund]:
    """Yield every refund created in the span, page by page; each page is a call that may raise."""
    page = gateway.list_refunds(span)
    yield from page.entries
    while page.next_after:
        page = gateway.list_refunds(span, after=page.next_after)
        yield from page.entries


def find_payments(gateway: PaymentGateway, reference: str, *, span: TimeSpan) -> tuple[GatewayPayment, ...]:
    """Return every payment with our reference as it is now; empty is proof that none was created in the span.

    The search is asked first because it is one call. It may lag in what it finds and in the state it shows, so what it
    finds is read again, and when it finds nothing the list decides, which never lags.
    """
    found = gateway.search_payments(reference)
    if found:
        return tuple(gateway.read_payment(payment.payment_id) for payment in found)
    return tuple(payment for payment in each_payment(gateway, span) if payment.reference == reference)


def find_refunds(gateway: PaymentGateway, payment_id: str, *, reference: str) -> tuple[GatewayRefund, ...]:
    """Return the refunds of a payment that carry our reference."""
    return tuple(refund for refund in gateway.refunds_of(payment_id) if refund.reference == reference)
