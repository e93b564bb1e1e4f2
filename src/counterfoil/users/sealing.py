"""Personal fields of accounts: sealed before they are written, opened after they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from counterfoil.infrastructure.encryption import open_seal, seal

ACCOUNT_FIELDS: Final = ("email", "name")
PROFILE_FIELDS: Final = ("phone", "address_line1", "address_line2", "postal_code", "city", "country_code")


def seal_field(key: bytes, subject: UUID, field: str, value: str) -> bytes | None:
    """Return the ciphertext of a field; None for an empty one, which is stored as NULL."""
    return seal(key, value.encode(), place=_place(field, subject)) if value else None


def open_field(keys: Mapping[UUID, bytes], subject: UUID, field: str, sealed: bytes | memoryview | None) -> str:
    """Return a field's text; empty when there is none, or when the person's key was deleted."""
    key = keys.get(subject)
    return "" if sealed is None or key is None else open_seal(key, bytes(sealed), place=_place(field, subject)).decode()


def _place(field: str, subject: UUID) -> str:
    # Bound to column and person: a ciphertext that is copied elsewhere does not open.
    table = "users" if field in ACCOUNT_FIELDS else "profiles"
    return f"{table}.{field}|{subject}"
