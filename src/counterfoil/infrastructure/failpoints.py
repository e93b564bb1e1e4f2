"""Named points at which a process can be told to die, so that tests kill it at its worst moments.

By COUNTERFOIL_FAILPOINTS, with which the settings let nothing start outside of demo mode. Everywhere else `failpoint`
is a function that does nothing, chosen once when this module is imported: no name is looked up on the way of a payment.
It is chosen from the environment itself, because importing a module must not need settings.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

# What a process killed with SIGKILL leaves as its exit code.
EXIT_CODE: Final = 137

# Every point, in the order in which a payment passes them.
NAMES: Final = (
    "start.begun",
    "start.payment_written",
    "start.attempt_written",
    "refund.written",
    "claim.begun",
    "claim.written",
    "claim.committed",
    "call.before_look",
    "call.looked",
    "call.before_send",
    "call.answered",
    "settle.begun",
    "record.begun",
    "record.attempt_written",
    "record.payment_written",
    "record.ledger_written",
    "record.refund_written",
    "record.notified",
    "settle.committed",
    "notice.begun",
    "notice.written",
    "notice.committed",
)


def _do_nothing(name: str) -> None:
    """Pass by."""


class Failpoints:
    """Dies at the points that a plan names: `name` at the first passing, `name:3` at the third; commas between."""

    def __init__(self, plan: str, *, die: Callable[[int], object] = os._exit) -> None:
        """Read the plan; raises ValueError for a name that is not in NAMES."""
        self._lock = threading.Lock()
        self._die = die
        self._left: dict[str, int] = {}
        for part in filter(None, (piece.strip() for piece in plan.split(","))):
            name, _, number = part.partition(":")
            if name not in NAMES or (number and not number.isdecimal()):
                raise ValueError(f"there is no failpoint {part!r}; known are: {', '.join(NAMES)}")
            self._left[name] = int(number or 1)

    def __call__(self, name: str) -> None:
        """Die here, without a word and without cleaning up, if this is the passing that the plan names."""
        assert name in NAMES, name
        with self._lock:
            if name not in self._left:
                return
            self._left[name] -= 1
            if self._left[name] == 0:
                self._die(EXIT_CODE)


_plan: Final = os.environ.get("COUNTERFOIL_FAILPOINTS", "")
failpoint: Final[Callable[[str], None]] = Failpoints(_plan) if _plan else _do_nothing
