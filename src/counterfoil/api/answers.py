"""How controllers answer: bytes with their headers, writes under an idempotency key, pages with their cursor."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from django.conf import settings
from litestar import Request, Response
from litestar.openapi import ResponseSpec
from litestar.types import HTTPResponseStartEvent, Receive, Scope, Send

from counterfoil.api.bodies import header
from counterfoil.api.hashing import HashingThreads
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import encode_body
from counterfoil.api.schemas.problem import Problem
from counterfoil.infrastructure.database import run_in_thread, transaction
from counterfoil.infrastructure.idempotency import (
    KEY_HOURS,
    Answer,
    IdempotencyInProgress,
    IdempotencyKeyMissing,
    answer_once,
    fingerprint_request,
    is_used,
    read_key,
)
from counterfoil.kernel.cursor import InvalidCursor, decode_cursor, encode_cursor
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.orders.commands import Trace

R = TypeVar("R")
AnyRequest = Request[Any, Any, Any]
_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[!#-~]*")')
_canonical: Final = msgspec.json.Encoder(order="sorted")


class _Versioned(msgspec.Struct):
    version: int | None = None
    status: str | None = None


_versioned: Final = msgspec.json.Decoder(_Versioned)


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Document error answers of an endpoint."""
    reasons = {
        400: "Invalid input",
        401: "Unauthorized",
        402: "Payment declined",
        403: "Role missing",
        404: "Not found",
        409: "Conflict",
        412: "Stale If-Match",
        413: "Body too large",
        415: "Media type not supported",
        429: "Too many requests",
        422: "Idempotency-Key used for another request",
        503: "Temporarily unavailable",
    }
    return {
        status: ResponseSpec(
            Problem, description=reasons[status], generate_examples=False, media_type="application/problem+json"
        )
        for status in statuses
    }


def also(schema: Any, status: int, description: str) -> dict[int, ResponseSpec]:
    """Document an answer that is given beside the usual one."""
    return {status: ResponseSpec(schema, description=description, generate_examples=False)}


def request_id(request: AnyRequest) -> str:
    """Return the id of this request."""
    found: str = request.scope["state"]["request_id"]
    return found


def trace_of(request: AnyRequest) -> Trace:
    """Return on whose behalf, and because of which request, a change is made."""
    return Trace(current_actor(request).principal, request_id(request))


def client_address(request: AnyRequest) -> str:
    """Return the address that the request came from, the trusted proxy looked through."""
    found: str = request.scope["state"]["client_address"]
    return found


def answer(value: Any, *, status: int = 200, etag: str | None = None, replayed: bool = False) -> Response[Any]:
    """Encode a value as the answer."""
    return answer_bytes(encode_body(value), status=status, etag=etag, replayed=replayed)


def accepted() -> Response[None]:
    """Answer 202 without a body: it is noted, and what comes of it is told elsewhere."""
    return _Encoded(b"", 202, [(b"content-length", b"0")])


def answer_bytes(
    body: bytes,
    *,
    status: int,
    etag: str | None = None,
    replayed: bool = False,
    location: str | None = None,
    media_type: str = "application/json",
) -> Response[Any]:
    """Send bytes of JSON as they are."""
    headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
    if etag is not None:
        headers.append((b"etag", etag.encode()))
    if location is not None:
        headers.append((b"location", location.encode()))
    if replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return _Encoded(body, status, headers)


class _Encoded(Response[Any]):
    """An answer whose bytes and headers are there already.

    Litestar turns every response into another object with headers in mappings; for this one there is nothing left to
    do, which saves a tenth of an order's time.
    """

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Keep what is sent; the parent's members are for answers that are still to be encoded."""
        self.content = body
        self.status_code = status
        self._start: HTTPResponseStartEvent = {"type": "http.response.start", "status": status, "headers": headers}

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        """Return itself: it is an ASGI application."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the answer."""
        await send(self._start)
        await send({"type": "http.response.body", "body": self.content, "more_body": False})


@dataclass(frozen=True, slots=True)
class AboutPerson:
    """An answer about a person: `value` is what is sent, `subject` whose key it is stored under."""

    value: Any
    subject: UUID


def fingerprint_of(request: AnyRequest, body: Any) -> bytes:
    """Return the fingerprint of this request: method, path and the body in canonical JSON."""
    return fingerprint_request(f"{request.method} {request.scope['path']}", _canonical.encode(body))


def write_once(  # noqa: PLR0913 - all but three are rare
    request: AnyRequest,
    body: Any,
    execute: Callable[[], Any],
    *,
    status: int = 201,
    hours: int = KEY_HOURS,
    key_required: bool = False,
    principal: str | None = None,
    keep: Callable[[Any], Any] | None = None,
    authorise: Callable[[], None] | None = None,
    prepare: Callable[[], None] | None = None,
    replaying: Callable[[Answer], None] | None = None,
) -> Response[Any]:
    """Run a POST's effect in one transaction with its idempotency key, and answer with the value it returns.

    Runs in a worker thread. A replay gets the stored bytes, the same ETag and `Idempotent-Replayed: true`. `execute`
    wraps an answer about a person in AboutPerson. `keep` makes what is stored of the value, when it has something in it
    that must be nowhere: the replay lacks it. `authorise` raises when the caller has lost the right to a stored answer
    since it was given, where that is more than the route's permission. `prepare` does what takes long before the
    transaction is opened, unless the key was used: then there is nothing to do but to answer again. `replaying` runs
    before a replay is sent, outside any transaction.
    """
    key = read_key(header(request, b"idempotency-key"))
    if key is None and key_required:
        raise IdempotencyKeyMissing

    owner = principal or current_actor(request).principal
    prepared = prepare is None or _prepare(prepare, owner, key)

    def effect() -> Answer:
        if not prepared:  # the key ran out, or was given back, since we looked
            raise IdempotencyInProgress
        return _first_answer(execute(), status, keep)

    found = run_in_thread(
        answer_once,
        principal=owner,
        key=key,
        fingerprint=fingerprint_of(request, body),
        hours=hours,
        execute=effect,
        authorise=authorise,
    )
    if found.replayed and replaying is not None:
        replaying(found)
    return answer_bytes(found.body, status=found.status, etag=_etag_of(found.body), replayed=found.replayed)


def _prepare(prepare: Callable[[], None], owner: str, key: str | None) -> bool:
    """Do what takes long, unless the key was used; tells whether it was done."""
    if key is not None and run_in_thread(is_used, principal=owner, key=key):
        return False
    prepare()
    return True


def _first_answer(value: Any, status: int, keep: Callable[[Any], Any] | None) -> Answer:
    subject = None
    if isinstance(value, AboutPerson):
        value, subject = value.value, value.subject
    kept = None if keep is None else encode_body(keep(value))
    return Answer(status, encode_body(value), replayed=False, subject=subject, kept=kept)


async def in_hashing_thread(request: AnyRequest, function: Callable[[], R]) -> R:
    """Run what hashes a password in the threads for that; raises ServiceUnavailable at once when all are taken."""
    threads: HashingThreads = request.app.state.hashing
    return await threads.run(function)


def write(execute: Callable[[], Any]) -> Any:
    """Run a PUT's or DELETE's effect in one transaction, in a worker thread, and return its value."""

    def in_transaction() -> Any:
        with transaction():
            return execute()

    return run_in_thread(in_transaction)


def if_match(request: AnyRequest) -> str | None:
    """Return the entity tag that the caller insists on, or None (absent or `*`); raises ValidationFailed."""
    given = header(request, b"if-match")
    if given is None or given.strip() == "*":
        return None
    found = _ENTITY_TAG.fullmatch(given.strip())
    if found is None:
        message = 'Send one entity tag as the header ETag gave it, such as "1-created", or *.'
        raise ValidationFailed([{"field": "If-Match", "message": message}])
    return found[1]


def open_cursor(request: AnyRequest, cursor: str | None) -> str | None:
    """Return the position in a cursor of this caller and these filters; raises InvalidCursor."""
    if cursor is None:
        return None
    # A page that was begun before the secret was changed can still be followed.
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        with suppress(InvalidCursor):
            return decode_cursor(cursor, secret=secret.encode(), context=_page_context(request))
    raise InvalidCursor


def next_page(request: AnyRequest, position: str | None) -> tuple[str | None, str | None]:
    """Return (cursor, address) of the page after `position`; (None, None) when there is none."""
    if position is None:
        return None, None
    cursor = encode_cursor(position, secret=settings.SECRET_KEY.encode(), context=_page_context(request))
    parameters = [(k, v) for k, v in request.query_params.multi_items() if k != "cursor"]
    return cursor, f"{request.scope['path']}?{urlencode([*parameters, ('cursor', cursor)])}"


def _page_context(request: AnyRequest) -> str:
    filters = sorted((k, v) for k, v in request.query_params.multi_items() if k not in {"cursor", "limit"})
    actor = request.scope["state"].get("actor")
    return f"{request.scope['path']}|{actor.principal if actor else ''}|{urlencode(filters)}"


def _etag_of(body: bytes) -> str | None:
    found = _versioned.decode(body)
    if found.version is None:
        return None
    return f'"{found.version}-{found.status}"' if found.status else f'"{found.version}"'
