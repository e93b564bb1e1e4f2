"""When an open call is looked at again, when it may be sent again, and when a person must look (rule, pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_HOUR: Final = 3600.0
# Seconds after the outcome got lost at which the gateway is asked: 10 s, 30 s, 2 min, 10 min, 30 min, 1 h, then hourly.
LOOKS_AT: Final = (10.0, 30.0, 120.0, 600.0, 1800.0, _HOUR)
# Gateways forget idempotency keys after 24 h; an hour before that nothing is sent again.
RESEND_SECONDS_MAX: Final = 23 * _HOUR
REVIEW_SECONDS: Final = 24 * _HOUR
LOOK_SECONDS_MAX: Final = 72 * _HOUR
# A buyer who has not authenticated in an hour has left; their order must not hold stock for ever.
BUYER_SECONDS_MAX: Final = _HOUR
# Ten percent to either side, so that what failed together does not come back together.
JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Timetable:
    """The resolver's clock. `speed` divides its waits, for drills; 1 in earnest. Ages are never shortened."""

    speed: float = 1.0

    def wait_seconds(self, looks: int, *, age_seconds: float, uniform: Callable[[float, float], float]) -> float | None:
        """Return the wait before the look that follows `looks` others; None when no further one is made."""
        if self.is_over(age_seconds):
            return None
        wait = _HOUR
        if looks < len(LOOKS_AT):
            wait = LOOKS_AT[looks] - (LOOKS_AT[looks - 1] if looks else 0.0)
        return wait * uniform(1 - JITTER, 1 + JITTER) / self.speed

    def is_over(self, age_seconds: float) -> bool:
        """Tell whether nobody looks any more by themselves at what is so old."""
        return age_seconds >= LOOK_SECONDS_MAX

    def may_resend(self, age_seconds: float) -> bool:
        """Tell whether the gateway still knows the key of a call that was first sent so long ago."""
        return age_seconds < RESEND_SECONDS_MAX

    def needs_review(self, age_seconds: float) -> bool:
        """Tell whether a person must look at a call that has been open for so long."""
        return age_seconds >= REVIEW_SECONDS

    def buyer_has_left(self, age_seconds: float) -> bool:
        """Tell whether a payment that waits for its buyer is given up."""
        return age_seconds >= BUYER_SECONDS_MAX
