"""Every route there is, with what it asks for; a service with a route that does not say so is not assembled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from litestar import Litestar
from litestar.routes import ASGIRoute, HTTPRoute

from counterfoil.users.permissions import PUBLIC, Permission

_CREDENTIALS: Final = frozenset({"optional", "ignored"})
# Routes that others make for us: Litestar the description of the API, its static files, and Django the console, which
# asks for a staff account of its own accord on every page but its sign-in page and its style.
UNDECLARED: Final = frozenset(
    {
        "/docs",
        "/docs/assets/{file_path:path}",
        "/docs/oauth2-redirect.html",
        "/docs/openapi.json",
        "/docs/swagger",
        "/docs/{path:str}",
        "/console",
    }
)


class RuleMissing(Exception):
    """A route does not declare who may use it."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One method of one route, and who may use it: a permission, or strangers too."""

    method: str
    path: str
    permission: Permission | None
    credentials: str
    handler: Any

    @property
    def is_public(self) -> bool:
        """Tell whether the route answers strangers."""
        return self.permission is None


def list_routes(app: Litestar) -> list[RouteRule]:
    """Return the rule of every route of ours; raises RuleMissing for one that has none or contradicts itself.

    OPTIONS is left out: it answers which methods there are, to anybody.
    """
    return sorted(_routes(app), key=lambda rule: (rule.path, rule.method))


def _routes(app: Litestar) -> Iterator[RouteRule]:
    for route in app.routes:
        if route.path in UNDECLARED:
            continue
        if not isinstance(route, HTTPRoute):
            kind = "mount" if isinstance(route, ASGIRoute) else "socket"
            raise RuleMissing(f"the {kind} {route.path} is not among the known ones in api/route_table.py")
        for method, (handler, _) in route.route_handler_map.items():
            if method != "OPTIONS":
                yield _rule(str(method), route.path_format, handler)


def _rule(method: str, path: str, handler: Any) -> RouteRule:
    permission, credentials = handler.opt.get("permission"), handler.opt.get("credentials", "required")
    if permission != PUBLIC and not isinstance(permission, Permission):
        raise RuleMissing(f"{method} {path} declares no permission")
    if (credentials in _CREDENTIALS) != (permission == PUBLIC):
        raise RuleMissing(f'{method} {path}: a public route, and no other, has credentials="optional" or "ignored"')
    return RouteRule(method, path, permission if isinstance(permission, Permission) else None, credentials, handler)
