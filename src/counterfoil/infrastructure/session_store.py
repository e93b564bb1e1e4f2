"""Sessions of the console in the database, named by a hash: who reads the table cannot use what it holds.

Named to Django by SESSION_ENGINE. The cookie holds 160 random bits; the row is found by their SHA-256, as for tokens.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends import db

from counterfoil.infrastructure.database import fetch_one, transaction

# Django's column has 40 characters: 240 bits in base64.
_NAME_BYTES: Final = 30


class SessionStore(db.SessionStore):
    """Django's own store, which everywhere else knows the cookie's value; in the database it is the hash's."""

    def exists(self, session_key: str) -> bool:
        """Tell whether there is a session of this cookie's value."""
        return super().exists(name_session(session_key))

    async def aexists(self, session_key: str) -> bool:
        """Tell whether there is a session of this cookie's value."""
        return await sync_to_async(self.exists)(session_key)

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        """Make the row to be saved."""
        row = super().create_model_instance(data)
        row.session_key = name_session(row.session_key)
        return row

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        """Make the row to be saved."""
        return await sync_to_async(self.create_model_instance)(data)

    def delete(self, session_key: str | None = None) -> None:
        """Delete the session of this cookie's value, or this one."""
        key = session_key or self.session_key
        if key is not None:
            super().delete(name_session(key))

    async def adelete(self, session_key: str | None = None) -> None:
        """Delete the session of this cookie's value, or this one."""
        await sync_to_async(self.delete)(session_key)

    def _get_session_from_db(self) -> Any:
        from django.utils import timezone

        row = self.model.objects.filter(
            session_key=name_session(self.session_key or ""), expire_date__gt=timezone.now()
        ).first()
        if row is None:
            self._session_key = None
        return row

    async def _aget_session_from_db(self) -> Any:
        return await sync_to_async(self._get_session_from_db)()


def name_session(cookie: str) -> str:
    """Return the name of a cookie's row."""
    return base64.urlsafe_b64encode(hashlib.sha256(cookie.encode()).digest()[:_NAME_BYTES]).decode()


def delete_expired_sessions(*, limit: int) -> int:
    """Delete up to `limit` sessions past their time, in a transaction of its own; returns how many."""
    with transaction():
        row = fetch_one(
            """
            WITH gone AS (
              DELETE FROM django_session WHERE session_key IN (
                SELECT session_key FROM django_session WHERE expire_date <= now()
                ORDER BY expire_date LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
              RETURNING 1)
            SELECT count(*) FROM gone
            """,
            {"limit": limit},
        )
    assert row is not None
    return int(row[0])
