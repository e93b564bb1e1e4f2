"""The baseline: PostgreSQL's own load program, placing one order per transaction in one statement."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from counterfoil.proof.bench.workload import Workload

_SCRIPT: Final = Path(__file__).with_name("pgbench_place_order.sql")
_PLACED: Final = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_TPS: Final = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)
# One thread drives 64 connections without ever being the bottleneck here; a second one only takes from the server.
_THREADS: Final = 1
# Version 18 makes time-ordered UUIDs itself, as the service does; before, random ones cost its index some locality.
_UUIDV7_VERSION_MIN: Final = 180_000


class PgbenchFailed(Exception):
    """pgbench could not run or lost a transaction; its last message is the text."""


@dataclass(frozen=True, slots=True)
class PgbenchResult:
    """What pgbench counted: transactions, and transactions per second without the time to connect."""

    orders: int
    orders_per_s: float


def render_script(workload: Workload, *, server_version: int) -> str:
    """Return the script of a workload for a server of this version (180000 for 18.0)."""
    text = _SCRIPT.read_text(encoding="utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("--")) + "\n"
    first_user, last_user = workload.users[0], workload.users[-1]
    settings = [f"\\set user_id random({first_user}, {last_user})"]
    lines = []
    for number, products in enumerate(workload.product_ranges, start=1):
        settings.append(f"\\set product_{number} random({products[0]}, {products[-1]})")
        settings.append(f"\\set quantity_{number} random(1, {workload.quantity_max})")
        lines.append(f"({number}, :product_{number}::bigint, :quantity_{number}::integer)")
    return Template(text).substitute(
        settings="\n".join(settings),
        lines=", ".join(lines),
        new_event_id="uuidv7" if server_version >= _UUIDV7_VERSION_MIN else "gen_random_uuid",
    )


def run_pgbench(program: Path, database_url: str, script: Path, *, connections: int, seconds: int) -> PgbenchResult:
    """Run a script for some seconds; raises PgbenchFailed when any transaction failed."""
    command = [str(program), "--no-vacuum", "--protocol=prepared", f"--client={connections}", f"--jobs={_THREADS}"]
    command += [f"--time={seconds}", f"--file={script}", database_url]
    process = subprocess.Popen(  # noqa: S603 - a program we found, and our own arguments
        command,
        # The same conditions as for the service's statement: see the head of the script.
        env={**os.environ, "PGOPTIONS": "-c role=counterfoil_placement"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, messages = process.communicate(timeout=seconds + 60)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return _read_result(process.returncode, output, messages, seconds)


def _read_result(status: int, output: str, messages: str, seconds: int) -> PgbenchResult:
    placed, failed, tps = _PLACED.search(output), _FAILED.search(output), _TPS.search(output)
    if status != 0 or placed is None or (failed is not None and failed[1] != "0"):
        last = (messages.strip().splitlines() or ["no message"])[-1]
        raise PgbenchFailed(f"pgbench ended with exit code {status}: {last}")
    if tps is None:
        # It counts its time from before it connects, and then says nothing of a rate.
        raise PgbenchFailed(f"pgbench placed no order in {seconds} s: the machine is too busy for rounds this short.")
    return PgbenchResult(int(placed[1]), float(tps[1]))
