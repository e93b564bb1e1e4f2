"""Threads of their own for requests that hash a password, so that these cannot take everybody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread

from counterfoil.kernel.errors import ServiceUnavailable

R = TypeVar("R")

# Two hash at a time and take a fifth of a second or more; whoever waits longer than one second for it is refused
# anyway (users/passwords.py). More threads would only wait.
HASHING_THREADS_MAX: Final = 8


class HashingThreads:
    """The threads of one web process in which passwords are hashed. Lives in its event loop."""

    def __init__(self, most: int = HASHING_THREADS_MAX) -> None:
        """Allow `most` requests at once."""
        self._most = most
        self._limiter = CapacityLimiter(most)
        self._running = 0

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function in one of these threads; raises ServiceUnavailable at once when all are taken."""
        if self._running >= self._most:
            raise ServiceUnavailable
        self._running += 1
        try:
            return await to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._running -= 1
