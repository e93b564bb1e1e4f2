"""Recomputes the audit trail's chain from its rows, and names the first one that is not as it was.

The sealer has stored, for every entry, SHA-256(hash before it || the entry). Whoever changes, removes, adds or moves an
entry would have to write all later hashes anew; whoever does that, or cuts the end off, is caught by an anchor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from counterfoil.infrastructure.audit_anchors import Anchor
from counterfoil.infrastructure.database import load_queries, translate_database_error

QUERIES: Final = load_queries(Path(__file__).with_name("audit_chain.sql"))
_HASH_BYTES: Final = 32
# About a megabyte at a time: memory does not grow with the trail.
_SEALS_AT_ONCE: Final = 20
_SESSION: Final = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    # A thousand entries by their ids: always through the index, whatever the planner knows about the table.
    "SET enable_seqscan = off",
    "SET jit = off",
)

Connection = psycopg.Connection[dict[str, Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FirstBad:
    """The first place where the trail is not as it was.

    `problem`: changed, missing, inserted, reordered, seal, cut, anchor. `entry_id` is None where the entry is gone and
    nothing names it any more; `position` is its place in the chain, from 1, and None for one that never had a place.
    """

    problem: str
    entry_id: int | None
    position: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: entries of the chain, entries that wait to be chained, anchors held against it."""

    entries: int
    waiting: int
    anchors: int
    first_bad: FirstBad | None
    # Since when the oldest of those that wait does so. Not a matter of the chain.
    oldest_seconds: float = field(default=0.0, compare=False)

    @property
    def is_ok(self) -> bool:
        """Tell whether the chain holds."""
        return self.first_bad is None


class _Broken(Exception):
    """Carries the first bad place out of the walk."""

    def __init__(self, found: FirstBad) -> None:
        super().__init__(found.detail)
        self.found = found


@dataclass(slots=True)
class _Walk:
    """How far the chain has been recomputed."""

    number: int = 0
    position: int = 0
    head: bytes = b""
    last: tuple[int, int] = (0, 0)
    cluster: int | None = None
    first_id: int = 0
    # Positions that anchors speak of, with the hash and the entry found there.
    wanted: frozenset[int] = frozenset()
    seen: dict[int, tuple[bytes, int | None]] = field(default_factory=dict)


@contextmanager
def open_trail(url: str) -> Iterator[Connection]:
    """Read the trail as of now, without stopping anybody. Raises DatabaseUnavailable."""
    try:
        with psycopg.connect(
            url, autocommit=True, row_factory=dict_row, application_name="counterfoil-audit", connect_timeout=5
        ) as connection:
            for setting in _SESSION:
                connection.execute(setting)
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            with connection.transaction():
                yield connection
    except psycopg.Error as error:
        if (translated := translate_database_error(error)) is not None:
            raise translated from error
        raise


def verify_chain(
    connection: Connection,
    *,
    anchors: Sequence[Anchor] = (),
    keys: frozenset[bytes] = frozenset(),
    on_progress: Progress | None = None,
) -> Verdict:
    """Recompute the whole chain in the open transaction of `connection` and hold it against the anchors.

    `keys` are the public keys whose anchors count; without any, every anchor whose signature fits its own key does.
    """
    counts = connection.execute(QUERIES["count_entries"]).fetchone()
    assert counts is not None
    walk = _Walk(wanted=frozenset(anchor.entries for anchor in anchors))
    walk.seen[0] = (b"", None)
    first_bad: FirstBad | None = None
    try:
        for seal in _read_seals(connection):
            _check_seal(connection, seal, walk)
            if on_progress is not None:
                on_progress(walk.position, counts["chained"])
        _check_anchors(anchors, keys, walk)
        _check_strays(connection, counts, walk)
    except _Broken as broken:
        first_bad = broken.found
    return Verdict(counts["chained"], counts["waiting"], len(anchors), first_bad, counts["oldest_seconds"])


def _read_seals(connection: Connection) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        seals = connection.execute(QUERIES["read_seals"], {"after": after, "limit": _SEALS_AT_ONCE}).fetchall()
        yield from seals
        if len(seals) < _SEALS_AT_ONCE:
            return
        after = seals[-1]["number"]


# ---------------------------------------------------------------- one seal
def _check_seal(connection: Connection, seal: dict[str, Any], walk: _Walk) -> None:
    _check_frame(connection, seal, walk)
    rows = {row["id"]: row for row in connection.execute(QUERIES["read_entries"], {"ids": seal["entry_ids"]})}
    for n, entry_id in enumerate(seal["entry_ids"]):
        walk.position += 1
        expected = seal["hashes"][n * _HASH_BYTES : (n + 1) * _HASH_BYTES]
        row = rows.get(entry_id)
        if row is None:
            raise _broken("missing", entry_id, walk.position, f"Entry {entry_id} is gone.")
        found = _chain(walk.head, row["canonical"])
        if found != expected:
            raise _explain_mismatch(row, rows, expected, walk)
        place = (int(row["xact"]), row["id"])
        if seal["last_id"] != -1 and place <= walk.last:
            raise _broken("reordered", entry_id, walk.position, f"Entry {entry_id} stands after a later one.")
        walk.last = place if seal["last_id"] != -1 else walk.last
        walk.head = found
        if walk.position in walk.wanted:
            walk.seen[walk.position] = (found, entry_id)
    # An empty seal only begins an era; in any other one the place where it ends is that of its last entry.
    ends = (int(seal["last_xact"]), seal["last_id"])
    if seal["entry_ids"] and seal["last_id"] != -1 and ends != walk.last:
        raise _broken(
            "seal", seal["entry_ids"][-1], walk.position, f"Seal {seal['number']} says that it ends elsewhere."
        )


def _check_frame(connection: Connection, seal: dict[str, Any], walk: _Walk) -> None:
    """Check that a seal follows the one before it, and note a new era."""
    walk.number += 1
    if seal["number"] != walk.number or seal["position"] != walk.position + 1:
        stray = connection.execute(QUERIES["find_strays"]).fetchone()
        entry_id = stray["id"] if stray else None
        detail = f"Seal {walk.number} is gone or was changed: it began with position {walk.position + 1}."
        raise _broken("seal", entry_id, walk.position + 1, detail)
    if len(seal["hashes"]) != _HASH_BYTES * len(seal["entry_ids"]):
        detail = f"Seal {seal['number']} does not have one hash for each of its entries."
        raise _broken("seal", None, walk.position + 1, detail)
    if (seal["cluster"], seal["first_id"]) != (walk.cluster, walk.first_id):
        if walk.cluster is not None and seal["cluster"] == walk.cluster:
            raise _broken("seal", None, walk.position + 1, f"Seal {seal['number']} begins an era in the same server.")
        walk.cluster, walk.first_id, walk.last = seal["cluster"], seal["first_id"], (0, 0)


def _chain(head: bytes, canonical: str) -> bytes:
    return hashlib.sha256(head + canonical.encode()).digest()


def _explain_mismatch(row: dict[str, Any], rows: dict[int, dict[str, Any]], expected: bytes, walk: _Walk) -> _Broken:
    """Tell an entry that was changed from one whose place or content another entry of the seal has taken."""
    _, _, rest = row["canonical"].partition(",")
    for other in rows.values():
        _, _, other_rest = other["canonical"].partition(",")
        candidates = (other["canonical"], f"({row['id']},{other_rest}", f"({other['id']},{rest}")
        if any(_chain(walk.head, text) == expected for text in candidates):
            detail = f"Entries {row['id']} and {other['id']} have changed places."
            return _broken("reordered", row["id"], walk.position, detail)
    return _broken("changed", row["id"], walk.position, f"Entry {row['id']} is not what it was when it was chained.")


def _broken(problem: str, entry_id: int | None, position: int | None, detail: str) -> _Broken:
    return _Broken(FirstBad(problem, entry_id, position, detail))


# ---------------------------------------------------------------- the rest
def _check_anchors(anchors: Sequence[Anchor], keys: frozenset[bytes], walk: _Walk) -> None:
    """Hold the chain against what was signed; `anchors` come in the order of what they cover."""
    good = 0
    for anchor in anchors:
        if not anchor.is_genuine or (keys and anchor.public_key not in keys):
            reason = "is signed with another key than ours" if anchor.is_genuine else "does not bear its signature"
            raise _broken("anchor", None, None, f"The anchor {anchor.source} {reason}.")
        if anchor.entries > walk.position:
            gone = anchor.entries - walk.position
            detail = (
                f"The end is cut off: {gone:,} entries that were there at {anchor.at:%Y-%m-%d %H:%M:%S} UTC are gone."
            )
            raise _broken("cut", None, walk.position + 1, detail)
        head, entry_id = walk.seen[anchor.entries]
        if head != anchor.head:
            detail = (
                f"The chain was written anew: position {anchor.entries} is not what {anchor.source} says,"
                f" so something after position {good} was changed."
            )
            raise _broken("anchor", entry_id, anchor.entries, detail)
        good = anchor.entries


def _check_strays(connection: Connection, counts: dict[str, Any], walk: _Walk) -> None:
    """Find an entry that was put in among those that are chained: it is in no seal and does not wait for one."""
    if counts["is_moving"] or counts["entries"] == counts["waiting"] + walk.position:
        return
    stray = connection.execute(QUERIES["find_strays"]).fetchone()
    if stray is None:
        raise _broken("seal", None, None, "An entry is named by two seals.")
    detail = f"Entry {stray['id']} was put in afterwards: it is older than what is chained and in no seal."
    raise _broken("inserted", stray["id"], None, detail)
