"""People on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END, Line
from counterfoil.users.permissions import Role
from counterfoil.users.services import ProfileRecord, UserRecord

Email = Annotated[
    str, Meta(min_length=5, max_length=255, pattern=r"^[^\x00-\x20]+@[^\x00-\x20]+" + END, examples=["ada@example.com"])
]
# 1,024 characters: enough for any passphrase, too little to make hashing expensive.
Password = Annotated[str, Meta(min_length=1, max_length=1024, examples=["correct horse battery"])]
_Short = Annotated[str, Meta(max_length=32, pattern=r"^[^\x00-\x1f]*" + END)]
_Medium = Annotated[str, Meta(max_length=120, pattern=r"^[^\x00-\x1f]*" + END)]
_Long = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f]*" + END)]


class CreateUserIn(Struct, forbid_unknown_fields=True, frozen=True):
    """A new account, made by an administrator."""

    email: Email
    name: Line
    password: Password
    role: Role = Role.CUSTOMER


class ProfileBody(Struct, forbid_unknown_fields=True, frozen=True):
    """How to reach a person; empty where unknown."""

    phone: _Short = ""
    address_line1: _Long = ""
    address_line2: _Long = ""
    postal_code: Annotated[str, Meta(max_length=20, pattern=r"^[^\x00-\x1f]*" + END)] = ""
    city: _Medium = ""
    country_code: Annotated[str, Meta(pattern=r"^([A-Z]{2})?" + END, examples=["DE"])] = ""

    def to_record(self) -> ProfileRecord:
        """Turn the body into the core's record."""
        return ProfileRecord(
            self.phone, self.address_line1, self.address_line2, self.postal_code, self.city, self.country_code
        )


class UpdateMeIn(Struct, forbid_unknown_fields=True, frozen=True):
    """One's own new values; a field that is left out stays. A new password wants the current one."""

    name: Line | None = None
    password: Password | None = None
    current_password: Password | None = None
    profile: ProfileBody | None = None


class UpdateUserIn(Struct, forbid_unknown_fields=True, frozen=True):
    """An account's new values, set by an administrator; a field that is left out stays."""

    name: Line | None = None
    password: Password | None = None
    profile: ProfileBody | None = None
    role: Role | None = None
    is_active: bool | None = None


class UserOut(Struct, frozen=True):
    """An account with its profile."""

    id: int
    email: str
    name: str
    role: Role
    is_active: bool
    version: int
    profile: ProfileBody
    email_confirmed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class UserPage(Struct, frozen=True):
    """One page; `next` is the address of the following one, null on the last."""

    items: list[UserOut]
    next_cursor: str | None
    next: str | None


def render_user(user: UserRecord) -> UserOut:
    """Turn the core's record into what is shown."""
    profile = user.profile
    return UserOut(
        id=user.id,
        email=user.email,
        name=user.name,
        role=user.role,
        is_active=user.is_active,
        version=user.version,
        profile=ProfileBody(
            profile.phone,
            profile.address_line1,
            profile.address_line2,
            profile.postal_code,
            profile.city,
            profile.country_code,
        ),
        email_confirmed_at=user.email_confirmed_at,
        created_at=user.created_at,
        updated_at=user.updated_at,
    )
