"""What is refused before anybody looks at who asks: wrong host, plain HTTP, oversized heads, slow bodies.

Only the proxy's hop is believed (`COUNTERFOIL_TRUSTED_PROXIES`): the last entry of X-Forwarded-For and
X-Forwarded-Proto. X-Forwarded-Host is never read.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import re
from dataclasses import dataclass
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from counterfoil.api.bodies import BODY_BYTES_MAX
from counterfoil.api.errors import refuse

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HEADERS_MAX: Final = 64
HEADER_BYTES_MAX: Final = 32_768
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Asked by machines that know the process by its address only.
_PROBES: Final = frozenset({"/livez", "/readyz"})
_PAGES: Final = ("/console", "/docs")
_HOST: Final = re.compile(rb"([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE)
# Decoded once, no address of ours has any of these; decoded again, they lead out of a folder of static files.
_IMPOSSIBLE_PATH: Final = re.compile(r"[\x00-\x1f%\\]|\.\.|^[^/]|^$")
_CLOSE: Final = (b"connection", b"close")
_PREFLIGHT: Final = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, idempotency-key, if-match, x-api-key, x-request-id",
    ),
    (b"access-control-max-age", b"600"),
]
_EXPOSED: Final = (
    b"access-control-expose-headers",
    b"etag, idempotent-replayed, ratelimit-limit, ratelimit-remaining, ratelimit-reset, retry-after, x-request-id",
)
_VARY: Final = (b"vary", b"origin")


@dataclass(frozen=True, slots=True)
class TransportRules:
    """What a deployment allows. `public_url` is where pages asked for over plain HTTP are sent."""

    allowed_hosts: frozenset[str]
    trusted_proxies: tuple[Network, ...]
    cors_origins: frozenset[str]
    public_url: str
    https_only: bool
    body_seconds_max: float


class Transport:
    """ASGI wrapper around all that answers; puts `client_address` into the state, and the scheme into the scope."""

    def __init__(self, app: ASGIApp, rules: TransportRules) -> None:
        """Wrap `app`."""
        self._app = app
        self._rules = rules
        # Bounded: hosts and peers come from outside.
        self._judge_host = functools.lru_cache(1024)(functools.partial(_judge_host, rules.allowed_hosts))
        self._trusts = functools.lru_cache(4096)(functools.partial(_is_within, rules.trusted_proxies))
        self._origins = frozenset(origin.encode() for origin in rules.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; everything but HTTP passes through."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        self._resolve_client(scope, headers)
        if (refusal := self._judge(scope, headers)) is not None:
            await refuse(send, scope, *refusal)
            return
        origin = headers.get(b"origin")
        if self._origins and not scope["path"].startswith("/console"):
            send = _allow_origin(send, origin if origin in self._origins else None)
            if origin in self._origins and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await send({"type": "http.response.start", "status": 204, "headers": list(_PREFLIGHT)})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
        if b"content-length" in headers or b"transfer-encoding" in headers:
            receive = _in_time(receive, self._rules.body_seconds_max)
        await self._app(scope, receive, send)

    def _resolve_client(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        """Find out who asks and whether their part of the way was encrypted."""
        peer = scope["client"][0] if scope.get("client") else ""
        if self._rules.trusted_proxies and self._trusts(peer):
            # The last entry is the one that the proxy itself has written; what stands before it, anybody may have.
            peer = _read_address(headers.get(b"x-forwarded-for", b"")) or peer
            scope["client"] = (peer, 0)
            if headers.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower() == b"https":
                scope["scheme"] = "https"
        scope["state"]["client_address"] = peer

    def _judge(self, scope: Any, headers: dict[bytes, bytes]) -> tuple[Any, ...] | None:
        """Return status, and where they differ headers, of a refusal; None to go on."""
        raw = scope["headers"]
        if len(raw) > HEADERS_MAX or len(b"".join(itertools.chain.from_iterable(raw))) > HEADER_BYTES_MAX:
            return 431, _CLOSE
        if scope["path"] not in _PROBES:
            repeated = len(headers) != len(raw) and sum(name == b"host" for name, _ in raw) > 1
            status = 400 if repeated else self._judge_host(headers.get(b"host", b""))
            if status is not None:
                return status, _CLOSE
            if self._rules.https_only and scope["scheme"] != "https":
                return _refuse_plain(scope, self._rules.public_url)
        if scope["method"] not in METHODS:
            return 405, (b"allow", ", ".join(sorted(METHODS)).encode())
        return (404,) if _IMPOSSIBLE_PATH.search(scope["path"]) else _judge_body(scope, headers)


def _judge_host(allowed: frozenset[str], host: bytes) -> int | None:
    found = _HOST.fullmatch(host)
    if found is None:
        return 400
    return None if found[1].decode().lower() in allowed else 421


def _is_within(networks: tuple[Network, ...], text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)


def _read_address(forwarded: bytes) -> str | None:
    """Return the last address of X-Forwarded-For, without a port, or None when there is none."""
    text = forwarded.rpartition(b",")[2].strip().decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _refuse_plain(scope: HTTPScope, public_url: str) -> tuple[Any, ...]:
    """Send a person to the encrypted page; tell a program that it has just shown its token to the network."""
    if not scope["path"].startswith(_PAGES) or not public_url:
        return 403, _CLOSE
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return 308, (b"location", public_url.encode() + scope["raw_path"].partition(b"?")[0] + query)


def _judge_body(scope: HTTPScope, headers: dict[bytes, bytes]) -> tuple[Any, ...] | None:
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > BODY_BYTES_MAX:
        return 413, _CLOSE
    if scope["method"] in {"POST", "PUT", "PATCH"} and scope["path"].startswith("/api/"):
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        encoding = headers.get(b"content-encoding", b"").strip().lower()
        if encoding not in {b"", b"identity"} or media_type not in {b"", b"application/json"}:
            return (415,)
    return None


def _in_time(receive: Receive, seconds_max: float) -> Receive:
    """Wrap a `receive` so that the whole body has `seconds_max`; what comes after the body may take its time."""
    deadline: float | None = None
    complete = False

    async def timed() -> Any:
        nonlocal deadline, complete
        if complete:
            return await receive()
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + seconds_max
        try:
            async with asyncio.timeout_at(deadline):
                event: Any = await receive()
        except TimeoutError as error:
            raise HTTPException(status_code=408) from error
        complete = not event.get("more_body", False)
        return event

    return timed


def _allow_origin(send: Send, origin: bytes | None) -> Send:
    """Wrap a `send`: name the one origin that may read the answer; caches keep answers apart by origin."""
    added = [_VARY] if origin is None else [_VARY, (b"access-control-allow-origin", origin), _EXPOSED]

    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return send_with_origin
