"""Headers that every answer carries: what a browser may do with it, and how much of a limit is left."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from counterfoil.infrastructure.rate_limiter import Count

Headers = list[tuple[bytes, bytes]]

_NOTHING: Final = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"
# Pages load from this host alone and run no script that stands in them. `data:`: the icons in style sheets.
_PAGE: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'"
)
_COMMON: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_NO_STORE: Final = (b"cache-control", b"no-store")
_DATA_HEADERS: Final = [(b"content-security-policy", _NOTHING), *_COMMON, _NO_STORE]
_PAGE_HEADERS: Final = [(b"content-security-policy", _PAGE), *_COMMON, _NO_STORE]
_ASSET_HEADERS: Final = [(b"content-security-policy", _NOTHING), *_COMMON]
# Two years, as the lists that browsers ship ask for; at least one is required.
_HSTS: Final = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")


def headers_for(scope: Any, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what is to be added to an answer that has `headers`. `path` is as asked: mounts shorten the scope's."""
    state = scope["state"]
    page = any(value.startswith(b"text/html") for name, value in headers if name.lower() == b"content-type")
    if path.startswith("/console"):
        # Django brings some of its own, and its static files may be kept by the browser.
        present = {name.lower() for name, _ in headers}
        added = [entry for entry in (_PAGE_HEADERS if page else _ASSET_HEADERS) if entry[0] not in present]
    else:
        added = [*(_PAGE_HEADERS if page else _DATA_HEADERS)]
    # The server would name itself otherwise; nobody needs to know which one it is.
    added.append((b"server", b"counterfoil"))
    added.append((b"x-request-id", state["request_id"].encode()))
    if (count := state.get("limit")) is not None:
        added += render_limit(count)
    if scope["scheme"] == "https":
        added.append(_HSTS)
    return added


def render_limit(count: Count) -> Headers:
    """Return the limit of the window, what is left of it, and the seconds until the next one."""
    return [
        (b"ratelimit-limit", b"%d" % count.limit),
        (b"ratelimit-remaining", b"%d" % count.remaining),
        (b"ratelimit-reset", b"%d" % math.ceil(count.seconds_left)),
    ]
