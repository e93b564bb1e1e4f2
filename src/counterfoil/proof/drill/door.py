"""The API as a stubborn client sees it: whatever gets lost is sent again with the same key."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from counterfoil.proof.drill.ledger import ClientLedger
from counterfoil.proof.load_client import read_code

API_PATH: Final = "/api/v1"
# Longer than a request waits for a gateway (10 s), shorter than anybody's patience.
_ANSWER_SECONDS_MAX: Final = 40.0
_AGAIN_SECONDS: Final = 0.25
_WAIT_SECONDS_MAX: Final = 2.0
# A web process that was killed is back in a few seconds, a breaker that opened in a minute.
PATIENCE_SECONDS: Final = 120.0
# Somebody else is at it with this key; it says nothing about the outcome.
_IN_PROGRESS: Final = "IDEMPOTENCY_IN_PROGRESS"
# Done, or refused for good: from then on the key has this answer and no other.
_LASTING: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.PAYMENT_REQUIRED})


class DrillFailed(Exception):
    """The drill cannot go on; the text is one sentence with the next step."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, read to its end."""

    status: int
    body: bytes
    retry_after: float = 0.0

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> str:
        """The problem's code, if it is a problem."""
        return read_code(self.body)


@dataclass(slots=True)
class Traffic:
    """How many answers of each status there were; `lost` counts requests without one."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Door:
    """Calls one service; serves any number of threads, with a connection for each call."""

    def __init__(self, url: str, *, ledger: ClientLedger, traffic: Traffic) -> None:
        """Talk to the service at `url`, a root address."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._ledger = ledger
        self._traffic = traffic

    def get(self, path: str, token: str) -> dict[str, Any]:
        """Read a JSON object, as often as it takes. Raises DrillFailed when the service refuses or stays away."""
        reply = self._insist("GET", path, token, None, "")
        if reply.status != HTTPStatus.OK:
            raise DrillFailed(f"GET {path} was answered {reply.status} {reply.code}; look into the service's log.")
        return reply.fields

    def post(self, path: str, token: str, body: dict[str, Any], *, key: str) -> Reply:
        """Send a request until it is answered for good (or 202, which promises an answer), with the same key."""
        self._ledger.intend(key, token=token, path=path, body=body)
        reply = self._insist("POST", path, token, body, key)
        self._ledger.hear(key, _kind(reply), status=reply.status, body=reply.body)
        return reply

    def delete(self, path: str, token: str) -> Reply:
        """Send a DELETE, which may be repeated as it is, until it is answered for good."""
        return self._insist("DELETE", path, token, None, "")

    def ask_again(self, key: str) -> Reply:
        """Send a request of the ledger once more; its answer is compared with the first one."""
        token, path, body = self._ledger.requests[key]
        reply = self._insist("POST", path, token, body, key)
        # Whatever it is now, it must be what it was.
        kind = "final" if self._ledger.has_lasting(key) else _kind(reply)
        self._ledger.hear(key, kind, status=reply.status, body=reply.body)
        return reply

    # ------------------------------------------------------------ one request
    def _insist(self, method: str, path: str, token: str, body: dict[str, Any] | None, key: str) -> Reply:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            reply = self._send(method, path, token, body, key)
            if reply is not None and not _is_passing(reply):
                return reply
            if key:
                self._ledger.hear(key, "lost" if reply is None else "again", status=reply.status if reply else 0)
            if time.monotonic() > deadline:
                raise DrillFailed(f"{method} {path} got no lasting answer within {PATIENCE_SECONDS:.0f} s.")
            wait = min(reply.retry_after if reply else 0.0, _WAIT_SECONDS_MAX)
            if self._traffic.stop.wait(max(wait, _AGAIN_SECONDS)):
                raise DrillFailed("The drill was stopped.")

    def _send(self, method: str, path: str, token: str, body: dict[str, Any] | None, key: str) -> Reply | None:
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Idempotency-Key"] = key
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_ANSWER_SECONDS_MAX)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            wait = answer.headers.get("Retry-After", "")
            reply = Reply(answer.status, answer.read(), float(wait) if wait.isdecimal() else 0.0)
        except (OSError, http.client.HTTPException):
            with self._traffic.lock:
                self._traffic.lost += 1
            return None
        finally:
            connection.close()
        with self._traffic.lock:
            self._traffic.statuses[reply.status] += 1
            if reply.status >= HTTPStatus.BAD_REQUEST:
                self._traffic.codes[reply.code] += 1
        return reply


def _is_passing(reply: Reply) -> bool:
    """Tell an answer that says "later" from one that lasts."""
    if reply.status == HTTPStatus.CONFLICT:
        return reply.code == _IN_PROGRESS
    return reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _kind(reply: Reply) -> str:
    if reply.status in _LASTING:
        return "final"
    return "pending" if reply.status == HTTPStatus.ACCEPTED else "refused"
