"""Query parameters: only those that a route declares, so that a misspelt filter never widens a list."""

from __future__ import annotations

import functools
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar.types import ASGIApp, Receive, Scope, Send

from counterfoil.kernel.errors import ValidationFailed

# Probes and metrics are asked by machines that add parameters of their own.
_OURS: Final = "/api/"
# What a handler takes that is no parameter of the query.
_NO_PARAMETERS: Final = frozenset({"request", "data"})


def refuse_unknown_query(app: ASGIApp) -> ASGIApp:
    """Wrap a route: raise ValidationFailed that names every query parameter which its handler does not take."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if (query := scope["query_string"]) and scope["path"].startswith(_OURS) and scope.get("method") != "OPTIONS":
            known = query_parameters(scope["route_handler"]) - scope["path_params"].keys()
            given = {name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)}
            if unknown := sorted(given - known):
                message = "This parameter is not known here."
                raise ValidationFailed([{"field": name, "message": message} for name in unknown])
        await app(scope, receive, send)

    return checked


@functools.cache
def query_parameters(handler: Any) -> frozenset[str]:
    """Return the names that a handler takes from the query (or the path)."""
    return frozenset(handler.parsed_fn_signature.parameters) - _NO_PARAMETERS
