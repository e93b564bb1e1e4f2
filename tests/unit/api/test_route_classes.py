"""Which limit a route has."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("method", "template", "expected"),
    [
        ("POST", "/api/v1/auth/token", "sign_in"),
        ("POST", "/api/v1/auth/refresh", "sign_in"),
        ("POST", "/api/v1/auth/logout", "write"),
        ("POST", "/api/v1/auth/password-reset", "recovery"),
        ("POST", "/api/v1/auth/email-confirmation", "recovery"),
        ("POST", "/api/v1/users", "registration"),
        ("GET", "/api/v1/users", "admin"),
        ("PUT", "/api/v1/users/{user_id:int}", "admin"),
        ("GET", "/api/v1/users/me", "read"),
        ("PUT", "/api/v1/users/me", "write"),
        ("POST", "/api/v1/api-keys", "admin"),
        ("POST", "/api/v1/gift-cards/look-up", "look_up"),
        ("GET", "/api/v1/orders/{order_id:int}", "read"),
        ("POST", "/api/v1/orders", "write"),
        ("GET", "/livez", None),
        ("GET", "/metrics", None),
        ("GET", "/docs", None),
    ],
)
def test_a_route_has_the_class_of_the_first_row_that_fits(method: str, template: str, expected: str | None) -> None:
    from counterfoil.api.middleware.limits import classify_route

    assert classify_route(method, template) == expected
