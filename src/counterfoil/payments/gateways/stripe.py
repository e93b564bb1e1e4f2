"""Stripe, through its official library: the only file that imports it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
import stripe

from counterfoil.infrastructure.http_client import Answer, HttpClient, NoAnswer, NotSent
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    ATTEMPT_SECONDS_MAX,
    CONNECT_SECONDS_MAX,
    PAGE_ENTRIES_MAX,
    ActionRefused,
    Callback,
    CallbackRejected,
    GatewayError,
    GatewayPayment,
    GatewayRefund,
    OutcomeUnknown,
    Page,
    PaymentDeclined,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    TimeSpan,
    Unreachable,
    check_identifiers,
)
from counterfoil.payments.gateways.stripe_shapes import (
    REFERENCE,
    AnyAnswer,
    Event,
    Failure,
    Intent,
    IntentList,
    Refund,
    RefundList,
    decline_code,
    payment_of,
    refund_of,
    stripe_amount,
)

T = TypeVar("T")
S = TypeVar("S", Intent, Refund, IntentList, RefundList)

NAME: Final = "stripe"
SIGNATURE_HEADER: Final = "stripe-signature"
# A notice older than five minutes may be a recording, and one from the future is no better.
CALLBACK_SECONDS_MAX: Final = 300
# The words of Stripe for an action that the object's state does not allow. A refusal of a capture's or refund's amount
# has sometimes no code, only the parameter.
_STATE_CODES: Final = frozenset(
    {
        "payment_intent_unexpected_state",
        "amount_too_large",
        "charge_already_captured",
        "charge_already_refunded",
        "charge_expired_for_capture",
        "charge_disputed",
        "refund_disputed_payment",
    }
)

# The library would send timings and a machine's id with every call, and keep that id in the home directory.
stripe.enable_telemetry = False


class StripeGateway:
    """Payments as PaymentIntents with manual capture. The library never retries by itself: one layer does."""

    name = NAME

    def __init__(
        self,
        *,
        api_key: str,
        callback_secrets: Sequence[str],
        api_url: str = "",
        ca_file: str | None = None,
        total_seconds_max: float = ATTEMPT_SECONDS_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Talk to Stripe with `api_key`, or to `api_url` if given.

        Every one of `callback_secrets` is believed, so that one can be replaced without losing a notice. `clock` tells
        the age of a notice, in seconds since 1970.
        """
        transport = _Transport(
            HttpClient(
                connect_seconds_max=CONNECT_SECONDS_MAX,
                total_seconds_max=total_seconds_max,
                ca_file=ca_file or stripe.ca_bundle_path,
            )
        )
        self._client = stripe.StripeClient(
            api_key,
            http_client=transport,
            max_network_retries=0,
            base_addresses={"api": api_url} if api_url else None,
        ).v1
        self._secrets = tuple(callback_secrets)
        self._clock = clock

    # ------------------------------------------------------------ money
    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        """Create and confirm a PaymentIntent in one call."""
        parameters: dict[str, Any] = {
            "amount": _amount(request.amount),
            "currency": request.amount.currency.lower(),
            "payment_method": request.method,
            "payment_method_types": ["card"],
            "capture_method": "automatic" if request.capture_now else "manual",
            "confirm": True,
            "metadata": {REFERENCE: request.reference},
        }
        if request.return_url:
            parameters["return_url"] = request.return_url
        return _ask(
            lambda: self._client.payment_intents.create(parameters, _keyed(request.key)),  # type: ignore[arg-type]
            Intent,
            payment_of,
        )

    def capture(self, payment_id: str, *, amount: Money, key: str) -> GatewayPayment:
        """Capture a PaymentIntent; what is left of it is released."""
        minor = _amount(amount)
        return _ask(
            lambda: self._client.payment_intents.capture(payment_id, {"amount_to_capture": minor}, _keyed(key)),
            Intent,
            payment_of,
        )

    def void(self, payment_id: str, *, key: str) -> GatewayPayment:
        """Cancel a PaymentIntent."""
        return _ask(lambda: self._client.payment_intents.cancel(payment_id, {}, _keyed(key)), Intent, payment_of)

    def refund(self, payment_id: str, *, amount: Money, reference: str, key: str) -> GatewayRefund:
        """Refund a PaymentIntent."""
        check_identifiers(reference=reference)
        minor = _amount(amount)
        return _ask(
            lambda: self._client.refunds.create(
                {"payment_intent": payment_id, "amount": minor, "metadata": {REFERENCE: reference}}, _keyed(key)
            ),
            Refund,
            refund_of,
        )

    # ------------------------------------------------------------ reading
    def read_payment(self, payment_id: str) -> GatewayPayment:
        """Retrieve a PaymentIntent."""
        return _ask(lambda: self._client.payment_intents.retrieve(payment_id), Intent, payment_of)

    def search_payments(self, reference: str) -> tuple[GatewayPayment, ...]:
        """Search by metadata; Stripe shows a new payment within a minute, usually."""
        check_identifiers(reference=reference)
        query = f"metadata['{REFERENCE}']:'{reference}'"
        return _ask(
            lambda: self._client.payment_intents.search({"query": query, "limit": PAGE_ENTRIES_MAX}),
            IntentList,
            lambda found: tuple(payment_of(intent) for intent in found.data),
        )

    def refunds_of(self, payment_id: str) -> tuple[GatewayRefund, ...]:
        """List the refunds of a PaymentIntent."""
        return _ask(
            lambda: self._client.refunds.list({"payment_intent": payment_id, "limit": PAGE_ENTRIES_MAX}),
            RefundList,
            lambda found: tuple(refund_of(refund) for refund in found.data),
        )

    def list_payments(self, span: TimeSpan, *, after: str = "") -> Page[GatewayPayment]:
        """List PaymentIntents by the second of their creation."""
        parameters = _page_parameters(span, after)

        def page_of(found: IntentList) -> Page[GatewayPayment]:
            entries = tuple(payment_of(intent) for intent in found.data)
            return Page(entries, entries[-1].payment_id if found.has_more and entries else "")

        return _ask(lambda: self._client.payment_intents.list(parameters), IntentList, page_of)  # type: ignore[arg-type]

    def list_refunds(self, span: TimeSpan, *, after: str = "") -> Page[GatewayRefund]:
        """List Refunds by the second of their creation."""
        parameters = _page_parameters(span, after)

        def page_of(found: RefundList) -> Page[GatewayRefund]:
            entries = tuple(refund_of(refund) for refund in found.data)
            return Page(entries, entries[-1].refund_id if found.has_more and entries else "")

        return _ask(lambda: self._client.refunds.list(parameters), RefundList, page_of)  # type: ignore[arg-type]

    # ------------------------------------------------------------ callbacks
    def parse_callback(self, body: bytes, headers: Mapping[str, str]) -> Callback:
        """Check Stripe's signature with the library, the age with our clock, and read the event."""
        header = headers.get(SIGNATURE_HEADER, "")
        if not header:
            raise CallbackRejected("missing")
        if not any(_is_signed(body, header, secret) for secret in self._secrets):
            raise CallbackRejected("forged")
        if abs(self._clock() - _signed_at(header)) > CALLBACK_SECONDS_MAX:
            raise CallbackRejected("stale")
        try:
            event = msgspec.json.decode(body, type=Event)
            return _callback_of(event)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise CallbackRejected("malformed") from error


# ---------------------------------------------------------------- the way out
class _Unreadable(Exception):
    """An answer that is not what an answer must be."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answer_malformed")
        self.answer = answer


class _Transport(stripe.HTTPClient):
    """The library's requests through our client, which keeps the deadline and knows what was sent."""

    name = "counterfoil"

    def __init__(self, client: HttpClient) -> None:
        super().__init__()
        self._http = client

    def request(  # type: ignore[override]  # our answers are bytes, as those of the library's own clients
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **_: Any
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body = post_data.encode() if isinstance(post_data, str) else post_data
        # What this raises passes through the library untouched: it catches only errors of its own.
        answer = self._http.call(method.upper(), url, headers or {}, body)
        try:
            msgspec.json.decode(answer.body, type=AnyAnswer)
        except (msgspec.MsgspecError, ValueError) as error:
            raise _Unreadable(answer) from error
        return answer.body, answer.status, answer.headers

    def close(self) -> None:
        """There is nothing to close."""


def _ask(call: Callable[[], Any], shape: type[S], convert: Callable[[S], T]) -> T:
    """Make one call and translate its answer, or say what is known about the money."""
    try:
        answer = call()
    except NotSent as error:
        raise Unreachable(error.code, gateway=NAME) from error
    except NoAnswer as error:
        raise OutcomeUnknown(error.code, gateway=NAME) from error
    except _Unreadable as error:
        raise _error_of(error.answer.status, error.answer.headers, None) from error
    except stripe.StripeError as error:
        raise _error_of(error.http_status or 0, error.headers or {}, error.json_body) from error
    try:
        return convert(msgspec.json.decode(answer.last_response.body, type=shape))
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise OutcomeUnknown("answer_malformed", gateway=NAME) from error


def _error_of(status: int, headers: Mapping[str, str], body: object) -> GatewayError:
    """Say what an answer that is not a success tells about the money. `body` is None when it could not be read."""
    request_id = headers.get("request-id", "")
    wait = _seconds(headers.get("retry-after"))
    failure = _failure_of(body)
    if status == 429 or failure.code == "rate_limit":  # noqa: PLR2004 - the protocol's number, as those below
        return RateLimited("rate_limited", gateway=NAME, retry_after_seconds=wait, request_id=request_id)
    if status == 409:  # noqa: PLR2004
        return StillRunning("in_flight", gateway=NAME, retry_after_seconds=wait, request_id=request_id)
    if body is not None and 400 <= status < 500:  # noqa: PLR2004
        return _refusal_of(status, failure, request_id)
    return OutcomeUnknown(
        "server_error" if status >= 500 else "answer_malformed",  # noqa: PLR2004
        gateway=NAME,
        retry_after_seconds=wait,
        request_id=request_id,
        is_worth_repeating=headers.get("stripe-should-retry") != "false",
    )


def _refusal_of(status: int, failure: Failure, request_id: str) -> GatewayError:
    if status == 402 or _is_unknown_method(failure):  # noqa: PLR2004
        code = "payment_method_unknown" if _is_unknown_method(failure) else decline_code(failure)
        payment_id = str((failure.payment_intent or {}).get("id", ""))
        return PaymentDeclined(code, gateway=NAME, payment_id=payment_id, request_id=request_id)
    refused = failure.code in _STATE_CODES or failure.param in {"amount", "amount_to_capture"}
    kind = ActionRefused if refused else RequestRejected
    return kind(failure.code or failure.type or f"http_{status}", gateway=NAME, request_id=request_id)


def _failure_of(body: object) -> Failure:
    try:
        return msgspec.convert(body, AnyAnswer).error or Failure()
    except msgspec.ValidationError:
        return Failure()


def _is_unknown_method(failure: Failure) -> bool:
    """Tell a method that does not exist, which is the buyer's business, from an address of ours that does not."""
    return failure.code == "resource_missing" and failure.param == "payment_method"


# ---------------------------------------------------------------- small parts
def _amount(money: Money) -> int:
    try:
        return stripe_amount(money)
    except ValueError as error:
        raise RequestRejected("amount_not_representable", gateway=NAME) from error


def _keyed(key: str) -> stripe.RequestOptions:
    check_identifiers(key=key)
    return {"idempotency_key": key}


def _page_parameters(span: TimeSpan, after: str) -> dict[str, Any]:
    """Return the parameters of one page; Stripe counts in whole seconds, so the span is widened to them."""
    created = {"gte": math.floor(span.start.timestamp()), "lt": math.ceil(span.end.timestamp())}
    page = {"starting_after": after} if after else {}
    return {"created": created, "limit": PAGE_ENTRIES_MAX, **page}


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdecimal() and len(retry_after) < 6 else None  # noqa: PLR2004


def _is_signed(body: bytes, header: str, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, header, secret, tolerance=None)
    # Bytes that are no text, and a header that is no ASCII, come out of the library as errors of another kind.
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        return False
    return True


def _signed_at(header: str) -> float:
    """Return when a notice was signed, as the library read it from the same header."""
    return float(next(item[2:] for item in header.split(",") if item.startswith("t=")))


def _callback_of(event: Event) -> Callback:
    payment, refund = None, None
    if event.type.startswith("payment_intent."):
        payment = payment_of(msgspec.json.decode(event.data.object, type=Intent))
    elif event.type.startswith("refund.") or event.type == "charge.refund.updated":
        refund = refund_of(msgspec.json.decode(event.data.object, type=Refund))
    return Callback(event.id, event.type, datetime.fromtimestamp(event.created, UTC), payment, refund)
