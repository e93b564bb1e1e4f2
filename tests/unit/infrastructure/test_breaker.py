"""A breaker opens after failures that come close together, and tries again with one call."""

from __future__ import annotations

from counterfoil.infrastructure.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock) -> Breaker:
    return Breaker(failures_max=3, window_seconds=5, pause_seconds=5, clock=clock)


def test_three_failures_within_the_window_open_it_for_the_pause() -> None:
    clock = Clock()
    breaker = make(clock)

    for _ in range(3):
        assert not breaker.is_open
        breaker.record_failure()
    opened = breaker.is_open
    clock.now += 5

    assert (opened, breaker.is_open) == (True, False)


def test_failures_far_apart_leave_it_closed() -> None:
    clock = Clock()
    breaker = make(clock)

    for _ in range(10):
        breaker.record_failure()
        clock.now += 3

    assert not breaker.is_open


def test_after_the_pause_one_failure_opens_it_again_and_one_success_closes_it() -> None:
    clock = Clock()
    breaker = make(clock)
    for _ in range(3):
        breaker.record_failure()

    clock.now += 6
    breaker.record_failure()
    after_failure = breaker.is_open
    clock.now += 6
    breaker.record_success()
    breaker.record_failure()

    assert (after_failure, breaker.is_open) == (True, False)
