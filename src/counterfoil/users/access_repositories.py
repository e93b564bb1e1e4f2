"""All SQL of what gives access and takes it away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.users.permissions import Role

AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]

# Access tokens live for 60 minutes; older revocations have nothing left to revoke.
MEMORY_MINUTES: Final = 65
_REVOCATION_HOURS_MAX: Final = 2
# Whoever has come from an address within a month is no stranger there.
KNOWN_DAYS: Final = 30


# ---------------------------------------------------------------- what a web process keeps in its memory
class Revocation(NamedTuple):
    """Rights taken away: all tokens of an account below `epoch`, or one sign-in, or one API key."""

    user_id: int
    epoch: int | None
    sign_in_id: UUID | None
    api_key_id: int | None


async def read_revocations(connection: AsyncConnection, *, since: int | None) -> tuple[list[Revocation], int]:
    """Return the revocations that a read at `since` could not see yet, and what to pass as `since` next time.

    `since` is a transaction number: the oldest that was still open then. However late a transaction commits, its
    rows carry a number from there on. None, or a number from the future (another server took over): all that matter.
    """
    cursor = await connection.execute(
        """
        WITH now_open AS (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS number)
        SELECT r.user_id, r.epoch, r.sign_in_id, r.api_key_id, o.number
        FROM now_open o LEFT JOIN access_revocations r
          ON r.revoked_at > now() - make_interval(mins => %(minutes)s)
          AND (%(since)s::bigint IS NULL OR o.number < %(since)s
               OR r.written_by >= %(since)s::text::xid8)
        """,
        {"minutes": MEMORY_MINUTES, "since": since},
        prepare=True,
    )
    rows = await cursor.fetchall()
    return [Revocation(*row[:4]) for row in rows if row[0] is not None], int(rows[0][4])


class KeyGrant(NamedTuple):
    """What an API key allows, as long as its account's epoch is this one."""

    key_id: int
    user_id: int
    role: Role
    scopes: frozenset[str]
    epoch: int
    seconds_left: float


async def read_api_key(connection: AsyncConnection, secret_hash: bytes) -> KeyGrant | None:
    """Return what a living key of an active account allows, or None."""
    cursor = await connection.execute(
        """
        SELECT k.id, k.user_id, u.role, k.scopes, u.token_epoch, extract(epoch FROM k.expires_at - now())
        FROM api_keys k JOIN users u ON u.id = k.user_id
        WHERE k.secret_hash = %(hash)s AND k.revoked_at IS NULL AND k.expires_at > now() AND u.is_active
        """,
        {"hash": secret_hash},
    )
    row = await cursor.fetchone()
    return None if row is None else KeyGrant(row[0], row[1], Role(row[2]), frozenset(row[3]), row[4], float(row[5]))


async def note_key_uses(connection: AsyncConnection, key_ids: Sequence[int]) -> None:
    """Record that these keys were used in the last seconds; rows that somebody else holds wait for the next time."""
    await connection.execute(
        """
        UPDATE api_keys SET last_used_at = now() WHERE id IN (
          SELECT id FROM api_keys WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
        """,
        {"ids": list(key_ids)},
    )


def delete_old_revocations(*, limit: int) -> int:
    """Delete up to `limit` revocations that no process needs any more; returns how many."""
    return _count(
        """
        WITH gone AS (
          DELETE FROM access_revocations WHERE id IN (
            SELECT id FROM access_revocations WHERE revoked_at < now() - make_interval(hours => %(hours)s)
            ORDER BY revoked_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
          RETURNING 1)
        SELECT count(*) FROM gone
        """,
        {"limit": limit, "hours": _REVOCATION_HOURS_MAX},
    )


# ---------------------------------------------------------------- epochs
def read_epoch(user_id: int) -> int:
    """Return the account's epoch; 0 when there is no such account."""
    row = fetch_one("SELECT token_epoch FROM users WHERE id = %(id)s", {"id": user_id})
    return 0 if row is None else int(row[0])


def read_password_hash(user_id: int) -> str | None:
    """Return an active account's password hash, or None."""
    row = fetch_one("SELECT password FROM users WHERE id = %(id)s AND is_active", {"id": user_id})
    return None if row is None else str(row[0])


@transaction_required
def raise_epoch(user_id: int) -> None:
    """End every access token and session of an account. Joins the open transaction; triggers do the rest."""
    fetch_all("UPDATE users SET token_epoch = token_epoch + 1 WHERE id = %(id)s", {"id": user_id})


# ---------------------------------------------------------------- sign-ins and refresh tokens
class Session(NamedTuple):
    """A sign-in that is alive, and what its next access token says."""

    sign_in_id: UUID
    user_id: int
    role: Role
    epoch: int


@transaction_required
def insert_sign_in(
    sign_in_id: UUID, *, user_id: int, password_hash: str, days: int, address_hash: bytes | None
) -> Session | None:
    """Insert a sign-in of an account that is active and still has this password, or return None.

    Joins the open transaction and holds the account against changes until its end: a password that is changed while
    somebody signs in with the old one leaves no session behind.
    """
    row = fetch_one(
        """
        WITH account AS (
          SELECT id, role, token_epoch FROM users
          WHERE id = %(user)s AND is_active AND password = %(password)s FOR SHARE
        ), started AS (
          INSERT INTO sign_ins (id, user_id, expires_at, address_hash)
          SELECT %(id)s, id, now() + make_interval(days => %(days)s), %(address)s FROM account)
        SELECT role, token_epoch FROM account
        """,
        {
            "id": sign_in_id,
            "user": user_id,
            "password": password_hash,
            "days": days,
            "address": address_hash,
        },
    )
    return None if row is None else Session(sign_in_id, user_id, Role(row[0]), row[1])


@transaction_required
def insert_ended_sign_in(sign_in_id: UUID, *, user_id: int, reason: str, address_hash: bytes | None) -> None:
    """Insert a sign-in that gives no tokens: it tells for KNOWN_DAYS where the account has come from."""
    fetch_all(
        "INSERT INTO sign_ins (id, user_id, expires_at, revoked_at, revoke_reason, address_hash) VALUES"
        " (%(id)s, %(user)s, now() + make_interval(days => %(days)s), now(), %(reason)s, %(address)s)",
        {"id": sign_in_id, "user": user_id, "days": KNOWN_DAYS, "reason": reason, "address": address_hash},
    )


def is_known_address(*, email_index: bytes, address_hash: bytes | None) -> bool:
    """Tell whether an account has come from this address within KNOWN_DAYS; False when there is no such account."""
    row = fetch_one(
        """
        SELECT EXISTS (
          SELECT 1 FROM users u JOIN sign_ins s ON s.user_id = u.id
          WHERE u.email_index = %(email)s AND s.address_hash = %(address)s
            AND s.created_at > now() - make_interval(days => %(days)s))
        """,
        {"email": email_index, "address": address_hash, "days": KNOWN_DAYS},
    )
    return row is not None and bool(row[0])


@transaction_required
def insert_refresh_token(token_hash: bytes, *, sign_in_id: UUID, days: int) -> int:
    """Insert a token that lives as long as it may, at most as long as its family; returns its seconds."""
    row = fetch_one(
        """
        INSERT INTO refresh_tokens (token_hash, sign_in_id, expires_at)
        SELECT %(hash)s, id, least(now() + make_interval(days => %(days)s), expires_at)
        FROM sign_ins WHERE id = %(sign_in)s
        RETURNING extract(epoch FROM expires_at - now())::int
        """,
        {"hash": token_hash, "sign_in": sign_in_id, "days": days},
    )
    assert row is not None
    return int(row[0])


@transaction_required
def use_refresh_token(token_hash: bytes) -> Session | None:
    """Use a token up and return its session, or None when it is not a living, unused one of an active account.

    Joins the open transaction. Of many at the same time one gets the session: the others wait for its row and then
    find the token used.
    """
    row = fetch_one(
        """
        WITH used AS (
          UPDATE refresh_tokens SET used_at = now()
          WHERE token_hash = %(hash)s AND used_at IS NULL AND expires_at > now() RETURNING sign_in_id
        )
        UPDATE sign_ins s SET last_used_at = now() FROM used, users u
        WHERE s.id = used.sign_in_id AND s.revoked_at IS NULL AND s.expires_at > now()
          AND u.id = s.user_id AND u.is_active
        RETURNING s.id, s.user_id, u.role, u.token_epoch
        """,
        {"hash": token_hash},
    )
    return None if row is None else Session(row[0], row[1], Role(row[2]), row[3])


class KnownToken(NamedTuple):
    """Where a refresh token belongs, alive or not."""

    sign_in_id: UUID
    user_id: int
    used: bool
    alive: bool


def read_refresh_token(token_hash: bytes) -> KnownToken | None:
    """Return where a token belongs, or None when there never was such a token."""
    row = fetch_one(
        """
        SELECT s.id, s.user_id, r.used_at IS NOT NULL,
               r.used_at IS NULL AND r.expires_at > now() AND s.revoked_at IS NULL AND s.expires_at > now()
        FROM refresh_tokens r JOIN sign_ins s ON s.id = r.sign_in_id WHERE r.token_hash = %(hash)s
        """,
        {"hash": token_hash},
    )
    return None if row is None else KnownToken(*row)


@transaction_required
def revoke_sign_in(sign_in_id: UUID, *, reason: str) -> bool:
    """End a sign-in: its refresh tokens now, its access tokens through the memory; tells whether it was alive."""
    row = fetch_one(
        "UPDATE sign_ins SET revoked_at = now(), revoke_reason = %(reason)s"
        " WHERE id = %(id)s AND revoked_at IS NULL RETURNING 1",
        {"id": sign_in_id, "reason": reason},
    )
    return row is not None


def delete_ended_sign_ins(*, limit: int) -> int:
    """Delete up to `limit` sign-ins a day after their last possible use, with their tokens; returns how many."""
    return _count(
        """
        WITH ended AS (
          SELECT id FROM sign_ins WHERE expires_at < now() - interval '1 day'
          ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        ), tokens AS (
          DELETE FROM refresh_tokens WHERE sign_in_id IN (SELECT id FROM ended) RETURNING 1
        ), gone AS (
          DELETE FROM sign_ins WHERE id IN (SELECT id FROM ended) RETURNING 1)
        SELECT count(*) FROM gone
        """,
        {"limit": limit},
    )


@transaction_required
def forget_access(user_id: int) -> None:
    """Delete an account's sign-ins and links, end its keys and take their names. Idempotent. Joins the transaction.

    Closing the account has taken effect in every process by its epoch; this leaves nothing behind of how it was used.
    """
    for statement in (
        "DELETE FROM refresh_tokens WHERE sign_in_id IN (SELECT id FROM sign_ins WHERE user_id = %(id)s)",
        "DELETE FROM sign_ins WHERE user_id = %(id)s",
        "DELETE FROM one_time_tokens WHERE user_id = %(id)s",
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()), name = '' WHERE user_id = %(id)s AND name <> ''",
    ):
        fetch_all(statement, {"id": user_id})


class SignInRecord(NamedTuple):
    """When somebody signed in on one device, used that last, and when it ended."""

    began_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    end_reason: str


class LinkRecord(NamedTuple):
    """A mail with a link that was asked for."""

    purpose: str
    requested_at: datetime
    sent_at: datetime | None
    expires_at: datetime | None
    used_at: datetime | None


def read_sign_ins(user_id: int) -> list[SignInRecord]:
    """Return all sign-ins of an account that are still known, oldest first; they end after three months."""
    rows = fetch_all(
        "SELECT created_at, last_used_at, expires_at, revoked_at, revoke_reason FROM sign_ins"
        " WHERE user_id = %(id)s ORDER BY created_at, id",
        {"id": user_id},
    )
    return [SignInRecord(*row) for row in rows]


def read_links(user_id: int) -> list[LinkRecord]:
    """Return all links that an account has asked for within the last month, oldest first."""
    rows = fetch_all(
        "SELECT purpose, requested_at, sent_at, expires_at, used_at FROM one_time_tokens"
        " WHERE user_id = %(id)s ORDER BY requested_at, id",
        {"id": user_id},
    )
    return [LinkRecord(*row) for row in rows]


# ---------------------------------------------------------------- API keys
@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """An API key as it is shown: never its secret, which is nowhere."""

    id: int
    user_id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


_KEY_COLUMNS: Final = "id, user_id, name, prefix, scopes, created_by, created_at, expires_at, last_used_at, revoked_at"


@transaction_required
def insert_api_key(values: dict[str, Any]) -> ApiKeyRecord:
    """Insert a key. Joins the open transaction."""
    row = fetch_one(
        "INSERT INTO api_keys (user_id, name, prefix, secret_hash, scopes, created_by, expires_at)"
        " VALUES (%(user_id)s, %(name)s, %(prefix)s, %(secret_hash)s, %(scopes)s, %(created_by)s,"
        f" now() + make_interval(days => %(days)s)) RETURNING {_KEY_COLUMNS}",
        values,
    )
    assert row is not None
    return _key_record(row)


def read_api_keys(*, after: int, limit: int) -> list[ApiKeyRecord]:
    """Return up to `limit` keys by id, above `after`."""
    sql = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"
    return [_key_record(row) for row in fetch_all(sql, {"after": after, "limit": limit})]


def read_api_keys_of(user_id: int) -> list[ApiKeyRecord]:
    """Return all keys that act as an account, in the order of their making."""
    sql = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE user_id = %(user)s ORDER BY id"
    return [_key_record(row) for row in fetch_all(sql, {"user": user_id})]


@transaction_required
def revoke_api_key(key_id: int) -> bool | None:
    """Revoke a key; returns whether it was alive, or None when there is no such key. Joins the open transaction."""
    parameters = {"id": key_id}
    if fetch_one(
        "UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL RETURNING 1", parameters
    ):
        return True
    return False if fetch_one("SELECT 1 FROM api_keys WHERE id = %(id)s", parameters) else None


def _key_record(row: tuple[Any, ...]) -> ApiKeyRecord:
    return ApiKeyRecord(row[0], row[1], row[2], row[3], tuple(row[4]), *row[5:])


def _count(sql: str, parameters: dict[str, Any]) -> int:
    row = fetch_one(sql, parameters)
    assert row is not None
    return int(row[0])
