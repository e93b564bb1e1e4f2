"""The file of master keys: what is refused, and how it is changed."""

from __future__ import annotations

import base64
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from counterfoil.infrastructure.encryption import make_key
from counterfoil.infrastructure.master_keys import (
    MasterKeyFileError,
    add_master_key,
    read_file,
    remove_master_key,
)

GOOD = base64.b64encode(bytes(range(128, 160))).decode()


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("", 0o600, "is empty"),
        ("not base64!", 0o600, "line 1 of .* is not base64"),
        (base64.b64encode(b"x" * 31).decode(), 0o600, "has 31 bytes instead of 32"),
        (base64.b64encode(b"\xf0" * 32).decode(), 0o600, "is not random"),
        (base64.b64encode(b"changeme-changeme-changeme-12345").decode(), 0o600, "is not random"),
        (f"{GOOD}\n{GOOD}\n", 0o600, "has a key twice"),
        (f"{GOOD}\nshort", 0o600, "line 2 of"),
        ("ä", 0o600, "not ASCII"),
        (GOOD, 0o640, "needs mode 0600"),
        (GOOD, 0o604, "needs mode 0600"),
    ],
)
def test_a_weak_or_open_file_is_refused(tmp_path: Path, text: str, mode: int, problem: str) -> None:
    path = write(tmp_path / "keys", text, mode)

    with pytest.raises(MasterKeyFileError, match=problem):
        read_file(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MasterKeyFileError, match="No such file"):
        read_file(tmp_path / "keys")


def test_a_new_key_comes_first_and_the_old_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys"

    first, second = add_master_key(path), add_master_key(path)

    assert read_file(path) == (second, first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [tmp_path / f".{path.name}.lock", path]

    remove_master_key(path, first.id)

    assert read_file(path) == (second,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_not_right_is_not_added_to(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", GOOD, 0o644)

    with pytest.raises(MasterKeyFileError):
        add_master_key(path)

    assert path.read_text() == GOOD


def test_no_drawn_key_is_refused(tmp_path: Path) -> None:
    for _ in range(1000):
        assert read_file(write(tmp_path / "keys", base64.b64encode(make_key()).decode()))


def test_two_who_write_the_file_at_once_lose_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "master.keys"
    first = add_master_key(path)
    writing, real = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        if not writing.is_set():
            writing.set()
            threading.Event().wait(0.3)  # a slow disk: the other one has its chance
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor(2) as pool:
        slowly = pool.submit(add_master_key, path)
        assert writing.wait(10)
        quickly = pool.submit(add_master_key, path)

    assert [key.id for key in read_file(path)] == [quickly.result().id, slowly.result().id, first.id]
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}
