"""Identifiers made outside the database."""

from __future__ import annotations

import os
import re
import time
from typing import Final
from uuid import UUID

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")


def new_uuid7() -> UUID:
    """Make a time-ordered UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, 74 random bits.

    Time order keeps inserts at the right edge of an index. Within one millisecond the order is random.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)


def new_request_id() -> str:
    """Make an identifier for one request: `req-` and 16 hexadecimal digits."""
    return "req-" + os.urandom(8).hex()


def is_request_id(text: str) -> bool:
    """Tell whether a caller's request id is safe to log and to echo: 8 to 64 of letters, digits, dot, dash."""
    return _REQUEST_ID.fullmatch(text) is not None
