"""Opaque, authenticated page cursors."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from counterfoil.kernel.errors import Invalid

_MAC_BYTES: Final = 16
_CURSOR_CHARS_MAX: Final = 512


class InvalidCursor(Invalid):
    """The cursor is not one of ours for this list; start again without a cursor."""

    code = "INVALID_CURSOR"


def encode_cursor(position: str, *, secret: bytes, context: str) -> str:
    """Seal `position` so that only the same `context` (caller and filters) with the same `secret` opens it."""
    data = position.encode()
    return base64.urlsafe_b64encode(_mac(data, secret, context) + data).decode().rstrip("=")


def decode_cursor(cursor: str, *, secret: bytes, context: str) -> str:
    """Open a cursor made by `encode_cursor`; raises InvalidCursor when it was altered or belongs elsewhere."""
    if len(cursor) > _CURSOR_CHARS_MAX:
        raise InvalidCursor
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        mac, data = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        position = data.decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor from error
    canonical = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    if not hmac.compare_digest(mac, _mac(data, secret, context)) or canonical != cursor:
        raise InvalidCursor
    return position


def _mac(data: bytes, secret: bytes, context: str) -> bytes:
    key = hashlib.sha256(b"cursor\0" + secret).digest()
    message = hashlib.sha256(context.encode()).digest() + data
    return hmac.digest(key, message, "sha256")[:_MAC_BYTES]
