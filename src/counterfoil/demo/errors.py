"""What can go wrong with demo data."""

from __future__ import annotations

from counterfoil.kernel.errors import Invalid, NotFound


class JourneyMissing(NotFound):
    """The Complete Journey data is not installed; run `{command}`, then repeat this."""

    code = "JOURNEY_MISSING"


class JourneyUnreadable(Invalid):
    """The Complete Journey data in {directory} cannot be used: {problem}. Take the package's two files unchanged."""

    code = "JOURNEY_UNREADABLE"
