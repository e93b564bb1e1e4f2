"""How long to wait before the next attempt, and whether there may be one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# A success earns a tenth of a retry. Counted in whole tenths: ten successes are exactly one retry.
_TENTHS_PER_RETRY: Final = 10
_TENTHS_PER_SUCCESS: Final = 1


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waits with full jitter: anything from nothing to `base * 2^n`, at most `cap`.

    Full jitter spreads callers that failed together over the whole interval; a fixed share would keep them together.
    """

    base_seconds: float
    cap_seconds: float

    def longest_seconds(self, retry: int) -> float:
        """Return the longest wait before the retry of this number, which counts from 0."""
        # Beyond 2^62 the power is larger than any cap, and a float would overflow soon.
        return min(self.cap_seconds, self.base_seconds * float(1 << min(retry, 62)))

    def wait_seconds(self, retry: int, *, uniform: Callable[[float, float], float]) -> float:
        """Draw the wait before the retry of this number, which counts from 0."""
        return uniform(0.0, self.longest_seconds(retry))


class RetryBudget:
    """Retries that a dependency is worth: it starts full, a retry costs one, a success gives a tenth back.

    In an outage the successes stop, and so do the retries: at most `retries_max` and a tenth of what succeeds. The
    budget never holds more than it started with, so a quiet night does not pay for a storm in the morning. Safe to use
    from several threads.
    """

    def __init__(self, *, retries_max: int) -> None:
        """Make a full budget of `retries_max`."""
        self._tenths_max = retries_max * _TENTHS_PER_RETRY
        self._tenths = self._tenths_max
        self._lock = threading.Lock()

    @property
    def retries_left(self) -> float:
        """How many retries could be had now, with the part of one that is earned already."""
        return self._tenths / _TENTHS_PER_RETRY

    def earn(self) -> None:
        """Count one success."""
        with self._lock:
            self._tenths = min(self._tenths_max, self._tenths + _TENTHS_PER_SUCCESS)

    def try_spend(self) -> bool:
        """Pay for one retry; False when there is not enough left, and then nothing is taken."""
        with self._lock:
            if self._tenths < _TENTHS_PER_RETRY:
                return False
            self._tenths -= _TENTHS_PER_RETRY
            return True
