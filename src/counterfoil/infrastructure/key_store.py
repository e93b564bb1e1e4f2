"""Keys of people and purposes, wrapped by the master key, in a store of their own.

The store is a PostgreSQL schema `counterfoil_keys`, in the database of COUNTERFOIL_KEYS_URL: apart from the data it
opens, so that a backup of one is worthless without the other. Deleting a person's key makes everything that was
sealed with it unreadable, in every copy there is.

Its statements commit by themselves, outside the caller's transaction: a key exists before the row that needs it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django import db
from django.db import transaction as django_transaction

from counterfoil.infrastructure.database import translate_database_error
from counterfoil.infrastructure.encryption import make_key, open_seal, seal
from counterfoil.infrastructure.master_keys import MasterKey, MasterKeysUnusable, master_keys
from counterfoil.kernel.errors import Unavailable

ALIAS: Final = "keys"
BLIND_INDEX: Final = "blind-index"
FINGERPRINT: Final = "fingerprint"
# Keys that gateways know payments by come from it; losing it would let a retry charge twice.
PAYMENT_KEYS: Final = "payment-keys"
_NAMED: Final = (BLIND_INDEX, FINGERPRINT, PAYMENT_KEYS)
# Rows rewrapped in one transaction: some milliseconds, so that nobody waits for a rotation.
REWRAP_ROWS_MAX: Final = 500
# "cfkey" in ASCII; one process at a time makes or changes the tables.
_DDL_LOCK: Final = 0x63666B6579

# One entry a version, run once each, in order. Adding only: processes of the release before still use the store.
_DDL: Final = (
    """
    CREATE TABLE counterfoil_keys.master_keys (
      id bytea PRIMARY KEY CHECK (length(id) = 8), first_used_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE counterfoil_keys.data_keys (
      subject uuid PRIMARY KEY, wrapped bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
      master_key bytea NOT NULL REFERENCES counterfoil_keys.master_keys);
    CREATE INDEX data_keys_master_key ON counterfoil_keys.data_keys (master_key);
    CREATE TABLE counterfoil_keys.named_keys (
      name text PRIMARY KEY, wrapped bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
      master_key bytea NOT NULL REFERENCES counterfoil_keys.master_keys);
    CREATE TABLE counterfoil_keys.tombstones (subject uuid PRIMARY KEY, erased_at timestamptz NOT NULL DEFAULT now());
    """,
)

# What the role of the processes may do, where there is one: a tombstone is set once and stands.
_GRANTS: Final = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_app') THEN
    GRANT USAGE ON SCHEMA counterfoil_keys TO counterfoil_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA counterfoil_keys TO counterfoil_app;
    REVOKE INSERT, UPDATE, DELETE ON counterfoil_keys.versions FROM counterfoil_app;
    REVOKE UPDATE, DELETE ON counterfoil_keys.tombstones FROM counterfoil_app;
  END IF;
END $$
"""

# Keys of purposes never change, so they are kept for the life of the process.
_loaded: dict[str, bytes] = {}


class KeyStoreUnavailable(Unavailable):
    """The store of encryption keys cannot be reached right now; nothing was done, try again shortly."""

    code = "KEY_STORE_UNAVAILABLE"


class MasterKeyUnknown(Unavailable):
    """The key store needs the master key {key_id}, which is not in the file of master keys; add it there again."""

    code = "MASTER_KEY_UNKNOWN"


@dataclass(frozen=True, slots=True)
class MasterKeyUse:
    """A master key by its id in hexadecimal, how many keys it wraps, and whether the file has it."""

    key_id: str
    wraps: int
    current: bool
    in_file: bool


@contextmanager
def _store() -> Iterator[Any]:
    """Lend a cursor of the store (autocommit); what means "not now" leaves as KeyStoreUnavailable."""
    try:
        with db.connections[ALIAS].cursor() as cursor:
            yield cursor
    except db.Error as error:
        if translate_database_error(error) is not None:
            raise KeyStoreUnavailable from error
        raise


@contextmanager
def _store_transaction() -> Iterator[Any]:
    with _store() as cursor, django_transaction.atomic(using=ALIAS):
        yield cursor


# ---------------------------------------------------------------- tables
def prepare_store() -> None:
    """Make the store's tables or bring them up to date. Safe to repeat, to run twice at once, and for who may not."""
    with _store_transaction() as cursor:
        cursor.execute("SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'counterfoil_keys'")
        row = cursor.fetchone()
        if row is not None and not row[0]:
            return  # somebody else's to change
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_DDL_LOCK])
        cursor.execute("CREATE SCHEMA IF NOT EXISTS counterfoil_keys")
        cursor.execute("CREATE TABLE IF NOT EXISTS counterfoil_keys.versions (version integer PRIMARY KEY)")
        cursor.execute("SELECT coalesce(max(version), 0) FROM counterfoil_keys.versions")
        done = cursor.fetchone()[0]
        for version, statements in enumerate(_DDL[done:], start=done + 1):
            cursor.execute(statements)
            cursor.execute("INSERT INTO counterfoil_keys.versions VALUES (%s)", [version])
        cursor.execute(_GRANTS)


# ---------------------------------------------------------------- keys of people
def create_keys(subjects: Sequence[UUID]) -> dict[UUID, bytes]:
    """Make a data key for each of these people, or return the one there is; none for those that have a tombstone."""
    fresh = {subject: make_key() for subject in sorted(subjects)}

    def insert(cursor: Any, master: MasterKey) -> None:
        cursor.execute(
            """
            INSERT INTO counterfoil_keys.data_keys (subject, wrapped, master_key)
            SELECT subject, wrapped, %(master)s FROM unnest(%(subjects)s::uuid[], %(wrapped)s::bytea[])
              AS k (subject, wrapped)
            WHERE NOT EXISTS (SELECT FROM counterfoil_keys.tombstones t WHERE t.subject = k.subject)
            ON CONFLICT (subject) DO NOTHING
            """,
            {
                "master": master.id,
                "subjects": list(fresh),
                "wrapped": [_wrap(master, key, str(subject)) for subject, key in fresh.items()],
            },
        )

    _insert_wrapped(insert)
    return read_keys(list(fresh))


def read_keys(subjects: Sequence[UUID]) -> dict[UUID, bytes]:
    """Return the data keys of these people in one query; those whose key was deleted are left out."""
    if not subjects:
        return {}
    with _store() as cursor:
        cursor.execute(
            "SELECT subject, wrapped, master_key FROM counterfoil_keys.data_keys WHERE subject = ANY (%s)",
            [list(subjects)],
        )
        rows = cursor.fetchall()
    return {subject: _unwrap(bytes(wrapped), bytes(master), str(subject)) for subject, wrapped, master in rows}


def find_keys(subjects: Sequence[UUID]) -> list[UUID]:
    """Return those of these people who have a data key, whether it can be opened or not."""
    with _store() as cursor:
        cursor.execute("SELECT subject FROM counterfoil_keys.data_keys WHERE subject = ANY (%s)", [list(subjects)])
        return [row[0] for row in cursor.fetchall()]


def shred_key(subject: UUID) -> None:
    """Delete a person's key for ever and leave a tombstone. Idempotent."""
    with _store_transaction() as cursor:
        cursor.execute(
            "INSERT INTO counterfoil_keys.tombstones (subject) VALUES (%s) ON CONFLICT DO NOTHING", [subject]
        )
        cursor.execute("DELETE FROM counterfoil_keys.data_keys WHERE subject = %s", [subject])


def discard_key(subject: UUID) -> None:
    """Delete the key of somebody who did not come to be; no tombstone, there is nothing to erase."""
    with _store() as cursor:
        cursor.execute("DELETE FROM counterfoil_keys.data_keys WHERE subject = %s", [subject])


def read_tombstones(*, after: UUID | None, limit: int) -> list[UUID]:
    """Return up to `limit` erased people in the order of their ids, after `after`."""
    with _store() as cursor:
        cursor.execute(
            "SELECT subject FROM counterfoil_keys.tombstones WHERE %(after)s::uuid IS NULL OR subject > %(after)s"
            " ORDER BY subject LIMIT %(limit)s",
            {"after": after, "limit": limit},
        )
        return [row[0] for row in cursor.fetchall()]


def read_subjects(*, created_before_hours: int, after: UUID | None, limit: int) -> list[UUID]:
    """Return up to `limit` people whose key is older than so many hours, in the order of their ids, after `after`."""
    with _store() as cursor:
        cursor.execute(
            "SELECT subject FROM counterfoil_keys.data_keys"
            " WHERE created_at < now() - make_interval(hours => %(hours)s)"
            " AND (%(after)s::uuid IS NULL OR subject > %(after)s) ORDER BY subject LIMIT %(limit)s",
            {"hours": created_before_hours, "after": after, "limit": limit},
        )
        return [row[0] for row in cursor.fetchall()]


# ---------------------------------------------------------------- keys of purposes
def named_key(name: str) -> bytes:
    """Return the key of a purpose, made when first asked for. Talks to the store once per process."""
    assert name in _NAMED, name
    if name not in _loaded:
        found = _read_named(name)
        if found is None:
            fresh = make_key()
            _insert_wrapped(lambda cursor, master: _insert_named(cursor, master, name, fresh))
            found = _read_named(name)
        assert found is not None, name
        _loaded[name] = found
    return _loaded[name]


def loaded_key(name: str) -> bytes:
    """Return the key of a purpose without any waiting, for the event loop; KeyStoreUnavailable until it is loaded."""
    key = _loaded.get(name)
    if key is None:
        raise KeyStoreUnavailable
    return key


def load_named_keys() -> None:
    """Load the keys of all purposes."""
    for name in _NAMED:
        named_key(name)


def keys_are_loaded() -> bool:
    """Tell whether the keys of all purposes are at hand."""
    return all(name in _loaded for name in _NAMED)


def blind_index(text: str) -> bytes:
    """Return 32 bytes by which a text is found and told from others, and that without the key tell nothing of it."""
    return hmac.digest(named_key(BLIND_INDEX), text.encode(), "sha256")


def _read_named(name: str) -> bytes | None:
    with _store() as cursor:
        cursor.execute("SELECT wrapped, master_key FROM counterfoil_keys.named_keys WHERE name = %s", [name])
        row = cursor.fetchone()
    return None if row is None else _unwrap(bytes(row[0]), bytes(row[1]), name)


def _insert_named(cursor: Any, master: MasterKey, name: str, key: bytes) -> None:
    cursor.execute(
        "INSERT INTO counterfoil_keys.named_keys (name, wrapped, master_key) VALUES (%s, %s, %s)"
        " ON CONFLICT (name) DO NOTHING",
        [name, _wrap(master, key, name), master.id],
    )


# ---------------------------------------------------------------- master keys
def list_master_keys() -> list[MasterKeyUse]:
    """Return every master key of the file or the store, the file's order first, with how many keys each wraps."""
    with _store() as cursor:
        cursor.execute(
            """
            SELECT m.id, (SELECT count(*) FROM counterfoil_keys.data_keys d WHERE d.master_key = m.id)
                       + (SELECT count(*) FROM counterfoil_keys.named_keys n WHERE n.master_key = m.id)
            FROM counterfoil_keys.master_keys m ORDER BY m.first_used_at, m.id
            """
        )
        wraps: dict[bytes, int] = {bytes(key_id): int(count) for key_id, count in cursor.fetchall()}
    ids = [key.id for key in master_keys()]
    return [
        MasterKeyUse(key_id.hex(), wraps.get(key_id, 0), current=key_id == ids[0], in_file=key_id in ids)
        for key_id in [*ids, *(known for known in wraps if known not in ids)]
    ]


def count_stale_wraps() -> int:
    """Count the keys that another master key than the current one wraps."""
    return sum(use.wraps for use in list_master_keys() if not use.current)


def rewrap_some() -> int:
    """Wrap up to REWRAP_ROWS_MAX keys anew with the current master key, in one transaction; returns how many.

    Safe beside writers and other rotations: rows that somebody works on are left for the next round.
    """
    master = master_keys()[0]
    with _store_transaction() as cursor:
        _register(cursor, master)
        done = 0
        for table, name in (("data_keys", "subject"), ("named_keys", "name")):
            done += _rewrap_table(cursor, master, table, name)
        return done


def _rewrap_table(cursor: Any, master: MasterKey, table: str, name: str) -> int:
    cursor.execute(
        f"SELECT {name}, wrapped, master_key FROM counterfoil_keys.{table} WHERE master_key <> %s"  # noqa: S608 - fixed names
        f" LIMIT {REWRAP_ROWS_MAX} FOR UPDATE SKIP LOCKED",
        [master.id],
    )
    rows = cursor.fetchall()
    plain = {row[0]: _unwrap(bytes(row[1]), bytes(row[2]), str(row[0])) for row in rows}
    kind = "uuid" if table == "data_keys" else "text"
    cursor.execute(
        f"UPDATE counterfoil_keys.{table} AS k SET wrapped = fresh.wrapped, master_key = %(master)s"  # noqa: S608 - fixed names
        f" FROM unnest(%(names)s::{kind}[], %(wrapped)s::bytea[]) AS fresh (name, wrapped) WHERE k.{name} = fresh.name",
        {
            "master": master.id,
            "names": list(plain),
            "wrapped": [_wrap(master, key, str(owner)) for owner, key in plain.items()],
        },
    )
    return len(rows)


@contextmanager
def forgetting_master_key(key_id: bytes) -> Iterator[bool]:
    """Take a master key off the store's list; yields False, with nothing done, while it still wraps something.

    What the block does (taking it out of the file) and this commit together or not at all. A writer that is about to
    use the key waits, is refused by the foreign key, and reads the file again.
    """
    with _store_transaction() as cursor:
        cursor.execute("SELECT FROM counterfoil_keys.master_keys WHERE id = %s FOR UPDATE", [key_id])
        cursor.execute(
            "SELECT EXISTS (SELECT FROM counterfoil_keys.data_keys WHERE master_key = %(id)s)"
            " OR EXISTS (SELECT FROM counterfoil_keys.named_keys WHERE master_key = %(id)s)",
            {"id": key_id},
        )
        in_use = bool(cursor.fetchone()[0])
        if not in_use:
            cursor.execute("DELETE FROM counterfoil_keys.master_keys WHERE id = %s", [key_id])
        yield not in_use


def _register(cursor: Any, master: MasterKey) -> None:
    cursor.execute("INSERT INTO counterfoil_keys.master_keys (id) VALUES (%s) ON CONFLICT DO NOTHING", [master.id])


def _insert_wrapped(insert: Any) -> None:
    """Run `insert` with the current master key; once more when that key is not (or no longer) on the store's list."""
    try:
        with _store() as cursor:
            insert(cursor, master_keys()[0])
    except db.IntegrityError:
        # New in the file, or forgotten since it was read; the file says which, and it is read again.
        with _store_transaction() as cursor:
            master = master_keys()[0]
            _register(cursor, master)
            insert(cursor, master)


def _wrap(master: MasterKey, key: bytes, owner: str) -> bytes:
    return seal(master.secret, key, place=f"key|{owner}")


def _unwrap(wrapped: bytes, master_id: bytes, owner: str) -> bytes:
    known: Mapping[bytes, MasterKey] = {key.id: key for key in master_keys()}
    if master_id not in known:
        raise MasterKeyUnknown(key_id=master_id.hex())
    return open_seal(known[master_id].secret, wrapped, place=f"key|{owner}")


__all__ = [
    "ALIAS",
    "BLIND_INDEX",
    "FINGERPRINT",
    "PAYMENT_KEYS",
    "KeyStoreUnavailable",
    "MasterKeyUnknown",
    "MasterKeyUse",
    "MasterKeysUnusable",
    "blind_index",
    "count_stale_wraps",
    "create_keys",
    "discard_key",
    "find_keys",
    "forgetting_master_key",
    "keys_are_loaded",
    "list_master_keys",
    "load_named_keys",
    "loaded_key",
    "named_key",
    "prepare_store",
    "read_keys",
    "read_subjects",
    "read_tombstones",
    "rewrap_some",
    "shred_key",
]
