"""Secrets that can be guessed are found; random ones are never refused."""

from __future__ import annotations

import secrets

import pytest

from counterfoil.config.secret_strength import find_weakness


@pytest.mark.parametrize(
    "secret",
    [
        *(
            "a" * 32,
            "ab" * 16,
            "changeme" * 4,
            "secret" * 6,
            "0123456789abcdef" * 2,
            "abcdefghijklmnopqrstuvwxyz0123456789",
        ),
        *("my-secret-key-changeme-password!", "django-insecure-" + "x9$Lq2!vB7#r" * 4, "1" * 31 + "2"),
        "passwordpasswordpasswordpassword1",
    ],
)
def test_a_secret_that_somebody_made_up_is_weak(secret: str) -> None:
    assert find_weakness(secret) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: secrets.token_hex(16),
        lambda: secrets.token_hex(32),
        lambda: secrets.token_urlsafe(24),
        lambda: secrets.token_urlsafe(48),
        lambda: f"test-secret-{secrets.token_hex(32)}",
    ],
    ids=["32 hex", "64 hex", "32 url-safe", "64 url-safe", "with a word in it"],
)
def test_a_random_secret_is_never_weak(make: object) -> None:
    assert callable(make)

    assert [found for found in (find_weakness(make()) for _ in range(2000)) if found] == []
