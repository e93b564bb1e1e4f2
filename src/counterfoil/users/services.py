"""People: sign in, register, read and change accounts and profiles."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError

from counterfoil.infrastructure.database import transaction_required
from counterfoil.infrastructure.outbox import append_audit
from counterfoil.kernel.errors import ServiceUnavailable, ValidationFailed
from counterfoil.users import attempts, repositories, tokens
from counterfoil.users.errors import EmailTaken, LoginFailed, UserChanged, UserNotFound
from counterfoil.users.permissions import Actor, Role
from counterfoil.users.repositories import NewUser, ProfileRecord, UserRecord
from counterfoil.users.tokens import TOKEN_SECONDS

__all__ = [
    "TOKEN_SECONDS",
    "NewUser",
    "ProfileRecord",
    "UserRecord",
    "authenticate",
    "create_user",
    "create_users",
    "find_user",
    "find_user_ids",
    "is_active",
    "issue_token",
    "list_users",
    "normalise_email",
    "sign_in",
    "update_user",
]


# Hashed when no account matches, so that a wrong address takes as long as a wrong password.
@functools.cache  # made when first needed: hashing takes 100 MB, which a worker never needs
def _unknown_hash() -> str:
    return make_password("nobody has this password")


# Argon2 takes 100 MB and a core each time. More at once would take memory and threads from everybody else.
_HASHING: Final = threading.BoundedSemaphore(2)
_HASHING_SECONDS_MAX: Final = 1.0


def normalise_email(email: str) -> str:
    """Return the canonical form of an address: one account per address, whatever its capitals.

    Raises ValueError when it is not plainly `local@domain.tld` in ASCII without white space or control characters.
    """
    local, at, domain = email.strip().lower().rpartition("@")
    plain = email.isascii() and all("!" <= character <= "~" for character in local + domain)
    if not (at and local and plain and "." in domain.strip(".") and ".." not in domain and "@" not in local):
        raise ValueError("not an e-mail address such as name@example.com")
    return f"{local}@{domain}"


def sign_in(*, email: str, password: str, address: str) -> str:
    """Return an access token for one hour; raises LoginFailed, which does not tell what was wrong.

    `address` is the client's; too many wrong passwords raise TooManyAttempts before one more is looked at.
    """
    attempts.begin_attempt(account=email, address=address)
    try:
        found = repositories.read_credentials(normalise_email(email))
    except ValueError:
        found = None
    with _hashing():
        right = check_password(password, found[1] if found else _unknown_hash())
    if not right or found is None:
        raise LoginFailed
    attempts.attempt_succeeded(account=email, address=address)
    return tokens.issue_token(Actor(found[0].id, found[0].role), secret=settings.SECRET_KEY)


def issue_token(actor: Actor) -> str:
    """Return an access token for one hour without asking for a password; for the terminal of the demo."""
    return tokens.issue_token(actor, secret=settings.SECRET_KEY)


def authenticate(token: str) -> Actor:
    """Return the account an access token belongs to; raises TokenInvalid. No database access."""
    return tokens.verify_token(token, secret=settings.SECRET_KEY)


def find_user(user_id: int) -> UserRecord:
    """Return one account; raises UserNotFound."""
    user = repositories.read_user(user_id)
    if user is None:
        raise UserNotFound
    return user


def find_user_ids(emails: Sequence[str]) -> dict[str, int]:
    """Return the ids of the accounts that exist, active or not, by canonical address, in one query."""
    return repositories.read_ids_by_email(emails)


def is_active(user_id: int) -> bool:
    """Tell whether there is an active account with this id."""
    return repositories.is_active(user_id)


def list_users(*, after: int, limit: int) -> list[UserRecord]:
    """Return up to `limit` accounts in the order of their ids, above `after`."""
    return repositories.read_page(after=after, limit=limit)


@transaction_required
def create_user(*, email: str, name: str, password: str, role: Role, actor: str, request_id: str) -> UserRecord:
    """Create an account. Joins the open transaction. Raises EmailTaken, or ValidationFailed for a weak password."""
    try:
        user = repositories.insert_user(email=email, name=name, role=role, password_hash=_hash_password(password))
    except IntegrityError as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise EmailTaken from error
        raise
    append_audit(
        actor=actor or f"user:{user.id}",
        action="user.create",
        target="user",
        target_ids=[user.id],
        request_id=request_id,
        changes={"role": role.value},
    )
    return user


@transaction_required
def create_users(users: Sequence[NewUser], *, actor: str, request_id: str, reason: str) -> dict[str, int]:
    """Create those of many accounts whose address is free, in two statements; returns the new ids by address.

    Joins the open transaction. They have no password: nobody can sign in until one is set.
    """
    assert all(user.email == normalise_email(user.email) for user in users), "addresses are canonical"
    created = repositories.insert_users(users, password_hash=make_password(None))
    append_audit(
        actor=actor,
        action="user.create",
        target="user",
        target_ids=list(created.values()),
        request_id=request_id,
        reason=reason,
    )
    return created


@transaction_required
def update_user(
    user_id: int,
    *,
    values: dict[str, Any],
    profile: ProfileRecord | None,
    etag: str | None,
    actor: str,
    request_id: str,
) -> UserRecord:
    """Change name, role, activity, password or profile. Joins the open transaction; locks the account.

    Raises UserNotFound, UserChanged when `etag` is given and no longer true, ValidationFailed for a weak password.
    """
    before = repositories.lock_user(user_id)
    if before is None:
        raise UserNotFound
    if etag is not None and etag != before.etag:
        raise UserChanged
    written = dict(values)
    if "password" in written:
        written["password"] = _hash_password(written["password"])
    after = repositories.update_user(user_id, written, profile)
    append_audit(
        actor=actor,
        action="user.update",
        target="user",
        target_ids=[user_id],
        request_id=request_id,
        # Names of what changed, never the values: the audit outlives an erasure.
        changes={"fields": sorted([*values, *(["profile"] if profile else [])])},
    )
    return after


def _hash_password(password: str) -> str:
    try:
        validate_password(password)
    except ValidationError as error:
        raise ValidationFailed([{"field": "password", "message": " ".join(error.messages)}]) from error
    with _hashing():
        return make_password(password)


@contextmanager
def _hashing() -> Iterator[None]:
    if not _HASHING.acquire(timeout=_HASHING_SECONDS_MAX):
        raise ServiceUnavailable
    try:
        yield
    finally:
        _HASHING.release()
