"""API keys on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END, Id
from counterfoil.users.api_keys import DAYS_MAX, ApiKeyRecord
from counterfoil.users.permissions import Permission

KeyName = Annotated[str, Meta(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f]*[^\x00-\x1f\s][^\x00-\x1f]*" + END)]


class CreateApiKeyIn(Struct, forbid_unknown_fields=True, frozen=True):
    """A new key: the account it acts as, what it may do of what that account's role may, and for how many days."""

    user_id: Id
    name: KeyName
    scopes: Annotated[list[Permission], Meta(min_length=1, max_length=50)]
    expires_in_days: Annotated[int, Meta(ge=1, le=DAYS_MAX)] = 90


class ApiKeyOut(Struct, frozen=True):
    """A key without its secret; `prefix` is how it begins."""

    id: int
    user_id: int
    name: str
    prefix: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewApiKeyOut(Struct, frozen=True):
    """A new key with its secret `key`, which is shown this once: it is null when the answer is a replay."""

    id: int
    user_id: int
    name: str
    prefix: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    key: str | None


class ApiKeyPage(Struct, frozen=True):
    """One page; `next` is the address of the following one, null on the last."""

    items: list[ApiKeyOut]
    next_cursor: str | None
    next: str | None


def render_key(key: ApiKeyRecord) -> ApiKeyOut:
    """Turn the core's record into what is shown."""
    return ApiKeyOut(
        key.id,
        key.user_id,
        key.name,
        key.prefix,
        list(key.scopes),
        key.created_by,
        key.created_at,
        key.expires_at,
        key.last_used_at,
        key.revoked_at,
    )


def render_new_key(key: ApiKeyRecord, secret: str) -> NewApiKeyOut:
    """Turn the core's record of a key that was made this moment into what is shown once."""
    return NewApiKeyOut(
        key.id,
        key.user_id,
        key.name,
        key.prefix,
        list(key.scopes),
        key.created_by,
        key.created_at,
        key.expires_at,
        secret,
    )
