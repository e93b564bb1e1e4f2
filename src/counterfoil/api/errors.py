"""Error kind to HTTP: one table, and the one shape of every error answer."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import Scope, Send

from counterfoil.api.schemas.sentences import rephrase
from counterfoil.api.schemas.validation import choices_of
from counterfoil.coupons.errors import CouponChanged
from counterfoil.infrastructure.database import translate_database_error
from counterfoil.infrastructure.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from counterfoil.kernel.errors import (
    Conflict,
    Declined,
    DomainError,
    Forbidden,
    Invalid,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
    ValidationFailed,
)
from counterfoil.orders.errors import FulfillmentChanged, OrderChanged, ReturnChanged
from counterfoil.products.errors import ProductChanged
from counterfoil.users.errors import ApiKeyInvalid, TokenInvalid, UserChanged

log = structlog.get_logger(__name__)

# The first match wins: five errors have a status of their own, every other one that of its kind.
STATUS_BY_KIND: Final[Mapping[type[DomainError], int]] = {
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    CouponChanged: HTTPStatus.PRECONDITION_FAILED,
    OrderChanged: HTTPStatus.PRECONDITION_FAILED,
    FulfillmentChanged: HTTPStatus.PRECONDITION_FAILED,
    ReturnChanged: HTTPStatus.PRECONDITION_FAILED,
    ProductChanged: HTTPStatus.PRECONDITION_FAILED,
    UserChanged: HTTPStatus.PRECONDITION_FAILED,
    Invalid: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Declined: HTTPStatus.PAYMENT_REQUIRED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    LimitExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
PROBLEM_TYPE: Final = "application/problem+json"
_encoder = msgspec.json.Encoder(decimal_format="number")

# Failures of HTTP itself, before any of our code: status → code and sentence.
HTTP_FAILURES: Final = {
    400: (
        "MALFORMED_REQUEST",
        "The body is missing or is not valid JSON in UTF-8.",
    ),
    401: ("CREDENTIALS_MISSING", "Send an access token in the header `Authorization: Bearer …`."),
    403: ("HTTPS_REQUIRED", "Use https; a token that was sent over plain HTTP should be replaced."),
    404: ("ROUTE_NOT_FOUND", "There is nothing at this address; the API is described at /docs."),
    405: ("METHOD_NOT_ALLOWED", "This address does not take this method; the header Allow names those it takes."),
    408: ("BODY_TOO_SLOW", "The request's body took too long to arrive."),
    413: ("BODY_TOO_LARGE", "The request body is larger than 1 MB, or 64 kB in the console."),
    415: ("MEDIA_TYPE_UNSUPPORTED", "Send the body as application/json, without a Content-Encoding."),
    421: ("MISDIRECTED_HOST", "This service does not answer for the host that was asked for."),
    431: ("HEADERS_TOO_LARGE", "The request has more than 64 headers or 32 KB of them."),
}
# Before there is a body to look at, only the header Host is malformed.
_HOST_MALFORMED: Final = ("MALFORMED_REQUEST", "The header Host is missing, repeated or not a host's name.")


def status_of(error: type[DomainError]) -> int:
    """Return the HTTP status of an error class."""
    return next(int(status) for kind, status in STATUS_BY_KIND.items() if issubclass(error, kind))


def problem_body(*, status: int, code: str, message: str, details: Any, request_id: str) -> bytes:
    """Return the body of an error answer: RFC 9457 members around `error` and `request_id`."""
    return _encoder.encode(
        {
            "type": f"/errors/{code.lower().replace('_', '-')}",
            "title": code.replace("_", " ").capitalize(),
            "status": status,
            "error": {"code": code, "message": message, "details": details},
            "request_id": request_id,
        }
    )


def _problem(
    request: Request[Any, Any, Any],
    status: int,
    code: str,
    message: str,
    details: Any,
    headers: Mapping[str, str],
    *,
    replay_of: str | None = None,
) -> Response[bytes]:
    # A stored refusal is repeated byte for byte, so it names the request that was refused first.
    request_id = replay_of or request.scope["state"]["request_id"]
    body = problem_body(status=status, code=code, message=message, details=details, request_id=request_id)
    return Response(body, status_code=status, media_type=PROBLEM_TYPE, headers=dict(headers))


def handle_domain_error(request: Request[Any, Any, Any], error: DomainError) -> Response[bytes]:
    """Answer an expected failure."""
    _note_refusal(request, error)
    status = status_of(type(error))
    headers: dict[str, str] = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="counterfoil"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE or isinstance(error, IdempotencyInProgress):
        headers["Retry-After"] = "1"
    if (seconds := error.details.get("retry_after_seconds")) is not None:
        headers["Retry-After"] = str(seconds)
    if error.replay_of is not None:
        headers["Idempotent-Replayed"] = "true"
    return _problem(request, status, error.code, error.message, error.details, headers, replay_of=error.replay_of)


def _note_refusal(request: Request[Any, Any, Any], error: DomainError) -> None:
    """Write the security log's line about somebody who may not do something or is not who he says."""
    refused = isinstance(error, Forbidden)
    if not refused and not isinstance(error, TokenInvalid | ApiKeyInvalid):
        return
    actor = request.scope["state"].get("actor")
    log.warning(
        "security.access_denied" if refused else "security.credentials_refused",
        code=error.code,
        route=request.scope.get("path_template"),
        actor=None if actor is None else actor.principal,
        key_id=None if actor is None else actor.key_id,
        details=error.details,
        request_id=request.scope["state"]["request_id"],
    )


def handle_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer a failure that Litestar found: a bad body or parameter, an unknown route, a method not taken."""
    status = error.status_code
    if status == HTTPStatus.BAD_REQUEST and (problems := _parameter_problems(request, error)):
        return handle_domain_error(request, ValidationFailed(problems))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return handle_bug(request, error)
    code, message = HTTP_FAILURES.get(status, ("REQUEST_FAILED", HTTPStatus(status).phrase + "."))
    headers = dict(error.headers or {})
    if status in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
        headers["Connection"] = "close"  # the rest of the body is not read
    return _problem(request, status, code, message, {}, headers)


async def refuse(send: Send, scope: Scope, status: int, *headers: tuple[bytes, bytes]) -> None:
    """Answer a failure of HTTP itself before Litestar has seen the request; 308 sends elsewhere, without a body."""
    body, sent = b"", [*headers]
    if status != HTTPStatus.PERMANENT_REDIRECT:
        code, message = _HOST_MALFORMED if status == HTTPStatus.BAD_REQUEST else HTTP_FAILURES[status]
        request_id = scope["state"]["request_id"]
        body = problem_body(status=status, code=code, message=message, details={}, request_id=request_id)
        sent.append((b"content-type", PROBLEM_TYPE.encode()))
    sent.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def handle_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what nobody expected: 503 when the database is away, otherwise 500, logged, without detail."""
    if (translated := translate_database_error(error)) is not None:
        return handle_domain_error(request, translated)
    log.error("request.failed", request_id=request.scope["state"]["request_id"], exc_info=error)
    message = "Something went wrong on our side; it is logged under this request_id."
    return _problem(request, 500, "INTERNAL_ERROR", message, {}, {})


def _parameter_problems(request: Request[Any, Any, Any], error: HTTPException) -> list[dict[str, str]]:
    """Name every offending parameter, from Litestar's own list; bodies name theirs themselves."""
    extra = error.extra if isinstance(error, ValidationException) else None
    return [
        {"field": (name := str(entry.get("key", ""))), "message": _parameter_sentence(request, name, entry)}
        for entry in (extra if isinstance(extra, list) else [])
        if isinstance(entry, dict) and entry.get("source") not in {None, "body"}
    ]


def _parameter_sentence(request: Request[Any, Any, Any], name: str, entry: dict[str, Any]) -> str:
    """Say what is wrong with a parameter in the words that a field of a body gets."""
    message = str(entry.get("message", ""))
    field = request.route_handler.parsed_fn_signature.parameters.get(name)
    if field is None:
        return rephrase(message)
    rules = field.kwarg_definition
    bounds = (getattr(rules, "ge", None), getattr(rules, "le", None))
    return rephrase(message, allowed=choices_of(field.annotation), bounds=bounds)


EXCEPTION_HANDLERS: Final[dict[Any, Any]] = {
    DomainError: handle_domain_error,
    HTTPException: handle_http_exception,
    Exception: handle_bug,
}
