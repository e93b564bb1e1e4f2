"""RL-03 and what a request is counted on."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("django_ready")


def test_security_RL_03_a_code_that_can_be_guessed_is_counted_per_caller_and_per_address() -> None:
    from counterfoil.api.middleware.limits import RouteClass, find_hits
    from counterfoil.users.permissions import Actor, Role

    known = find_hits(RouteClass.LOOK_UP, Actor(7, Role.CUSTOMER), "192.0.2.1")
    stranger = find_hits(RouteClass.LOOK_UP, None, "192.0.2.1")

    assert [hit.key.partition(":")[0] for hit in known] == ["look_up", "look_up"]
    assert known[0].key == "look_up:user:7"
    assert stranger == [known[1]]
    assert {(hit.window_seconds, hit.limit % 10) for hit in known} == {(60, 0)}


def test_who_signs_in_is_counted_by_address_and_where_redis_is_away_in_postgresql() -> None:
    from counterfoil.api.middleware.limits import RouteClass, find_hits
    from counterfoil.users.permissions import Actor, Role

    for route in (RouteClass.SIGN_IN, RouteClass.RECOVERY, RouteClass.REGISTRATION):
        [hit] = find_hits(route, None, "192.0.2.1")
        assert hit.key.startswith(f"{route}:address:")
        assert hit.strict
    [admin] = find_hits(RouteClass.REGISTRATION, Actor(1, Role.ADMIN), "192.0.2.1")
    strangers = find_hits(RouteClass.REGISTRATION, None, "192.0.2.1")
    for caller in (Actor(3, Role.CUSTOMER), Actor(1, Role.ADMIN, scopes=frozenset({"orders:read"}), key_id=9)):
        assert find_hits(RouteClass.REGISTRATION, caller, "192.0.2.1") == strangers
    [service] = find_hits(RouteClass.WRITE, Actor(2, Role.SERVICE), "192.0.2.1")
    assert (admin.key, service.key) == ("admin:user:1", "service:user:2")
