"""Every metric's name in one file, by Prometheus' conventions."""

from __future__ import annotations

import functools
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from counterfoil.kernel.breaker import BreakerState

REGISTRY: Final = CollectorRegistry()
_LATENCIES: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

HTTP_REQUESTS: Final = Counter(
    "counterfoil_http_requests_total",
    "Requests answered, by method, route and status.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
HTTP_SECONDS: Final = Histogram(
    "counterfoil_http_request_seconds",
    "Time from the request's head to the answer's end, by method and route.",
    ["method", "route"],
    buckets=_LATENCIES,
    registry=REGISTRY,
)
INTAKE_BATCH_ORDERS: Final = Histogram(
    "counterfoil_intake_batch_orders",
    "Orders that shared one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
    registry=REGISTRY,
)
INTAKE_BATCH_SECONDS: Final = Histogram(
    "counterfoil_intake_batch_seconds", "Time one batch took to be written.", buckets=_LATENCIES, registry=REGISTRY
)
INTAKE_WAIT_SECONDS: Final = Histogram(
    "counterfoil_intake_wait_seconds",
    "How long the oldest order of a batch waited in the queue.",
    buckets=_LATENCIES,
    registry=REGISTRY,
)
INTAKE_TURNED_AWAY: Final = Counter(
    "counterfoil_intake_turned_away_total", "Orders refused without being tried, by code.", ["code"], registry=REGISTRY
)
INTAKE_HALVED: Final = Counter(
    "counterfoil_intake_batches_halved_total",
    "Batches that the database refused and that were halved.",
    registry=REGISTRY,
)
INTAKE_WAITING: Final = Gauge("counterfoil_intake_waiting_orders", "Orders in the queue now.", registry=REGISTRY)

DEPENDENCY_ATTEMPTS: Final = Counter(
    "counterfoil_dependency_attempts_total",
    "Calls to a server that is not ours, each attempt on its own, by operation and outcome.",
    ["dependency", "operation", "outcome"],
    registry=REGISTRY,
)
DEPENDENCY_SECONDS: Final = Histogram(
    "counterfoil_dependency_attempt_seconds",
    "Time one attempt took.",
    ["dependency", "operation"],
    # A gateway's attempt may last 30 s, which is the last border that says something.
    buckets=(*_LATENCIES, 20, 30),
    registry=REGISTRY,
)
DEPENDENCY_RETRIES: Final = Counter(
    "counterfoil_dependency_retries_total", "Attempts that were repetitions.", ["dependency"], registry=REGISTRY
)
DEPENDENCY_UNDER_WAY: Final = Gauge(
    "counterfoil_dependency_calls_under_way", "Attempts under way now.", ["dependency"], registry=REGISTRY
)
DEPENDENCY_BUDGET: Final = Gauge(
    "counterfoil_dependency_retry_budget", "Retries that could be had now.", ["dependency"], registry=REGISTRY
)
DEPENDENCY_BREAKER: Final = Gauge(
    "counterfoil_dependency_breaker_state",
    "The circuit breaker: 0 closed, 1 half-open, 2 open, as of the last call.",
    ["dependency"],
    registry=REGISTRY,
)
DEPENDENCY_OPENED: Final = Counter(
    "counterfoil_dependency_breaker_opened_total", "Times the breaker opened.", ["dependency"], registry=REGISTRY
)
_BREAKER_LEVELS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
LIMIT_HITS: Final = Counter(
    "counterfoil_limit_keys_total",
    "Keys that the rate limiter counted, by the store it counted in (primary, strict, memory).",
    ["store"],
    registry=REGISTRY,
)
LIMIT_STORE_FAILURES: Final = Counter(
    "counterfoil_limit_store_failures_total",
    "Times a store of the rate limiter did not answer, by store; it falls back to the next one.",
    ["store"],
    registry=REGISTRY,
)
LIMIT_REFUSALS: Final = Counter(
    "counterfoil_limit_refusals_total", "Requests answered 429, by class of route.", ["class"], registry=REGISTRY
)
AUDIT_UNSEALED_ENTRIES: Final = Gauge(
    "counterfoil_audit_unsealed_entries", "Audit entries that are not chained yet.", registry=REGISTRY
)
AUDIT_UNSEALED_SECONDS: Final = Gauge(
    "counterfoil_audit_unsealed_seconds", "Age of the oldest audit entry that is not chained yet.", registry=REGISTRY
)

PAYMENT_CALLS: Final = Counter(
    "counterfoil_payment_calls_total",
    "Calls to gateways that were recorded, by operation and by what is known after them.",
    ["operation", "finding"],
    registry=REGISTRY,
)
PAYMENT_CALLS_WAITING: Final = Gauge(
    "counterfoil_payment_calls_waiting", "Calls to gateways that are due and not taken.", registry=REGISTRY
)
PAYMENT_UNKNOWN: Final = Gauge(
    "counterfoil_payment_calls_unknown", "Calls to gateways whose outcome is not known.", registry=REGISTRY
)
PAYMENT_UNKNOWN_SECONDS: Final = Gauge(
    "counterfoil_payment_oldest_unknown_seconds",
    "Age of the oldest call to a gateway whose outcome is not known.",
    registry=REGISTRY,
)
PAYMENT_REVIEWS: Final = Gauge(
    "counterfoil_payments_to_review", "Payments that a person must look at.", registry=REGISTRY
)

GATEWAY_FINDINGS: Final = Gauge(
    "counterfoil_gateway_findings", "Open differences between our payments and the gateways' lists.", registry=REGISTRY
)
GATEWAY_COMPARED_SECONDS: Final = Gauge(
    "counterfoil_gateway_compared_seconds",
    "Time since our payments were last compared with a gateway's list; 0 if they never were.",
    registry=REGISTRY,
)


@functools.cache  # bounded by methods x routes x statuses; a look-up by label names costs 3 µs each time
def _request_metrics(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return HTTP_REQUESTS.labels(method, route, str(status)), HTTP_SECONDS.labels(method, route)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request; `route` is a template, never a path."""
    counter, histogram = _request_metrics(method, route, status)
    counter.inc()
    histogram.observe(seconds)


class IntakeMetrics:
    """Counts what the intake tells (the IntakeObserver of `orders.intake`)."""

    def batch_written(self, *, orders: int, seconds: float, waited_seconds: float) -> None:
        """Record one written batch."""
        INTAKE_BATCH_ORDERS.observe(orders)
        INTAKE_BATCH_SECONDS.observe(seconds)
        INTAKE_WAIT_SECONDS.observe(waited_seconds)

    def order_turned_away(self, *, code: str) -> None:
        """Record an order that was not tried."""
        INTAKE_TURNED_AWAY.labels(code).inc()

    def batch_halved(self, *, orders: int) -> None:  # noqa: ARG002 - the count of batches is what alarms look at
        """Record a batch that was refused as a whole."""
        INTAKE_HALVED.inc()


class DependencyMetrics:
    """Counts the calls to one dependency (the GatewayObserver of `payments.gateways.resilient`)."""

    def __init__(self, dependency: str) -> None:
        """Show the dependency from the start, well and at rest."""
        self._dependency = dependency
        self._under_way = DEPENDENCY_UNDER_WAY.labels(dependency)
        self.breaker_changed(BreakerState.CLOSED)

    def attempt_began(self) -> None:
        """Record that an attempt is under way."""
        self._under_way.inc()

    def attempt_ended(self) -> None:
        """Record that an attempt is no longer under way, however it ended."""
        self._under_way.dec()

    def attempt_counted(self, *, operation: str, outcome: str, seconds: float) -> None:
        """Record how an attempt ended, or that it was not made."""
        DEPENDENCY_ATTEMPTS.labels(self._dependency, operation, outcome).inc()
        DEPENDENCY_SECONDS.labels(self._dependency, operation).observe(seconds)

    def retried(self) -> None:
        """Record that an attempt is a repetition."""
        DEPENDENCY_RETRIES.labels(self._dependency).inc()

    def budget_changed(self, *, retries_left: float) -> None:
        """Record how many retries could be had now."""
        DEPENDENCY_BUDGET.labels(self._dependency).set(retries_left)

    def breaker_changed(self, state: BreakerState) -> None:
        """Record the breaker's new state."""
        DEPENDENCY_BREAKER.labels(self._dependency).set(_BREAKER_LEVELS[state])
        if state is BreakerState.OPEN:
            DEPENDENCY_OPENED.labels(self._dependency).inc()


class LimiterMetrics:
    """Counts what the rate limiter tells (the LimiterObserver of `infrastructure.rate_limiter`)."""

    def limits_counted(self, *, hits: int, store: str) -> None:
        """Record a batch."""
        LIMIT_HITS.labels(store).inc(hits)

    def store_failed(self, *, store: str) -> None:
        """Record a store that is away."""
        LIMIT_STORE_FAILURES.labels(store).inc()


def render_metrics() -> bytes:
    """Return all metrics of this process in the text exposition format."""
    return generate_latest(REGISTRY)
