"""The outermost layer of HTTP: request id, body rules, access log, latency."""

from __future__ import annotations

import re
import time
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from counterfoil.api.bodies import BODY_BYTES_MAX
from counterfoil.api.errors import HTTP_FAILURES, PROBLEM_TYPE, problem_body
from counterfoil.infrastructure.metrics import count_request
from counterfoil.kernel.ids import is_request_id, new_request_id

log = structlog.get_logger(__name__)

_HEADERS_ON_EVERY_ANSWER: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
# Decoded once, no address of ours has any of these; decoded again, they lead out of a folder of static files.
_IMPOSSIBLE_PATH: Final = re.compile(r"[\x00-\x1f%\\]|\.\.")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """ASGI wrapper around the whole application.

    Puts `request_id` into the scope's state (the caller's X-Request-ID when it is well formed, else a new one),
    echoes it, refuses bodies of another type or encoding, and writes one log line and one metric per request.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; everything but HTTP passes through."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        content_type, encoded, too_large, request_id = _read_headers(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500
        # The console's answers bring their own from Django.
        added = () if scope["path"].startswith("/console") else _HEADERS_ON_EVERY_ANSWER

        async def send_with_context(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *added]
            await send(message)

        try:
            if _IMPOSSIBLE_PATH.search(scope["path"]):
                await _refuse(send_with_context, 404, "ROUTE_NOT_FOUND", request_id)
            elif too_large:
                await _refuse(send_with_context, 413, "BODY_TOO_LARGE", request_id, (b"connection", b"close"))
            elif _must_be_json(scope) and (encoded or content_type not in {b"", b"application/json"}):
                await _refuse(send_with_context, 415, "MEDIA_TYPE_UNSUPPORTED", request_id)
            else:
                await self._app(scope, receive, send_with_context)
        finally:
            _report(scope, request_id, status, time.perf_counter() - started)


def _must_be_json(scope: HTTPScope) -> bool:
    return scope["method"] in {"POST", "PUT", "PATCH"} and scope["path"].startswith("/api/")


def _read_headers(headers: Any) -> tuple[bytes, bool, bool, str]:
    content_type, encoded, too_large, request_id = b"", False, False, ""
    for name, value in headers:
        if name == b"content-type":
            content_type = value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding":
            encoded = value.strip().lower() not in {b"", b"identity"}
        elif name == b"content-length":
            too_large = value.isdigit() and int(value) > BODY_BYTES_MAX
        elif name == b"x-request-id":
            text = value.decode("latin-1")
            request_id = text if is_request_id(text) else ""
    return content_type, encoded, too_large, request_id or new_request_id()


async def _refuse(send: Send, status: int, code: str, request_id: str, *more: tuple[bytes, bytes]) -> None:
    _, message = HTTP_FAILURES[status]
    body = problem_body(status=status, code=code, message=message, details={}, request_id=request_id)
    headers = [(b"content-type", PROBLEM_TYPE.encode()), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _report(scope: HTTPScope, request_id: str, status: int, seconds: float) -> None:
    # The route's template, never the path: paths hold ids, and a label per id would fill the memory.
    route = scope.get("path_template") or "unmatched"
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    count_request(method, route, status, seconds)
    actor = scope["state"].get("actor")
    log.info(
        "http.request",
        method=method,
        route=route,
        status=status,
        ms=round(seconds * 1000, 2),
        request_id=request_id,
        actor=actor.principal if actor is not None else None,
    )
