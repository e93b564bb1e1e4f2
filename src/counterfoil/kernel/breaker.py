"""A circuit breaker: stops calling what keeps failing, and asks from time to time whether it is well again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum


class BreakerState(StrEnum):
    """Closed: calls pass. Open: none passes. Half-open: one at a time passes as a probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(Enum):
    """What a finished call says about the dependency's health.

    NEUTRAL says nothing: a dependency that limits our rate is neither ill nor proven well.
    """

    SUCCESS = 1
    FAILURE = 2
    NEUTRAL = 3


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Opens at `failures_min` failures that are also `failure_ratio` of the recent calls.

    Recent are the last `window_calls`, as far as they ended within `window_seconds`. It stays open for `open_seconds`,
    twice as long after each failed probe, at most `open_seconds_max`. A probe that has not ended after `probe_seconds`
    has failed. `probes_to_close` successful probes in a row close it.
    """

    failures_min: int = 5
    failure_ratio: float = 0.5
    window_calls: int = 20
    window_seconds: float = 30.0
    open_seconds: float = 10.0
    open_seconds_max: float = 60.0
    probe_seconds: float = 5.0
    probes_to_close: int = 2


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. `era` is the breaker's when it was given: a report from an earlier era is history."""

    era: int


class BreakerOpen(Exception):
    """The call may not be made; `retry_after_seconds` tells when it is worth asking again."""

    def __init__(self, retry_after_seconds: float) -> None:
        """Keep the time left."""
        super().__init__(f"open for {retry_after_seconds:.1f} s more")
        self.retry_after_seconds = retry_after_seconds


class Breaker:
    """One breaker for one dependency and one process. Safe to use from several threads.

    Every call is framed by `enter` and `leave`. Calls that were under way when the breaker changed its mind do not
    change it again: their permits are from an era that is over.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        clock: Callable[[], float],
        on_change: Callable[[BreakerState], None] = lambda _: None,
    ) -> None:
        """Make a closed breaker. `clock` counts seconds and never goes back; `on_change` learns of every new state."""
        self._policy = policy
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._era = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=policy.window_calls)
        self._open_seconds = policy.open_seconds
        self._open_until = 0.0
        self._probe_since: float | None = None
        self._probes_passed = 0

    @property
    def state(self) -> BreakerState:
        """The state as of the last call; time alone changes nothing until somebody asks to enter."""
        return self._state

    def enter(self) -> Permit:
        """Ask for leave to make a call; raises BreakerOpen at once when there is none."""
        with self._lock:
            now = self._clock()
            if self._state is BreakerState.CLOSED:
                return Permit(self._era)
            if self._state is BreakerState.OPEN:
                if now < self._open_until:
                    raise BreakerOpen(self._open_until - now)
                self._change(BreakerState.HALF_OPEN)
                self._probes_passed = 0
                self._probe_since = None
            return self._enter_as_probe(now)

    def leave(self, permit: Permit, verdict: Verdict) -> None:
        """Report how the permitted call ended; to be called exactly once for each permit."""
        with self._lock:
            if permit.era != self._era:
                return
            now = self._clock()
            if self._state is BreakerState.HALF_OPEN:
                self._judge_probe(verdict, now)
            elif verdict is not Verdict.NEUTRAL:
                self._recent.append((now, verdict is Verdict.FAILURE))
                if verdict is Verdict.FAILURE and self._is_ill(now):
                    self._open(now)

    def _enter_as_probe(self, now: float) -> Permit:
        if self._probe_since is not None:
            running = now - self._probe_since
            if running < self._policy.probe_seconds:
                raise BreakerOpen(self._policy.probe_seconds - running)
            # The probe hangs, which is an answer too.
            self._reopen(now)
            raise BreakerOpen(self._open_seconds)
        self._probe_since = now
        return Permit(self._era)

    def _judge_probe(self, verdict: Verdict, now: float) -> None:
        assert self._probe_since is not None, "a probe that ends has begun"
        overdue = now - self._probe_since >= self._policy.probe_seconds
        self._probe_since = None
        if verdict is Verdict.FAILURE or overdue:
            self._reopen(now)
        elif verdict is Verdict.SUCCESS:
            self._probes_passed += 1
            if self._probes_passed >= self._policy.probes_to_close:
                self._recent.clear()
                self._open_seconds = self._policy.open_seconds
                self._change(BreakerState.CLOSED)

    def _is_ill(self, now: float) -> bool:
        oldest = now - self._policy.window_seconds
        recent = [failed for ended_at, failed in self._recent if ended_at > oldest]
        failures = sum(recent)
        return failures >= self._policy.failures_min and failures >= self._policy.failure_ratio * len(recent)

    def _reopen(self, now: float) -> None:
        self._open_seconds = min(self._policy.open_seconds_max, 2 * self._open_seconds)
        self._open(now)

    def _open(self, now: float) -> None:
        self._open_until = now + self._open_seconds
        self._change(BreakerState.OPEN)

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._on_change(state)
