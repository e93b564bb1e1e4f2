"""Erasure on the wire."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class ErasureOut(Struct, frozen=True):
    """A request to be erased that waits: since when, and for what."""

    state: str
    requested_at: datetime
    reason: str
