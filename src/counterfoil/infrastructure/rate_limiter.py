"""Rate limits with group commit: hits that arrive while a batch is being counted form the next batch.

A window begins with a key's first use and lasts its seconds; exactly `limit` hits pass in it, whatever the number of
processes, because one store counts. Where no store can be reached, the process counts for itself.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import ipaddress
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from django.conf import settings

from counterfoil.infrastructure.limit_stores import Amount, LimitStore, MemoryStore, Used
from counterfoil.kernel.breaker import Breaker, BreakerOpen, BreakerPolicy, Verdict
from counterfoil.kernel.errors import ServiceUnavailable

log = structlog.get_logger(__name__)

# As the orders' intake: more keys in one statement only hold the rows longer.
_HITS_MAX: Final = 500
# A spent key is refused from memory; one that is forgotten is asked for again.
_SPENT_MAX: Final = 10_000
# When this process itself stood still, timer and answer are due in the same round: the answer may be read first.
_ROUNDS_OF_GRACE: Final = 8
# Three failures in 5 s, then 5 s without the store; one good answer brings it back.
_POLICY: Final = BreakerPolicy(
    failures_min=3, failure_ratio=0, window_seconds=5, open_seconds=5, open_seconds_max=5, probes_to_close=1
)
# Whoever waits for a sign-in in a thread waits no longer than this for its count.
_THREAD_SECONDS_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class Hit:
    """One use of a key. `amount` 0 only looks, below 0 gives back.

    `strict`: counted in PostgreSQL when Redis is away, before a process counts for itself (sign-in and its like).
    `final`: nothing is given back to this key, so that a spent one can be remembered until its window ends.
    """

    key: str
    limit: int
    window_seconds: int
    amount: int = 1
    strict: bool = False
    final: bool = True


@dataclass(frozen=True, slots=True)
class Count:
    """What a hit found: its own number in the window, the limit, and the seconds until the window ends."""

    used: int
    limit: int
    seconds_left: float

    @property
    def passes(self) -> bool:
        """Tell whether the hit is within the limit."""
        return self.used <= self.limit

    @property
    def remaining(self) -> int:
        """Return how many more would pass."""
        return max(self.limit - self.used, 0)


class LimiterObserver(Protocol):
    """What the limiter tells about itself (metrics)."""

    def limits_counted(self, *, hits: int, store: str) -> None:
        """Learn that a batch of `hits` was counted in `store`: primary, strict or memory."""

    def store_failed(self, *, store: str) -> None:
        """Learn that a store did not answer."""


@dataclass(slots=True)
class _Waiting:
    hits: Sequence[Hit]
    future: asyncio.Future[list[Count]]
    since: float


@dataclass(slots=True)
class _Guarded:
    """A store with its breaker and the longest time it may take."""

    name: str
    store: LimitStore
    seconds_max: float
    breaker: Breaker
    failed_at: float = float("-inf")


class RateLimiter:
    """Counts hits, many at once.

    `primary` counts everything; while it is away, strict hits go to `strict` and the others are counted here.
    """

    def __init__(
        self,
        *,
        primary: LimitStore,
        strict: LimitStore | None,
        seconds_max: float,
        strict_seconds_max: float = 0.5,
        observer: LimiterObserver,
        clock: Callable[[], float],
    ) -> None:
        """Make an idle limiter. A store that takes longer than its `seconds_max` counts as away."""
        self._clock = clock
        self._observer = observer
        self._memory = MemoryStore(clock)
        self._primary = self._guard("primary", primary, seconds_max)
        self._strict = None if strict is None else self._guard("strict", strict, strict_seconds_max)
        self._queue: deque[_Waiting] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._abandoned: set[asyncio.Task[list[Used]]] = set()
        self._spent: dict[str, float] = {}

    def take(self, hits: Sequence[Hit]) -> asyncio.Future[list[Count]]:
        """Count hits; the future gives one count for each, in order, and never fails."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Count]] = loop.create_future()
        now = self._clock()
        if self._spent and (refused := self._refuse_from_memory(hits, now)) is not None:
            future.set_result(refused)
            return future
        self._queue.append(_Waiting(hits, future, now))
        if self._writer is None:
            # A task starts in the next round of the loop: requests read in this round already share the batch.
            self._writer = loop.create_task(self._write_until_empty())
        return future

    def is_spent(self, key: str) -> bool:
        """Tell whether this process remembers a key as spent, without counting anything."""
        return self._spent.get(key, 0.0) > self._clock()

    async def warm_up(self) -> None:
        """Look at the stores once, so that the first request does not pay for connecting."""
        nothing = [Amount("warm-up", 0, 1)]
        await asyncio.gather(
            *(guarded.store.add(nothing) for guarded in (self._primary, self._strict) if guarded is not None),
            return_exceptions=True,
        )

    async def close(self) -> None:
        """Answer what waits and close the stores."""
        if self._writer is not None:
            await self._writer
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=1)
        for guarded in (self._primary, self._strict):
            if guarded is not None:
                await guarded.store.close()

    def _guard(self, name: str, store: LimitStore, seconds_max: float) -> _Guarded:
        return _Guarded(name, store, seconds_max, Breaker(_POLICY, clock=self._clock))

    def _refuse_from_memory(self, hits: Sequence[Hit], now: float) -> list[Count] | None:
        """Return a refusal when one of the keys is known to be spent; the others are not charged then."""
        ends = [self._spent.get(hit.key, 0.0) for hit in hits]
        if max(ends) <= now:
            return None
        return [
            Count(hit.limit + 1, hit.limit, end - now) if end > now else Count(0, hit.limit, hit.window_seconds)
            for hit, end in zip(hits, ends, strict=True)
        ]

    async def _write_until_empty(self) -> None:
        try:
            while self._queue:
                batch: list[_Waiting] = []
                hits = 0
                while self._queue and hits < _HITS_MAX:
                    waiting = self._queue.popleft()
                    hits += len(waiting.hits)
                    batch.append(waiting)
                try:
                    await self._count(batch)
                except Exception:  # the loop's outermost line: counting never fails a request
                    log.exception("limits.failed")
                    await self._count_here(batch)
        finally:
            self._writer = None

    async def _count(self, batch: list[_Waiting]) -> None:
        totals = _sum(hit for waiting in batch for hit in waiting.hits)
        strict_keys = {hit.key for waiting in batch for hit in waiting.hits if hit.strict}
        found = await self._add(list(totals.values()), strict_keys, since=batch[0].since)
        # Where each key stood before this batch; hits then take their numbers in the order of arrival.
        running = {key: found[key].used - amount.amount for key, amount in totals.items()}
        for waiting in batch:
            counts = []
            for hit in waiting.hits:
                running[hit.key] += hit.amount
                used = found[hit.key]
                counts.append(Count(running[hit.key], hit.limit, used.seconds_left))
                if hit.final and used.used >= hit.limit:
                    self._remember(hit.key, used.seconds_left)
            if not waiting.future.done():
                waiting.future.set_result(counts)

    async def _count_here(self, batch: Sequence[_Waiting]) -> None:
        """Answer a batch after a bug: this process counts strict hits for itself, and lets the others pass."""
        for waiting in batch:
            if waiting.future.done():
                continue
            strict = [Amount(hit.key, hit.amount, hit.window_seconds) for hit in waiting.hits if hit.strict]
            counted = iter(await self._memory.add(strict))
            waiting.future.set_result(
                [
                    Count(used.used, hit.limit, used.seconds_left)
                    if hit.strict and (used := next(counted))
                    else Count(1, hit.limit, hit.window_seconds)
                    for hit in waiting.hits
                ]
            )

    def _remember(self, key: str, seconds_left: float) -> None:
        if len(self._spent) >= _SPENT_MAX:
            now = self._clock()
            self._spent = {key: end for key, end in self._spent.items() if end > now}
            if len(self._spent) >= _SPENT_MAX:
                self._spent.clear()
        self._spent[key] = self._clock() + seconds_left

    # ------------------------------------------------------------ where to count
    async def _add(self, amounts: list[Amount], strict_keys: set[str], *, since: float) -> dict[str, Used]:
        if (used := await self._try(self._primary, amounts, since=since)) is not None:
            return used
        strict = [amount for amount in amounts if amount.key in strict_keys]
        found: dict[str, Used] = {}
        if strict and self._strict is not None:
            found = await self._try(self._strict, strict, since=since) or {}
        rest = [amount for amount in amounts if amount.key not in found]
        self._observer.limits_counted(hits=len(rest), store="memory")
        counted = await self._memory.add(rest)
        return found | {amount.key: used for amount, used in zip(rest, counted, strict=True)}

    async def _try(self, guarded: _Guarded, amounts: list[Amount], *, since: float) -> dict[str, Used] | None:
        """Return what a store counted, or None when it is away.

        Whoever has waited through one failure does not wait for a second one.
        """
        if since < guarded.failed_at:
            return None
        try:
            permit = guarded.breaker.enter()
        except BreakerOpen:
            return None
        task = asyncio.ensure_future(guarded.store.add(amounts))
        # Not wait_for: cancelling a statement waits for the server, which may be what stands still.
        await asyncio.wait({task}, timeout=guarded.seconds_max)
        for _ in range(_ROUNDS_OF_GRACE):
            if task.done():
                break
            await asyncio.sleep(0)
        failure = task.exception() if task.done() else TimeoutError()
        if failure is None:
            guarded.breaker.leave(permit, Verdict.SUCCESS)
            self._observer.limits_counted(hits=len(amounts), store=guarded.name)
            return {amount.key: used for amount, used in zip(amounts, task.result(), strict=True)}
        self._abandon(task)
        guarded.failed_at = self._clock()
        guarded.breaker.leave(permit, Verdict.FAILURE)
        self._observer.store_failed(store=guarded.name)
        log.warning("limits.store_away", store=guarded.name, error=type(failure).__name__)
        return None

    def _abandon(self, task: asyncio.Task[list[Used]]) -> None:
        if task.done():
            return
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: asyncio.Task[list[Used]]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that it is not reported as never retrieved


def _sum(hits: Iterable[Hit]) -> dict[str, Amount]:
    """Add up what is asked of each key."""
    totals: dict[str, Amount] = {}
    for hit in hits:
        known = totals.get(hit.key)
        amount = hit.amount if known is None else known.amount + hit.amount
        totals[hit.key] = Amount(hit.key, amount, hit.window_seconds)
    return totals


@functools.lru_cache(4096)
def hash_address(address: str) -> str:
    """Return the name of a client's address in keys: a keyed hash of its network."""
    network = network_of(address)
    if network is None:
        return "unknown"
    return hmac.digest(settings.SECRET_KEY.encode(), b"address\0" + network.encode(), "sha256")[:16].hex()


def network_of(address: str) -> str | None:
    """Return what counts as one address: of IPv6 the /64, which is what one client has. None when it is none."""
    try:
        network = ipaddress.ip_network(address)
    except ValueError:
        return None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None:
        network = ipaddress.ip_network(mapped)
    elif network.version == 6:  # noqa: PLR2004 - the protocol's own number
        network = network.supernet(new_prefix=64)
    return str(network)


# ---------------------------------------------------------------- for services that run in threads
class _Running:
    """The limiter of this process and the loop it runs in; none in a terminal command or a test without a server."""

    limiter: RateLimiter | None = None
    loop: asyncio.AbstractEventLoop | None = None


def use_limiter(limiter: RateLimiter | None) -> None:
    """Name the limiter that `take_in_thread` asks; called in its loop. None at the end of the process."""
    _Running.limiter = limiter
    _Running.loop = None if limiter is None else asyncio.get_running_loop()


def take_in_thread(hits: Sequence[Hit]) -> list[Count] | None:
    """Count hits from a worker thread; None where no web process runs.

    Raises ServiceUnavailable when the loop does not answer in time: nobody guesses uncounted.
    """
    limiter, loop = _Running.limiter, _Running.loop
    if limiter is None or loop is None:
        return None

    async def take() -> list[Count]:
        return await limiter.take(hits)

    counting = asyncio.run_coroutine_threadsafe(take(), loop)
    try:
        return counting.result(_THREAD_SECONDS_MAX)
    except TimeoutError as error:
        counting.cancel()
        log.warning("limits.no_answer", hits=len(hits))
        raise ServiceUnavailable from error
