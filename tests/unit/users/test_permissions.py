"""The one table of who may what."""

from __future__ import annotations

import pytest

from counterfoil.users.errors import RoleMissing, ScopeMissing
from counterfoil.users.permissions import GRANTS, Actor, Permission, Role, may, owner_filter, permissions_of, require


def test_every_permission_is_granted_to_somebody_and_everything_to_administrators() -> None:
    assert GRANTS.keys() == set(Permission)
    assert permissions_of(Role.ADMIN) == set(Permission)


def test_what_a_customer_may_is_about_himself() -> None:
    assert permissions_of(Role.CUSTOMER) == {
        Permission.ACCOUNT_SELF,
        Permission.ORDERS_READ,
        Permission.ORDERS_WRITE,
        Permission.PAYMENTS_READ,
        Permission.PAYMENTS_WRITE,
    }


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_a_key_may_what_its_role_and_its_scopes_allow_and_no_more(role: Role, permission: Permission) -> None:
    granted = role in GRANTS[permission]

    assert may(Actor(1, role), permission) is granted
    assert may(Actor(1, role, scopes=frozenset({permission.value})), permission) is granted
    assert may(Actor(1, role, scopes=frozenset()), permission) is False
    if granted:
        require(Actor(1, role), permission)
        with pytest.raises(ScopeMissing, match=permission.value):
            require(Actor(1, role, scopes=frozenset()), permission)
    else:
        with pytest.raises(RoleMissing, match=role.value):
            require(Actor(1, role, scopes=frozenset({permission.value})), permission)


@pytest.mark.parametrize("role", list(Role))
def test_queries_are_limited_to_the_owner_unless_role_and_scope_say_otherwise(role: Role) -> None:
    everybody = role is not Role.CUSTOMER

    assert owner_filter(Actor(7, role)) == (None if everybody else 7)
    assert owner_filter(Actor(7, role, scopes=frozenset({"orders:read"}))) == 7
    assert owner_filter(Actor(7, role, scopes=frozenset({"orders:everybody"}))) == (None if everybody else 7)
