"""Where the rate limiter counts: Redis, an unlogged table, or this process's memory.

All three do the same: add amounts to keys, each key's window starting with its first use, and tell the sum and how long
the window still lasts. Only a positive amount begins a window; zero looks and a negative amount gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import psycopg
import psycopg_pool
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from counterfoil.infrastructure.database import fetch_all

_LOCAL_KEYS_MAX: Final = 50_000
# The limiter itself gives up sooner; this only keeps an abandoned connection from lingering.
_REDIS_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Amount:
    """What is to be added to one key."""

    key: str
    amount: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Used:
    """How much of a key's window is used, after adding, and the seconds until the window ends."""

    used: int
    seconds_left: float


class LimitStore(Protocol):
    """Something that counts. Each key comes once in a call; answers are in the same order."""

    async def add(self, amounts: Sequence[Amount]) -> list[Used]:
        """Add and tell; any exception means that nothing is known."""

    async def close(self) -> None:
        """Let go of connections."""


class MemoryStore:
    """Counts in this process alone: what is left when no store can be reached. At most 50,000 keys."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Make an empty one; `clock` counts seconds and never goes back."""
        self._clock = clock
        self._windows: dict[str, tuple[int, float]] = {}

    async def add(self, amounts: Sequence[Amount]) -> list[Used]:
        """Add and tell."""
        return [self._add(amount) for amount in amounts]

    async def close(self) -> None:
        """Do nothing."""

    def _add(self, wanted: Amount) -> Used:
        now = self._clock()
        used, ends_at = self._windows.get(wanted.key, (0, now))
        if ends_at <= now:
            used, ends_at = 0, now + wanted.window_seconds
            self._windows.pop(wanted.key, None)
            if wanted.amount <= 0:
                return Used(0, wanted.window_seconds)
            if len(self._windows) >= _LOCAL_KEYS_MAX:  # the one that began first
                del self._windows[next(iter(self._windows))]
        used = max(used + wanted.amount, 0)
        self._windows[wanted.key] = (used, ends_at)
        return Used(used, ends_at - now)


class PostgresStore:
    """Counts in the table rate_limits: one statement for a whole batch, on a connection of its own.

    The table is unlogged: no write-ahead log and no flush, so a batch costs a fraction of a millisecond. A crash of the
    server empties it, which begins every window anew.
    """

    _ADD: Final = """
        INSERT INTO rate_limits AS r (key, used, expires_at)
        SELECT h.key, h.amount, now() + make_interval(secs => h.seconds)
        FROM unnest(%s::bytea[], %s::int[], %s::int[]) AS h (key, amount, seconds) ORDER BY h.key
        ON CONFLICT (key) DO UPDATE SET
          used = CASE WHEN r.expires_at <= now() THEN excluded.used
                      ELSE least(r.used::bigint + excluded.used, 2000000000) END,
          expires_at = CASE WHEN r.expires_at <= now() THEN excluded.expires_at ELSE r.expires_at END
        RETURNING key, used, extract(epoch FROM expires_at - now())::float8
    """
    # Locked in order first: two processes wait for each other in a line, never in a circle.
    _CORRECT: Final = """
        WITH locked AS (
          SELECT r.key FROM rate_limits r
          WHERE r.key = ANY (%s::bytea[]) AND r.expires_at > now() ORDER BY r.key FOR UPDATE
        )
        UPDATE rate_limits r SET used = greatest(r.used + h.amount, 0)
        FROM unnest(%s::bytea[], %s::int[]) AS h (key, amount), locked
        WHERE r.key = h.key AND locked.key = h.key
        RETURNING r.key, r.used, extract(epoch FROM r.expires_at - now())::float8
    """

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]) -> None:
        """Count through `pool`, whose connections are autocommit; closes it at the end."""
        self._pool = pool

    async def add(self, amounts: Sequence[Amount]) -> list[Used]:
        """Add and tell."""
        more = [wanted for wanted in amounts if wanted.amount > 0]
        less = [wanted for wanted in amounts if wanted.amount <= 0]
        rows: list[tuple[Any, ...]] = []
        async with self._pool.connection() as connection:
            if more:
                values = [
                    [wanted.key.encode() for wanted in more],
                    [wanted.amount for wanted in more],
                    [wanted.window_seconds for wanted in more],
                ]
                rows += await (await connection.execute(self._ADD, values)).fetchall()
            if less:
                keys = [wanted.key.encode() for wanted in less]
                given = [keys, keys, [wanted.amount for wanted in less]]
                rows += await (await connection.execute(self._CORRECT, given)).fetchall()
        found = {key: Used(used, seconds_left) for key, used, seconds_left in rows}
        return [found.get(wanted.key.encode()) or Used(0, wanted.window_seconds) for wanted in amounts]

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()


def delete_expired_limits(*, limit: int) -> int:
    """Delete up to `limit` windows that are over, skipping those in use; returns how many."""
    return len(
        fetch_all(
            """
            DELETE FROM rate_limits WHERE key IN (
              SELECT key FROM rate_limits WHERE expires_at < now() LIMIT %(limit)s FOR UPDATE SKIP LOCKED
            ) RETURNING 1
            """,
            {"limit": limit},
        )
    )


class RedisStore:
    """Counts in Redis: one script a batch, which Redis runs as one step. Needs a single server, not a cluster."""

    _SCRIPT: Final = """
        local found = {}
        for i, key in ipairs(KEYS) do
          local amount, seconds = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
          local left = redis.call('PTTL', key)
          if left < 0 and amount <= 0 then
            found[2 * i - 1], found[2 * i] = 0, seconds * 1000
          else
            local used = redis.call('INCRBY', key, amount)
            if used < 0 then used = 0; redis.call('SET', key, 0, 'KEEPTTL') end
            if left < 0 then left = seconds * 1000; redis.call('PEXPIRE', key, left) end
            found[2 * i - 1], found[2 * i] = used, left
          end
        end
        return found
    """

    def __init__(self, url: str) -> None:
        """Count in the Redis of `url`; connects with the first batch."""
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=_REDIS_SECONDS,
            socket_timeout=_REDIS_SECONDS,
            # The limiter has a plan of its own for a Redis that does not answer.
            retry=Retry(NoBackoff(), 0),
            # One is in use at a time; the rest are for those that were given up and have not noticed yet.
            max_connections=32,
        )
        self._script = self._client.register_script(self._SCRIPT)

    async def add(self, amounts: Sequence[Amount]) -> list[Used]:
        """Add and tell."""
        found = await self._script(
            keys=[f"counterfoil:limit:{wanted.key}" for wanted in amounts],
            args=[value for wanted in amounts for value in (wanted.amount, wanted.window_seconds)],
        )
        return [Used(int(used), left / 1000) for used, left in zip(found[::2], found[1::2], strict=True)]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
