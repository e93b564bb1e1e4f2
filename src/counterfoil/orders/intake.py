"""Group commit: orders that arrive while a batch is being written form the next batch.

One batch is in flight per process and no timer lingers for company: a lone order starts at once, and under load
the batches fill by themselves while the one before them is written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from counterfoil.kernel.errors import DomainError
from counterfoil.orders.errors import QueueFull, QueueTimeout, ShuttingDown

C = TypeVar("C")
R = TypeVar("R")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """`batch_orders_max` orders share a transaction, `queue_orders_max` may wait, `submit_timeout_ms` at the longest.

    The batch is capped at about half of the expected concurrency, so that the next one fills while this one is
    written; larger ones only hold the locks longer.
    """

    batch_orders_max: int
    queue_orders_max: int
    submit_timeout_ms: int


class IntakeObserver(Protocol):
    """What the intake tells about itself (metrics)."""

    def batch_written(self, *, orders: int, seconds: float, waited_seconds: float) -> None:
        """Learn that a batch of `orders` took `seconds` and its oldest order had waited `waited_seconds`."""

    def order_turned_away(self, *, code: str) -> None:
        """Learn that an order was refused without being tried."""

    def batch_halved(self, *, orders: int) -> None:
        """Learn that the database refused a batch of `orders`; its halves are tried on their own."""


@dataclass(slots=True)
class _Waiting(Generic[C, R]):
    command: C
    future: asyncio.Future[R]
    since: float


class Intake(Generic[C, R]):
    """A bounded queue in front of `run_batch`.

    `run_batch` gets one to `batch_orders_max` commands and answers each with a result or a DomainError, in the same
    order, in one transaction: all of the batch's writes are durable when it returns, none if it raises. An exception in
    the place of a result belongs to that order alone; one that is raised
    halves the batch until the order that causes it stands alone and takes the exception; a DomainError raised for
    the whole batch (the database is away) goes to every order of it.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[C]], Awaitable[Sequence[R | Exception]]],
        *,
        limits: IntakeLimits,
        observer: IntakeObserver,
        clock: Callable[[], float],
    ) -> None:
        """Make an idle intake; it starts with the first submit. `clock` counts seconds and never goes back."""
        self._run_batch = run_batch
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._queue: deque[_Waiting[C, R]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many orders are in the queue now, the batch in flight not counted."""
        return len(self._queue)

    def submit(self, command: C) -> asyncio.Future[R]:
        """Queue one order; the future gives its result or raises its DomainError.

        Raises QueueFull or ShuttingDown at once. A future that is cancelled while it waits is never tried; one that
        is already being written is written all the same.
        """
        if self._closed:
            self._observer.order_turned_away(code=ShuttingDown.code)
            raise ShuttingDown
        if len(self._queue) >= self._limits.queue_orders_max:
            self._observer.order_turned_away(code=QueueFull.code)
            raise QueueFull
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(command, future, self._clock()))
        if self._writer is None:
            # A task starts in the next round of the loop, so requests read in this round already share the batch.
            self._writer = asyncio.create_task(self._write_until_empty())
        return future

    async def drain(self) -> None:
        """Take no more orders and return when every one that was taken has its answer."""
        self._closed = True
        if self._writer is not None:
            await self._writer

    async def _write_until_empty(self) -> None:
        try:
            while batch := self._take_batch():
                started = self._clock()
                await self._write(batch)
                self._observer.batch_written(
                    orders=len(batch), seconds=self._clock() - started, waited_seconds=started - batch[0].since
                )
        finally:
            self._writer = None

    def _take_batch(self) -> list[_Waiting[C, R]]:
        batch: list[_Waiting[C, R]] = []
        oldest = self._clock() - self._limits.submit_timeout_ms / 1000
        while self._queue and len(batch) < self._limits.batch_orders_max:
            waiting = self._queue.popleft()
            if waiting.future.cancelled():
                continue
            if waiting.since < oldest:
                self._observer.order_turned_away(code=QueueTimeout.code)
                waiting.future.set_exception(QueueTimeout())
                continue
            batch.append(waiting)
        return batch

    async def _write(self, batch: Sequence[_Waiting[C, R]]) -> None:
        try:
            results = await self._run_batch([waiting.command for waiting in batch])
            assert len(results) == len(batch), "every order gets its own answer"
        except DomainError as error:
            for waiting in batch:
                _answer(waiting, error)
        except Exception as error:  # noqa: BLE001 - the loop's outermost line: one poisonous order must not stop it
            if len(batch) == 1:
                _answer(batch[0], error)
                return
            log.warning("intake.batch_halved", orders=len(batch), error=type(error).__name__)
            self._observer.batch_halved(orders=len(batch))
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        else:
            for waiting, result in zip(batch, results, strict=True):
                _answer(waiting, result)


def _answer(waiting: _Waiting[C, R], result: R | Exception) -> None:
    if waiting.future.done():  # cancelled while it was being written; the order stands, the client may ask for it
        return
    if isinstance(result, Exception):
        waiting.future.set_exception(result)
    else:
        waiting.future.set_result(result)
