"""The circuit breaker, on a clock that moves only when told."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from counterfoil.kernel.breaker import Breaker, BreakerOpen, BreakerPolicy, BreakerState, Permit, Verdict


class Bench:
    """A breaker with its clock and what it told of itself."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.now = 1000.0
        self.changes: list[BreakerState] = []
        self.breaker = Breaker(policy or BreakerPolicy(), clock=lambda: self.now, on_change=self.changes.append)

    def call(self, verdict: Verdict, *, seconds: float = 0.0) -> None:
        permit = self.breaker.enter()
        self.now += seconds
        self.breaker.leave(permit, verdict)

    def open(self) -> None:
        for _ in range(5):
            self.call(Verdict.FAILURE)
        assert self.breaker.state is BreakerState.OPEN

    def refused_for(self) -> float:
        with pytest.raises(BreakerOpen) as refusal:
            self.breaker.enter()
        return refusal.value.retry_after_seconds


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    bench = Bench()

    for _ in range(4):
        bench.call(Verdict.FAILURE)
    assert bench.breaker.state is BreakerState.CLOSED
    bench.call(Verdict.FAILURE)

    assert bench.breaker.state is BreakerState.OPEN
    assert bench.refused_for() == 10.0
    assert bench.changes == [BreakerState.OPEN]


def test_failures_below_half_of_the_recent_calls_leave_it_closed() -> None:
    bench = Bench()
    for _ in range(11):
        bench.call(Verdict.SUCCESS)
    for _ in range(9):
        bench.call(Verdict.FAILURE)
    assert bench.breaker.state is BreakerState.CLOSED  # 9 of 20

    bench.call(Verdict.FAILURE)  # the oldest success leaves the window: 10 of 20

    assert bench.breaker.state is BreakerState.OPEN


def test_failures_older_than_the_window_are_forgotten() -> None:
    bench = Bench()
    for _ in range(4):
        bench.call(Verdict.FAILURE)

    bench.now += 30.0
    bench.call(Verdict.FAILURE)

    assert bench.breaker.state is BreakerState.CLOSED


def test_rate_limits_say_nothing_about_health() -> None:
    bench = Bench()
    for _ in range(4):
        bench.call(Verdict.FAILURE)

    for _ in range(50):
        bench.call(Verdict.NEUTRAL)

    assert bench.breaker.state is BreakerState.CLOSED
    bench.call(Verdict.FAILURE)
    assert bench.breaker.state is BreakerState.OPEN


def test_after_ten_seconds_one_probe_passes_and_the_next_waits_for_it() -> None:
    bench = Bench()
    bench.open()
    bench.now += 9.9
    assert bench.refused_for() == pytest.approx(0.1)

    bench.now += 0.1
    probe = bench.breaker.enter()

    assert bench.breaker.state is BreakerState.HALF_OPEN
    assert bench.refused_for() == 5.0
    bench.breaker.leave(probe, Verdict.SUCCESS)
    assert bench.breaker.state is BreakerState.HALF_OPEN
    bench.call(Verdict.SUCCESS)
    assert bench.breaker.state is BreakerState.CLOSED


def test_each_failed_probe_doubles_the_open_time_up_to_a_minute_and_closing_forgets_it() -> None:
    bench = Bench()
    bench.open()
    waits = []

    for _ in range(4):
        bench.now += bench.refused_for()
        bench.call(Verdict.FAILURE)
        waits.append(bench.refused_for())
    assert waits == [20.0, 40.0, 60.0, 60.0]
    bench.now += 60.0
    bench.call(Verdict.SUCCESS)
    bench.call(Verdict.SUCCESS)
    bench.open()

    assert bench.refused_for() == 10.0


def test_what_opened_it_is_forgotten_when_it_closes() -> None:
    bench = Bench()
    bench.open()
    bench.now += 10.0
    bench.call(Verdict.SUCCESS)
    bench.call(Verdict.SUCCESS)

    for _ in range(4):
        bench.call(Verdict.FAILURE)

    assert bench.breaker.state is BreakerState.CLOSED


def test_a_success_between_two_failed_probes_does_not_close_it() -> None:
    bench = Bench()
    bench.open()
    bench.now += 10.0

    bench.call(Verdict.SUCCESS)
    bench.call(Verdict.FAILURE)
    bench.now += 20.0
    bench.call(Verdict.SUCCESS)

    assert bench.breaker.state is BreakerState.HALF_OPEN


def test_a_probe_that_hangs_for_five_seconds_has_failed() -> None:
    bench = Bench()
    bench.open()
    bench.now += 10.0
    probe = bench.breaker.enter()

    bench.now += 5.0
    assert bench.refused_for() == 20.0
    bench.breaker.leave(probe, Verdict.SUCCESS)  # too late to be believed

    assert bench.breaker.state is BreakerState.OPEN


def test_a_probe_that_answers_after_five_seconds_has_failed_even_if_nobody_asked_meanwhile() -> None:
    bench = Bench()
    bench.open()
    bench.now += 10.0

    bench.call(Verdict.SUCCESS, seconds=5.0)

    assert bench.breaker.state is BreakerState.OPEN
    assert bench.refused_for() == 20.0


def test_a_rate_limited_probe_leaves_room_for_another_one() -> None:
    bench = Bench()
    bench.open()
    bench.now += 10.0

    bench.call(Verdict.NEUTRAL)
    bench.call(Verdict.SUCCESS)
    bench.call(Verdict.SUCCESS)

    assert bench.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("verdict", list(Verdict))
def test_calls_that_began_before_it_opened_change_nothing_when_they_end(verdict: Verdict) -> None:
    bench = Bench()
    late = bench.breaker.enter()
    bench.open()

    bench.breaker.leave(late, verdict)
    assert bench.breaker.state is BreakerState.OPEN
    bench.now += 10.0
    probe = bench.breaker.enter()
    bench.breaker.leave(late, verdict)

    assert bench.breaker.state is BreakerState.HALF_OPEN
    bench.breaker.leave(probe, Verdict.SUCCESS)


@given(st.lists(st.booleans(), max_size=200))
def test_it_opens_exactly_when_the_recent_calls_say_so(calls: list[bool]) -> None:
    bench = Bench()
    recent: deque[bool] = deque(maxlen=20)

    for failed in calls:
        bench.call(Verdict.FAILURE if failed else Verdict.SUCCESS)
        recent.append(failed)
        ill = failed and sum(recent) >= 5 and 2 * sum(recent) >= len(recent)
        assert (bench.breaker.state is BreakerState.OPEN) is ill
        if ill:
            return


class AnyOrder(RuleBasedStateMachine):
    """Calls that begin and end in any order, with any pause in between."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.under_way: list[Permit] = []

    @rule()
    def begin(self) -> None:
        was, refused_for = self.bench.breaker.state, None
        try:
            self.under_way.append(self.bench.breaker.enter())
        except BreakerOpen as refusal:
            refused_for = refusal.retry_after_seconds
        if refused_for is not None:
            assert was is not BreakerState.CLOSED
            assert 0.0 < refused_for <= 60.0

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def end(self, data: st.DataObject, verdict: Verdict) -> None:
        permit = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(permit)
        self.bench.breaker.leave(permit, verdict)

    @rule(seconds=st.floats(0, 70))
    def wait(self, seconds: float) -> None:
        self.bench.now += seconds

    @invariant()
    def only_allowed_steps_were_made(self) -> None:
        steps = zip([BreakerState.CLOSED, *self.bench.changes], self.bench.changes, strict=False)
        allowed = {
            (BreakerState.CLOSED, BreakerState.OPEN),
            (BreakerState.OPEN, BreakerState.HALF_OPEN),
            (BreakerState.HALF_OPEN, BreakerState.OPEN),
            (BreakerState.HALF_OPEN, BreakerState.CLOSED),
        }
        assert set(steps) <= allowed

    def teardown(self) -> None:
        """However it got here, a minute and two good probes close it."""
        breaker, bench = self.bench.breaker, self.bench
        for _ in range(3):
            bench.now += 60.0
            try:
                bench.call(Verdict.SUCCESS)
                bench.call(Verdict.SUCCESS)
            except BreakerOpen:  # a probe from before was hanging
                continue
        assert breaker.state is BreakerState.CLOSED


TestAnyOrder = AnyOrder.TestCase
