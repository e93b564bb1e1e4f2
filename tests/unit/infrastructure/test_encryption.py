"""Sealing: what is sealed opens with the same key at the same place, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.infrastructure.encryption import SealBroken, make_key, open_seal, seal

KEY = make_key()


@given(value=st.binary(max_size=300), place=st.text(max_size=60))
def test_what_is_sealed_opens(value: bytes, place: str) -> None:
    assert open_seal(KEY, seal(KEY, value, place=place), place=place) == value


def test_the_same_value_never_looks_the_same() -> None:
    assert len({seal(KEY, b"ada@example.com", place="p") for _ in range(1000)}) == 1000


def test_nothing_else_opens() -> None:
    sealed = seal(KEY, b"ada@example.com", place="users.email|1")

    for key, text, place in (
        (make_key(), sealed, "users.email|1"),
        (KEY, sealed, "users.email|2"),
        (KEY, sealed, "users.name|1"),
        (KEY, b"", "users.email|1"),
        (KEY, sealed[:13], "users.email|1"),
        (KEY, sealed[:-1], "users.email|1"),
        (KEY, b"\x02" + sealed[1:], "users.email|1"),
        *((KEY, sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :], "users.email|1") for n in range(len(sealed))),
    ):
        with pytest.raises(SealBroken):
            open_seal(key, text, place=place)
