"""What the audit tests compare with: every row of every audited table, and the entries of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[str, int | str]

# Table and id column by the name that entries give it.
TABLES = {
    "user": ("users", "id"),
    "profile": ("profiles", "user_id"),
    "product": ("products", "id"),
    "order": ("orders", "id"),
    "order_item": ("order_items", "id"),
    "adjustment": ("adjustments", "id"),
    "fulfillment": ("fulfillments", "id"),
    "fulfillment_line": ("fulfillment_lines", "id"),
    "hold": ("holds", "id"),
    "order_note": ("order_notes", "id"),
    "return": ("returns", "id"),
    "return_line": ("return_lines", "id"),
    "coupon": ("coupons", "id"),
    "coupon_use": ("coupon_uses", "id"),
    "stock_level": ("stock_levels", "product_id"),
    "stock_movement": ("stock_movements", "id"),
    "sign_in": ("sign_ins", "id"),
    "refresh_token": ("refresh_tokens", "'sha256:' || encode(sha256(token_hash), 'hex')"),
    "one_time_token": ("one_time_tokens", "id"),
    "api_key": ("api_keys", "id"),
    "erasure_request": ("erasure_requests", "user_id"),
    "payment": ("payments", "id"),
    "payment_attempt": ("payment_attempts", "id"),
    "refund": ("refunds", "id"),
    "gateway_finding": ("gateway_findings", "id"),
}


@dataclass(frozen=True)
class Entry:
    actor: str
    action: str
    target: str
    target_id: int | str
    request_id: str
    reason: str
    changes: dict[str, Any] | None
    before_hash: bytes | None
    after_hash: bytes | None


def snapshot(db: Connection) -> dict[Row, str]:
    """Every row of every audited table, as text."""
    found: dict[Row, str] = {}
    for target, (table, key) in TABLES.items():
        # A use is no change: see migrations/sql/audit_v1.sql.
        for row_id, text in db.execute(f"SELECT {key}, (to_jsonb(t) - 'last_used_at')::text FROM {table} t".encode()):  # noqa: S608
            found[target, row_id if isinstance(row_id, int) else str(row_id)] = text
    return found


def changed_rows(before: dict[Row, str], after: dict[Row, str]) -> set[Row]:
    return {row for row in {*before, *after} if before.get(row) != after.get(row)}


def entries_after(db: Connection, last_id: int) -> list[Entry]:
    """The entries with higher ids, in their order."""
    rows = db.execute(
        "SELECT actor, action, target, target_id, target_key, request_id, reason, changes, before_hash, after_hash"
        " FROM audit_entries WHERE id > %s ORDER BY id",
        [last_id],
    )
    return [Entry(*row[:3], row[4] or row[3], *row[5:]) for row in rows]


def last_entry_id(db: Connection) -> int:
    row = db.execute("SELECT coalesce(max(id), 0) FROM audit_entries").fetchone()
    assert row is not None
    return int(row[0])
