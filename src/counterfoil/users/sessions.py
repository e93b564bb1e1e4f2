"""Sign-ins: tokens for a password, new tokens for a refresh token, and the end of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from django.conf import settings

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction, transaction_required
from counterfoil.infrastructure.rate_limiter import hash_address
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.ids import new_request_id, new_uuid7
from counterfoil.users import access_repositories, passwords, repositories
from counterfoil.users.access import hash_token
from counterfoil.users.access_repositories import Session
from counterfoil.users.attempts import counted_attempt, known_name, knows
from counterfoil.users.errors import CredentialsMissing, LoginFailed, RefreshTokenInvalid
from counterfoil.users.permissions import Actor, require_person
from counterfoil.users.repositories import UserRecord
from counterfoil.users.services import normalise_email
from counterfoil.users.tokens import TOKEN_SECONDS, issue_token

__all__ = [
    "FAMILY_DAYS",
    "REFRESH_DAYS",
    "TOKEN_SECONDS",
    "Tokens",
    "check_credentials",
    "confirm_password",
    "delete_ended",
    "delete_old_revocations",
    "log_out",
    "refresh",
    "sign_in",
    "sign_in_to_console",
]

log = structlog.get_logger(__name__)

# A device that is used once a month stays signed in, for three months at most.
REFRESH_DAYS: Final = 30
FAMILY_DAYS: Final = 90
_REFRESH_PREFIX: Final = "cfr_"
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a sign-in or a refresh gives; the refresh token is nowhere else in clear."""

    access_token: str
    refresh_token: str
    refresh_seconds: int


def sign_in(*, email: str, password: str, address: str, request_id: str) -> Tokens:
    """Return tokens for a password. Opens its own transaction. Raises what `check_credentials` raises."""
    user, password_hash = check_credentials(email=email, password=password, address=address, request_id=request_id)
    session = None
    with transaction():
        declare_change(actor=f"user:{user.id}", action="session.begin", request_id=request_id)
        session = access_repositories.insert_sign_in(
            new_uuid7(),
            user_id=user.id,
            password_hash=password_hash,
            days=FAMILY_DAYS,
            address_hash=known_name(address),
        )
        if session is not None:
            tokens = _issue(session)
    if session is None:  # the password was changed meanwhile
        raise LoginFailed
    return tokens


def sign_in_to_console(*, email: str, password: str, address: str, request_id: str) -> int:
    """Return the account of an address and a password, and record that it came from here. Opens its own transaction.

    Raises what `check_credentials` raises.
    """
    user, _hash = check_credentials(email=email, password=password, address=address, request_id=request_id)
    with transaction():
        declare_change(actor=f"user:{user.id}", action="session.begin_console", request_id=request_id)
        access_repositories.insert_ended_sign_in(
            new_uuid7(), user_id=user.id, reason="console", address_hash=known_name(address)
        )
    return user.id


def check_credentials(*, email: str, password: str, address: str, request_id: str) -> tuple[UserRecord, str]:
    """Return the active account of an address and a password, with its password hash.

    `address` is where the request came from, for the count of attempts. Raises LoginFailed, which does not tell what
    was wrong and takes the same time for each reason, and TooManyAttempts.
    """
    try:
        account = normalise_email(email)
    except ValueError:
        account = ""
    # What is no address is counted as it was given, so that one mistake is not everybody's.
    known = knows(account or email, address)
    with counted_attempt(account=account or email, address=address, known=known, request_id=request_id):
        found = repositories.read_credentials(account) if account else None
        if not passwords.is_right(password, found[1] if found else None) or found is None:
            log.warning(
                "security.login_failed",
                user_id=found[0].id if found else None,
                from_address=hash_address(address),
                request_id=request_id,
            )
            raise LoginFailed
        return found


def confirm_password(user_id: int, *, password: str, address: str, request_id: str) -> None:
    """Return when this is the account's password: who has found an open session has not found the account.

    Counted like an attempt to sign in. Raises ValidationFailed naming `current_password`, and TooManyAttempts.
    """
    user = repositories.read_user(user_id)
    password_hash = access_repositories.read_password_hash(user_id)
    account = (user.email if user is not None else "") or f"user:{user_id}"
    try:
        with counted_attempt(account=account, address=address, known=knows(account, address), request_id=request_id):
            _require_right(password, password_hash)
    except LoginFailed:
        log.warning(
            "security.password_not_confirmed",
            user_id=user_id,
            from_address=hash_address(address),
            request_id=request_id,
        )
        message = "This is not the account's password."
        raise ValidationFailed([{"field": "current_password", "message": message}]) from None


def _require_right(password: str, password_hash: str | None) -> None:
    if not passwords.is_right(password, password_hash):
        raise LoginFailed


def refresh(refresh_token: str, *, request_id: str) -> Tokens:
    """Return new tokens for an unused refresh token, which is used up by that. Opens its own transaction.

    A second use means that somebody else has a copy: the whole family is revoked, the newest token of it included.
    Raises RefreshTokenInvalid.
    """
    token_hash = hash_token(refresh_token)
    known = access_repositories.read_refresh_token(token_hash)
    if known is None:
        raise RefreshTokenInvalid
    with transaction():
        declare_change(actor=f"user:{known.user_id}", action="session.refresh", request_id=request_id)
        session = access_repositories.use_refresh_token(token_hash)
        if session is not None:
            return _issue(session)
        reused = _revoke_reused(token_hash, request_id)
    if reused is not None:
        log.warning("security.refresh_reused", user_id=reused, request_id=request_id)
    raise RefreshTokenInvalid


@transaction_required
def log_out(*, refresh_token: str | None, actor: Actor | None, everywhere: bool, request_id: str) -> None:
    """End the session of a refresh token, else that of the caller's access token, or all of the account's.

    Joins the open transaction. A token without a session ends all. An unknown refresh token ends nothing, quietly;
    one that is used or dead ends its own session only. Raises CredentialsMissing, and SignInRequired for an API key,
    which has no session and may not end those of people.
    """
    sign_in_id: UUID | None
    if refresh_token is not None:
        known = access_repositories.read_refresh_token(hash_token(refresh_token))
        if known is None:
            return
        user_id, sign_in_id, everywhere = known.user_id, known.sign_in_id, everywhere and known.alive
    elif actor is not None:
        require_person(actor)
        user_id, sign_in_id = actor.user_id, None if actor.session is None else UUID(actor.session)
        everywhere = everywhere or sign_in_id is None
    else:
        raise CredentialsMissing
    action = "session.end_all" if everywhere else "session.end"
    declare_change(actor=f"user:{user_id}", action=action, request_id=request_id)
    if everywhere or sign_in_id is None:
        access_repositories.raise_epoch(user_id)
    else:
        access_repositories.revoke_sign_in(sign_in_id, reason="logged out")


def delete_old_revocations(*, limit: int) -> int:
    """Delete up to `limit` revocations that no process needs any more. Opens its own transaction; returns how many."""
    with transaction():
        return access_repositories.delete_old_revocations(limit=limit)


def delete_ended(*, limit: int) -> int:
    """Delete up to `limit` sign-ins that are long over. Opens its own transaction; returns how many."""
    with transaction():
        declare_change(actor="job:delete-ended", action="session.delete", request_id=new_request_id())
        return access_repositories.delete_ended_sign_ins(limit=limit)


def _issue(session: Session) -> Tokens:
    refresh_token = _REFRESH_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    seconds = access_repositories.insert_refresh_token(
        hash_token(refresh_token), sign_in_id=session.sign_in_id, days=REFRESH_DAYS
    )
    actor = Actor(session.user_id, session.role, session=str(session.sign_in_id))
    return Tokens(issue_token(actor, secret=settings.SECRET_KEY, epoch=session.epoch), refresh_token, seconds)


def _revoke_reused(token_hash: bytes, request_id: str) -> int | None:
    known = access_repositories.read_refresh_token(token_hash)
    if known is None or not known.used:
        return None
    declare_change(
        actor=f"user:{known.user_id}",
        action="session.reuse",
        request_id=request_id,
        reason="a refresh token was used twice",
    )
    if not access_repositories.revoke_sign_in(known.sign_in_id, reason="refresh token reused"):
        return None
    return known.user_id
