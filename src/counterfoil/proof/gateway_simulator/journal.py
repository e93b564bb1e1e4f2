"""The simulator's journal: a line of JSON for each thing that happens to money, on the disk before it is answered."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_VERSION: Final = 1


class JournalError(Exception):
    """The journal cannot be used; the message is a sentence for the terminal."""


class Journal:
    """Append-only, one owner. What was cut off by a crash was never answered, and is removed."""

    def __init__(self, path: Path) -> None:
        """Open or begin a journal; raises JournalError when another simulator writes it or it is none."""
        self.path = path
        try:
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(f"another simulator writes {path}; stop it or name another --journal") from error
        except OSError as error:
            raise JournalError(f"{path} cannot be written ({error.strerror}); name another --journal") from error
        self.lines = self._read(path)
        if not self.lines:
            self.append({"journal": secrets.token_hex(4), "version": _VERSION}, durable=True)
            self.lines = self._read(path)
            _sync_directory(path.parent)
        self.name: str = self.lines[0]["journal"]

    def append(self, line: dict[str, Any], *, durable: bool) -> None:
        """Write one line; when `durable`, it is on the disk when this returns."""
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        if durable:
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Give the journal up."""
        self._file.close()

    def _read(self, path: Path) -> list[dict[str, Any]]:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
        try:
            lines = [json.loads(text) for text in whole.splitlines()]
        except ValueError as error:
            raise JournalError(f"{path} is not a journal of the simulator; name another --journal") from error
        if lines and (not isinstance(lines[0], dict) or lines[0].get("version") != _VERSION):
            raise JournalError(f"{path} is not a journal of the simulator; name another --journal")
        return lines


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class PaymentTruth:
    """What really happened to one payment, in the currency's smallest unit as Stripe counts it."""

    payment_id: str
    reference: str
    currency: str
    authorized: int
    captured: int
    refunded: int
    voided: bool


def read_truth(path: Path, *, reference_name: str = "counterfoil_reference") -> list[PaymentTruth]:
    """Return every payment that was authorised, from the journal alone, in the order of their authorisation."""
    payments: dict[str, dict[str, Any]] = {}
    for move in read_moves(path):
        payment = payments.setdefault(
            move["payment"],
            {"authorized": 0, "captured": 0, "refunded": 0, "voided": 0, "currency": move["currency"], "reference": ""},
        )
        payment[move["kind"]] += move["amount"]
        payment["reference"] = move.get("metadata", {}).get(reference_name, "") or payment["reference"]
    return [
        PaymentTruth(
            payment_id=payment_id,
            reference=known["reference"],
            currency=known["currency"],
            authorized=known["authorized"],
            captured=known["captured"],
            refunded=known["refunded"],
            voided=bool(known["voided"]),
        )
        for payment_id, known in payments.items()
    ]


def read_moves(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every move of money: kind (authorized, captured, refunded, voided), payment, amount, currency, metadata.

    May be called while the simulator writes; a line that is not complete yet is left out.
    """
    for text in path.read_bytes().splitlines(keepends=True):
        if text.endswith(b"\n"):
            yield from json.loads(text).get("money", [])
