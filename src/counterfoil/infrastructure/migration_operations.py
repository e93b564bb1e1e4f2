"""Operations shared by migrations."""

from __future__ import annotations

from pathlib import Path

from django.db.migrations.operations import RunSQL


def set_timeouts(*, lock: str = "2s", statement: str = "60s") -> RunSQL:
    """Bound the waits of this migration's transaction; the first operation of every migration.

    A migration that waits for a lock blocks everyone who queues behind it, so it gives up early and is run again.
    """
    sql = f"SET LOCAL lock_timeout = '{lock}'; SET LOCAL statement_timeout = '{statement}'"
    return RunSQL(sql, reverse_sql=sql)


def run_sql_file(path: Path, *, reverse_sql: str) -> RunSQL:
    """Run a file that lies beside the migration and is never edited afterwards: a change is a new file."""
    return RunSQL(path.read_text(encoding="utf-8"), reverse_sql=reverse_sql)
