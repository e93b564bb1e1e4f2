"""`counterfoil audit`: the verdict as a person and as a program reads it, and anchors that leave the database."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import run_counterfoil, with_database

INSERT = (
    "INSERT INTO products (sku, name, price, currency) SELECT 'p' || n, 'Tea', 1, 'EUR' FROM generate_series(1, 20) n"
)


@pytest.fixture
def url(make_database: Callable[[], str]) -> str:
    """A database with twenty sealed entries."""
    url = make_database()
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(INSERT)
        assert db.execute("SELECT seal_audit_entries_v1(1000)").fetchone() == (20,)
    return url


def tamper(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        db.execute(statement.encode())


def verdict(url: str, *arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    done = run_counterfoil("audit", "verify", "--json", *arguments, check=False, DATABASE_URL=url, **environment)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_security_AU_03_a_whole_chain_exits_with_0_and_a_changed_one_with_1_and_its_row(url: str) -> None:
    whole = verdict(url)
    tamper(url, "UPDATE audit_entries SET actor = 'nobody' WHERE id = 7")
    changed = verdict(url)

    assert whole[:2] == (0, {"entries": 20, "ok": True, "first_bad": None, "waiting": 0, "anchors": 0})
    assert "Without an anchor nobody can tell whether the end was cut off" in whole[2]
    assert changed[:2] == (
        1,
        {
            "entries": 20,
            "ok": False,
            "first_bad": {
                "problem": "changed",
                "entry_id": 7,
                "position": 7,
                "detail": "Entry 7 is not what it was when it was chained.",
            },
            "waiting": 0,
            "anchors": 0,
        },
    )
    assert "✗ changed: Entry 7 is not what it was when it was chained. (position 7)" in changed[2]


@pytest.mark.parametrize("target", ["anchors", "anchors.jsonl"])
def test_security_AU_03_a_cut_tail_is_found_by_an_anchor_in_a_directory_or_a_file(
    url: str, tmp_path: Path, target: str
) -> None:
    out = tmp_path / target
    run_counterfoil("audit", "anchor", "--out", str(out), DATABASE_URL=url)
    first = verdict(url, "--anchor", str(out))
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("UPDATE products SET price = 2 WHERE id <= 5")
    run_counterfoil("audit", "anchor", "--out", str(out), DATABASE_URL=url)  # seals what waits, first
    second = verdict(url, "--anchor", str(out))
    tamper(url, "DELETE FROM audit_entries WHERE id > 20; DELETE FROM audit_seals WHERE number > 1")

    without, cut = verdict(url), verdict(url, "--anchor", str(out))

    assert (first[0], first[1]["anchors"]) == (0, 1)
    assert (second[0], second[1]["entries"], second[1]["anchors"]) == (0, 25, 2)
    assert without[0] == 0
    assert (cut[0], cut[1]["first_bad"]["problem"], cut[1]["first_bad"]["position"]) == (1, "cut", 21)
    assert cut[1]["first_bad"]["detail"].startswith("The end is cut off: 5 entries that were there at 20")


def test_verify_looks_for_anchors_where_anchor_writes_them(url: str, tmp_path: Path) -> None:
    named = {"COUNTERFOIL_ANCHOR_DIR": str(tmp_path / "named")}
    run_counterfoil("audit", "anchor", "--data", str(tmp_path), DATABASE_URL=url)
    run_counterfoil("audit", "anchor", "--data", str(tmp_path), DATABASE_URL=url, **named)
    run_counterfoil("audit", "anchor", "--data", str(tmp_path), DATABASE_URL=url, **named)

    assert len(list((tmp_path / "anchors").iterdir())) == 1
    assert verdict(url, "--data", str(tmp_path))[1]["anchors"] == 1
    assert verdict(url, "--data", str(tmp_path), **named)[1]["anchors"] == 2
    assert verdict(url, "--data", str(tmp_path / "empty"))[1]["anchors"] == 0


def test_an_anchor_holds_no_secret_and_is_private(url: str, tmp_path: Path) -> None:
    run_counterfoil("audit", "anchor", "--out", str(tmp_path / "new"), DATABASE_URL=url)

    [path] = (tmp_path / "new").iterdir()
    content = json.loads(path.read_text())
    assert content.keys() == {"version", "entries", "head", "cluster", "database", "at", "public_key", "signature"}
    assert os.environ["COUNTERFOIL_SECRET"] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_another_secret_needs_the_public_key_of_the_one_before(url: str, tmp_path: Path) -> None:
    out = tmp_path / "anchors.jsonl"
    run_counterfoil("audit", "anchor", "--out", str(out), DATABASE_URL=url)
    former = json.loads(out.read_text())["public_key"]
    rotated = {"COUNTERFOIL_SECRET": "another-secret-of-at-least-32-characters"}

    unknown = verdict(url, "--anchor", str(out), **rotated)
    known = verdict(url, "--anchor", str(out), "--key", former, **rotated)

    assert (unknown[0], unknown[1]["first_bad"]["problem"]) == (1, "anchor")
    assert known[0] == 0


def test_security_AU_03_an_anchor_of_anybody_counts_for_nothing_where_no_key_is_known(url: str, tmp_path: Path) -> None:
    out = tmp_path / "anchors.jsonl"
    forger = {"COUNTERFOIL_SECRET": "the-secret-of-a-forger-of-32-characters"}
    run_counterfoil("audit", "anchor", "--out", str(out), DATABASE_URL=url, **forger)

    refused = verdict(url, "--anchor", str(out), COUNTERFOIL_SECRET="")
    named = verdict(url, "--anchor", str(out), "--key", "00" * 32, COUNTERFOIL_SECRET="")

    assert refused[:2] == (1, {"ok": False, "error": refused[1]["error"]})
    assert refused[1]["error"].startswith("There are anchors, and no key to tell whether they are ours")
    assert (named[0], named[1]["first_bad"]["problem"]) == (1, "anchor")


def test_a_directory_of_anchors_that_is_not_there_is_told_to_programs_too(url: str, tmp_path: Path) -> None:
    found = verdict(url, COUNTERFOIL_ANCHOR_DIR=str(tmp_path / "none"))

    assert found[:2] == (1, {"ok": False, "error": found[1]["error"]})
    assert found[1]["error"].startswith(f"The anchor {tmp_path / 'none'} cannot be read")


def test_entries_that_have_waited_for_minutes_are_warned_of(url: str) -> None:
    before = verdict(url)
    tamper(
        url,
        "INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id)"
        " VALUES (now() - interval '6 minutes', 'a', 'b', 'c', 1, 'd')",
    )
    after = verdict(url)

    assert "waits to be chained" not in before[2]
    assert "! The oldest entry that waits to be chained is 6 minutes old" in after[2]
    assert (after[0], after[1]["waiting"]) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (("anchor",), {"COUNTERFOIL_SECRET": ""}, "COUNTERFOIL_SECRET is not set"),
        (("anchor", "--out", "/proc/nowhere/x"), {}, "The anchor cannot be written to /proc/nowhere/x"),
        (("verify", "--anchor", "/proc/version"), {}, "/proc/version:1 is not an anchor"),
        (("verify", "--anchor", "/nowhere/at/all"), {}, "The anchor /nowhere/at/all cannot be read"),
        (("verify", "--key", "xyz"), {}, "--key takes the 64 hexadecimal digits of a public key."),
    ],
)
def test_what_cannot_be_done_is_one_clear_sentence(
    url: str, arguments: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    refused = run_counterfoil("audit", *arguments, check=False, DATABASE_URL=url, **environment)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: {sentence}")
    assert refused.stderr.count("\n") == 1


def test_a_database_without_the_schema_is_one_clear_sentence(postgres_url: str) -> None:
    refused = run_counterfoil("audit", "verify", check=False, DATABASE_URL=with_database(postgres_url, "postgres"))

    assert refused.returncode == 1
    assert refused.stderr == "Error: This database has no chained trail; run `counterfoil migrate` on it first.\n"


def test_the_worker_writes_one_anchor_every_fifteen_minutes(url: str, tmp_path: Path) -> None:
    from test_migrate import working

    os.environ["COUNTERFOIL_ANCHOR_DIR"] = str(tmp_path / "anchors")
    try:
        for age_minutes, expected in ((0, 1), (14, 1), (16, 2)):
            for path in (tmp_path / "anchors").glob("anchor-*.json"):
                then = time.time() - age_minutes * 60
                os.utime(path, (then, then))
            with working(url, tmp_path / "work.log") as worker:
                wait_for_anchors(tmp_path / "anchors", expected)
                wait_for_round(url)
                assert worker.poll() is None
            assert len(list((tmp_path / "anchors").iterdir())) == expected
    finally:
        del os.environ["COUNTERFOIL_ANCHOR_DIR"]


def wait_for_anchors(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(directory.glob("anchor-*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_round(url: str) -> None:
    """Wait until the worker has sealed something that was not there before: a whole round has passed since."""
    with psycopg.connect(url, autocommit=True) as db:
        for _ in range(2):
            db.execute("UPDATE products SET price = price + 1 WHERE id = 1")
            deadline = time.monotonic() + 20
            while db.execute(
                "SELECT (SELECT count(*) FROM audit_entries) > (SELECT sum(cardinality(entry_ids)) FROM audit_seals)"
            ).fetchone() == (True,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
