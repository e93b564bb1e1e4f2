"""Signed notices to one address: repeated until accepted, and on demand doubled, delayed, lost or early."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import time
from typing import Any, Final
from urllib.parse import urlsplit

from counterfoil.proof.gateway_simulator.faults import FaultPlan
from counterfoil.proof.gateway_simulator.journal import Journal

ATTEMPTS_MAX: Final = 8
_ANSWER_SECONDS_MAX: Final = 10.0
_AT_ONCE_MAX: Final = 8
_RETRY_SECONDS_MAX: Final = 3600.0
_EARLY_SECONDS_MAX: Final = 2.0


class Webhooks:
    """Delivers events, in no promised order and at least once, to `url`; an empty one delivers nothing.

    What was accepted is noted in the journal without waiting for the disk: after a crash some notices come again.
    """

    def __init__(self, journal: Journal, *, url: str, secret: str, seed: int) -> None:
        """Make a deliverer that has nothing to deliver yet."""
        self.accepted = 0
        self.attempts = 0
        self._journal = journal
        self._url = url
        self._secret = secret
        self._draw = random.Random(f"webhooks:{seed}")  # noqa: S311 - repeatable, not secret
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE_MAX)
        self._undelivered: dict[str, dict[str, Any]] = {}
        self._first: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many deliveries are under way or waiting for another attempt."""
        return len(self._tasks)

    def remember(self, line: dict[str, Any]) -> None:
        """Learn from a line of an old journal what is still to be delivered."""
        for event in line.get("events", []):
            self._undelivered[event["id"]] = event
        self._undelivered.pop(line.get("delivered", ""), None)

    def resume(self, plan: FaultPlan) -> None:
        """Deliver what an earlier life of the simulator has not."""
        self.send(list(self._undelivered.values()), plan)
        self._undelivered.clear()

    def send(self, events: list[dict[str, Any]], plan: FaultPlan) -> None:
        """Begin to deliver; returns at once."""
        if not self._url:
            return
        options = plan.options
        for event in events:
            if self._draw.random() < options.webhook_never:
                continue
            copies = 2 if self._draw.random() < options.webhook_duplicates else 1
            if options.webhook_copies > 1:
                copies = self._draw.randint(1, int(options.webhook_copies))
            for _ in range(copies):
                delay = self._draw.uniform(0, options.webhook_delay_seconds)
                self._first = asyncio.get_running_loop().create_task(
                    self._deliver(event, delay, options.webhook_retry_seconds)
                )
                self._tasks.add(self._first)
                self._first.add_done_callback(self._tasks.discard)

    def is_early(self, plan: FaultPlan) -> bool:
        """Tell whether the answer of the call waits until its notice is there."""
        return bool(self._url) and self._draw.random() < plan.options.webhook_early

    async def wait_for_first(self) -> None:
        """Wait a moment for the latest delivery."""
        if self._first is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._first), _EARLY_SECONDS_MAX)

    async def _deliver(self, event: dict[str, Any], delay: float, retry_seconds: float) -> None:
        for attempt in range(ATTEMPTS_MAX):
            await asyncio.sleep(delay)
            async with self._slots:
                self.attempts += 1
                accepted = await self._post(json.dumps(event).encode())
            if accepted:
                self.accepted += 1
                self._journal.append({"delivered": event["id"]}, durable=False)
                return
            delay = min(_RETRY_SECONDS_MAX, retry_seconds * 2**attempt) * self._draw.uniform(0.5, 1.0)

    async def _post(self, body: bytes) -> bool:
        """Send one notice; True when it was answered with 2xx."""
        parts = urlsplit(self._url)
        head = [
            f"POST {parts.path or '/'} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json; charset=utf-8",
            f"Content-Length: {len(body)}",
            f"Stripe-Signature: {sign(body, self._secret, int(time.time()))}",
            "Connection: close",
        ]
        try:
            async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
                try:
                    writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
                    status = (await reader.readline()).split()
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError):  # away, too slow, or not speaking HTTP
            return False
        return len(status) > 1 and status[1].startswith(b"2")


def sign(body: bytes, secret: str, signed_at: int) -> str:
    """Return the Stripe-Signature header of a notice."""
    digest = hmac.new(secret.encode(), f"{signed_at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={signed_at},v1={digest}"
