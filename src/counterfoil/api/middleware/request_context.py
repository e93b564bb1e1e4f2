"""The outermost layer of HTTP: request id, headers of every answer, access log, latency."""

from __future__ import annotations

import time
from typing import Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from counterfoil.api.middleware.answer_headers import headers_for
from counterfoil.infrastructure.metrics import count_request
from counterfoil.kernel.card_numbers import contains_card_number
from counterfoil.kernel.ids import is_request_id, new_request_id

log = structlog.get_logger(__name__)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """ASGI wrapper around the whole application.

    Puts `request_id` into the scope's state (the caller's X-Request-ID when it is well formed and holds no card number,
    else a new one), echoes it with the headers of every answer, and writes one log line and one metric per request.
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
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        # It is logged and kept in the audit trail.
        request_id = given if is_request_id(given) and not contains_card_number(given) else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        status, path = 500, scope["path"]

        async def send_with_context(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                message["headers"] = headers + headers_for(scope, path, headers)
            await send(message)

        try:
            await self._app(scope, receive, send_with_context)
        finally:
            _report(scope, request_id, status, time.perf_counter() - started)


def _report(scope: HTTPScope, request_id: str, status: int, seconds: float) -> None:
    # The route's template, never the path: paths hold ids, and a label per id would fill the memory.
    route = scope.get("path_template") or "unmatched"
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    count_request(method, route, status, seconds)
    actor = scope["state"].get("actor")
    # Account and person look alike in `actor`; whoever looks for what a stolen key did needs its number.
    key = {} if actor is None or actor.key_id is None else {"key_id": actor.key_id}
    log.info(
        "http.request",
        method=method,
        route=route,
        status=status,
        ms=round(seconds * 1000, 2),
        request_id=request_id,
        actor=actor.principal if actor is not None else None,
        **key,
    )
