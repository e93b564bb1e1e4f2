"""Retries, budget, breaker and bulkhead around a gateway that follows a script. Nobody waits: the clock is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.infrastructure.metrics import DependencyMetrics, render_metrics
from counterfoil.kernel.breaker import BreakerState
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    ActionRefused,
    BulkheadFull,
    CircuitOpen,
    GatewayError,
    GatewayPayment,
    GatewayPaymentStatus,
    NotExecuted,
    OutcomeUnknown,
    PaymentDeclined,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    Unreachable,
)
from counterfoil.payments.gateways.resilient import ResiliencePolicy, ResilientGateway

REQUEST = PaymentRequest("key-1", "order-1", Money(5000, "EUR"), "pm_card_visa")
PAID = GatewayPayment(
    "pay_1",
    "order-1",
    GatewayPaymentStatus.AUTHORIZED,
    Money(5000, "EUR"),
    Money(0, "EUR"),
    datetime(2026, 1, 1, tzinfo=UTC),
)


def unknown(**more: Any) -> OutcomeUnknown:
    return OutcomeUnknown("timeout", gateway="scripted", **more)


def running() -> StillRunning:
    return StillRunning("in_flight", gateway="scripted")


def refused() -> Unreachable:
    return Unreachable("connection_refused", gateway="scripted")


def limited(seconds: float | None = None) -> RateLimited:
    return RateLimited("rate_limited", gateway="scripted", retry_after_seconds=seconds)


def declined() -> PaymentDeclined:
    return PaymentDeclined("insufficient_funds", gateway="scripted")


def rejected() -> RequestRejected:
    return RequestRejected("parameter_unknown", gateway="scripted")


class Scripted:
    """A gateway that does what its script says, step by step, and then always succeeds."""

    name = "scripted"

    def __init__(self, bench: Bench, script: list[GatewayError | GatewayPayment]) -> None:
        self.bench = bench
        self.script = script
        self.keys: list[str] = []
        self.seconds = 0.0

    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        self.keys.append(request.key)
        self.bench.now += self.seconds
        step = self.script.pop(0) if self.script else PAID
        if isinstance(step, GatewayError):
            raise step
        return step


class Bench:
    """A resilient gateway with its surroundings; it is its own observer."""

    def __init__(
        self,
        *script: GatewayError | GatewayPayment,
        policy: ResiliencePolicy | None = None,
        uniform: Callable[[float, float], float] = lambda _, high: high,
    ) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.outcomes: list[str] = []
        self.states: list[BreakerState] = []
        self.retries = 0
        self.under_way = 0
        self.budget: list[float] = []
        self.inner = Scripted(self, list(script))
        self.gateway = ResilientGateway(
            self.inner,  # type: ignore[arg-type]  # only what is called here
            observer=self,
            policy=policy,
            clock=lambda: self.now,
            sleep=self.sleep,
            uniform=uniform,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def attempt_began(self) -> None:
        self.under_way += 1

    def attempt_ended(self) -> None:
        self.under_way -= 1

    def attempt_counted(self, *, operation: str, outcome: str, seconds: float) -> None:
        assert operation == "authorise"
        assert seconds >= 0
        self.outcomes.append(outcome)

    def retried(self) -> None:
        self.retries += 1

    def budget_changed(self, *, retries_left: float) -> None:
        self.budget.append(retries_left)

    def breaker_changed(self, state: BreakerState) -> None:
        self.states.append(state)

    def pay(self) -> GatewayPayment:
        return self.gateway.authorise(REQUEST)

    def fail(self, error: type[GatewayError]) -> GatewayError:
        with pytest.raises(error) as told:
            self.pay()
        assert type(told.value) is error
        return told.value


def test_an_answer_is_passed_on_after_one_attempt() -> None:
    bench = Bench()

    assert bench.pay() is PAID

    assert (bench.outcomes, bench.slept, bench.retries) == (["ok"], [], 0)


@pytest.mark.parametrize("failure", [unknown, running, refused, limited])
def test_what_may_pass_is_tried_again_with_the_same_key(failure: Callable[[], GatewayError]) -> None:
    bench = Bench(failure(), failure(), failure())

    assert bench.pay() is PAID

    assert bench.inner.keys == ["key-1"] * 4
    assert bench.slept == [0.5, 1.0, 2.0]
    assert bench.retries == 3


def test_there_are_four_attempts_and_no_fifth() -> None:
    bench = Bench(*[unknown() for _ in range(5)])

    bench.fail(OutcomeUnknown)

    assert len(bench.inner.keys) == 4


def test_waits_are_drawn_between_nothing_and_their_longest() -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return (low + high) / 2

    bench = Bench(unknown(), unknown(), unknown(), uniform=uniform)

    bench.pay()

    assert drawn == [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0)]
    assert bench.slept == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("failure", [declined, rejected])
def test_what_is_final_is_not_tried_again(failure: Callable[[], GatewayError]) -> None:
    bench = Bench(failure())

    with pytest.raises(type(failure())):
        bench.pay()

    assert len(bench.inner.keys) == 1
    assert bench.slept == []


def test_an_answer_that_the_gateway_would_only_repeat_is_not_asked_for_again() -> None:
    bench = Bench(unknown(is_worth_repeating=False))

    bench.fail(OutcomeUnknown)

    assert len(bench.inner.keys) == 1


# ---------------------------------------------------------------- what is known after several attempts
@pytest.mark.parametrize("later", [refused, limited, rejected])
@pytest.mark.parametrize("doubt", [unknown, running])
def test_once_in_doubt_a_later_refusal_to_serve_proves_nothing(
    doubt: Callable[[], OutcomeUnknown], later: Callable[[], GatewayError]
) -> None:
    bench = Bench(doubt(), *[later() for _ in range(3)])

    error = bench.fail(type(doubt()))

    assert error.may_have_executed
    assert isinstance(error.__cause__, type(later()))


def test_once_in_doubt_an_open_circuit_proves_nothing() -> None:
    bench = Bench(*[unknown() for _ in range(5)])
    bench.fail(OutcomeUnknown)

    error = bench.fail(OutcomeUnknown)  # its first attempt opens the circuit

    assert bench.outcomes[-2:] == ["unknown", "circuit_open"]
    assert isinstance(error.__cause__, CircuitOpen)


def test_a_refused_action_after_a_lost_answer_stays_in_doubt() -> None:
    bench = Bench(unknown(), ActionRefused("charge_already_captured", gateway="scripted"))

    bench.fail(OutcomeUnknown)


def test_a_decline_settles_the_doubt_because_it_answers_the_same_key() -> None:
    bench = Bench(unknown(), declined())

    bench.fail(PaymentDeclined)


def test_four_refused_connections_are_certainly_not_executed() -> None:
    bench = Bench(*[refused() for _ in range(4)])

    error = bench.fail(Unreachable)

    assert isinstance(error, NotExecuted)
    assert not error.may_have_executed


@given(st.lists(st.sampled_from([unknown, running, refused, limited, declined, rejected]), min_size=1, max_size=8))
def test_not_executed_is_said_only_when_no_attempt_could_have_been(
    script: list[Callable[[], GatewayError]],
) -> None:
    bench = Bench(*[make() for make in script])

    try:
        bench.pay()
    except GatewayError as error:
        told: GatewayError | None = error
    else:
        told = None

    made = bench.outcomes
    doubtful = {"unknown", "running"} & set(made)
    assert len(bench.inner.keys) <= 4
    assert bench.under_way == 0
    if isinstance(told, NotExecuted):
        assert not doubtful
    if told is None:
        assert made[-1] == "ok"
    elif doubtful:
        assert told.may_have_executed or isinstance(told, PaymentDeclined)


# ---------------------------------------------------------------- Retry-After
def test_a_wished_pause_is_kept_when_it_is_longer_than_ours() -> None:
    bench = Bench(limited(7.0), limited(0.1))

    bench.pay()

    assert bench.slept == [7.0, 1.0]


def test_a_pause_that_is_too_long_is_left_to_the_caller() -> None:
    bench = Bench(limited(31.0))

    error = bench.fail(RateLimited)

    assert error.retry_after_seconds == 31.0
    assert bench.slept == []


# ---------------------------------------------------------------- budget
def test_an_outage_uses_the_budget_up_and_then_costs_one_attempt_each() -> None:
    bench = Bench(*[limited() for _ in range(100)])  # rate limits, which do not open the circuit

    for _ in range(6):
        bench.fail(RateLimited)

    assert bench.retries == 10
    assert len(bench.inner.keys) == 6 + 10
    assert bench.budget[0] == 10.0
    assert bench.budget[-1] == 0.0


def test_ten_successes_pay_for_one_more_retry() -> None:
    bench = Bench(*[limited() for _ in range(14)])
    for _ in range(4):
        bench.fail(RateLimited)
    assert bench.retries == 10

    for _ in range(10):
        bench.pay()
    bench.inner.script = [limited()]
    bench.pay()

    assert bench.retries == 11


# ---------------------------------------------------------------- the circuit
def test_five_failures_open_the_circuit_and_then_nobody_is_called() -> None:
    bench = Bench(*[refused() for _ in range(5)])
    bench.fail(Unreachable)

    bench.fail(CircuitOpen)
    error = bench.fail(CircuitOpen)

    assert len(bench.inner.keys) == 5
    assert error.retry_after_seconds == pytest.approx(10.0, abs=2.0)
    assert bench.states == [BreakerState.OPEN]
    assert bench.outcomes == ["unreachable"] * 5 + ["circuit_open"] * 2


def test_two_probes_that_succeed_close_the_circuit() -> None:
    bench = Bench(*[refused() for _ in range(5)])
    bench.fail(Unreachable)
    bench.fail(CircuitOpen)

    bench.now += 10.0
    bench.pay()
    assert bench.gateway.breaker_state is BreakerState.HALF_OPEN
    bench.pay()

    assert bench.gateway.breaker_state is BreakerState.CLOSED
    assert bench.states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


@pytest.mark.parametrize("failure", [declined, rejected, running])
def test_refusals_and_running_calls_never_open_the_circuit(failure: Callable[[], GatewayError]) -> None:
    bench = Bench(*[failure() for _ in range(80)])

    for _ in range(20):
        with pytest.raises(GatewayError):
            bench.pay()

    assert bench.states == []


def test_a_bug_in_an_adapter_is_raised_as_it_is_and_held_against_nobody() -> None:
    bench = Bench()
    bench.inner.script = [KeyError("ours")]  # type: ignore[list-item]
    bench.inner.authorise = lambda _: {}["ours"]  # type: ignore[method-assign]

    for _ in range(20):
        with pytest.raises(KeyError):
            bench.pay()

    assert bench.states == []
    assert set(bench.outcomes) == {"bug"}
    assert bench.under_way == 0


# ---------------------------------------------------------------- metrics
def test_metrics_tell_each_attempt_the_retries_the_budget_and_the_circuit() -> None:
    bench = Bench(*[refused() for _ in range(5)])
    gateway = ResilientGateway(
        bench.inner,  # type: ignore[arg-type]  # only what is called here
        observer=DependencyMetrics("metered"),
        clock=lambda: bench.now,
        sleep=bench.sleep,
        uniform=lambda _, high: high,
    )
    for error in (Unreachable, CircuitOpen):
        with pytest.raises(error):
            gateway.authorise(REQUEST)

    told = {line for line in render_metrics().decode().splitlines() if "metered" in line}
    assert {
        'counterfoil_dependency_attempts_total{dependency="metered",operation="authorise",outcome="unreachable"} 5.0',
        'counterfoil_dependency_attempts_total{dependency="metered",operation="authorise",outcome="circuit_open"} 1.0',
        'counterfoil_dependency_retries_total{dependency="metered"} 4.0',
        'counterfoil_dependency_retry_budget{dependency="metered"} 6.0',
        'counterfoil_dependency_breaker_state{dependency="metered"} 2.0',
        'counterfoil_dependency_breaker_opened_total{dependency="metered"} 1.0',
        'counterfoil_dependency_calls_under_way{dependency="metered"} 0.0',
        'counterfoil_dependency_attempt_seconds_count{dependency="metered",operation="authorise"} 6.0',
    } <= told


# ---------------------------------------------------------------- bulkhead
def test_the_ninth_call_at_once_is_turned_away_and_served_when_one_ends() -> None:
    bench = Bench(policy=ResiliencePolicy(slot_seconds_max=0.01))
    inside, leave = threading.Semaphore(0), threading.Event()

    def hang(_: PaymentRequest) -> GatewayPayment:
        inside.release()
        assert leave.wait(20)
        return PAID

    bench.inner.authorise = hang  # type: ignore[method-assign]
    threads = [threading.Thread(target=bench.pay) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=20)

    bench.fail(BulkheadFull)
    assert bench.under_way == 8
    leave.set()
    for thread in threads:
        thread.join()

    assert bench.pay() is PAID
    assert bench.under_way == 0
    assert bench.outcomes.count("bulkhead_full") == 1
    assert bench.states == []


def test_a_call_waits_a_moment_for_a_slot_that_is_given_back() -> None:
    bench = Bench(policy=ResiliencePolicy(calls_at_once_max=1, slot_seconds_max=20))
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def first(_: PaymentRequest) -> GatewayPayment:
        inside.set()
        assert leave.wait(20)
        order.append("first ends")
        return PAID

    bench.inner.authorise = first  # type: ignore[method-assign]
    holder = threading.Thread(target=bench.pay)
    holder.start()
    assert inside.wait(20)

    def second(_: PaymentRequest) -> GatewayPayment:
        order.append("second begins")
        return PAID

    bench.inner.authorise = second  # type: ignore[method-assign]
    waiter = threading.Thread(target=bench.pay)
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    leave.set()
    waiter.join()
    holder.join()

    assert order == ["first ends", "second begins"]


def test_a_probe_that_finds_no_slot_leaves_room_for_the_next_one() -> None:
    bench = Bench(policy=ResiliencePolicy(calls_at_once_max=2, slot_seconds_max=0.01))
    inside, leave = threading.Semaphore(0), threading.Event()

    def hang(_: PaymentRequest) -> GatewayPayment:
        inside.release()
        assert leave.wait(20)
        return PAID

    def occupy() -> threading.Thread:
        bench.inner.authorise = hang  # type: ignore[method-assign]
        thread = threading.Thread(target=bench.pay)
        thread.start()
        assert inside.acquire(timeout=20)
        return thread

    def fail(_: PaymentRequest) -> GatewayPayment:
        raise refused()

    early = occupy()
    bench.inner.authorise = fail  # type: ignore[method-assign]
    bench.fail(Unreachable)
    bench.fail(CircuitOpen)
    bench.now += 10.0
    probe = occupy()  # hangs as well: both slots are taken
    bench.now += 5.0
    bench.fail(CircuitOpen)
    bench.now += 20.0

    bench.fail(BulkheadFull)
    leave.set()
    early.join()
    probe.join()

    bench.inner.authorise = lambda _: PAID  # type: ignore[method-assign]
    assert bench.pay() is PAID
    assert bench.pay() is PAID
    assert bench.gateway.breaker_state is BreakerState.CLOSED
