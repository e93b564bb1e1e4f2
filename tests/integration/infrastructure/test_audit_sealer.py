"""The sealer: every committed entry once, whatever commits late, dies or runs beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import run_counterfoil

Connection = psycopg.Connection[tuple[Any, ...]]
INSERT = (
    "INSERT INTO products (sku, name, price, currency) SELECT %s || n, 'Tea', 1, 'EUR' FROM generate_series(1, %s) n"
)


@pytest.fixture
def url(make_database: Callable[[], str]) -> str:
    return make_database()


@pytest.fixture
def db(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def seal(db: Connection, limit: int = 100_000) -> int | None:
    row = db.execute("SELECT seal_audit_entries_v1(%s)", [limit]).fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])


def sealed_ids(db: Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT unnest(entry_ids) FROM audit_seals ORDER BY number")]


def entry_ids(db: Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT id FROM audit_entries ORDER BY xact, id")]


def verify(url: str) -> dict[str, Any]:
    done = run_counterfoil("audit", "verify", "--json", check=False, DATABASE_URL=url)
    verdict: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if verdict["ok"] else 1), done.stderr
    return verdict


def test_an_entry_that_is_committed_late_is_neither_missed_nor_overtaken(url: str, db: Connection) -> None:
    with psycopg.connect(url) as slow:
        slow.execute(INSERT, ["slow-", 3])
        db.execute(INSERT, ["fast-", 2])

        assert seal(db) == 0  # what is younger than a transaction that still runs has to wait for it
        slow.commit()

    assert seal(db) == 5
    assert seal(db) == 0
    assert sealed_ids(db) == entry_ids(db)
    assert [row[0] for row in db.execute("SELECT target_id FROM audit_entries ORDER BY xact, id")] == [1, 2, 3, 4, 5]
    assert verify(url)["ok"]


def test_entries_of_one_large_transaction_fill_several_seals_and_several_rounds(url: str, db: Connection) -> None:
    db.execute(INSERT, ["many-", 3500])

    assert [seal(db, 2000), seal(db, 2000), seal(db, 2000)] == [2000, 1500, 0]

    sizes = db.execute("SELECT number, position, cardinality(entry_ids) FROM audit_seals ORDER BY number").fetchall()
    assert sizes == [(1, 1, 1000), (2, 1001, 1000), (3, 2001, 1000), (4, 3001, 500)]
    assert verify(url) == {"entries": 3500, "ok": True, "first_bad": None, "waiting": 0, "anchors": 0}


def test_a_second_sealer_finds_nothing_to_do_while_the_first_is_at_it(url: str, db: Connection) -> None:
    db.execute(INSERT, ["two-", 10])
    with psycopg.connect(url) as first:
        assert seal(first) == 10

        assert seal(db) is None
        first.rollback()

    assert seal(db) == 10


def test_sealers_beside_each_other_and_beside_writers_chain_every_entry_once(url: str, db: Connection) -> None:
    def write(number: int) -> None:
        with psycopg.connect(url, autocommit=True) as writer:
            for n in range(40):
                writer.execute(INSERT, [f"w{number}-{n}-", 3])

    def keep_sealing(_: int) -> None:
        with psycopg.connect(url, autocommit=True) as sealer:
            while not done:
                seal(sealer, 50)

    done: list[bool] = []
    with ThreadPoolExecutor(8) as pool:
        sealers = [pool.submit(keep_sealing, n) for n in range(3)]
        for writer in [pool.submit(write, n) for n in range(4)]:
            writer.result()
        done.append(True)
        for sealer in sealers:
            sealer.result()
    while seal(db):
        pass

    assert len(entry_ids(db)) == 480
    assert sealed_ids(db) == entry_ids(db)
    assert verify(url)["ok"]


@contextmanager
def working(url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "DATABASE_URL": url, "COUNTERFOIL_LOG_LEVEL": "ERROR"}
    worker = subprocess.Popen([sys.executable, "-m", "counterfoil", "work"], env=environment)
    try:
        yield worker
    finally:
        if worker.poll() is None:
            worker.terminate()
        worker.wait(20)


def wait_for_seals(db: Connection, *, above: int) -> int:
    deadline = time.monotonic() + 30
    while (sealed := len(sealed_ids(db))) <= above:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return sealed


def test_a_sealer_that_is_killed_leaves_a_whole_chain_and_the_next_one_goes_on(url: str, db: Connection) -> None:
    sealed = 0
    for number in range(3):
        with working(url) as worker:
            db.execute(INSERT, [f"kill-{number}-", 5000])
            sealed = wait_for_seals(db, above=sealed)
            worker.send_signal(signal.SIGKILL)
            worker.wait(20)
        assert verify(url)["ok"]

    with working(url):
        wait_for_seals(db, above=14_999)

    assert sealed_ids(db) == entry_ids(db)
    assert verify(url) == {"entries": 15_000, "ok": True, "first_bad": None, "waiting": 0, "anchors": 0}


def test_an_entry_is_chained_within_two_seconds(url: str, db: Connection) -> None:
    with working(url):
        db.execute(INSERT, ["first-", 1])
        wait_for_seals(db, above=0)
        lags = []
        for number in range(3):
            db.execute(INSERT, [f"lag-{number}-", 1])
            wait_for_seals(db, above=number + 1)
        lags = [
            row[0]
            for row in db.execute(
                "SELECT extract(epoch FROM s.sealed_at - e.occurred_at)::float FROM audit_seals s"
                " JOIN audit_entries e ON e.id = ANY (s.entry_ids) WHERE s.number > 1"
            )
        ]

    assert len(lags) == 3
    assert max(lags) < 2


def test_a_trail_copied_to_a_server_that_counts_anew_goes_on_in_a_new_era(url: str, db: Connection) -> None:
    db.execute(INSERT, ["old-", 5])
    assert seal(db) == 5
    db.execute(INSERT, ["pending-", 3])
    # The copy: another server's identifier, and numbers of transactions that this one has not reached.
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE audit_entries SET xact = (xact::text::bigint + 1000000000)::text::xid8 WHERE id > 5")
    db.execute("UPDATE audit_seals SET cluster = cluster + 1")
    db.execute("RESET session_replication_role")
    db.execute(INSERT, ["new-", 2])

    assert seal(db, 2) == 0  # begins the era
    assert (seal(db, 2), seal(db, 1000)) == (2, 3)  # what was there and what had come since
    assert seal(db) == 0
    db.execute(INSERT, ["newer-", 4])
    assert seal(db) == 4

    assert sorted(sealed_ids(db)) == sorted(entry_ids(db))
    assert len(set(sealed_ids(db))) == 14
    assert verify(url) == {"entries": 14, "ok": True, "first_bad": None, "waiting": 0, "anchors": 0}


def test_a_trail_that_was_never_sealed_can_be_copied_too(url: str, db: Connection) -> None:
    db.execute(INSERT, ["old-", 5])
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE audit_entries SET xact = (xact::text::bigint + 1000000000)::text::xid8")
    db.execute("RESET session_replication_role")

    assert (seal(db), seal(db)) == (0, 5)
    db.execute(INSERT, ["new-", 2])
    assert seal(db) == 2
    assert verify(url)["ok"]


def test_a_copied_trail_is_chained_in_short_calls_and_only_the_first_stops_writers_for_a_moment(
    url: str, db: Connection
) -> None:
    db.execute(INSERT, ["sealed-", 20_000])
    assert seal(db) == 20_000
    db.execute(INSERT, ["pending-", 15_000])
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE audit_entries SET xact = (xact::text::bigint + 1000000000)::text::xid8")
    db.execute("UPDATE audit_seals SET cluster = cluster + 1")
    db.execute("RESET session_replication_role")
    # What is sealed must be as it was; the new numbers of its transactions were for the test's sake.
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE audit_entries SET xact = (xact::text::bigint - 1000000000)::text::xid8 WHERE id <= 20000")
    db.execute("RESET session_replication_role")
    db.execute("SET statement_timeout = '1500ms'")

    assert seal(db, 5000) == 0
    with psycopg.connect(url) as sealer:  # in the calls after it nobody waits
        assert seal(sealer, 5000) == 5000
        db.execute("SET lock_timeout = '100ms'")
        db.execute(INSERT, ["meanwhile-", 1])
    assert [seal(db, 5000), seal(db, 5000), seal(db, 5000)] == [5000, 5000, 1]

    assert sorted(sealed_ids(db)) == sorted(entry_ids(db))
    assert verify(url) == {"entries": 35_001, "ok": True, "first_bad": None, "waiting": 0, "anchors": 0}


def test_an_era_waits_for_a_writer_for_a_moment_only(url: str, db: Connection) -> None:
    db.execute(INSERT, ["old-", 1])
    assert seal(db) == 1
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE audit_seals SET cluster = cluster + 1")
    db.execute("RESET session_replication_role")
    with psycopg.connect(url) as slow:
        slow.execute(INSERT, ["slow-", 1])
        started = time.monotonic()

        assert seal(db) is None
        assert time.monotonic() - started < 1
        slow.commit()

    assert (seal(db), seal(db)) == (0, 1)


def test_an_instant_without_end_and_a_number_beyond_bigint_stop_nobody(url: str, db: Connection) -> None:
    db.execute(INSERT, ["fine-", 1])
    assert seal(db) == 1
    db.execute("SET session_replication_role = replica")
    for instant in ("infinity", "-infinity"):
        db.execute(
            "INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id)"
            " VALUES (%s, 'a', 'b', 'c', 1, 'd')",
            [instant],
        )
    assert seal(db) == 2
    whole = verify(url)
    db.execute("UPDATE audit_entries SET xact = '18446744073709551000' WHERE id = 2")
    number = verify(url)
    db.execute("UPDATE audit_entries SET occurred_at = 'infinity' WHERE id = 1")
    instant_changed = verify(url)

    assert whole["ok"]
    assert (number["first_bad"]["problem"], number["first_bad"]["entry_id"]) == ("changed", 2)
    assert (instant_changed["first_bad"]["problem"], instant_changed["first_bad"]["entry_id"]) == ("changed", 1)


def test_a_bulk_load_pays_less_than_a_tenth_of_a_millisecond_for_each_row(db: Connection) -> None:
    started = time.monotonic()
    db.execute(INSERT, ["bulk-", 20_000])
    with_trail = time.monotonic() - started

    assert len(entry_ids(db)) == 20_000
    assert with_trail < 20_000 * 0.0001


def test_a_hundred_thousand_entries_are_verified_within_five_seconds_in_flat_memory(
    url: str, db: Connection, tmp_path: Path
) -> None:
    for number in range(5):
        db.execute(INSERT, [f"large-{number}-", 20_000])
    while seal(db):
        pass
    measure = (
        "import re, sys; from pathlib import Path; from counterfoil.cli.main import app\n"
        "try: app(['audit', 'verify', '--json'])\n"
        "except SystemExit: pass\n"
        # Not getrusage: its figure is inherited from the process that started this one, however large that is.
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1], file=sys.stderr)"
    )
    started = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", measure],
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    seconds = time.monotonic() - started

    assert json.loads(done.stdout) == {"entries": 100_000, "ok": True, "first_bad": None, "waiting": 0, "anchors": 0}
    assert seconds < 5
    assert int(done.stderr.split()[-1]) < 200_000  # kB; the whole trail is some 60 MB as text and would not fit twice
