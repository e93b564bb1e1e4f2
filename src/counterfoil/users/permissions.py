"""Who may do what (rule, pure): the one place where roles and scopes are turned into decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from counterfoil.users.errors import RoleMissing, ScopeMissing, SignInRequired


class Role(StrEnum):
    """What a person or a program is to the shop."""

    CUSTOMER = "customer"
    SUPPORT = "support"
    MANAGER = "manager"
    ADMIN = "admin"
    SERVICE = "service"


class Permission(StrEnum):
    """What can be allowed, `what:how`; also the scopes of an API key."""

    ACCOUNT_SELF = "account:self"
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    CATALOGUE_WRITE = "catalogue:write"
    COUPONS_READ = "coupons:read"
    COUPONS_WRITE = "coupons:write"
    INVENTORY_READ = "inventory:read"
    INVENTORY_WRITE = "inventory:write"
    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    # Not only one's own: see, place and change the orders of others.
    ORDERS_EVERYBODY = "orders:everybody"
    # Bring orders to their customers: ship, take returns, hold, note, complete.
    ORDERS_FULFIL = "orders:fulfil"
    # Let goods go out before they are paid.
    ORDERS_APPROVE = "orders:approve"
    PAYMENTS_READ = "payments:read"
    # Pay for orders, and give up a payment that waits for its buyer.
    PAYMENTS_WRITE = "payments:write"
    # Take money that is held.
    PAYMENTS_CAPTURE = "payments:capture"
    # Give money back: for people of the staff, not for programs' accounts.
    PAYMENTS_REFUND = "payments:refund"
    API_KEYS_READ = "api-keys:read"
    API_KEYS_WRITE = "api-keys:write"
    METRICS_READ = "metrics:read"
    AUDIT_READ = "audit:read"


# What a route declares instead of a permission when it answers strangers too.
PUBLIC: Final = "public"

STAFF: Final = frozenset({Role.SUPPORT, Role.MANAGER, Role.ADMIN})
_EVERYBODY: Final = frozenset(Role)
_ON_BEHALF: Final = STAFF | {Role.SERVICE}
_ADMINS: Final = frozenset({Role.ADMIN})

# The table. A permission that is missing here is nobody's.
GRANTS: Final[Mapping[Permission, frozenset[Role]]] = {
    Permission.ACCOUNT_SELF: _EVERYBODY,
    Permission.USERS_READ: _ADMINS,
    Permission.USERS_WRITE: _ADMINS,
    Permission.CATALOGUE_WRITE: frozenset({Role.MANAGER, Role.ADMIN}),
    Permission.COUPONS_READ: frozenset({Role.MANAGER, Role.ADMIN}),
    Permission.COUPONS_WRITE: frozenset({Role.MANAGER, Role.ADMIN}),
    Permission.INVENTORY_READ: _ON_BEHALF,
    Permission.INVENTORY_WRITE: frozenset({Role.MANAGER, Role.ADMIN, Role.SERVICE}),
    Permission.ORDERS_READ: _EVERYBODY,
    Permission.ORDERS_WRITE: _EVERYBODY,
    Permission.ORDERS_EVERYBODY: _ON_BEHALF,
    Permission.ORDERS_FULFIL: _ON_BEHALF,
    Permission.ORDERS_APPROVE: frozenset({Role.MANAGER, Role.ADMIN}),
    Permission.PAYMENTS_READ: _EVERYBODY,
    Permission.PAYMENTS_WRITE: _EVERYBODY,
    Permission.PAYMENTS_CAPTURE: _ON_BEHALF,
    Permission.PAYMENTS_REFUND: STAFF,
    Permission.API_KEYS_READ: _ADMINS,
    Permission.API_KEYS_WRITE: _ADMINS,
    Permission.METRICS_READ: _ADMINS,
    Permission.AUDIT_READ: frozenset({Role.MANAGER, Role.ADMIN}),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """The authenticated caller of one request.

    `scopes` limit an API key to a part of what its account's role may do; None is no limit. `key_id` names that key,
    `session` the sign-in that an access token belongs to.
    """

    user_id: int
    role: Role
    scopes: frozenset[str] | None = None
    key_id: int | None = None
    session: str | None = None

    @property
    def principal(self) -> str:
        """The account's name in audit entries and idempotency scopes: `user:123`. A key acts as its account."""
        return f"user:{self.user_id}"


def may(actor: Actor, permission: Permission) -> bool:
    """Tell whether the caller's role, and the scopes of the key it came with, allow this."""
    return actor.role in GRANTS[permission] and (actor.scopes is None or permission in actor.scopes)


def require(actor: Actor, permission: Permission) -> None:
    """Raise RoleMissing or ScopeMissing unless the caller may do this."""
    if actor.role not in GRANTS[permission]:
        raise RoleMissing(role=actor.role.value, allowed=sorted(GRANTS[permission]))
    if actor.scopes is not None and permission not in actor.scopes:
        raise ScopeMissing(scope=permission.value)


def require_person(actor: Actor) -> None:
    """Raise SignInRequired for an API key: with a new password a key could get everything its scopes leave out."""
    if actor.key_id is not None:
        raise SignInRequired


def permissions_of(role: Role) -> frozenset[Permission]:
    """Return everything that a role may do."""
    return frozenset(permission for permission, roles in GRANTS.items() if role in roles)


def owner_filter(actor: Actor) -> int | None:
    """Return the user id that every order query of this caller must be limited to, or None for all."""
    return None if may(actor, Permission.ORDERS_EVERYBODY) else actor.user_id


assert GRANTS.keys() == set(Permission), "every permission says whose it is"
