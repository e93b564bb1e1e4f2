"""Where attempts to sign in are counted (the limiter replaces this module)."""

from __future__ import annotations


def begin_attempt(*, account: str, address: str) -> None:
    """Count an attempt before the password is looked at; raises TooManyAttempts."""


def attempt_succeeded(*, account: str, address: str) -> None:
    """Forget the failed attempts of an account from this address."""
