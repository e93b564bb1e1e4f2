"""Credentials to Actor, and the route's permission, before anything of the body is read.

Every route declares `permission=`. With `PUBLIC` it also says what becomes of credentials: `credentials="optional"`
when it answers strangers too, `"ignored"` when it answers whatever the header says (signing in with an expired token
at hand, probing the process).
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from counterfoil.api.middleware.limits import is_spent
from counterfoil.users.access import KEY_PREFIX, AccessControl
from counterfoil.users.errors import ApiKeyInvalid, CredentialsMissing
from counterfoil.users.permissions import PUBLIC, Actor, require

# Nothing of ours is longer; what is, is not looked at.
_CREDENTIALS_CHARS_MAX: Final = 2048


def authenticate(app: ASGIApp) -> ASGIApp:
    """Wrap a route: put the caller into the scope's state, and let pass who may use the route.

    A middleware and not a guard: Litestar copies request and handler for each guard, a tenth of a request's time.
    """

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.OPTIONS
        ):  # which methods there are is no secret
            await app(scope, receive, send)
            return
        route = scope["route_handler"].opt
        permission = route["permission"]
        if permission != PUBLIC or route["credentials"] != "ignored":
            actor = await _find_actor(scope)
            if actor is not None:
                scope["state"]["actor"] = actor
            if permission != PUBLIC:
                if actor is None:
                    raise CredentialsMissing
                require(actor, permission)
        await app(scope, receive, send)

    return authenticated


async def _find_actor(scope: Scope) -> Actor | None:
    given = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, given = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not given or len(given) > _CREDENTIALS_CHARS_MAX:
                raise CredentialsMissing
            break
        if name == b"x-api-key":
            given = value.decode("latin-1")
            if not given.startswith(KEY_PREFIX) or len(given) > _CREDENTIALS_CHARS_MAX:
                raise CredentialsMissing
    if given is None:
        return None
    access: AccessControl = scope["litestar_app"].state.access
    # A guesser's keys cost no look-up in the database; what is known already passes from the same address.
    if given.startswith(KEY_PREFIX) and not access.knows_key(given) and is_spent(scope):
        raise ApiKeyInvalid
    return await access.authenticate(given)


def current_actor(request: Request[Any, Any, Any]) -> Actor:
    """Return the caller that `authenticate` has put into the request's state."""
    actor: Actor = request.scope["state"]["actor"]
    return actor


def optional_actor(request: Request[Any, Any, Any]) -> Actor | None:
    """Return the caller of a public route, or None."""
    return request.scope["state"].get("actor")
