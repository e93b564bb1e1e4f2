"""People: register, read and change accounts and profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import IntegrityError

from counterfoil.infrastructure.audit import append_entry, declare_change
from counterfoil.infrastructure.database import no_transaction, transaction_required
from counterfoil.infrastructure.key_store import blind_index
from counterfoil.notifications.services import discard_mails
from counterfoil.users import access_repositories, recovery_repositories, repositories, tokens
from counterfoil.users.access_repositories import ApiKeyRecord, LinkRecord, SignInRecord
from counterfoil.users.errors import EmailTaken, ErasureRequested, LastAdministrator, UserChanged, UserNotFound
from counterfoil.users.passwords import hash_password
from counterfoil.users.permissions import Actor, Role
from counterfoil.users.repositories import NewUser, ProfileRecord, UserRecord

__all__ = [
    "ApiKeyRecord",
    "NewUser",
    "ProfileRecord",
    "UserRecord",
    "create_user",
    "create_users",
    "find_access",
    "find_by_subjects",
    "find_erased",
    "find_subject",
    "find_user",
    "find_user_ids",
    "forget_person",
    "hash_password",
    "inspect_page",
    "inspect_user",
    "inspect_users",
    "is_active",
    "issue_token",
    "lock_account",
    "normalise_email",
    "prepare_password",
    "read_epoch",
    "registration_principal",
    "request_erasure",
    "revoke_access",
    "update_user",
]


def normalise_email(email: str) -> str:
    """Return the canonical form of an address: one account per address, whatever its capitals.

    Raises ValueError when it is not plainly `local@domain.tld` in ASCII without white space or control characters.
    """
    local, at, domain = email.strip().lower().rpartition("@")
    plain = email.isascii() and all("!" <= character <= "~" for character in local + domain)
    if not (at and local and plain and "." in domain.strip(".") and ".." not in domain and "@" not in local):
        raise ValueError("not an e-mail address such as name@example.com")
    return f"{local}@{domain}"


def issue_token(actor: Actor, *, epoch: int = 0) -> str:
    """Return an access token for one hour without asking for a password; for the terminal of the demo."""
    return tokens.issue_token(actor, secret=settings.SECRET_KEY, epoch=epoch)


def read_epoch(user_id: int) -> int:
    """Return the epoch that a new access token of this account carries."""
    return access_repositories.read_epoch(user_id)


def find_user(user_id: int) -> UserRecord:
    """Return one account; raises UserNotFound."""
    user = repositories.read_user(user_id)
    if user is None:
        raise UserNotFound
    return user


def registration_principal(email: str) -> str:
    """Return the scope of idempotency keys of somebody without an account: the index of the canonical address."""
    return f"email:{blind_index(email)[:16].hex()}"


def find_user_ids(emails: Sequence[str]) -> dict[str, int]:
    """Return the ids of the accounts that exist, active or not, by canonical address, in one query."""
    return repositories.read_ids_by_email(emails)


def is_active(user_id: int) -> bool:
    """Tell whether there is an active account with this id."""
    return repositories.is_active(user_id)


@transaction_required
def inspect_user(user_id: int, *, actor: str, request_id: str) -> UserRecord:
    """Return one account to somebody of the staff, and record who has read it. Raises UserNotFound."""
    user = find_user(user_id)
    _record_reading([user], actor=actor, request_id=request_id)
    return user


@transaction_required
def inspect_users(user_ids: Sequence[int], *, actor: str, request_id: str) -> list[UserRecord]:
    """Return these accounts to somebody of the staff, by id, and record who has read them."""
    found = repositories.read_users(user_ids)
    _record_reading(found, actor=actor, request_id=request_id)
    return found


@transaction_required
def inspect_page(*, after: int, limit: int, actor: str, request_id: str) -> tuple[list[UserRecord], bool]:
    """Return up to `limit` accounts by id above `after`, and whether there are more; record who has read them."""
    found = repositories.read_page(after=after, limit=limit + 1)
    _record_reading(found[:limit], actor=actor, request_id=request_id)
    return found[:limit], len(found) > limit


def _record_reading(users: Sequence[UserRecord], *, actor: str, request_id: str) -> None:
    """Leave one entry for all that one request has read: it stands at the first of them and names all."""
    if users:
        append_entry(
            actor=actor,
            action="user.read",
            target="user",
            target_id=users[0].id,
            request_id=request_id,
            changes={"users": [user.id for user in users]},
        )


@no_transaction
def prepare_password(password: str, *, user_id: int, name: str | None) -> str:
    """Return the hash that `update_user` is given; `name` is the new one, if there is one.

    Before the transaction: hashing takes long, and nobody should wait for the account's row meanwhile. Raises
    UserNotFound, ValidationFailed for a weak password.
    """
    user = find_user(user_id)
    return hash_password(password, email=user.email, name=name or user.name)


@transaction_required
def create_user(*, email: str, name: str, password_hash: str, role: Role, actor: str, request_id: str) -> UserRecord:
    """Create an account with the hash that `hash_password` made. Joins the open transaction. Raises EmailTaken."""
    # Whoever registers has no number yet; the entry's target is theirs.
    declare_change(actor=actor or "anonymous", action="user.create", request_id=request_id)
    try:
        return repositories.insert_user(email=email, name=name, role=role, password_hash=password_hash)
    except IntegrityError as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise EmailTaken from error
        raise


@transaction_required
def create_users(users: Sequence[NewUser], *, actor: str, request_id: str, reason: str) -> dict[str, int]:
    """Create those of many accounts whose address is free, in two statements; returns the new ids by address.

    Joins the open transaction. They have no password: nobody can sign in until one is set.
    """
    assert all(user.email == normalise_email(user.email) for user in users), "addresses are canonical"
    declare_change(actor=actor, action="user.create", request_id=request_id, reason=reason)
    return repositories.insert_users(users, password_hash=make_password(None))


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
    """Change name, role, activity, password (hashed already) or profile. Joins the open transaction; locks the account.

    Raises UserNotFound, ErasureRequested, LastAdministrator, and UserChanged when `etag` is given and no longer true.
    """
    declare_change(actor=actor, action="user.update", request_id=request_id)
    if values.get("is_active") is False or values.get("role", Role.ADMIN) != Role.ADMIN:
        _require_another_administrator(user_id)
    before = repositories.lock_user(user_id)
    if before is None or before.erased_at is not None:
        raise UserNotFound
    if before.erasure_requested_at is not None:
        raise ErasureRequested
    if etag is not None and etag != before.etag:
        raise UserChanged
    return repositories.update_user(user_id, values, profile)


# ---------------------------------------------------------------- leaving
def _require_another_administrator(user_id: int) -> None:
    """Refuse to let the last active administrator go: nobody could make another one. Before the account's lock."""
    if repositories.lock_administrators() == {user_id}:
        raise LastAdministrator


@transaction_required
def request_erasure(user_id: int, *, again: bool) -> None:
    """Let nothing be added to an account from here on. Idempotent. Joins the open transaction.

    `again`: a restored database has brought somebody back who was erased. Raises UserNotFound, and LastAdministrator
    unless it is `again`.
    """
    if not again:
        _require_another_administrator(user_id)
    lock_account(user_id)
    repositories.mark_leaving(user_id)


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """How an account is used: by sign-ins, by programs, and by links in mails."""

    sign_ins: list[SignInRecord]
    api_keys: list[ApiKeyRecord]
    links: list[LinkRecord]


def find_access(user_id: int) -> AccessRecord:
    """Return all that is known about how an account is used."""
    return AccessRecord(
        access_repositories.read_sign_ins(user_id),
        access_repositories.read_api_keys_of(user_id),
        access_repositories.read_links(user_id),
    )


def find_subject(user_id: int) -> UUID:
    """Return the person behind an account, also one whose data does not open. Raises UserNotFound."""
    subject = repositories.read_subject(user_id)
    if subject is None:
        raise UserNotFound
    return subject


@transaction_required
def lock_account(user_id: int) -> None:
    """Lock an account until the end of the open transaction. Raises UserNotFound."""
    if not repositories.lock_account(user_id):
        raise UserNotFound


@transaction_required
def revoke_access(user_id: int, *, actor: str, request_id: str, reason: str) -> None:
    """Close an account: no sign-in, no key, no link, no order, a password that fits nothing, and no mail left here.

    Idempotent. Joins the open transaction.
    """
    declare_change(actor=actor, action="user.revoke_access", request_id=request_id, reason=reason)
    # Files go before the rows that name them: whoever repeats this after a kill finds them still.
    discard_mails(recovery_repositories.read_mail_ids(user_id))
    repositories.deactivate(user_id)
    access_repositories.forget_access(user_id)


@transaction_required
def forget_person(user_id: int) -> None:
    """Take everything personal out of an account and its profile. Idempotent. Joins the open transaction."""
    repositories.forget_person(user_id)


def find_by_subjects(subjects: Sequence[UUID]) -> dict[UUID, tuple[int, bool]]:
    """Return (id, whether erased) of the accounts of these people, as the key store names them."""
    return repositories.find_by_subjects(subjects)


def find_erased(*, after: int, limit: int) -> list[tuple[int, UUID]]:
    """Return (id, person) of up to `limit` erased accounts by id, above `after`."""
    return repositories.find_erased(after=after, limit=limit)
