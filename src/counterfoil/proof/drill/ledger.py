"""The clients' own ledger: what they meant to do, written before it is sent, and what they were told."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from counterfoil.proof.drill.comparison import FinalAnswer


class ClientLedger:
    """Append-only; every line is on the disk before `write` returns. Serves any number of threads."""

    def __init__(self, path: Path) -> None:
        """Begin a ledger of this run."""
        self.path = path
        self.answers: list[FinalAnswer] = []
        self.requests: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self._answered: set[str] = set()
        self._file = path.open("ab")
        self._lock = threading.Lock()

    def intend(self, key: str, *, token: str, path: str, body: dict[str, Any]) -> None:
        """Note a request before it is sent; the token is kept in memory only."""
        with self._lock:
            self.requests[key] = (token, path, body)
            self._write({"intent": key, "path": path, "body": body})

    def hear(self, key: str, outcome: str, *, status: int = 0, body: bytes = b"") -> None:
        """Note what came of it: `final`, `refused`, `pending`, `again` (the key is sent once more) or `lost`."""
        with self._lock:
            if outcome == "final":
                self.answers.append(FinalAnswer(key, status, body))
                self._answered.add(key)
            self._write({"key": key, "outcome": outcome, "status": status, "body": body.decode(errors="replace")})

    def has_lasting(self, key: str) -> bool:
        """Tell whether a key was answered for good."""
        with self._lock:
            return key in self._answered

    def close(self) -> None:
        """Give the file up."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fdatasync(self._file.fileno())
