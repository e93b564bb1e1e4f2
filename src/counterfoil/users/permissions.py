"""Who may do what (rule, pure): the one place where roles are turned into decisions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from counterfoil.users.errors import RoleMissing


class Role(StrEnum):
    """What a person or a program is to the shop."""

    CUSTOMER = "customer"
    SUPPORT = "support"
    MANAGER = "manager"
    ADMIN = "admin"
    SERVICE = "service"


STAFF = frozenset({Role.SUPPORT, Role.MANAGER, Role.ADMIN})
ON_BEHALF = STAFF | {Role.SERVICE}
CATALOGUE = frozenset({Role.MANAGER, Role.ADMIN})
STOCK = frozenset({Role.MANAGER, Role.ADMIN, Role.SERVICE})
ADMINS = frozenset({Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Actor:
    """The authenticated caller of one request."""

    user_id: int
    role: Role

    @property
    def principal(self) -> str:
        """The account's name in audit entries and idempotency scopes: `user:123`."""
        return f"user:{self.user_id}"

    @property
    def sees_every_order(self) -> bool:
        """Tell whether reads are limited to the caller's own orders (False) or not (True)."""
        return self.role in ON_BEHALF


def require_role(actor: Actor, allowed: frozenset[Role]) -> None:
    """Raise RoleMissing unless the caller has one of the allowed roles."""
    if actor.role not in allowed:
        raise RoleMissing(role=actor.role.value, allowed=sorted(allowed))


def owner_filter(actor: Actor) -> int | None:
    """Return the user id that every order query of this caller must be limited to, or None for all."""
    return None if actor.sees_every_order else actor.user_id
