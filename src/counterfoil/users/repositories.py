"""All SQL of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.db import Error
from django.db.models import F
from django.db.models.functions import Now

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.infrastructure.key_store import blind_index, create_keys, discard_key, read_keys
from counterfoil.users.errors import UserNotFound
from counterfoil.users.models import Profile, User
from counterfoil.users.permissions import Role
from counterfoil.users.sealing import PROFILE_FIELDS, open_field, seal_field


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """How to reach a person; empty where unknown. `country_code` is ISO 3166-1 alpha-2."""

    phone: str = ""
    address_line1: str = ""
    address_line2: str = ""
    postal_code: str = ""
    city: str = ""
    country_code: str = ""


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account to create; the address in its canonical form."""

    email: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class UserRecord:
    """An account with its profile, as it is now. Address and name are empty where unknown, and after an erasure."""

    id: int
    email: str
    name: str
    role: Role
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime
    profile: ProfileRecord
    # The person, as the key store and sealed answers name them.
    subject_id: UUID
    erased_at: datetime | None
    erasure_requested_at: datetime | None
    email_confirmed_at: datetime | None

    @property
    def etag(self) -> str:
        """Return the entity tag, which changes with every change of account or profile."""
        return f'"{self.version}"'


def _records(users: Iterable[User]) -> list[UserRecord]:
    """Open accounts; one query for all their keys."""
    found = list(users)
    keys = read_keys([user.subject_id for user in found])
    return [_record(user, keys) for user in found]


def _record(user: User, keys: Mapping[UUID, bytes]) -> UserRecord:
    subject, profile = user.subject_id, getattr(user, "profile", None)
    return UserRecord(
        id=user.id,
        email=open_field(keys, subject, "email", user.email),
        name=open_field(keys, subject, "name", user.name),
        role=Role(user.role),
        is_active=user.is_active,
        version=user.version,
        created_at=user.created_at,
        updated_at=user.updated_at,
        email_confirmed_at=user.email_confirmed_at,
        profile=ProfileRecord(
            **{field: open_field(keys, subject, field, getattr(profile, field, None)) for field in PROFILE_FIELDS}
        ),
        subject_id=subject,
        erased_at=user.erased_at,
        erasure_requested_at=user.erasure_requested_at,
    )


def read_user(user_id: int) -> UserRecord | None:
    """Return an account, active or not, or None."""
    found = read_users([user_id])
    return found[0] if found else None


def read_users(user_ids: Sequence[int]) -> list[UserRecord]:
    """Return these accounts, active or not, by id; unknown ones are left out."""
    return _records(User.objects.select_related("profile").filter(id__in=list(user_ids)).order_by("id"))


@transaction_required
def lock_user(user_id: int) -> UserRecord | None:
    """Lock an account until the end of the open transaction and return it, or None."""
    if User.objects.select_for_update(no_key=True).filter(id=user_id).first() is None:
        return None
    return read_user(user_id)


def read_credentials(email: str) -> tuple[UserRecord, str] | None:
    """Return an active account and its password hash by canonical e-mail address, or None.

    None also for somebody whose key is gone: a restored database has brought an erased person back.
    """
    user = User.objects.select_related("profile").filter(email_index=blind_index(email), is_active=True).first()
    record = None if user is None else _records([user])[0]
    return None if user is None or record is None or not record.email else (record, user.password)


def read_page(*, after: int, limit: int) -> list[UserRecord]:
    """Return up to `limit` accounts by id, above `after`."""
    return _records(User.objects.select_related("profile").filter(id__gt=after).order_by("id")[:limit])


def is_active(user_id: int) -> bool:
    """Tell whether there is an active account with this id."""
    return User.objects.filter(id=user_id, is_active=True).exists()


@transaction_required
def insert_user(*, email: str, name: str, role: Role, password_hash: str) -> UserRecord:
    """Insert an account with an empty profile. Joins the open transaction. Raises IntegrityError when taken.

    The person's key exists before the row does, and goes again when the row cannot be.
    """
    subject = uuid4()
    key = create_keys([subject])[subject]
    user = User(
        subject_id=subject,
        email=seal_field(key, subject, "email", email),
        email_index=blind_index(email),
        name=seal_field(key, subject, "name", name),
        role=role.value,
        password=password_hash,
    )
    try:
        user.save(force_insert=True)
    except Error:
        discard_key(subject)
        raise
    Profile(user=user).save(force_insert=True)
    record = read_user(user.id)
    assert record is not None
    return record


def read_ids_by_email(emails: Sequence[str]) -> dict[str, int]:
    """Return the ids of the accounts that exist, active or not, by canonical address."""
    by_index = {blind_index(email): email for email in emails}
    rows = fetch_all("SELECT email_index, id FROM users WHERE email_index = ANY(%(all)s)", {"all": list(by_index)})
    return {by_index[bytes(index)]: user_id for index, user_id in rows}


@transaction_required
def insert_users(users: Sequence[NewUser], *, password_hash: str) -> dict[str, int]:
    """Insert many accounts with empty profiles in one statement; returns the ids of those whose address was free.

    Joins the open transaction.
    """
    # In one order for everybody: two loaders wait for each other in a line, never in a circle.
    ordered = sorted(users, key=lambda user: blind_index(user.email))
    subjects = [uuid4() for _ in ordered]
    keys = create_keys(subjects)
    by_index = {blind_index(user.email): user.email for user in ordered}
    people = list(zip(ordered, subjects, strict=True))
    rows = fetch_all(
        """
        WITH created AS (
          INSERT INTO users (subject_id, email, email_index, name, role, is_active, password)
          SELECT subject, email, email_index, name, role, true, %(hash)s
          FROM unnest(%(subjects)s::uuid[], %(emails)s::bytea[], %(indexes)s::bytea[], %(names)s::bytea[],
                      %(roles)s::text[]) AS u (subject, email, email_index, name, role)
          ON CONFLICT (email_index) DO NOTHING RETURNING email_index, id
        ), described AS (
          INSERT INTO profiles (user_id) SELECT id FROM created
        )
        SELECT email_index, id FROM created
        """,
        {
            "hash": password_hash,
            "subjects": subjects,
            "indexes": [blind_index(user.email) for user in ordered],
            "emails": [seal_field(keys[subject], subject, "email", user.email) for user, subject in people],
            "names": [seal_field(keys[subject], subject, "name", user.name) for user, subject in people],
            "roles": [user.role.value for user in ordered],
        },
    )
    return {by_index[bytes(index)]: user_id for index, user_id in rows}


@transaction_required
def update_user(user_id: int, values: dict[str, Any], profile: ProfileRecord | None) -> UserRecord:
    """Write new values and raise the version. Joins the transaction that holds the account's lock.

    Raises UserNotFound for somebody who is erased and whom a restored database has brought back.
    """
    subject = User.objects.values_list("subject_id", flat=True).get(id=user_id)
    written = dict(values)
    key: bytes | None = b""
    if profile is not None or "name" in values:
        key = create_keys([subject]).get(subject)
    if key is None:
        raise UserNotFound
    if "name" in values:
        written["name"] = seal_field(key, subject, "name", values["name"])
    User.objects.filter(id=user_id).update(**written, version=F("version") + 1, updated_at=Now())
    if profile is not None:
        sealed = {field: seal_field(key, subject, field, getattr(profile, field)) for field in PROFILE_FIELDS}
        Profile.objects.update_or_create(user_id=user_id, defaults={**sealed, "updated_at": Now()})
    record = read_user(user_id)
    assert record is not None
    return record


# ---------------------------------------------------------------- erasure
@transaction_required
def lock_account(user_id: int) -> bool:
    """Lock an account until the end of the open transaction, without opening it; returns whether there is one."""
    return fetch_one("SELECT id FROM users WHERE id = %(id)s FOR NO KEY UPDATE", {"id": user_id}) is not None


@transaction_required
def lock_administrators() -> set[int]:
    """Lock all active administrators who stay, by id, until the end of the open transaction; returns their ids.

    To be called before the lock of one account. Of two who leave at once, the second sees the first gone.
    """
    rows = fetch_all(
        "SELECT id FROM users WHERE role = 'admin' AND is_active AND erasure_requested_at IS NULL"
        " ORDER BY id FOR NO KEY UPDATE",
        {},
    )
    return {row[0] for row in rows}


@transaction_required
def hold_account(user_id: int) -> bool | None:
    """Hold an account against changes until the end of the open transaction, beside others who hold it.

    Returns whether its erasure was requested or done, or None when there is no such account.
    """
    row = fetch_one(
        "SELECT erasure_requested_at IS NOT NULL OR erased_at IS NOT NULL FROM users WHERE id = %(id)s FOR SHARE",
        {"id": user_id},
    )
    return None if row is None else bool(row[0])


@transaction_required
def mark_leaving(user_id: int) -> None:
    """Record that an erasure was requested. Idempotent. Joins the transaction that holds the account's lock."""
    fetch_all(
        "UPDATE users SET erasure_requested_at = now() WHERE id = %(id)s AND erasure_requested_at IS NULL",
        {"id": user_id},
    )


def read_subject(user_id: int) -> UUID | None:
    """Return the person behind an account without opening anything, or None."""
    row = fetch_one("SELECT subject_id FROM users WHERE id = %(id)s", {"id": user_id})
    return None if row is None else row[0]


@transaction_required
def deactivate(user_id: int) -> bool:
    """Close an account and make its password one that fits nothing; returns whether it was open."""
    row = fetch_one(
        "UPDATE users SET is_active = false, password = '!', version = version + 1, updated_at = now(),"
        " erasure_requested_at = coalesce(erasure_requested_at, now())"
        " WHERE id = %(id)s AND (is_active OR password <> '!') RETURNING 1",
        {"id": user_id},
    )
    return row is not None


@transaction_required
def forget_person(user_id: int) -> None:
    """Take everything personal out of account and profile. Idempotent. Joins the open transaction."""
    fetch_all(
        """
        UPDATE profiles SET phone = NULL, address_line1 = NULL, address_line2 = NULL, postal_code = NULL, city = NULL,
                            country_code = NULL, updated_at = now()
        WHERE user_id = %(id)s
        """,
        {"id": user_id},
    )
    fetch_all(
        "UPDATE users SET email = NULL, email_index = NULL, name = NULL, is_active = false, version = version + 1,"
        " updated_at = now(), erased_at = now() WHERE id = %(id)s AND erased_at IS NULL",
        {"id": user_id},
    )


def find_by_subjects(subjects: Sequence[UUID]) -> dict[UUID, tuple[int, bool]]:
    """Return (id, whether erased) of the accounts of these people; unknown ones are left out."""
    rows = fetch_all(
        "SELECT subject_id, id, erased_at IS NOT NULL FROM users WHERE subject_id = ANY (%(subjects)s)",
        {"subjects": list(subjects)},
    )
    return {subject: (user_id, erased) for subject, user_id, erased in rows}


def find_erased(*, after: int, limit: int) -> list[tuple[int, UUID]]:
    """Return (id, subject) of up to `limit` erased accounts by id, above `after`."""
    rows = fetch_all(
        "SELECT id, subject_id FROM users WHERE erased_at IS NOT NULL AND id > %(after)s ORDER BY id LIMIT %(limit)s",
        {"after": after, "limit": limit},
    )
    return [(row[0], row[1]) for row in rows]
