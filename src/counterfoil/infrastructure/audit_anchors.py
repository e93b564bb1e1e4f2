"""Signed statements of where the audit trail ended at some instant, kept outside of the database.

The chain shows what was changed inside of it. That its end was cut off, or that all of it was written anew, only
somebody can tell who remembers where it ended: an anchor. One is worth as much as the place where it is kept.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from counterfoil.infrastructure.audit import ChainHead, read_head

log = structlog.get_logger(__name__)

_KEY_PURPOSE: Final = b"counterfoil audit anchor v1"
_VERSION: Final = 1
# Two lines of hexadecimal digits and some words; anything longer is not an anchor.
_LINE_CHARS_MAX: Final = 4096


class AnchorFailed(Exception):
    """An anchor that cannot be written or read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What was signed, where it was read, and the key that it says it is signed with."""

    entries: int
    head: bytes
    at: datetime
    source: str
    public_key: bytes
    is_genuine: bool


def signing_key() -> Ed25519PrivateKey:
    """Return the key that signs anchors, derived from the secret; raises AnchorFailed when none is set."""
    secret = settings.COUNTERFOIL.counterfoil_secret.get_secret_value()
    if not secret:
        raise AnchorFailed("COUNTERFOIL_SECRET is not set; an anchor is signed with a key that is derived from it.")
    derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_KEY_PURPOSE)
    return Ed25519PrivateKey.from_private_bytes(derivation.derive(secret.encode()))


def public_key() -> bytes | None:
    """Return the public key of our anchors, or None when no secret is set."""
    try:
        return signing_key().public_key().public_bytes_raw()
    except AnchorFailed:
        return None


def write_anchor(target: Path) -> tuple[Path, ChainHead]:
    """Sign where the chain ends now, and write it: as a file of its own into a directory, or appended to a file.

    A name with a suffix that is no directory is a file. Raises AnchorFailed.
    """
    head = read_head()
    text = json.dumps(_sign(head), separators=(",", ":"), sort_keys=True) + "\n"
    try:
        if target.suffix and not target.is_dir():
            return _append(target, text), head
        return _write_new(target, f"anchor-{head.at:%Y%m%dT%H%M%S.%fZ}-{head.entries:012}.json", text), head
    except OSError as error:
        raise AnchorFailed(f"The anchor cannot be written to {target}: {error.strerror}.") from error


def write_due_anchor() -> bool:
    """Write an anchor when COUNTERFOIL_ANCHOR_DIR is set and its newest one is COUNTERFOIL_ANCHOR_MINUTES old.

    The directory remembers when that was, so any number of workers and restarts write one in that time. A failure is
    logged and told by nothing else: orders do not stop for it.
    """
    directory = settings.COUNTERFOIL.counterfoil_anchor_dir
    if not directory:
        return False
    try:
        interval_seconds = 60 * settings.COUNTERFOIL.counterfoil_anchor_minutes
        ages = (time.time() - path.stat().st_mtime for path in Path(directory).glob("anchor-*.json"))
        if min(ages, default=interval_seconds) < interval_seconds:
            return False
        path, head = write_anchor(Path(directory))
    except (OSError, AnchorFailed) as error:
        log.error("audit.anchor_failed", reason=str(error))  # noqa: TRY400 - the sentence says it all
        return False
    log.info("audit.anchored", entries=head.entries, path=str(path))
    return True


def read_anchors(sources: Iterable[Path]) -> list[Anchor]:
    """Read all anchors of these files and directories, by how much they cover. Raises AnchorFailed."""
    anchors: list[Anchor] = []
    for source in sources:
        paths = sorted(source.glob("*.json*")) if source.is_dir() else [source]
        for path in paths:
            anchors += _read_file(path)
    return sorted(anchors, key=lambda anchor: (anchor.entries, anchor.at))


# ---------------------------------------------------------------- one anchor
def _sign(head: ChainHead) -> dict[str, Any]:
    key = signing_key()
    content = {
        "version": _VERSION,
        "entries": head.entries,
        "head": head.head.hex(),
        "cluster": head.cluster,
        "database": head.database,
        "at": head.at.isoformat(),
        "public_key": key.public_key().public_bytes_raw().hex(),
    }
    return {**content, "signature": key.sign(_signed_bytes(content)).hex()}


def _signed_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def _append(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write of a file opened for appending: two writers cannot mix their lines.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def _write_new(directory: Path, name: str, text: str) -> Path:
    """Write a file in one step: whoever looks sees the whole of it or nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".anchor-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    return Path(temporary).replace(directory / name)


def _read_file(path: Path) -> list[Anchor]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnchorFailed(f"The anchor {path} cannot be read: {error}.") from error
    return [_read_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _read_line(line: str, source: str) -> Anchor:
    try:
        if len(line) > _LINE_CHARS_MAX:
            raise ValueError("it is too long")  # noqa: TRY301 - told below like every other fault of the line
        content: dict[str, Any] = json.loads(line)
        signature = bytes.fromhex(content.pop("signature"))
        key = bytes.fromhex(content["public_key"])
        anchor = Anchor(
            entries=int(content["entries"]),
            head=bytes.fromhex(content["head"]),
            at=datetime.fromisoformat(content["at"]),
            source=source,
            public_key=key,
            is_genuine=_is_signed(key, signature, content),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnchorFailed(f"{source} is not an anchor ({error}).") from error
    return anchor


def _is_signed(key: bytes, signature: bytes, content: dict[str, Any]) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed_bytes(content))
    except InvalidSignature:
        return False
    return True
