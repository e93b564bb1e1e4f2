"""Children that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(*, parent: int) -> None:
    """Ask the kernel (Linux) to send SIGTERM to this process when the process `parent` that made it ends.

    Elsewhere nothing happens and an orphan has to be stopped by hand.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have ended before the kernel was asked.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
