"""Waiting for news from the database: woken at once, and never for longer than one has time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from counterfoil.infrastructure import wakeups
from counterfoil.infrastructure.wakeups import Wakeups

CHANNEL = "counterfoil_test"


class Fact:
    """Something that becomes known, and how often it was looked at."""

    def __init__(self) -> None:
        self.known = False
        self.looks = 0

    async def look(self) -> bool:
        self.looks += 1
        return self.known


def run(database_url: str, body: Callable[[Wakeups], Awaitable[Any]]) -> Any:
    """Run `body` beside a listener."""

    async def both() -> Any:
        listener = Wakeups(CHANNEL, connection_string=database_url)
        listening = asyncio.create_task(listener.listen())
        try:
            return await body(listener)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    return asyncio.run(both())


async def tell(database_url: str, payload: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])


async def until_hearing(listener: Wakeups) -> None:
    async with asyncio.timeout(10):
        while not listener.hears:  # noqa: ASYNC110 - nobody sets an event for a test
            await asyncio.sleep(0.01)


def wait(listener: Wakeups, payload: str, fact: Fact, seconds: float) -> asyncio.Task[bool]:
    return asyncio.create_task(
        listener.wait_for(payload, look=fact.look, is_known=lambda known: known, seconds=seconds)
    )


def test_whoever_waits_is_woken_when_it_happens_and_others_are_not(database_url: str) -> None:
    async def body(listener: Wakeups) -> None:
        await until_hearing(listener)
        fact, other = Fact(), Fact()
        mine, theirs = wait(listener, "1", fact, 4), wait(listener, "2", other, 1)
        await asyncio.sleep(0.1)
        started = time.monotonic()
        fact.known = True
        await tell(database_url, "1")

        assert await mine is True
        assert time.monotonic() - started < 0.5
        assert await theirs is False
        assert (fact.looks, other.looks) == (2, 2)

    run(database_url, body)


def test_what_is_known_already_is_not_waited_for(database_url: str) -> None:
    async def body(listener: Wakeups) -> None:
        fact = Fact()
        fact.known = True
        started = time.monotonic()

        assert await wait(listener, "1", fact, 10) is True
        assert time.monotonic() - started < 0.2

    run(database_url, body)


def test_without_a_connection_everybody_looks_by_themselves(database_url: str) -> None:
    async def body() -> None:
        deaf = Wakeups(CHANNEL, connection_string=database_url)  # nobody runs its listen()
        fact = Fact()
        waiting = wait(deaf, "1", fact, 5)
        await asyncio.sleep(0.1)
        fact.known = True
        started = time.monotonic()

        assert await waiting is True
        assert time.monotonic() - started < 1.5

    asyncio.run(body())


def test_a_lost_connection_is_made_anew_and_what_was_missed_is_found(database_url: str) -> None:
    async def body(listener: Wakeups) -> None:
        await until_hearing(listener)
        fact = Fact()
        waiting = wait(listener, "1", fact, 8)
        await asyncio.sleep(0.1)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s",
                [f'LISTEN "{CHANNEL}"%'],
            )
            fact.known = True  # nobody is told: the notification is lost

        started = time.monotonic()
        assert await waiting is True
        assert time.monotonic() - started < 3
        await until_hearing(listener)

    run(database_url, body)


def test_one_too_many_is_not_kept_waiting(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "WAITERS_MAX", 1)

    async def body(listener: Wakeups) -> None:
        await until_hearing(listener)
        first = wait(listener, "1", Fact(), 1)
        await asyncio.sleep(0.05)
        started = time.monotonic()

        assert await wait(listener, "2", Fact(), 5) is False
        assert time.monotonic() - started < 0.3
        assert await first is False

    run(database_url, body)
