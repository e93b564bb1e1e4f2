"""On what machine the figures were made: without it they mean nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FDATASYNC: Final = re.compile(r"^\s*fdatasync\s+[0-9.]+ ops/sec\s+([0-9]+) usecs/op", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of the machine and the software; None for what could not be found out."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    postgresql: str
    fdatasync_us: int | None


def describe_machine(*, server_version: int, bin_dir: Path, directory: Path) -> Machine:
    """Describe this machine; `directory` is where the flush to disk is timed."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        postgresql=f"{server_version // 10_000}.{server_version % 10_000}",
        fdatasync_us=_time_fdatasync(bin_dir / "pg_test_fsync", directory),
    )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _time_fdatasync(program: Path, directory: Path) -> int | None:
    """Ask pg_test_fsync for microseconds per flush of one 8 kB page; PostgreSQL's default method on Linux."""
    if not program.exists():
        return None
    output = ""
    process = subprocess.Popen(  # noqa: S603 - a program we found
        [str(program), "--secs-per-test=1", f"--filename={directory / 'flush.tmp'}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        # It tries every method and file pattern for a second each; the line that counts comes second.
        while (found := _FDATASYNC.search(output)) is None and (chunk := os.read(process.stdout.fileno(), 4096)):
            output += chunk.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        (directory / "flush.tmp").unlink(missing_ok=True)
    return int(found[1]) if found else None
