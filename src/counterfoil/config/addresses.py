"""Addresses of stores as they stand in the environment: refused with a sentence that repeats no password."""

from __future__ import annotations

from urllib.parse import urlsplit


def require_postgresql(value: str) -> str:
    """Return the address of a PostgreSQL, or an empty one; raises ValueError for what is none."""
    if value and urlsplit(value).scheme not in {"postgresql", "postgres"}:
        raise ValueError("must start with postgresql://")
    try:
        _ = urlsplit(value).port
    except ValueError:  # its own text would show a part of the password
        raise ValueError("has a port that is no number; write / ? # @ in a password as %2F %3F %23 %40") from None
    return value


def require_redis(value: str) -> str:
    """Return the address of a Redis, or an empty one; raises ValueError for what is none."""
    if value and urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must start with redis://, rediss:// or unix://")
    return value
