"""Cursors open only as they were made."""

from __future__ import annotations

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from counterfoil.kernel.cursor import InvalidCursor, decode_cursor, encode_cursor

SECRET = b"a secret of the tests, 32 bytes."


@given(st.text(max_size=100), st.text())
def test_a_cursor_gives_its_position_back(position: str, context: str) -> None:
    assume(position.isprintable())

    cursor = encode_cursor(position, secret=SECRET, context=context)

    assert decode_cursor(cursor, secret=SECRET, context=context) == position


@given(st.integers(0, 8 * 30 - 1))
def test_a_single_flipped_bit_is_noticed(bit: int) -> None:
    cursor = encode_cursor("2025-01-15|7", secret=SECRET, context="orders")
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    assume(bit < 8 * len(raw))
    raw[bit // 8] ^= 1 << bit % 8
    altered = base64.urlsafe_b64encode(raw).decode().rstrip("=")

    with pytest.raises(InvalidCursor):
        decode_cursor(altered, secret=SECRET, context="orders")


@given(st.text())
def test_no_other_text_is_a_cursor(text: str) -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor(text, secret=SECRET, context="orders")


@pytest.mark.parametrize(("secret", "context"), [(SECRET, "products"), (b"another secret", "orders")])
def test_a_cursor_of_another_list_or_service_stays_shut(secret: bytes, context: str) -> None:
    cursor = encode_cursor("7", secret=SECRET, context="orders")

    with pytest.raises(InvalidCursor):
        decode_cursor(cursor, secret=secret, context=context)


def test_the_same_bytes_written_differently_are_refused() -> None:
    cursor = encode_cursor("7", secret=SECRET, context="orders")

    for other in (cursor + "=", cursor + "==", cursor + " ", "\n" + cursor, cursor + "A", cursor * 40):
        with pytest.raises(InvalidCursor):
            decode_cursor(other, secret=SECRET, context="orders")
