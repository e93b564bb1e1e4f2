"""Bearer token to Actor, for every route that does not say otherwise.

A route has `credentials="optional"` when it answers strangers too, and `credentials="ignored"` when it answers
whatever the header says: signing in with an expired token at hand, probing the process.
"""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from counterfoil.users import services as users
from counterfoil.users.errors import CredentialsMissing
from counterfoil.users.permissions import Actor


def authenticate(app: ASGIApp) -> ASGIApp:
    """Wrap a route: put the caller into the scope's state or raise.

    A middleware and not a guard: Litestar copies request and handler for each guard, a tenth of a request's time.
    """

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        credentials = scope["route_handler"].opt.get("credentials", "required")
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if header is not None and credentials != "ignored":
            scheme, _, token = header.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise CredentialsMissing
            scope["state"]["actor"] = users.authenticate(token)
        elif credentials == "required":
            raise CredentialsMissing
        await app(scope, receive, send)

    return authenticated


def current_actor(request: Request[Any, Any, Any]) -> Actor:
    """Return the caller that `authenticate` has put into the request's state."""
    actor: Actor = request.scope["state"]["actor"]
    return actor


def optional_actor(request: Request[Any, Any, Any]) -> Actor | None:
    """Return the caller of a public route, or None."""
    return request.scope["state"].get("actor")
