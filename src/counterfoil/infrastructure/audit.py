"""The audit trail: who changes something and why, facts that change nothing, and the chain over all of it.

The entries themselves are written by triggers, and for placed orders by place_orders_v3(): see
docs/explanation/audit.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction, transaction_required

# What one round of the sealer chains at most: 60 ms of one core, so the worker's other jobs do not wait.
SEAL_ENTRIES_MAX: Final = 10_000
# Ten times what it takes to look for the unsealed among ten million entries.
_SEAL_TIMEOUT: Final = "120s"


@transaction_required
def declare_change(*, actor: str, action: str, request_id: str, reason: str = "") -> None:
    """Say who changes what follows in the open transaction, and why; to be called before the first change.

    Every row changed from here on leaves one entry with these values, until the transaction ends or something else is
    declared. Without it an entry names the database login.
    """
    assert actor, "somebody changes something"
    assert not actor.startswith("db:"), "this is what an undeclared change is called"
    fetch_all(
        "SELECT set_config('counterfoil.actor', %(actor)s, true), set_config('counterfoil.action', %(action)s, true),"
        " set_config('counterfoil.request_id', %(request)s, true), set_config('counterfoil.reason', %(reason)s, true)",
        {"actor": actor, "action": action, "request": request_id, "reason": reason},
    )


@transaction_required
def append_entry(
    *,
    actor: str,
    action: str,
    target: str,
    target_id: int | str,
    request_id: str,
    reason: str = "",
    changes: dict[str, Any] | None = None,
) -> None:
    """Append one entry for a fact that changes no row, such as a read of personal data. Joins the open transaction.

    `target_id`: an integer, or a text such as a UUID. `changes` must hold nothing personal: the trail outlives an
    erasure.
    """
    is_number = isinstance(target_id, int)
    fetch_all(
        """
        INSERT INTO audit_entries (actor, action, target, target_id, target_key, request_id, reason, changes)
        VALUES (%(actor)s, %(action)s, %(target)s, %(id)s, %(key)s, %(request)s, %(reason)s, %(changes)s::jsonb)
        """,
        {
            "actor": actor,
            "action": action,
            "target": target,
            "id": target_id if is_number else 0,
            "key": None if is_number else target_id,
            "request": request_id,
            "reason": reason,
            "changes": None if changes is None else Jsonb(changes),
        },
    )


def read_entries_about_user(user_id: int, *, after: int, limit: int) -> list[tuple[Any, ...]]:
    """Return (id, instant, actor, action, request, reason) of up to `limit` entries about an account, above `after`.

    That is what was done to it, and who of the staff has read it.
    """
    return fetch_all(
        """
        SELECT id, occurred_at, actor, action, request_id, reason FROM audit_entries WHERE id IN (
          SELECT id FROM audit_entries WHERE target IN ('user', 'profile') AND target_id = %(user)s
          UNION
          SELECT id FROM audit_entries WHERE action = 'user.read' AND changes -> 'users' @> to_jsonb(%(user)s::bigint))
          AND id > %(after)s
        ORDER BY id LIMIT %(limit)s
        """,
        {"user": user_id, "after": after, "limit": limit},
    )


# ---------------------------------------------------------------- the chain
def seal_entries(*, limit: int = SEAL_ENTRIES_MAX) -> int:
    """Chain up to about `limit` committed entries in a transaction of its own; returns how many.

    Safe to run by several workers at once: all but one find nothing to do. Safe to kill.
    """
    with transaction():
        # After a copy to another server one statement looks through the whole trail, and nobody waits for it.
        fetch_all("SELECT set_config('statement_timeout', %(timeout)s, true)", {"timeout": _SEAL_TIMEOUT})
        row = fetch_one("SELECT seal_audit_entries_v1(%(limit)s)", {"limit": limit})
    assert row is not None
    return int(row[0] or 0)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where the chain ends: how many entries it holds, the last hash, in which server and when by its clock."""

    entries: int
    head: bytes
    cluster: int
    database: str
    at: datetime


def read_head() -> ChainHead:
    """Return the end of the chain as it is now; an empty one has no entries and an empty hash."""
    row = fetch_one(_READ_HEAD)
    assert row is not None
    entries, head, cluster, database, at = row
    return ChainHead(int(entries), bytes(head), int(cluster), database, at)


_READ_HEAD: Final = """
SELECT coalesce(s.position - 1 + cardinality(s.entry_ids), 0), coalesce(h.head, ''), coalesce(s.cluster, 0),
       current_database(), now()
FROM (SELECT) AS one
LEFT JOIN (SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1) AS s ON true
LEFT JOIN (SELECT substr(hashes, length(hashes) - 31) AS head FROM audit_seals
           WHERE entry_ids <> '{}' ORDER BY number DESC LIMIT 1) AS h ON true
"""


@dataclass(frozen=True, slots=True)
class SealState:
    """What is not chained yet: how many entries, and for how long the oldest of them has waited."""

    waiting: int
    oldest_seconds: float


def read_seal_state() -> SealState:
    """Count the entries that wait for the sealer, by the index on their transactions; up to 100,000 of them."""
    row = fetch_one(SEAL_STATE)
    assert row is not None
    return SealState(int(row[0]), float(row[1]))


# Also for a trail that was never sealed: it begins before every transaction.
SEAL_STATE: Final = """
SELECT count(*), coalesce(
         extract(epoch FROM clock_timestamp() - min(w.occurred_at) FILTER (WHERE isfinite(w.occurred_at))), 0)::float
FROM (
  SELECT e.occurred_at
  FROM audit_entries e
  LEFT JOIN (SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1) AS s ON true
  WHERE (e.xact, e.id) > (coalesce(s.last_xact, '0'), coalesce(s.last_id, 0)) AND e.id > coalesce(s.first_id, 0)
  LIMIT 100000
) AS w
"""
