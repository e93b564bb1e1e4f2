"""What is written about the code is what the code says: references, snapshots, and the schema in the design."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
_TABLE = re.compile(r"^CREATE TABLE (\w+) \(\n(.*?)\n\);", re.MULTILINE | re.DOTALL)

Connection = psycopg.Connection[tuple[Any, ...]]


def test_generated_pages_and_snapshots_are_what_the_code_says() -> None:
    # A process of its own: the code is described with its defaults, not as these tests have set it up.
    checked = subprocess.run(
        [sys.executable, "tools/generate_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert checked.stderr == ""
    assert checked.stdout == "", "look at the difference, and if it is meant: make docs"
    assert checked.returncode == 0


def test_the_schema_in_the_design_is_the_schema_of_a_migrated_database(db: Connection) -> None:
    written = described_schema()

    found = {
        "columns": names(
            db,
            "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND table_name = ANY (%s)",
            written["tables"],
        ),
        "constraints": names(
            db,
            "SELECT conname FROM pg_constraint WHERE contype IN ('c', 'f') AND conrelid = ANY (%s::regclass[])",
            written["tables"],
        ),
        "indexes": names(
            db,
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY (%s)"
            " AND indexname NOT IN (SELECT conname FROM pg_constraint)",
            written["tables"],
        ),
        "tables": names(
            db,
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            " AND table_type = 'BASE TABLE' AND table_name !~ %s",
            "^(django|auth)_",
        ),
    }

    assert found == written


def described_schema() -> dict[str, list[str]]:
    """Read tables, columns, CHECK and foreign keys, and indexes from the design's block."""
    text = (ROOT / "docs/technical-design.md").read_text(encoding="utf-8")
    block = text.partition("<!-- generated: schema -->")[2].partition("<!-- end -->")[0]
    columns, constraints = [], []
    for table, body in _TABLE.findall(block):
        parts = [line.strip() for line in body.split("\n")]
        columns += [f"{table}.{part.split()[0]}" for part in parts if not part.startswith(("CONSTRAINT", "PRIMARY"))]
        constraints += re.findall(r"CONSTRAINT (\w+) (?:CHECK|FOREIGN)", body)
    return {
        "columns": sorted(columns),
        "constraints": sorted(constraints),
        "indexes": sorted(re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+)", block, re.MULTILINE)),
        "tables": sorted(table for table, _ in _TABLE.findall(block)),
    }


def names(db: Connection, sql: str, parameter: object) -> list[str]:
    return sorted(row[0] for row in db.execute(sql, [parameter]).fetchall())
