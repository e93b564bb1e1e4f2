"""How much a caller may do in a time: class of the route, keys to count on, 429 when one is spent.

The one table of classes is below; controllers know nothing of it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import structlog
from django.conf import settings
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from counterfoil.api.bodies import has_body
from counterfoil.api.errors import PROBLEM_TYPE, problem_body
from counterfoil.infrastructure.metrics import LIMIT_REFUSALS
from counterfoil.infrastructure.rate_limiter import Count, Hit, RateLimiter, hash_address
from counterfoil.kernel.errors import LimitExceeded, Unauthenticated
from counterfoil.users.permissions import Actor, Permission, Role, may

log = structlog.get_logger(__name__)


class RateLimited(LimitExceeded):
    """Too many requests; try again in {retry_after_seconds} seconds."""

    code = "RATE_LIMITED"


class RouteClass(StrEnum):
    """Routes that share a limit; each has a setting of its name."""

    SIGN_IN = "sign_in"
    REGISTRATION = "registration"
    RECOVERY = "recovery"
    WRITE = "write"
    READ = "read"
    LOOK_UP = "look_up"
    ADMIN = "admin"
    SERVICE = "service"
    CONSOLE = "console"
    CALLBACK = "callback"
    REFUSED = "refused"


# Method and path's template, both as patterns; the first row that fits decides. What fits none has no limit: probes,
# metrics, the API's page.
_TABLE: Final[tuple[tuple[str, str, RouteClass], ...]] = (
    ("POST", r"/api/v1/auth/(token|refresh)", RouteClass.SIGN_IN),
    ("POST", r"/api/v1/auth/logout", RouteClass.WRITE),
    (".*", r"/api/v1/auth/.*", RouteClass.RECOVERY),
    ("POST", r"/api/v1/users", RouteClass.REGISTRATION),
    # Codes that can be guessed (coupons, gift cards, a guest's order) are asked for at an address that ends so.
    (".*", r"/api/v1/.*/look-up", RouteClass.LOOK_UP),
    ("GET|HEAD", r"/api/v1/users/me(/.*)?", RouteClass.READ),
    (".*", r"/api/v1/users/me(/.*)?", RouteClass.WRITE),
    (".*", r"/api/v1/(users|api-keys|audit)(/.*)?", RouteClass.ADMIN),
    ("POST", r"/payments/callbacks/.*", RouteClass.CALLBACK),
    ("GET|HEAD", r"/api/.*", RouteClass.READ),
    (".*", r"/api/.*", RouteClass.WRITE),
)
_FILES: Final = "/console/static/"
# Counted per address, whoever signs in behind it, and never by one process alone while PostgreSQL can be reached.
_BY_ADDRESS: Final = frozenset({RouteClass.SIGN_IN, RouteClass.REGISTRATION, RouteClass.RECOVERY})


@functools.cache  # bounded by the routes that there are
def classify_route(method: str, template: str) -> RouteClass | None:
    """Return the class of a route, or None when it is not limited."""
    fits = (found for methods, path, found in _TABLE if re.fullmatch(methods, method) and re.fullmatch(path, template))
    return next(fits, None)


def find_hits(route: RouteClass, actor: Actor | None, address: str) -> list[Hit]:
    """Return the keys that a request counts on."""
    if route is RouteClass.REGISTRATION and actor is not None and may(actor, Permission.USERS_WRITE):
        route = RouteClass.ADMIN
    elif actor is not None and actor.role is Role.SERVICE and route in {RouteClass.READ, RouteClass.WRITE}:
        route = RouteClass.SERVICE
    limit, seconds, strict = _amounts(route)
    if actor is None or route in _BY_ADDRESS:
        return [Hit(f"{route}:address:{hash_address(address)}", limit, seconds, strict=strict)]
    hits = [Hit(f"{route}:{actor.principal}", limit, seconds, strict=strict)]
    if (key_id := getattr(actor, "key_id", None)) is not None:
        share = max(limit * settings.COUNTERFOIL.counterfoil_limit_key_percent // 100, 1)
        hits.append(Hit(f"{route}:key:{key_id}", share, seconds, strict=strict))
    if route is RouteClass.LOOK_UP:
        hits.append(Hit(f"{route}:address:{hash_address(address)}", limit, seconds, strict=strict))
    return hits


@functools.cache
def _amounts(route: RouteClass) -> tuple[int, int, bool]:
    return *settings.COUNTERFOIL.limit_of(route.value), route in _BY_ADDRESS


def limit_strangers(app: ASGIApp) -> ASGIApp:
    """Wrap authentication: who sends wrong credentials too often hears 429 instead of 401. Others are not touched."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Unauthenticated:
            if scope["path_template"].startswith("/api/"):
                hits = find_hits(RouteClass.REFUSED, None, scope["state"]["client_address"])
                _admit(scope, RouteClass.REFUSED, await _limiter(scope).take(hits))
            raise

    return limited


def is_spent(scope: Scope) -> bool:
    """Tell whether this process knows that the caller's address has sent wrong credentials too often."""
    [hit] = find_hits(RouteClass.REFUSED, None, scope["state"]["client_address"])
    return _limiter(scope).is_spent(hit.key)


def limit_callers(app: ASGIApp) -> ASGIApp:
    """Wrap a route whose caller is known: count the request, and refuse it when a limit is spent.

    A change is counted before it is done. A read is done while it is counted, and nothing is sent before the verdict.
    """

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == ScopeType.HTTP else ""
        route = classify_route(method, scope["path_template"]) if method else None
        if route is None:
            await app(scope, receive, send)
            return
        counting = _limiter(scope).take(find_hits(route, scope["state"].get("actor"), scope["state"]["client_address"]))
        if method == "GET" and not counting.done():
            try:
                await app(scope, receive, _after(counting, scope, route, send))
            except Exception:  # answered further out, with the same headers and within the same limit
                if "limit" not in scope["state"]:
                    _admit(scope, route, await counting)
                raise
        else:
            _admit(scope, route, await counting)
            await app(scope, receive, send)

    return limited


def limit_console(app: ASGIApp) -> ASGIApp:
    """Wrap the console, which is an application of its own: pages and sign-ins are counted by address.

    The console changes nothing, so whatever is no reading, or brings a body, is counted as signing in.
    """

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and not scope["path"].startswith(_FILES):
            reads = scope["method"] in {"GET", "HEAD"} and not has_body(scope)
            route = RouteClass.CONSOLE if reads else RouteClass.SIGN_IN
            _admit(scope, route, await _limiter(scope).take(find_hits(route, None, scope["state"]["client_address"])))
        await app(scope, receive, send)

    return limited


def _limiter(scope: Any) -> RateLimiter:
    limiter: RateLimiter = scope["litestar_app"].state.limiter
    return limiter


def _admit(scope: Any, route: RouteClass, counts: Sequence[Count]) -> None:
    """Keep the tightest count for the answer's headers; raise RateLimited when one is spent."""
    tightest = counts[0] if len(counts) == 1 else min(counts, key=_tightness)
    scope["state"]["limit"] = tightest
    if not tightest.passes:
        LIMIT_REFUSALS.labels(route.value).inc()
        log.warning("security.limit_exceeded", limit=route.value, request_id=scope["state"]["request_id"])
        raise RateLimited(retry_after_seconds=max(math.ceil(tightest.seconds_left), 1))


def _tightness(count: Count) -> tuple[bool, int]:
    return count.passes, count.remaining


def _after(counting: Any, scope: Any, route: RouteClass, send: Send) -> Send:
    """Wrap a `send`: hold the answer until it is counted, and send a refusal in its place if it comes to that."""
    refused = False

    async def send_when_counted(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start":
            try:
                _admit(scope, route, await counting)
            except RateLimited as error:
                refused = True
                await _send_refusal(scope, error, send)
        if not refused:
            await send(message)

    return send_when_counted


async def _send_refusal(scope: Any, error: RateLimited, send: Send) -> None:
    body = problem_body(
        status=429,
        code=error.code,
        message=error.message,
        details=error.details,
        request_id=scope["state"]["request_id"],
    )
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % error.details["retry_after_seconds"]),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
