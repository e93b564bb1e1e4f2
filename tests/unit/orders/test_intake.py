"""The intake engine without a database: a fake batch writer, a clock that stands still, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from counterfoil.kernel.errors import Conflict, DomainError, Unavailable
from counterfoil.orders.errors import QueueFull, QueueTimeout, ShuttingDown
from counterfoil.orders.intake import Intake, IntakeLimits


class TooDear(Conflict):
    """Order {order} is refused."""

    code = "TEST_TOO_DEAR"


class DatabaseAway(Unavailable):
    """The database is away."""

    code = "TEST_DATABASE_AWAY"


class Poisonous(Exception):
    """What a database says when it refuses a whole batch because of one order."""


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Observed:
    """Writes down what the intake tells."""

    def __init__(self) -> None:
        self.written: list[tuple[int, float, float]] = []
        self.turned_away: list[str] = []
        self.halved: list[int] = []

    def batch_written(self, *, orders: int, seconds: float, waited_seconds: float) -> None:
        self.written.append((orders, seconds, waited_seconds))

    def order_turned_away(self, *, code: str) -> None:
        self.turned_away.append(code)

    def batch_halved(self, *, orders: int) -> None:
        self.halved.append(orders)


class Writer:
    """A `run_batch` that waits at a gate; orders are numbers and their result is ten times as much."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.poison: set[int] = set()
        self.refused: set[int] = set()
        self.whole: Exception | None = None
        self.seconds = 0.0
        self.in_flight = 0

    async def __call__(self, commands: Sequence[int]) -> Sequence[int | DomainError]:
        assert self.in_flight == 0, "two batches at once"
        self.in_flight += 1
        self.batches.append(list(commands))
        try:
            await self.gate.wait()
            self.clock.now += self.seconds
            if self.whole is not None:
                raise self.whole
            if self.poison & set(commands):
                raise Poisonous
            return [TooDear(order=c) if c in self.refused else c * 10 for c in commands]
        finally:
            self.in_flight -= 1


class Bench:
    """An intake with its surroundings."""

    def __init__(self, *, batch: int = 4, queue: int = 100, timeout_ms: int = 5000) -> None:
        self.clock, self.observed = Clock(), Observed()
        self.writer = Writer(self.clock)
        self.intake: Intake[int, int] = Intake(
            self.writer,
            limits=IntakeLimits(batch_orders_max=batch, queue_orders_max=queue, submit_timeout_ms=timeout_ms),
            observer=self.observed,
            clock=self.clock,
        )

    def submit(self, *commands: int) -> list[asyncio.Future[int]]:
        return [self.intake.submit(command) for command in commands]


async def next_round() -> None:
    """Let everything that is ready run; nothing here waits for time."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(bounded())


async def answers(futures: Sequence[asyncio.Future[int]]) -> list[int | BaseException]:
    return list(await asyncio.gather(*futures, return_exceptions=True))


def test_a_lone_order_starts_in_the_next_round_of_the_loop() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.gate.clear()

        [future] = bench.submit(1)
        await next_round()

        assert bench.writer.batches == [[1]]
        assert bench.clock.now == 100.0
        bench.writer.gate.set()
        assert await future == 10

    run(test)


def test_orders_of_one_round_of_the_loop_share_a_batch() -> None:
    async def test() -> None:
        bench = Bench()

        assert await answers(bench.submit(1, 2, 3)) == [10, 20, 30]

        assert bench.writer.batches == [[1, 2, 3]]

    run(test)


def test_orders_that_arrive_while_a_batch_is_written_are_the_next_batch() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.gate.clear()
        first = bench.submit(1)
        await next_round()
        second = bench.submit(2, 3)
        await next_round()
        third = bench.submit(4)
        assert bench.intake.waiting == 3

        bench.writer.gate.set()

        assert await answers([*first, *second, *third]) == [10, 20, 30, 40]
        assert bench.writer.batches == [[1], [2, 3, 4]]
        assert bench.intake.waiting == 0

    run(test)


def test_a_batch_has_its_limit_and_keeps_the_order_of_arrival() -> None:
    async def test() -> None:
        bench = Bench(batch=2)

        assert await answers(bench.submit(1, 2, 3, 4, 5)) == [10, 20, 30, 40, 50]

        assert bench.writer.batches == [[1, 2], [3, 4], [5]]

    run(test)


def test_a_full_queue_refuses_at_once_and_the_batch_in_flight_does_not_count() -> None:
    async def test() -> None:
        bench = Bench(queue=2)
        bench.writer.gate.clear()
        in_flight = bench.submit(1)
        await next_round()
        waiting = bench.submit(2, 3)

        with pytest.raises(QueueFull):
            bench.intake.submit(4)

        assert bench.observed.turned_away == ["QUEUE_FULL"]
        bench.writer.gate.set()
        assert await answers([*in_flight, *waiting]) == [10, 20, 30]
        assert await bench.intake.submit(5) == 50

    run(test)


def test_an_order_that_waited_too_long_is_refused_and_never_tried() -> None:
    async def test() -> None:
        bench = Bench(timeout_ms=5000)
        bench.writer.gate.clear()
        first = bench.submit(1)
        await next_round()
        late = bench.submit(2)
        bench.clock.now += 0.5
        in_time = bench.submit(3)
        bench.clock.now += 4.75

        bench.writer.gate.set()
        found = await answers([*first, *late, *in_time])

        assert isinstance(found[1], QueueTimeout)
        assert (found[0], found[2]) == (10, 30)
        assert bench.writer.batches == [[1], [3]]
        assert bench.observed.turned_away == ["QUEUE_TIMEOUT"]

    run(test)


def test_a_refusal_is_an_answer_and_harms_nobody_else() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.refused = {2}

        found = await answers(bench.submit(1, 2, 3))

        assert (found[0], found[2]) == (10, 30)
        assert isinstance(found[1], TooDear)
        assert found[1].message == "Order 2 is refused."
        assert bench.writer.batches == [[1, 2, 3]]
        assert bench.observed.halved == []

    run(test)


@pytest.mark.parametrize("poisonous", [{1}, {5}, {8}, {1, 2}, {2, 7}, {1, 2, 3, 4, 5, 6, 7, 8}])
def test_halving_isolates_whatever_the_database_refuses(poisonous: set[int]) -> None:
    async def test() -> None:
        bench = Bench(batch=8)
        bench.writer.poison = poisonous

        found = await answers(bench.submit(*range(1, 9)))

        for order, answer in enumerate(found, start=1):
            if order in poisonous:
                assert isinstance(answer, Poisonous), order
            else:
                assert answer == order * 10, order

    run(test)


def test_halving_takes_as_few_tries_as_it_can_and_is_told() -> None:
    async def test() -> None:
        bench = Bench(batch=8)
        bench.writer.poison = {6}

        await answers(bench.submit(*range(1, 9)))

        assert bench.writer.batches == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]
        assert bench.observed.halved == [8, 4, 2]
        assert [orders for orders, _, _ in bench.observed.written] == [8]

    run(test)


def test_a_poisonous_order_does_not_stop_the_next_batch() -> None:
    async def test() -> None:
        bench = Bench(batch=2)
        bench.writer.poison = {1}

        found = await answers(bench.submit(1, 2, 3))

        assert isinstance(found[0], Poisonous)
        assert found[1:] == [20, 30]

    run(test)


def test_a_database_that_is_away_is_told_to_every_order_of_the_batch_without_halving() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.whole = DatabaseAway()

        found = await answers(bench.submit(1, 2, 3))

        assert [type(answer) for answer in found] == [DatabaseAway] * 3
        assert bench.writer.batches == [[1, 2, 3]]
        assert bench.observed.halved == []
        bench.writer.whole = None
        assert await bench.intake.submit(4) == 40

    run(test)


def test_an_order_cancelled_while_it_waits_is_never_tried() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.gate.clear()
        first = bench.submit(1)
        await next_round()
        gone, stays = bench.submit(2, 3)

        gone.cancel()
        bench.writer.gate.set()

        assert await answers([*first, stays]) == [10, 30]
        assert bench.writer.batches == [[1], [3]]

    run(test)


def test_an_order_cancelled_while_it_is_written_is_written_and_its_neighbours_are_answered() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.gate.clear()
        gone, stays = bench.submit(1, 2)
        await next_round()

        gone.cancel()
        bench.writer.gate.set()

        assert await stays == 20
        assert bench.writer.batches == [[1, 2]]
        assert await bench.intake.submit(3) == 30

    run(test)


def test_draining_answers_everybody_who_was_taken_and_takes_nobody_else() -> None:
    async def test() -> None:
        bench = Bench(batch=2)
        bench.writer.gate.clear()
        taken = bench.submit(1, 2, 3)
        await next_round()
        draining = asyncio.create_task(bench.intake.drain())
        await next_round()

        with pytest.raises(ShuttingDown):
            bench.intake.submit(4)
        assert not draining.done()
        bench.writer.gate.set()
        await draining

        assert [future.result() for future in taken] == [10, 20, 30]
        assert bench.observed.turned_away == ["SHUTTING_DOWN"]

    run(test)


def test_draining_an_idle_intake_returns_at_once() -> None:
    async def test() -> None:
        bench = Bench()

        await bench.intake.drain()

        assert bench.writer.batches == []

    run(test)


def test_the_observer_learns_size_duration_and_the_longest_wait_of_each_batch() -> None:
    async def test() -> None:
        bench = Bench()
        bench.writer.seconds = 0.25
        bench.writer.gate.clear()
        first = bench.submit(1)
        await next_round()
        bench.clock.now += 0.5
        second = bench.submit(2)
        bench.clock.now += 0.125
        third = bench.submit(3)

        bench.writer.gate.set()
        await answers([*first, *second, *third])

        # The first batch took the 0.625 s that the clock was moved by while it stood at the gate, and its own 0.25 s;
        # order 2 waited for the rest of that.
        assert bench.observed.written == [(1, 0.875, 0.0), (2, 0.25, 0.375)]

    run(test)
