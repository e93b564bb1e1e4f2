"""Who is calling: access tokens and API keys, checked against a memory of rights taken away.

Each web process has one `AccessControl`. It reads new revocations every second, so that a request costs look-ups in
dictionaries and no statement. When the memory is older than five seconds (the database was away, the event loop stood
still) nothing is trusted before it has been read again: without it, nobody gets in.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg_pool
import structlog

from counterfoil.infrastructure.database import hot_connection
from counterfoil.kernel.errors import Unavailable
from counterfoil.users import access_repositories as repositories
from counterfoil.users.access_repositories import MEMORY_MINUTES
from counterfoil.users.errors import ApiKeyInvalid, TokenInvalid
from counterfoil.users.permissions import Actor
from counterfoil.users.tokens import verify_token

log = structlog.get_logger(__name__)

KEY_PREFIX: Final = "cfk_"
REFRESH_SECONDS: Final = 1.0
# The promise: rights that were taken away are gone after this long.
FRESH_SECONDS_MAX: Final = 5.0
_READ_SECONDS_MAX: Final = 2.0
# Beyond what a revocation tells, a cached key is read again this often.
_KEY_SECONDS_MAX: Final = 60.0
_KEYS_MAX: Final = 4096
_USES_SECONDS: Final = 5.0
_FORGET_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _KnownKey:
    actor: Actor
    key_id: int
    epoch: int
    until: float
    read_again_at: float


class AccessControl:
    """The memory of one web process. Lives in its event loop; nothing here is for threads."""

    def __init__(
        self,
        pool: psycopg_pool.AsyncConnectionPool[Any],
        *,
        accepted: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the pool to read with, and the secrets whose tokens count: the one in use and older ones."""
        self._pool = pool
        self._accepted = tuple(accepted)
        self._clock = clock
        self._read_at = -FRESH_SECONDS_MAX - 1
        self._since: int | None = None
        self._forget_again_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        # What was taken away, each with the time until which it has to be remembered.
        self._epochs: dict[int, tuple[int, float]] = {}
        self._sign_ins: dict[str, float] = {}
        self._revoked_keys: dict[int, float] = {}
        self._keys: dict[str, _KnownKey] = {}
        self._used_keys: set[int] = set()

    async def authenticate(self, credentials: str) -> Actor:
        """Return whose an access token or API key is; raises TokenInvalid, ApiKeyInvalid, or an Unavailable."""
        if credentials.startswith(KEY_PREFIX):
            return await self._authenticate_key(credentials)
        actor, epoch, _ = verify_token(credentials, accepted=self._accepted)
        if self._clock() - self._read_at > FRESH_SECONDS_MAX:
            await self._read_once()
        if epoch < self._epoch_of(actor.user_id) or actor.session in self._sign_ins:
            raise TokenInvalid
        return actor

    def knows_key(self, text: str) -> bool:
        """Tell whether this process has seen this API key before."""
        return text in self._keys

    async def watch(self) -> None:
        """Read new revocations every second, and write down which keys were used, until cancelled."""
        away = False
        wrote_at = self._clock()
        while True:
            try:
                await self._read_once()
                if self._clock() - wrote_at >= _USES_SECONDS:
                    wrote_at = self._clock()
                    await self.write_key_uses()
                away = False
            except Unavailable as error:
                if not away:
                    log.warning("access.memory_stale", code=error.code)
                away = True
            await asyncio.sleep(REFRESH_SECONDS)

    async def write_key_uses(self) -> None:
        """Record the last use of the keys seen since the last time: one statement for all, not one per request."""
        if not self._used_keys:
            return
        used, self._used_keys = self._used_keys, set()
        try:
            async with hot_connection(self._pool) as connection:
                await repositories.note_key_uses(connection, sorted(used))
        except Unavailable:
            self._used_keys |= used
            raise

    # ------------------------------------------------------------ memory
    async def _read_once(self) -> None:
        """Bring the memory up to date; whoever comes while somebody reads already shares that read."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        started = self._clock()
        async with hot_connection(self._pool, seconds=_READ_SECONDS_MAX) as connection:
            revocations, self._since = await repositories.read_revocations(connection, since=self._since)
        forget_at = self._clock() + MEMORY_MINUTES * 60
        for user_id, epoch, sign_in_id, key_id in revocations:
            if epoch is not None:
                self._epochs[user_id] = (max(epoch, self._epoch_of(user_id)), forget_at)
            if sign_in_id is not None:
                self._sign_ins[str(sign_in_id)] = forget_at
            if key_id is not None:
                self._revoked_keys[key_id] = forget_at
        self._forget(started)
        # From before the statement: what was committed after it began may not have been seen.
        self._read_at = started

    def _forget(self, now: float) -> None:
        """Drop what no living token can be about, once a minute."""
        if now < self._forget_again_at:
            return
        self._forget_again_at = now + _FORGET_SECONDS
        self._sign_ins = {key: until for key, until in self._sign_ins.items() if until >= now}
        self._revoked_keys = {key: until for key, until in self._revoked_keys.items() if until >= now}
        self._epochs = {key: known for key, known in self._epochs.items() if known[1] >= now}

    def _epoch_of(self, user_id: int) -> int:
        known = self._epochs.get(user_id)
        return 0 if known is None else known[0]

    # ------------------------------------------------------------ API keys
    async def _authenticate_key(self, text: str) -> Actor:
        if self._clock() - self._read_at > FRESH_SECONDS_MAX:
            await self._read_once()
        known = self._keys.get(text)
        now = self._clock()
        if known is None or known.read_again_at < now or known.epoch < self._epoch_of(known.actor.user_id):
            known = await self._read_key(text)
        if known.key_id in self._revoked_keys or now >= known.until:
            self._keys.pop(text, None)
            raise ApiKeyInvalid
        self._used_keys.add(known.key_id)
        return known.actor

    async def _read_key(self, text: str) -> _KnownKey:
        self._keys.pop(text, None)
        started = self._clock()
        async with hot_connection(self._pool) as connection:
            found = await repositories.read_api_key(connection, hash_token(text))
        if found is None:
            raise ApiKeyInvalid
        actor = Actor(found.user_id, found.role, scopes=found.scopes, key_id=found.key_id)
        known = _KnownKey(actor, found.key_id, found.epoch, started + found.seconds_left, started + _KEY_SECONDS_MAX)
        if len(self._keys) >= _KEYS_MAX:
            self._keys.clear()
        self._keys[text] = known
        return known


def hash_token(text: str) -> bytes:
    """Return what is stored of an opaque token. One round of SHA-256: there are 256 random bits to guess."""
    return hashlib.sha256(text.encode()).digest()
