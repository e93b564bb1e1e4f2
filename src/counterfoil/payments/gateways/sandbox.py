"""A gateway that only pretends: no network, no money, and for every outcome a payment method that brings it about."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    PAGE_ENTRIES_MAX,
    ActionRefused,
    Callback,
    CallbackRejected,
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefund,
    GatewayRefundStatus,
    OutcomeUnknown,
    Page,
    PaymentDeclined,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    TimeSpan,
    Unreachable,
)
from counterfoil.payments.gateways.sandbox_book import Line, SandboxBook
from counterfoil.payments.gateways.sandbox_methods import METHODS, Behaviour, SandboxMethod

E = TypeVar("E", GatewayPayment, GatewayRefund)

NAME: Final = "sandbox"
SIGNATURE_HEADER: Final = "sandbox-signature"
# A notice older than five minutes may be a recording.
CALLBACK_SECONDS_MAX: Final = 300
_RATE_LIMIT_SECONDS: Final = 1.0


class SandboxGateway:
    """The default gateway. Deterministic: what happens follows from the method and from how often the key was used."""

    name = NAME

    def __init__(
        self,
        *,
        journal: Path | None = None,
        callback_secrets: Sequence[str] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Remember payments in `journal`, which several processes may share, or in this process alone.

        Every one of `callback_secrets` is believed, so that one can be replaced; the first signs.
        """
        self._book = SandboxBook(journal)
        self._secrets = tuple(callback_secrets)
        self._clock = clock

    # ------------------------------------------------------------ money
    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        """Hold the money, or do what the method is for."""
        fingerprint = _fingerprint("authorise", dataclasses.astuple(request))
        with self._book.locked():
            stored = self._stored(request.key, fingerprint)
            method = METHODS.get(request.method, SandboxMethod(Behaviour.DECLINE, "payment_method_unknown"))
            attempt = self._book.attempts.get(request.key, 0)
            if stored is None:
                self._fail_before(method.behaviour, request.key, fingerprint, attempt)
                stored = self._decide(method, request, fingerprint)
                self._book.write(stored)
            self._lose_answer(method.behaviour, attempt)
        assert stored.payment is not None, "a stored authorisation has its payment"
        if stored.refusal:
            raise PaymentDeclined(stored.refusal, gateway=NAME, payment_id=stored.payment.payment_id)
        return stored.payment

    def capture(self, payment_id: str, *, amount: Money, key: str) -> GatewayPayment:
        """Take held money, once."""
        fingerprint = _fingerprint("capture", (payment_id, amount))
        with self._book.locked():
            payment = self._stored_payment(key, fingerprint)
            if payment is None:
                payment = self._payment(payment_id)
                self._require(payment.status is GatewayPaymentStatus.AUTHORIZED, "payment_unexpected_state")
                self._require(amount.currency == payment.amount.currency, "currency_mismatch")
                self._require(0 < amount.amount_minor <= payment.amount.amount_minor, "amount_too_large")
                payment = dataclasses.replace(payment, status=GatewayPaymentStatus.CAPTURED, captured=amount)
                self._book.write(Line(key=key, fingerprint=fingerprint, payment=payment))
        return payment

    def void(self, payment_id: str, *, key: str) -> GatewayPayment:
        """Release held money."""
        fingerprint = _fingerprint("void", (payment_id,))
        open_states = {GatewayPaymentStatus.AUTHORIZED, GatewayPaymentStatus.REQUIRES_ACTION}
        with self._book.locked():
            payment = self._stored_payment(key, fingerprint)
            if payment is None:
                payment = self._payment(payment_id)
                self._require(payment.status in open_states, "payment_unexpected_state")
                payment = dataclasses.replace(payment, status=GatewayPaymentStatus.VOIDED, action_url="")
                self._book.write(Line(key=key, fingerprint=fingerprint, payment=payment))
        return payment

    def refund(self, payment_id: str, *, amount: Money, reference: str, key: str) -> GatewayRefund:
        """Give captured money back."""
        fingerprint = _fingerprint("refund", (payment_id, amount, reference))
        with self._book.locked():
            stored = self._stored(key, fingerprint)
            if stored is not None:
                assert stored.refund is not None, "a stored refund call has its refund"
                return stored.refund
            payment = self._payment(payment_id)
            self._require(payment.status is GatewayPaymentStatus.CAPTURED, "payment_unexpected_state")
            self._require(amount.currency == payment.amount.currency, "currency_mismatch")
            given_back = sum(refund.amount.amount_minor for refund in self._book.refunds_of(payment_id))
            left = payment.captured.amount_minor - given_back
            self._require(0 < amount.amount_minor <= left, "amount_too_large")
            refund = GatewayRefund(
                refund_id=_identifier("ref", key),
                payment_id=payment_id,
                reference=reference,
                status=GatewayRefundStatus.SUCCEEDED,
                amount=amount,
                created_at=self._clock(),
            )
            self._book.write(Line(key=key, fingerprint=fingerprint, refund=refund))
        return refund

    # ------------------------------------------------------------ reading
    def read_payment(self, payment_id: str) -> GatewayPayment:
        """Return a payment as it is now."""
        with self._book.locked():
            return self._payment(payment_id)

    def search_payments(self, reference: str) -> tuple[GatewayPayment, ...]:
        """Return the payments with our reference; here the search never lags."""
        with self._book.locked():
            return self._book.with_reference(reference)

    def refunds_of(self, payment_id: str) -> tuple[GatewayRefund, ...]:
        """Return a payment's newest refunds."""
        with self._book.locked():
            return tuple(self._book.refunds_of(payment_id)[:PAGE_ENTRIES_MAX])

    def list_payments(self, span: TimeSpan, *, after: str = "") -> Page[GatewayPayment]:
        """Return payments created in the span."""
        with self._book.locked():
            return _page(self._book.payments, span, after)

    def list_refunds(self, span: TimeSpan, *, after: str = "") -> Page[GatewayRefund]:
        """Return refunds created in the span."""
        with self._book.locked():
            return _page(self._book.refunds, span, after)

    # ------------------------------------------------------------ callbacks
    def parse_callback(self, body: bytes, headers: Mapping[str, str]) -> Callback:
        """Check the signature and read the notice."""
        signed_at, signature = _split_signature(headers.get(SIGNATURE_HEADER, ""))
        given = signature.encode(errors="replace")
        if not any(hmac.compare_digest(_signature(each, signed_at, body).encode(), given) for each in self._secrets):
            raise CallbackRejected("forged")
        if abs(self._clock().timestamp() - signed_at) > CALLBACK_SECONDS_MAX:
            raise CallbackRejected("stale")
        try:
            return msgspec.json.decode(body, type=Callback)
        except (msgspec.DecodeError, ValueError) as error:
            raise CallbackRejected("malformed") from error

    def make_callback(self, callback: Callback) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a signed notice, as a real gateway would send it."""
        body, signed_at = msgspec.json.encode(callback), int(self._clock().timestamp())
        return body, {SIGNATURE_HEADER: f"t={signed_at},v1={_signature(self._secrets[0], signed_at, body)}"}

    def authenticate(self, payment_id: str, *, approved: bool) -> GatewayPayment:
        """Play the buyer who was asked to authenticate."""
        with self._book.locked():
            payment = self._payment(payment_id)
            self._require(payment.status is GatewayPaymentStatus.REQUIRES_ACTION, "payment_unexpected_state")
            status = GatewayPaymentStatus.AUTHORIZED if approved else GatewayPaymentStatus.DECLINED
            code = "" if approved else "authentication_failed"
            payment = dataclasses.replace(payment, status=status, decline_code=code, action_url="")
            self._book.write(Line(payment=payment))
        return payment

    # ------------------------------------------------------------ inside, with the book locked
    def _stored(self, key: str, fingerprint: str) -> Line | None:
        """Return what this key was answered with before."""
        stored = self._book.answers.get(key)
        if stored is not None and stored.fingerprint != fingerprint:
            raise RequestRejected("idempotency_key_reused", gateway=NAME)
        return stored

    def _stored_payment(self, key: str, fingerprint: str) -> GatewayPayment | None:
        stored = self._stored(key, fingerprint)
        return stored.payment if stored else None

    def _fail_before(self, behaviour: Behaviour, key: str, fingerprint: str, attempt: int) -> None:
        """Raise what the method says about a call that is not executed."""
        failures = {
            Behaviour.HANG: OutcomeUnknown("timeout", gateway=NAME),
            Behaviour.UNREACHABLE: Unreachable("connection_refused", gateway=NAME),
            Behaviour.REJECT: RequestRejected("parameter_invalid", gateway=NAME),
        }
        if attempt == 0:
            failures[Behaviour.LIMIT_ONCE] = RateLimited(
                "rate_limited", gateway=NAME, retry_after_seconds=_RATE_LIMIT_SECONDS
            )
            failures[Behaviour.RUN_ONCE] = StillRunning("in_flight", gateway=NAME)
        if behaviour in failures:
            self._book.write(Line(key=key, fingerprint=fingerprint))
            raise failures[behaviour]

    def _lose_answer(self, behaviour: Behaviour, attempt: int) -> None:
        lost_once = behaviour is Behaviour.LOSE_ANSWER_ONCE and attempt == 0
        if behaviour is Behaviour.LOSE_ANSWER or lost_once:
            raise OutcomeUnknown("connection_reset", gateway=NAME)

    def _decide(self, method: SandboxMethod, request: PaymentRequest, fingerprint: str) -> Line:
        payment_id = _identifier("pay", request.key)
        status, captured = GatewayPaymentStatus.AUTHORIZED, Money(0, request.amount.currency)
        if request.amount.amount_minor <= 0:
            raise RequestRejected("amount_invalid", gateway=NAME)
        if method.behaviour is Behaviour.DECLINE:
            status = GatewayPaymentStatus.DECLINED
        elif method.behaviour is Behaviour.ASK_BUYER:
            status = GatewayPaymentStatus.REQUIRES_ACTION
        elif request.capture_now:
            status, captured = GatewayPaymentStatus.CAPTURED, request.amount
        payment = GatewayPayment(
            payment_id=payment_id,
            reference=request.reference,
            status=status,
            amount=request.amount,
            captured=captured,
            created_at=self._clock(),
            decline_code=method.code,
            action_url=f"sandbox:authenticate/{payment_id}" if method.behaviour is Behaviour.ASK_BUYER else "",
        )
        return Line(key=request.key, fingerprint=fingerprint, payment=payment, refusal=method.code)

    def _payment(self, payment_id: str) -> GatewayPayment:
        payment = self._book.payments.get(payment_id)
        if payment is None:
            raise RequestRejected("payment_unknown", gateway=NAME)
        return payment

    def _require(self, condition: bool, code: str) -> None:  # noqa: FBT001 - reads like an assertion
        if not condition:
            raise ActionRefused(code, gateway=NAME)


def _identifier(kind: str, key: str) -> str:
    return f"sbx_{kind}_{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _fingerprint(operation: str, arguments: tuple[object, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode((operation, arguments))).hexdigest()


def _signature(secret: str, signed_at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), b"%d." % signed_at + body, hashlib.sha256).hexdigest()


def _split_signature(header: str) -> tuple[int, str]:
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    if not header:
        raise CallbackRejected("missing")
    # Twelve digits are enough for thirty thousand years; Python refuses to read very long numbers.
    if not re.fullmatch(r"[0-9]{1,12}", fields.get("t", "")) or "v1" not in fields:
        raise CallbackRejected("malformed")
    return int(fields["t"]), fields["v1"]


def _page(known: dict[str, E], span: TimeSpan, after: str) -> Page[E]:
    """Cut one page out of everything known, newest first."""
    identifiers = [name for name, entry in known.items() if span.start <= entry.created_at < span.end]
    identifiers.reverse()
    if after and after not in identifiers:
        raise RequestRejected("page_unknown", gateway=NAME)
    start = identifiers.index(after) + 1 if after else 0
    chosen = identifiers[start : start + PAGE_ENTRIES_MAX]
    more = len(identifiers) > start + PAGE_ENTRIES_MAX
    return Page(tuple(known[name] for name in chosen), chosen[-1] if more else "")
