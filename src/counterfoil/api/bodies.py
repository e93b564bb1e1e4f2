"""Request bodies: read in one pass, strictly, straight into their schema."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ASGIApp, Receive, Scope, Send
from litestar.types.empty import Empty

from counterfoil.api.card_data import refuse_card_numbers
from counterfoil.api.schemas.sentences import rephrase
from counterfoil.api.schemas.validation import find_problems
from counterfoil.kernel.errors import Unavailable, ValidationFailed

BODY_BYTES_MAX: Final = 1_000_000
# The largest form of the console is a sign-in: an address and a password.
FORM_BYTES_MAX: Final = 64_000
# 4 MB together. One address may begin 60 a minute (`sign_in`), each for 30 s at most, and cannot take them all.
FORMS_MAX: Final = 64


class TooManyForms(Unavailable):
    """The console takes no more forms right now; nothing was done, try again shortly."""

    code = "TOO_MANY_FORMS"


class ApiRequest(Request[Any, Any, Any]):
    """A request whose body is decoded as what its endpoint takes.

    Litestar would decode it untyped and then convert it leniently, so that the string "2" passed for the number 2.
    """

    async def body(self) -> bytes:
        """Return the whole body; raises RequestEntityTooLarge before reading more than BODY_BYTES_MAX.

        Litestar's own does the same through a mapping of all headers and a generator: a tenth of an order's time.
        """
        state = self._connection_state
        if state.body is Empty:
            announced = header(self, b"content-length")
            if announced is not None and announced.isdigit() and int(announced) > BODY_BYTES_MAX:
                raise RequestEntityTooLarge
            state.body = await _read(self.receive)
        return state.body

    async def json(self) -> Any:
        """Return the body as the endpoint's schema; raises ValidationFailed that names every offending field.

        Raises CardNumberRefused when a text of it holds a card number.
        """
        field = self.route_handler.parsed_data_field
        assert field is not None, "only an endpoint that takes a body reads one"
        body = await self.body()
        try:
            value = _decoder(field.annotation).decode(body)
        except msgspec.ValidationError as error:
            raise ValidationFailed(find_problems(field.annotation, body) or [_first_problem(error)]) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ClientException from error
        refuse_card_numbers(field.annotation, value)
        return value


def header(request: Request[Any, Any, Any], name: bytes) -> str | None:
    """Return a header by its name in small letters, or None. Reads the raw list: a mapping of all costs 20 µs."""
    return next((value.decode("latin-1") for known, value in request.scope["headers"] if known == name), None)


def has_body(scope: Scope) -> bool:
    """Tell whether a request announces a body."""
    sizes = dict(scope["headers"])
    return b"transfer-encoding" in sizes or sizes.get(b"content-length", b"0") != b"0"


def limit_forms(app: ASGIApp) -> ASGIApp:
    """Wrap an application that takes small forms: at most FORM_BYTES_MAX each, and FORMS_MAX of them at a time.

    Django holds or spools a whole body before any of its limits is asked. Raises RequestEntityTooLarge, TooManyForms.
    """
    at_once = 0

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal at_once
        if scope["type"] != ScopeType.HTTP or not has_body(scope):
            await app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > FORM_BYTES_MAX:
            raise RequestEntityTooLarge
        if at_once >= FORMS_MAX:
            raise TooManyForms
        at_once += 1
        try:
            await app(scope, _limit_body(receive), send)
        finally:
            at_once -= 1

    return limited


def _limit_body(receive: Receive) -> Receive:
    total = 0

    async def limited() -> Any:
        nonlocal total
        event: Any = await receive()
        total += len(event.get("body", b""))
        if total > FORM_BYTES_MAX:
            raise RequestEntityTooLarge
        return event

    return limited


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise ClientException(detail="the client went away")
        body += event["body"]
        if len(body) > BODY_BYTES_MAX:
            raise RequestEntityTooLarge
        more = event["more_body"]
    return bytes(body)


@functools.cache
def _decoder(schema: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(schema)


def _first_problem(error: msgspec.ValidationError) -> dict[str, str]:
    # Where the body cannot be read a second time without its schema, such as a number beyond every range.
    message, _, path = str(error).partition(" - at `")
    return {"field": path.rstrip("`").removeprefix("$").removeprefix(".") or "body", "message": rephrase(message)}
