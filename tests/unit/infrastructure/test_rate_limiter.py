"""The limiter's own rules: batches, numbers in the order of arrival, memory of spent keys, stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest


class Observer:
    def __init__(self) -> None:
        self.counted: list[tuple[int, str]] = []
        self.failed: list[str] = []

    def limits_counted(self, *, hits: int, store: str) -> None:
        self.counted.append((hits, store))

    def store_failed(self, *, store: str) -> None:
        self.failed.append(store)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Store:
    """A store at the seam to the outside: counts in memory, and can be slow, gone or standing still."""

    def __init__(self, clock: Clock) -> None:
        from counterfoil.infrastructure.limit_stores import MemoryStore

        self.calls: list[list[tuple[str, int]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self._memory = MemoryStore(clock)

    async def add(self, amounts: Sequence[Any]) -> list[Any]:
        self.calls.append([(amount.key, amount.amount) for amount in amounts])
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await self._memory.add(amounts)

    async def close(self) -> None:
        pass


def hit(key: str = "k", limit: int = 3, **values: Any) -> Any:
    from counterfoil.infrastructure.rate_limiter import Hit

    return Hit(key, limit, 60, **values)


def make(clock: Clock, primary: Store, strict: Store | None = None) -> tuple[Any, Observer]:
    from counterfoil.infrastructure.rate_limiter import RateLimiter

    observer = Observer()
    limiter = RateLimiter(
        primary=primary, strict=strict, seconds_max=0.05, strict_seconds_max=0.05, observer=observer, clock=clock
    )
    return limiter, observer


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def test_hits_that_arrive_while_a_batch_is_counted_form_the_next_one() -> None:
    async def scenario() -> None:
        clock = Clock()
        store = Store(clock)
        limiter, _ = make(clock, store)
        store.gate.clear()
        first = limiter.take([hit("a", 10)])
        await asyncio.sleep(0)
        others = [limiter.take([hit("a", 10), hit("b", 10)]) for _ in range(3)]
        await asyncio.sleep(0)
        store.gate.set()
        counts = [await future for future in (first, *others)]

        assert store.calls == [[("a", 1)], [("a", 3), ("b", 3)]]
        assert [[count.used for count in counted] for counted in counts] == [[1], [2, 1], [3, 2], [4, 3]]

    run(scenario)


def test_exactly_the_limit_passes_within_one_batch_and_a_spent_key_is_not_asked_for_again() -> None:
    async def scenario() -> None:
        clock = Clock()
        store = Store(clock)
        limiter, _ = make(clock, store)
        counts = await asyncio.gather(*(limiter.take([hit()]) for _ in range(5)))
        calls = len(store.calls)
        clock.now += 20
        [refused] = await limiter.take([hit()])
        clock.now += 41
        [again] = await limiter.take([hit()])

        assert [counted[0].passes for counted in counts] == [True, True, True, False, False]
        assert (refused.passes, refused.remaining, refused.seconds_left) == (False, 0, 40)
        assert (len(store.calls), again.passes, again.remaining) == (calls + 1, True, 2)

    run(scenario)


def test_what_is_given_back_can_be_used_again() -> None:
    async def scenario() -> None:
        clock = Clock()
        limiter, _ = make(clock, Store(clock))

        async def used(amount: int) -> int:
            [count] = await limiter.take([hit(amount=amount, final=False)])
            return int(count.used)

        assert [await used(n) for n in (0, 1, 1, 1, -1, -1, -1, -1, 1, 0)] == [0, 1, 2, 3, 2, 1, 0, 0, 1, 1]

    run(scenario)


def test_a_store_that_stands_still_is_waited_for_once_and_then_left_alone() -> None:
    async def scenario() -> None:
        clock = Clock()
        primary, strict = Store(clock), Store(clock)
        limiter, observer = make(clock, primary, strict)
        primary.gate.clear()
        counts = []
        for _ in range(6):
            clock.now += 0.1
            counts.append(await limiter.take([hit("plain", 9), hit("strict", 9, strict=True)]))

        assert observer.failed == ["primary"] * 3
        assert len(strict.calls) == 6
        assert [[count.used for count in counted] for counted in counts] == [[n, n] for n in range(1, 7)]
        clock.now += 6
        primary.gate.set()
        [count] = await limiter.take([hit("fresh")])
        assert (count.used, observer.counted[-1]) == (1, (1, "primary"))

    run(scenario)


def test_nobody_fails_when_every_store_is_gone() -> None:
    async def scenario() -> None:
        clock = Clock()
        primary, strict = Store(clock), Store(clock)
        primary.failure = strict.failure = ConnectionError("gone")
        limiter, observer = make(clock, primary, strict)

        counts = await asyncio.gather(*(limiter.take([hit(strict=True)]) for _ in range(5)))

        assert [counted[0].passes for counted in counts] == [True] * 3 + [False] * 2
        assert observer.failed == ["primary", "strict"]
        assert observer.counted == [(1, "memory")]

    run(scenario)


def test_a_store_that_answers_nonsense_fails_nobody() -> None:
    async def scenario() -> None:
        clock = Clock()

        class Confused(Store):
            async def add(self, amounts: Sequence[Any]) -> list[Any]:
                await super().add(amounts)
                return []

        limiter, _ = make(clock, Confused(clock))

        counts = [await limiter.take([hit(), hit("other")]) for _ in range(2)]

        assert [[count.passes for count in counted] for counted in counts] == [[True] * 2] * 2

    run(scenario)


def test_memory_of_spent_keys_is_bounded() -> None:
    async def scenario() -> None:
        clock = Clock()
        limiter, _ = make(clock, Store(clock))
        for batch in range(25):
            await asyncio.gather(*(limiter.take([hit(f"{batch}-{n}", 1)]) for n in range(500)))

        assert len(limiter._spent) <= 10_000  # noqa: SLF001 - the bound is the promise

    run(scenario)


def test_after_a_bug_of_the_counting_strict_hits_are_counted_and_the_others_pass() -> None:
    async def scenario() -> None:
        clock = Clock()

        class Confused(Store):
            async def add(self, amounts: Sequence[Any]) -> list[Any]:
                await super().add(amounts)
                return []

        limiter, _ = make(clock, Confused(clock))
        counts = [await limiter.take([hit("s", 2, strict=True), hit("k", 2)]) for _ in range(4)]

        assert [[count.passes for count in pair] for pair in counts] == [[True, True]] * 2 + [[False, True]] * 2

    run(scenario)


def test_whoever_hears_nothing_from_the_counting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from counterfoil.infrastructure import rate_limiter
    from counterfoil.kernel.errors import ServiceUnavailable

    monkeypatch.setattr(rate_limiter, "_THREAD_SECONDS_MAX", 0.01)

    async def scenario() -> None:
        clock = Clock()
        store = Store(clock)
        store.gate.clear()
        limiter, _ = make(clock, store)
        rate_limiter.use_limiter(limiter)
        try:
            with pytest.raises(ServiceUnavailable):
                await asyncio.to_thread(rate_limiter.take_in_thread, [hit()])
        finally:
            rate_limiter.use_limiter(None)
            store.gate.set()
        assert await asyncio.to_thread(rate_limiter.take_in_thread, [hit()]) is None

    run(scenario)
