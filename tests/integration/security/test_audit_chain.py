"""AU-03, G40: a superuser changes the trail behind its back, a thousand times; each time the verifier says where."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from conftest import run_counterfoil
from counterfoil.infrastructure.audit_anchors import Anchor, read_anchors
from counterfoil.proof.audit_chain import FirstBad, Verdict, open_trail, verify_chain

Trail = psycopg.Connection[dict[str, Any]]
SEED = int(os.environ.get("AUDIT_SEED", "20260603"))
SEALS, ROWS = 6, 12


@dataclass(frozen=True)
class Sealed:
    """A sealed trail: its entries by position, the entries of each seal, and an anchor after every second seal."""

    url: str
    ids: tuple[int, ...]
    seals: tuple[tuple[int, ...], ...]
    anchors: tuple[Anchor, ...]

    def position(self, entry_id: int) -> int:
        return self.ids.index(entry_id) + 1

    def seal_of(self, entry_id: int) -> int:
        return next(number for number, ids in enumerate(self.seals, start=1) if entry_id in ids)


@pytest.fixture(scope="module")
def sealed(make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    url, directory = make_database(), tmp_path_factory.mktemp("anchors")
    with psycopg.connect(url, autocommit=True) as db:
        for number in range(SEALS):
            db.execute(
                "INSERT INTO products (sku, name, price, currency) SELECT %s || n, 'Tea ' || n, n, 'EUR'"
                " FROM generate_series(1, %s) AS n",
                [f"S{number}-", ROWS // 2],
            )
            db.execute("UPDATE products SET price = price + 1 WHERE sku LIKE %s", [f"S{number}-%"])
            assert db.execute("SELECT seal_audit_entries_v1(1000)").fetchone() == (ROWS,)
            if number % 2:
                run_counterfoil("audit", "anchor", "--out", str(directory), DATABASE_URL=url)
        rows = db.execute("SELECT entry_ids FROM audit_seals ORDER BY number").fetchall()
    seals = tuple(tuple(row[0]) for row in rows)
    anchors = tuple(read_anchors([directory]))
    assert [anchor.entries for anchor in anchors] == [24, 48, 72]
    return Sealed(url, tuple(entry for ids in seals for entry in ids), seals, anchors)


@pytest.fixture(scope="module")
def superuser(sealed: Sealed) -> Iterator[Trail]:
    with psycopg.connect(sealed.url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


Tamper = Callable[[Trail, Sealed, random.Random], "Expected"]


@dataclass(frozen=True)
class Expected:
    """Where the verifier must point, and which words may say what is wrong."""

    problems: frozenset[str]
    entry_id: int | None
    position: int | None
    what: str


# ---------------------------------------------------------------- what a superuser may do
EDITS = (
    "actor = actor || 'x'",
    "action = 'product.nothing'",
    "target = 'order'",
    "target_id = target_id + 1",
    "target_key = ''",
    "request_id = reverse(request_id) || '!'",
    "reason = 'because'",
    "changes = changes || jsonb_build_object('price', jsonb_build_array(1, 0))",
    "changes = NULL",
    "before_hash = ''",
    "after_hash = sha256(after_hash)",
    "occurred_at = occurred_at - interval '1 microsecond'",
    "xact = (xact::text::bigint + 1)::text::xid8",
)


def edit(db: Trail, sealed: Sealed, chance: random.Random) -> Expected:
    entry, change = chance.choice(sealed.ids), chance.choice(EDITS)
    assert db.execute(f"UPDATE audit_entries SET {change} WHERE id = %s".encode(), [entry]).rowcount == 1  # noqa: S608
    return Expected(frozenset({"changed"}), entry, sealed.position(entry), f"{entry}: {change}")


def delete(db: Trail, sealed: Sealed, chance: random.Random) -> Expected:
    entry = chance.choice(sealed.ids)
    db.execute("DELETE FROM audit_entries WHERE id = %s", [entry])
    return Expected(frozenset({"missing"}), entry, sealed.position(entry), f"{entry} deleted")


def insert(db: Trail, sealed: Sealed, chance: random.Random) -> Expected:
    entry, number = chance.choice(sealed.ids), 1_000_000 + chance.randrange(1000)
    db.execute(
        "INSERT INTO audit_entries (id, xact, occurred_at, actor, action, target, target_id, request_id, after_hash)"
        " SELECT %s, xact, occurred_at, actor, action, target, target_id, request_id, after_hash"
        " FROM audit_entries WHERE id = %s",
        [number, entry],
    )
    if entry in sealed.seals[-1][-ROWS // 2 :]:
        # Of the last transaction and with a higher id: as if it had just been written. Told by its transaction only.
        db.execute("UPDATE audit_entries SET xact = '3' WHERE id = %s", [number])
    return Expected(frozenset({"inserted"}), number, None, f"copy of {entry} as {number}")


def reorder(db: Trail, sealed: Sealed, chance: random.Random) -> Expected:
    """Two entries change places: their contents or their numbers, anywhere in the trail."""
    first, second = sorted(chance.sample(sealed.ids, 2))
    if chance.random() < 0.5:
        columns = (
            "xact, occurred_at, actor, action, target, target_id, request_id, reason, changes, before_hash, after_hash"
        )
        db.execute(
            f"UPDATE audit_entries e SET ({columns}) = (SELECT {columns} FROM audit_entries o"  # noqa: S608
            " WHERE o.id = CASE e.id WHEN %(a)s THEN %(b)s ELSE %(a)s END) WHERE e.id IN (%(a)s, %(b)s)".encode(),
            {"a": first, "b": second},
        )
    else:
        for before, after in ((first, -1), (second, first), (-1, second)):
            db.execute("UPDATE audit_entries SET id = %s WHERE id = %s", [after, before])
    same_seal = sealed.seal_of(first) == sealed.seal_of(second)
    problems = frozenset({"reordered"} if same_seal else {"changed"})
    return Expected(problems, first, sealed.position(first), f"{first} and {second} swapped")


def cut(db: Trail, sealed: Sealed, chance: random.Random) -> Expected:
    """The last entries go, and the seals are cut to fit: the chain that is left is whole."""
    kept = chance.randrange(len(sealed.ids))
    cut_to(db, sealed, kept)
    return Expected(frozenset({"cut"}), None, kept + 1, f"cut after {kept}")


def cut_to(db: Trail, sealed: Sealed, kept: int) -> None:
    db.execute("DELETE FROM audit_entries WHERE id = ANY (%s)", [list(sealed.ids[kept:])])
    db.execute("DELETE FROM audit_seals WHERE position > %s", [kept])
    db.execute(
        """
        UPDATE audit_seals s
        SET entry_ids = s.entry_ids[1 : %(kept)s - s.position + 1],
            hashes = substr(s.hashes, 1, (32 * (%(kept)s - s.position + 1))::integer),
            (last_xact, last_id) = (SELECT xact, id FROM audit_entries ORDER BY xact DESC, id DESC LIMIT 1)
        WHERE s.position <= %(kept)s AND s.position + cardinality(s.entry_ids) > %(kept)s + 1
        """,
        {"kept": kept},
    )


TAMPERS: tuple[Tamper, ...] = (edit, delete, insert, reorder, cut)


def judge(db: Trail, sealed: Sealed, tamper: Tamper, chance: random.Random) -> tuple[Expected, Verdict]:
    with db.transaction(force_rollback=True):
        expected = tamper(db, sealed, chance)
        return expected, verify_chain(db, anchors=sealed.anchors)


def test_security_AU_03_an_untouched_trail_holds(sealed: Sealed, superuser: Trail) -> None:
    assert verify_chain(superuser, anchors=sealed.anchors) == Verdict(SEALS * ROWS, 0, 3, None)


def test_security_AU_03_a_thousand_of_a_thousand_tamperings_are_found_where_they_are(
    sealed: Sealed, superuser: Trail
) -> None:
    chance = random.Random(SEED)
    print(f"AUDIT_SEED={SEED}")
    found = 0

    for number in range(1000):
        expected, verdict = judge(superuser, sealed, TAMPERS[number % len(TAMPERS)], chance)
        bad = verdict.first_bad
        assert bad is not None, (number, expected)
        assert (bad.entry_id, bad.position) == (expected.entry_id, expected.position), (number, expected, bad)
        assert bad.problem in expected.problems, (number, expected, bad)
        found += not verdict.is_ok

    assert found == 1000
    assert verify_chain(superuser, anchors=sealed.anchors).is_ok


def test_security_AU_03_a_chain_that_was_written_anew_is_found_between_two_anchors(
    sealed: Sealed, superuser: Trail
) -> None:
    chance = random.Random(SEED)
    for _ in range(20):
        with superuser.transaction(force_rollback=True):
            entry = chance.choice(sealed.ids)
            superuser.execute("UPDATE audit_entries SET reason = 'never happened' WHERE id = %s", [entry])
            write_anew(superuser)

            without = verify_chain(superuser)
            bad = verify_chain(superuser, anchors=sealed.anchors).first_bad

        assert without.is_ok
        assert bad is not None
        assert (bad.problem, bad.position) == ("anchor", -(-sealed.position(entry) // 24) * 24)


def write_anew(db: Trail) -> None:
    """What somebody does who has read how the chain is made and may write everything."""
    from counterfoil.proof.audit_chain import QUERIES

    head = b""
    for seal in db.execute(QUERIES["read_seals"], {"after": 0, "limit": 1000}).fetchall():
        rows = {r["id"]: r["canonical"] for r in db.execute(QUERIES["read_entries"], {"ids": seal["entry_ids"]})}
        hashes = []
        for entry in seal["entry_ids"]:
            head = hashlib.sha256(head + rows[entry].encode()).digest()
            hashes.append(head)
        db.execute("UPDATE audit_seals SET hashes = %s WHERE number = %s", [b"".join(hashes), seal["number"]])


@pytest.mark.parametrize(
    ("statement", "problem", "position"),
    [
        ("DELETE FROM audit_seals WHERE number = 3", "seal", 25),
        ("UPDATE audit_seals SET number = number + 10 WHERE number = 3", "seal", 25),
        ("UPDATE audit_seals SET position = position + 1 WHERE number = 2", "seal", 13),
        ("UPDATE audit_seals SET hashes = substr(hashes, 2) WHERE number = 2", "seal", 13),
        ("UPDATE audit_seals SET last_id = last_id + 5 WHERE number = 2", "seal", 24),
        ("UPDATE audit_seals SET first_id = 5 WHERE number = 2", "seal", 13),
        ("UPDATE audit_seals SET entry_ids = entry_ids[2:] || entry_ids[1] WHERE number = 2", "reordered", 13),
        ("DELETE FROM audit_seals WHERE number = 6", "cut", 61),
        ("TRUNCATE audit_seals", "cut", 1),
        ("TRUNCATE audit_seals, audit_entries", "cut", 1),
    ],
)
def test_security_AU_03_seals_are_protected_too(
    sealed: Sealed, superuser: Trail, statement: str, problem: str, position: int
) -> None:
    with superuser.transaction(force_rollback=True):
        superuser.execute(statement.encode())
        bad = verify_chain(superuser, anchors=sealed.anchors).first_bad

    assert bad is not None
    assert (bad.problem, bad.position) == (problem, position)


def test_security_AU_03_a_forged_anchor_is_told_and_hides_nothing(
    sealed: Sealed, superuser: Trail, tmp_path: Path
) -> None:
    source = Path(sealed.anchors[0].source.rpartition(":")[0])
    forged = tmp_path / "forged.json"
    forged.write_text(source.read_text().replace('"entries":24', '"entries":12'))

    bad = verify_chain(superuser, anchors=read_anchors([forged])).first_bad
    other_key = verify_chain(superuser, anchors=sealed.anchors, keys=frozenset({bytes(32)})).first_bad

    assert bad == FirstBad("anchor", None, None, f"The anchor {forged}:1 does not bear its signature.")
    assert other_key is not None
    assert other_key.detail.endswith("is signed with another key than ours.")


def test_the_verifier_reads_one_snapshot_and_stops_nobody(sealed: Sealed, superuser: Trail) -> None:
    with open_trail(sealed.url) as trail, psycopg.connect(sealed.url, autocommit=True) as db:
        before = verify_chain(trail)
        db.execute("UPDATE products SET price = price WHERE sku = 'S0-1'")

        assert verify_chain(trail) == before

    try:
        with open_trail(sealed.url) as trail:
            assert verify_chain(trail) == Verdict(SEALS * ROWS, 1, 0, None)
    finally:  # the tests before and after share the trail, and none of them knows this entry
        superuser.execute("DELETE FROM audit_entries WHERE NOT id = ANY (%s)", [list(sealed.ids)])
