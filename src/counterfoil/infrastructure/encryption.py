"""Sealing of single values: AES-256-GCM with a fresh nonce, bound to the place that the value belongs to."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
# The first byte of what is sealed: another algorithm gets another number, and both can be read.
_VERSION: Final = b"\x01"
# 96 bits, chosen at random (NIST SP 800-38D): safe for 2**32 values under one key; a person has some dozens, and a
# master key wraps one key per person.
_NONCE_BYTES: Final = 12


class SealBroken(Exception):
    """What is stored was not sealed with this key for this place: it was moved, cut or changed."""


def make_key() -> bytes:
    """Make a random key for `seal`."""
    return AESGCM.generate_key(bit_length=8 * KEY_BYTES)


def seal(key: bytes, value: bytes, *, place: str) -> bytes:
    """Return version, nonce and ciphertext of `value`; only the same key and `place` open it again."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + AESGCM(key).encrypt(nonce, value, place.encode())


def open_seal(key: bytes, sealed: bytes, *, place: str) -> bytes:
    """Return what was sealed; raises SealBroken for anything that was not sealed with this key for this place."""
    if sealed[:1] != _VERSION or len(sealed) <= _NONCE_BYTES:
        raise SealBroken(place)
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, place.encode())
    except InvalidTag as error:
        raise SealBroken(place) from error
