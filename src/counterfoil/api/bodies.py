"""Request bodies: read in one pass, strictly, straight into their schema."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import ClientException

from counterfoil.api.schemas.validation import find_problems
from counterfoil.kernel.errors import ValidationFailed


class ApiRequest(Request[Any, Any, Any]):
    """A request whose body is decoded as what its endpoint takes.

    Litestar would decode it untyped and then convert it leniently, so that the string "2" passed for the number 2.
    """

    async def json(self) -> Any:
        """Return the body as the endpoint's schema; raises ValidationFailed that names every offending field."""
        field = self.route_handler.parsed_data_field
        assert field is not None, "only an endpoint that takes a body reads one"
        body = await self.body()
        try:
            return _decoder(field.annotation).decode(body)
        except msgspec.ValidationError as error:
            raise ValidationFailed(find_problems(field.annotation, body) or [_first_problem(error)]) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ClientException from error


@functools.cache
def _decoder(schema: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(schema)


def _first_problem(error: msgspec.ValidationError) -> dict[str, str]:
    # Where the body cannot be read a second time without its schema, such as a number beyond every range.
    message, _, path = str(error).partition(" - at `")
    return {"field": path.rstrip("`").removeprefix("$").removeprefix(".") or "body", "message": message + "."}
