"""Requests that hash a password take a few threads and no more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from counterfoil.api.hashing import HashingThreads
from counterfoil.kernel.errors import ServiceUnavailable


def test_a_request_more_than_there_are_threads_is_refused_at_once_and_the_others_are_done() -> None:
    async def ask() -> tuple[list[int], int, int]:
        threads, go, both = HashingThreads(2), threading.Event(), threading.Barrier(3)

        def hash_slowly() -> int:
            both.wait(20)
            assert go.wait(20)
            return 1

        running = [asyncio.create_task(threads.run(hash_slowly)) for _ in range(2)]
        await asyncio.to_thread(both.wait, 20)
        with pytest.raises(ServiceUnavailable):
            await threads.run(hash_slowly)
        # Whoever hashes nothing has threads of its own.
        other = await asyncio.to_thread(lambda: 7)
        go.set()
        return await asyncio.gather(*running), other, await threads.run(lambda: 3)

    assert asyncio.run(ask()) == ([1, 1], 7, 3)


def test_a_thread_is_free_again_after_a_failure() -> None:
    async def ask() -> list[str]:
        threads = HashingThreads(1)

        def fail() -> None:
            raise ValueError

        found = []
        for _ in range(3):
            try:
                await threads.run(fail)
            except ValueError:
                found.append("failed")
        return found

    assert asyncio.run(ask()) == ["failed"] * 3
