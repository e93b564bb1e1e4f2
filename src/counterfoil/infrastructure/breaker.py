"""A circuit breaker: after a few failures in a row of seconds, leave the other side alone for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Breaker:
    """Opens after `failures_max` failures within `window_seconds`, for `pause_seconds`; then one call may try again."""

    def __init__(
        self, *, failures_max: int, window_seconds: float, pause_seconds: float, clock: Callable[[], float]
    ) -> None:
        """Make a closed breaker."""
        self._failures: deque[float] = deque(maxlen=failures_max)
        self._window_seconds = window_seconds
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._open_until = float("-inf")

    @property
    def is_open(self) -> bool:
        """Tell whether a call must not be tried now."""
        return self._clock() < self._open_until

    def record_failure(self) -> None:
        """Count a failed call. After a pause the first failure opens it again: that call was the trial."""
        now = self._clock()
        self._failures.append(now)
        trial = self._open_until != float("-inf")
        many = len(self._failures) == self._failures.maxlen and now - self._failures[0] <= self._window_seconds
        if trial or many:
            self._open_until = now + self._pause_seconds

    def record_success(self) -> None:
        """Count a good call: what went wrong before is forgotten."""
        if self._failures:
            self._failures.clear()
        self._open_until = float("-inf")
