"""Operations shared by migrations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from django.db.migrations.operations import RunSQL

# The width of audit_entries.target.
_TARGET_CHARS_MAX: Final = 20


def set_timeouts(*, lock: str = "2s", statement: str = "60s") -> RunSQL:
    """Bound the waits of this migration's transaction; the first operation of every migration.

    A migration that waits for a lock blocks everyone who queues behind it, so it gives up early and is run again.
    """
    sql = f"SET LOCAL lock_timeout = '{lock}'; SET LOCAL statement_timeout = '{statement}'"
    return RunSQL(sql, reverse_sql=sql)


def run_sql_file(path: Path, *, reverse_sql: str) -> RunSQL:
    """Run a file that lies beside the migration and is never edited afterwards: a change is a new file."""
    return RunSQL(path.read_text(encoding="utf-8"), reverse_sql=reverse_sql)


# Statement triggers read all rows that a statement changed as two tables: a bulk load of thousands of rows costs one
# call. They are silent for the owner of place_orders_v3, which writes its own entry for a whole order: its role is
# entered by calling that function and in no other way (see migrations/sql/audit_roles_v1.sql).
_AUDIT_TRIGGERS: Final = (
    ("audit_insert", "AFTER INSERT", "REFERENCING NEW TABLE AS new_rows"),
    ("audit_update", "AFTER UPDATE", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
    ("audit_delete", "AFTER DELETE", "REFERENCING OLD TABLE AS old_rows"),
    ("audit_truncate", "BEFORE TRUNCATE", ""),
)


def audited_table(table: str, target: str, *, id_column: str = "id", secret_columns: Sequence[str] = ()) -> RunSQL:
    """Let every change of a row of this table leave an audit entry, whoever makes it; reversible.

    Entries name the row as `target` and the value of `id_column`: an integer as target_id, anything else (a UUID) as
    target_key. Values of `bytea` columns and of a `password` enter as their SHA-256 only; those of `secret_columns`,
    which somebody could guess, as the word `hidden`, also of columns of these names that a later migration adds.
    """
    assert all(re.fullmatch(r"[a-z_][a-z0-9_]*", word) for word in (table, target, id_column, *secret_columns))
    assert len(target) <= _TARGET_CHARS_MAX, target
    arguments = ", ".join(f"'{word}'" for word in (target, id_column, *secret_columns))
    return RunSQL(
        [
            f"CREATE TRIGGER {name} {event} ON {table} {tables} FOR EACH STATEMENT"
            f" WHEN (current_user <> 'counterfoil_placement') EXECUTE FUNCTION audit_changes_v1({arguments})"
            for name, event, tables in _AUDIT_TRIGGERS
        ],
        reverse_sql=[f"DROP TRIGGER {name} ON {table}" for name, _, _ in _AUDIT_TRIGGERS],
    )
