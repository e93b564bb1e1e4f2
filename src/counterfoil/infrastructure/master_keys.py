"""The file of master keys: what opens every wrapped key, and is never in a database."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from django.conf import settings

from counterfoil.infrastructure.encryption import KEY_BYTES, make_key
from counterfoil.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

_ID_BYTES: Final = 8
# A random key of 32 bytes has about 30 different ones; fewer than 16 were typed or generated badly.
_DIFFERENT_BYTES_MIN: Final = 16
_OTHERS: Final = 0o077


class MasterKeysUnusable(Unavailable):
    """The encryption keys of this service cannot be used right now; nothing was done, its operators are told why."""

    code = "MASTER_KEYS_UNUSABLE"


class MasterKeyFileError(Exception):
    """What is wrong with the file of master keys, for its operator; names paths, so it is not for callers."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One master key; `id` is public and stored with everything that it wraps."""

    id: bytes
    secret: bytes

    @classmethod
    def of(cls, secret: bytes) -> MasterKey:
        """Name a key: the first 8 bytes of its SHA-256."""
        return cls(hashlib.sha256(secret).digest()[:_ID_BYTES], secret)


class _Reader:
    """Remembers the file as it was read last; every use looks whether it has changed since."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._keys: tuple[MasterKey, ...] = ()

    def read(self) -> tuple[MasterKey, ...]:
        path = settings.COUNTERFOIL.counterfoil_master_keys_file
        if not path:
            raise MasterKeyFileError("COUNTERFOIL_MASTER_KEYS_FILE is not set")
        try:
            found = Path(path).stat()
        except OSError as error:
            raise MasterKeyFileError(f"{path} cannot be read ({error.strerror})") from error
        # A file is replaced, not written into, so a change always shows; the look costs a microsecond.
        seen = (path, found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode)
        if seen != self._seen:
            self._keys = read_file(Path(path))
            self._seen = seen
        return self._keys


_reader: Final = _Reader()


def master_keys() -> tuple[MasterKey, ...]:
    """Return the keys of COUNTERFOIL_MASTER_KEYS_FILE, the current one first; raises MasterKeysUnusable."""
    try:
        return _reader.read()
    except MasterKeyFileError as error:
        log.warning("keys.master_keys_unusable", problem=str(error))
        raise MasterKeysUnusable from error


def check_master_keys() -> None:
    """Read the file as it is now; raises MasterKeyFileError with what is wrong and where."""
    _reader.read()


def read_file(path: Path) -> tuple[MasterKey, ...]:
    """Read and check a file: one base64 key of 32 bytes a line, nobody else's to read. Raises MasterKeyFileError."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise MasterKeyFileError(f"{path} cannot be read ({reason})") from error
    if mode & _OTHERS:
        raise MasterKeyFileError(f"others than its owner may use {path}, which needs mode 0600")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise MasterKeyFileError(f"{path} is empty")
    keys = tuple(MasterKey.of(_decode(line, f"line {n} of {path}")) for n, line in enumerate(lines, start=1))
    if len({key.id for key in keys}) != len(keys):
        raise MasterKeyFileError(f"{path} has a key twice")
    return keys


def _decode(line: str, where: str) -> bytes:
    try:
        secret = base64.b64decode(line, validate=True)
    except binascii.Error as error:
        raise MasterKeyFileError(f"{where} is not base64") from error
    if len(secret) != KEY_BYTES:
        raise MasterKeyFileError(f"{where} has {len(secret)} bytes instead of {KEY_BYTES}")
    # A key of text was thought up, not drawn: 32 random bytes are all ASCII once in 2**32 draws.
    if len(set(secret)) < _DIFFERENT_BYTES_MIN or secret.isascii():
        raise MasterKeyFileError(f"{where} is not random")
    return secret


def add_master_key(path: Path) -> MasterKey:
    """Put a fresh key in front of those in the file, or make the file; in one step, mode 0600. Returns the key."""
    with _only_writer(path):
        known = read_file(path) if path.exists() else ()
        fresh = MasterKey.of(_draw())
        _write(path, (fresh, *known))
    return fresh


def remove_master_key(path: Path, key_id: bytes) -> None:
    """Take a key out of the file, in one step."""
    with _only_writer(path):
        _write(path, tuple(key for key in read_file(path) if key.id != key_id))


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Be the only one who reads the file to write it: of two at once, one would drop the other's key.

    The lock is on a file beside it, because this one is replaced; it ends with the process at the latest.
    """
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _draw() -> bytes:
    """Draw until the key passes its own check, which all but one in four billion do."""
    while True:
        secret = make_key()
        if len(set(secret)) >= _DIFFERENT_BYTES_MIN and not secret.isascii():
            return secret


def _write(path: Path, keys: tuple[MasterKey, ...]) -> None:
    text = "".join(base64.b64encode(key.secret).decode() + "\n" for key in keys)
    # mkstemp makes it 0600 under a name that cannot be guessed; on the disk before it takes the old one's place.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    Path(temporary).replace(path)
