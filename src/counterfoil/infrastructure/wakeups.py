"""Waiting for news from the database: one connection listens for all who wait in this process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import psycopg
import structlog
from psycopg import sql

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Whoever waits beyond this is answered at once: ten seconds of the busiest shop that one process can serve.
WAITERS_MAX: Final = 2000
# A notification may be lost with its connection, so whoever waits also looks by themselves.
_LOOK_SECONDS: Final = 5.0
_LOOK_SECONDS_DEAF: Final = 1.0
# How soon a connection that has died without a word is noticed.
_PROBE_SECONDS: Final = 15.0


class Wakeups:
    """Who waits for what on one channel. Lives in the event loop; nothing here is for threads.

    A waiter costs a few hundred bytes: no thread, no connection and no transaction.
    """

    def __init__(self, channel: str, *, connection_string: str) -> None:
        """Take the channel's name, whose payloads are what one waits for, and where to listen."""
        self._channel = channel
        self._connection_string = connection_string
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._waiters = 0
        # Whether somebody listens at this moment.
        self.hears = False

    async def listen(self) -> None:
        """Hear and wake until cancelled; a connection that is lost is made anew."""
        away = False
        while True:
            try:
                await self._hear()
            except (psycopg.Error, OSError) as error:
                if not away:
                    log.warning("wakeups.deaf", channel=self._channel, error=type(error).__name__)
                away = True
            finally:
                away = away and not self.hears
                self.hears = False
            # Spread, so that many processes do not come back to a new primary at the same moment.
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - not a secret

    async def _hear(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._connection_string, autocommit=True) as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            self.hears = True
            # What happened while nobody listened is found by looking.
            for payload in list(self._waiting):
                self._wake(payload)
            while True:
                async for notification in connection.notifies(timeout=_PROBE_SECONDS):
                    self._wake(notification.payload)
                await connection.execute("SELECT 1")

    def _wake(self, payload: str) -> None:
        for event in self._waiting.get(payload, ()):
            event.set()

    async def wait_for(
        self, payload: str, *, look: Callable[[], Awaitable[T]], is_known: Callable[[T], bool], seconds: float
    ) -> T:
        """Look until what is seen `is_known`, or `seconds` have passed; returns what was seen last.

        Looks at once, when woken, and now and then.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + (seconds if self._waiters < WAITERS_MAX else 0.0)
        with self._expect(payload) as woken:
            while True:
                woken.clear()
                seen = await look()
                left = until - loop.time()
                if is_known(seen) or left <= 0:
                    return seen
                try:
                    await asyncio.wait_for(woken.wait(), min(left, _LOOK_SECONDS if self.hears else _LOOK_SECONDS_DEAF))
                except TimeoutError:
                    continue

    @contextmanager
    def _expect(self, payload: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting.setdefault(payload, set()).add(event)
        self._waiters += 1
        try:
            yield event
        finally:
            self._waiters -= 1
            self._waiting[payload].discard(event)
            if not self._waiting[payload]:
                del self._waiting[payload]
