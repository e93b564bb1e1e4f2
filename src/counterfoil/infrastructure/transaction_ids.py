"""The column type of a transaction's number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    _IntegerField = models.Field[int, int]
else:  # generic for the type checker only
    _IntegerField = models.Field


class TransactionIdField(_IntegerField):
    """PostgreSQL's number of a transaction, which does not wrap around (xid8)."""

    def db_type(self, connection: object) -> str:  # noqa: ARG002 - Django's signature
        """Return the column's type."""
        return "xid8"

    def get_prep_value(self, value: int | None) -> str | None:
        """Write it as text, which PostgreSQL reads as whatever it is compared with."""
        return None if value is None else str(value)

    def from_db_value(self, value: str | None, *_: object) -> int | None:
        """Read what the driver gives as text."""
        return None if value is None else int(value)
