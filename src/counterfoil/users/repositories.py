"""All SQL of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from counterfoil.infrastructure.database import fetch_all, transaction_required
from counterfoil.users.models import Profile, User
from counterfoil.users.permissions import Role


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
    """An account with its profile, as it is now."""

    id: int
    email: str
    name: str
    role: Role
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime
    profile: ProfileRecord
    email_confirmed_at: datetime | None = None

    @property
    def etag(self) -> str:
        """Return the entity tag, which changes with every change of account or profile."""
        return f'"{self.version}"'


def _record(user: User) -> UserRecord:
    profile = getattr(user, "profile", None)
    return UserRecord(
        id=user.id,
        email=user.email,
        name=user.name,
        role=Role(user.role),
        is_active=user.is_active,
        version=user.version,
        created_at=user.created_at,
        updated_at=user.updated_at,
        email_confirmed_at=user.email_confirmed_at,
        profile=ProfileRecord()
        if profile is None
        else ProfileRecord(**{field: getattr(profile, field) for field in ProfileRecord.__dataclass_fields__}),
    )


def read_user(user_id: int) -> UserRecord | None:
    """Return an account, active or not, or None."""
    user = User.objects.select_related("profile").filter(id=user_id).first()
    return None if user is None else _record(user)


@transaction_required
def lock_user(user_id: int) -> UserRecord | None:
    """Lock an account until the end of the open transaction and return it, or None."""
    if User.objects.select_for_update(no_key=True).filter(id=user_id).first() is None:
        return None
    return read_user(user_id)


def read_credentials(email: str) -> tuple[UserRecord, str] | None:
    """Return an active account and its password hash by canonical e-mail address, or None."""
    user = User.objects.select_related("profile").filter(email=email, is_active=True).first()
    return None if user is None else (_record(user), user.password)


def read_page(*, after: int, limit: int) -> list[UserRecord]:
    """Return up to `limit` accounts by id, above `after`."""
    return [
        _record(user) for user in User.objects.select_related("profile").filter(id__gt=after).order_by("id")[:limit]
    ]


def is_active(user_id: int) -> bool:
    """Tell whether there is an active account with this id."""
    return User.objects.filter(id=user_id, is_active=True).exists()


@transaction_required
def insert_user(*, email: str, name: str, role: Role, password_hash: str) -> UserRecord:
    """Insert an account with an empty profile. Joins the open transaction. Raises IntegrityError when taken."""
    user = User(email=email, name=name, role=role.value, password=password_hash)
    user.save(force_insert=True)
    Profile(user=user).save(force_insert=True)
    record = read_user(user.id)
    assert record is not None
    return record


def read_ids_by_email(emails: Sequence[str]) -> dict[str, int]:
    """Return the ids of the accounts that exist, active or not, by canonical address."""
    return dict(fetch_all("SELECT email, id FROM users WHERE email = ANY(%(emails)s)", {"emails": list(emails)}))


@transaction_required
def insert_users(users: Sequence[NewUser], *, password_hash: str) -> dict[str, int]:
    """Insert many accounts with empty profiles in one statement; returns the ids of those whose address was free.

    Joins the open transaction.
    """
    # In the order of addresses: two loaders wait for each other in a line, never in a circle.
    ordered = sorted(users, key=lambda user: user.email)
    rows = fetch_all(
        """
        WITH created AS (
          INSERT INTO users (email, name, role, is_active, password)
          SELECT email, name, role, true, %(hash)s
          FROM unnest(%(emails)s::text[], %(names)s::text[], %(roles)s::text[]) AS u (email, name, role)
          ON CONFLICT (email) DO NOTHING RETURNING email, id
        ), described AS (
          INSERT INTO profiles (user_id) SELECT id FROM created
        )
        SELECT email, id FROM created
        """,
        {
            "hash": password_hash,
            "emails": [user.email for user in ordered],
            "names": [user.name for user in ordered],
            "roles": [user.role.value for user in ordered],
        },
    )
    return dict(rows)


@transaction_required
def update_user(user_id: int, values: dict[str, Any], profile: ProfileRecord | None) -> UserRecord:
    """Write new values and raise the version. Joins the transaction that holds the account's lock."""
    User.objects.filter(id=user_id).update(**values, version=F("version") + 1, updated_at=Now())
    if profile is not None:
        fields = {field: getattr(profile, field) for field in ProfileRecord.__dataclass_fields__}
        Profile.objects.update_or_create(user_id=user_id, defaults={**fields, "updated_at": Now()})
    record = read_user(user_id)
    assert record is not None
    return record
