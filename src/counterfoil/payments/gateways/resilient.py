"""Retries, a retry budget, a circuit breaker and a bulkhead around any gateway: the one layer that repeats calls."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from counterfoil.kernel.backoff import Backoff, RetryBudget
from counterfoil.kernel.breaker import Breaker, BreakerOpen, BreakerPolicy, BreakerState, Permit, Verdict
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    BulkheadFull,
    Callback,
    CircuitOpen,
    GatewayError,
    GatewayPayment,
    GatewayRefund,
    OutcomeUnknown,
    Page,
    PaymentDeclined,
    PaymentGateway,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    TimeSpan,
    Unreachable,
)

T = TypeVar("T")

_OK: Final = "ok"
# Error class → word in metrics; the first that fits counts, so subclasses stand first.
_OUTCOMES: Final[tuple[tuple[type[GatewayError], str], ...]] = (
    (Unreachable, "unreachable"),
    (RateLimited, "rate_limited"),
    (CircuitOpen, "circuit_open"),
    (BulkheadFull, "bulkhead_full"),
    (StillRunning, "running"),
    (OutcomeUnknown, "unknown"),
    (PaymentDeclined, "declined"),
    (RequestRejected, "rejected"),
    (GatewayError, "other"),
)


@dataclass(frozen=True, slots=True)
class ResiliencePolicy:
    """How hard to try. One attempt's own deadline is the gateway's (ATTEMPT_SECONDS_MAX).

    A gateway that wishes a longer pause than `retry_after_seconds_max` is not waited for: the caller has a queue.
    """

    retries_max: int = 3
    backoff: Backoff = field(default_factory=lambda: Backoff(base_seconds=0.5, cap_seconds=8.0))
    retry_after_seconds_max: float = 30.0
    budget_retries: int = 10
    calls_at_once_max: int = 8
    slot_seconds_max: float = 0.1
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)


class GatewayObserver(Protocol):
    """What is told about the calls (metrics)."""

    def attempt_began(self) -> None:
        """Learn that an attempt is under way."""

    def attempt_ended(self) -> None:
        """Learn that an attempt is over, however it ended."""

    def attempt_counted(self, *, operation: str, outcome: str, seconds: float) -> None:
        """Learn the outcome of an attempt, or that it was not made."""

    def retried(self) -> None:
        """Learn that the next attempt is a repetition."""

    def budget_changed(self, *, retries_left: float) -> None:
        """Learn how many retries could be had now."""

    def breaker_changed(self, state: BreakerState) -> None:
        """Learn the breaker's new state."""


class ResilientGateway:
    """Any gateway, asked again with the same key as long as that can help.

    What it raises is true of all attempts together: once one of them may have moved money, no later refusal to be
    served makes that undone, so the outcome stays unknown until an answer for the same key settles it. State is that
    of this process: each has its own breaker, budget and bulkhead.
    """

    def __init__(
        self,
        gateway: PaymentGateway,
        *,
        observer: GatewayObserver,
        policy: ResiliencePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Wrap a gateway; clock, sleep and randomness are given so that tests need no patience."""
        self._gateway = gateway
        self._observer = observer
        self._policy = policy or ResiliencePolicy()
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        self._budget = RetryBudget(retries_max=self._policy.budget_retries)
        self._breaker = Breaker(self._policy.breaker, clock=clock, on_change=observer.breaker_changed)
        self._slots = threading.BoundedSemaphore(self._policy.calls_at_once_max)
        observer.budget_changed(retries_left=self._budget.retries_left)

    @property
    def name(self) -> str:
        """The wrapped gateway's name."""
        return self._gateway.name

    @property
    def breaker_state(self) -> BreakerState:
        """The breaker's state as of the last call."""
        return self._breaker.state

    # ------------------------------------------------------------ the protocol
    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        """See PaymentGateway."""
        return self._call("authorise", lambda: self._gateway.authorise(request))

    def capture(self, payment_id: str, *, amount: Money, key: str) -> GatewayPayment:
        """See PaymentGateway."""
        return self._call("capture", lambda: self._gateway.capture(payment_id, amount=amount, key=key))

    def void(self, payment_id: str, *, key: str) -> GatewayPayment:
        """See PaymentGateway."""
        return self._call("void", lambda: self._gateway.void(payment_id, key=key))

    def refund(self, payment_id: str, *, amount: Money, reference: str, key: str) -> GatewayRefund:
        """See PaymentGateway."""
        return self._call(
            "refund", lambda: self._gateway.refund(payment_id, amount=amount, reference=reference, key=key)
        )

    def read_payment(self, payment_id: str) -> GatewayPayment:
        """See PaymentGateway."""
        return self._call("read_payment", lambda: self._gateway.read_payment(payment_id))

    def search_payments(self, reference: str) -> tuple[GatewayPayment, ...]:
        """See PaymentGateway."""
        return self._call("search_payments", lambda: self._gateway.search_payments(reference))

    def refunds_of(self, payment_id: str) -> tuple[GatewayRefund, ...]:
        """See PaymentGateway."""
        return self._call("refunds_of", lambda: self._gateway.refunds_of(payment_id))

    def list_payments(self, span: TimeSpan, *, after: str = "") -> Page[GatewayPayment]:
        """See PaymentGateway."""
        return self._call("list_payments", lambda: self._gateway.list_payments(span, after=after))

    def list_refunds(self, span: TimeSpan, *, after: str = "") -> Page[GatewayRefund]:
        """See PaymentGateway."""
        return self._call("list_refunds", lambda: self._gateway.list_refunds(span, after=after))

    def parse_callback(self, body: bytes, headers: Mapping[str, str]) -> Callback:
        """See PaymentGateway; nobody is called, so nothing stands around it."""
        return self._gateway.parse_callback(body, headers)

    # ------------------------------------------------------------ attempts
    def _call(self, operation: str, call: Callable[[], T]) -> T:
        """Try until there is an answer, or no sense in trying; raises what is true of all attempts together."""
        doubt: OutcomeUnknown | None = None
        retry = 0
        while True:
            try:
                return self._attempt(operation, call)
            except GatewayError as error:
                if isinstance(error, OutcomeUnknown):
                    doubt = error
                wait = self._wait_before(retry, error)
                if wait is None:
                    if doubt is None or doubt is error or isinstance(error, PaymentDeclined):
                        raise
                    raise doubt from error
            self._observer.retried()
            self._sleep(wait)
            retry += 1

    def _wait_before(self, retry: int, error: GatewayError) -> float | None:
        """Return the seconds before the retry of this number, or None when there is to be none."""
        if not _is_worth_repeating(error) or retry >= self._policy.retries_max:
            return None
        wished = error.retry_after_seconds or 0.0
        if wished > self._policy.retry_after_seconds_max or not self._budget.try_spend():
            return None
        self._observer.budget_changed(retries_left=self._budget.retries_left)
        return max(wished, self._policy.backoff.wait_seconds(retry, uniform=self._uniform))

    def _attempt(self, operation: str, call: Callable[[], T]) -> T:
        """Make one attempt, if breaker and bulkhead allow it, and let both and the metrics know how it went."""
        started, outcome = self._clock(), "bug"
        try:
            with self._allowed() as permit:
                result = self._judged(permit, call)
            outcome = _OK
        except GatewayError as error:
            outcome = next(word for kind, word in _OUTCOMES if isinstance(error, kind))
            raise
        finally:
            self._observer.attempt_counted(operation=operation, outcome=outcome, seconds=self._clock() - started)
        return result

    @contextmanager
    def _allowed(self) -> Iterator[Permit]:
        """Hold the breaker's permit and a slot; the breaker is asked first, because it refuses without waiting."""
        try:
            permit = self._breaker.enter()
        except BreakerOpen as refusal:
            raise CircuitOpen(
                "circuit_open", gateway=self.name, retry_after_seconds=refusal.retry_after_seconds
            ) from refusal
        if not self._slots.acquire(timeout=self._policy.slot_seconds_max):
            self._breaker.leave(permit, Verdict.NEUTRAL)
            raise BulkheadFull("bulkhead_full", gateway=self.name)
        self._observer.attempt_began()
        try:
            yield permit
        finally:
            self._observer.attempt_ended()
            self._slots.release()

    def _judged(self, permit: Permit, call: Callable[[], T]) -> T:
        """Make the call and tell the breaker and the budget what it says about the gateway's health."""
        verdict = Verdict.NEUTRAL  # of a bug of ours
        try:
            result = call()
            verdict = Verdict.SUCCESS
        except GatewayError as error:
            verdict = _verdict_of(error)
            raise
        finally:
            self._breaker.leave(permit, verdict)
            if verdict is Verdict.SUCCESS:
                self._budget.earn()
        return result


def _is_worth_repeating(error: GatewayError) -> bool:
    """Tell whether the same call could end differently, soon and at this gateway."""
    if isinstance(error, OutcomeUnknown):
        return error.is_worth_repeating
    return isinstance(error, Unreachable | RateLimited)


def _verdict_of(error: GatewayError) -> Verdict:
    """Judge the gateway: one that refuses is well; one that is silent, broken or away is not; a limit says neither."""
    if isinstance(error, RateLimited):
        return Verdict.NEUTRAL
    if isinstance(error, StillRunning) or not isinstance(error, Unreachable | OutcomeUnknown):
        return Verdict.SUCCESS
    return Verdict.FAILURE
