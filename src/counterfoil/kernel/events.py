"""A fact that happened, as it travels from the outbox to those who must know."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Event(msgspec.Struct, frozen=True):
    """One event: the `seq`-th of its aggregate, counted from 1 without a gap.

    `data` is the payload in the shape that `type` and `schema_version` name; readers ignore members they do not know.
    `timeline` is the database's: after a restore to a point in time the same `seq` may be given again, to another fact
    and another `id`.
    """

    id: UUID
    type: str
    schema_version: int
    aggregate: str
    aggregate_id: int
    seq: int
    occurred_at: datetime
    timeline: int
    data: dict[str, Any]
