"""The service under test: its real processes, started as anybody would start them."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from counterfoil.infrastructure.master_keys import add_master_key
from counterfoil.proof.bench.database import BenchDatabase
from counterfoil.users.permissions import Actor, Role
from counterfoil.users.tokens import issue_token

_READY_SECONDS_MAX: Final = 60
# Longer than the service gives to what is in flight when it is told to stop (35 s).
_STOP_SECONDS_MAX: Final = 45


class ProductFailed(Exception):
    """The service did not start; the text names its log."""


@dataclass(frozen=True, slots=True)
class Product:
    """A running service: where it listens, its secret, and the process to look at."""

    url: str
    secret: str
    pid: int

    def issue_tokens(self, users: range, role: Role = Role.CUSTOMER) -> Mapping[int, str]:
        """Sign an access token for each of these users."""
        return {user_id: issue_token(Actor(user_id, role), secret=self.secret) for user_id in users}

    def cpu_seconds(self) -> float:
        """Return the processor time that all processes of the service have taken so far, the database's not counted."""
        return sum(_cpu_seconds(pid) for pid in (self.pid, *_children(self.pid)))

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each process of the service: main, then web 1, web 2 and so on."""
        sizes = {"main": _resident_mb(self.pid)}
        for number, child in enumerate(_children(self.pid), start=1):
            sizes[f"web {number}"] = _resident_mb(child)
        return sizes


@contextmanager
def running_product(database: BenchDatabase, *, environment: Mapping[str, str] | None = None) -> Iterator[Product]:
    """Start the web process and the worker with everything on, wait until ready, and stop both at the end.

    Logs are written, to files of the bench's directory.
    """
    port = _free_port()
    secret = secrets.token_urlsafe(48)
    variables = {
        **os.environ,
        "DATABASE_URL": database.url,
        "COUNTERFOIL_SECRET": secret,
        "COUNTERFOIL_KEYS_URL": "",
        "COUNTERFOIL_MASTER_KEYS_FILE": str(_make_master_keys(database.directory)),
        "COUNTERFOIL_PORT": str(port),
        # Plain HTTP on this machine. Requests are counted as always, against limits that nobody reaches.
        "COUNTERFOIL_DEMO": "1",
        "COUNTERFOIL_LIMIT_FACTOR": "100000",
        **(environment or {}),
    }
    with ExitStack() as stack:
        web = _start(stack, database.directory, variables, "serve", "--port", str(port))
        _wait_until_ready(web, port, database.directory / "serve.log")
        _start(stack, database.directory, variables, "work")
        yield Product(f"http://127.0.0.1:{port}", secret, web.pid)


def _make_master_keys(directory: Path) -> Path:
    """Make a key for this bench only, once: several services may run on one database."""
    path = directory / "master.keys"
    if not path.exists():
        add_master_key(path)
    return path


def _start(stack: ExitStack, directory: Path, variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    log = stack.enter_context((directory / f"{arguments[0]}.log").open("ab"))
    child = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "counterfoil", *arguments, "--parent", str(os.getpid())],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        # A session of its own: Ctrl-C reaches only the bench, which then stops its children in order.
        start_new_session=True,
    )
    stack.callback(_stop, child)
    return child


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < deadline and child.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with suppress(OSError, http.client.HTTPException), closing(connection):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.05)
    messages = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise ProductFailed("The service did not become ready; its last messages: " + " | ".join(messages))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def _cpu_seconds(pid: int) -> float:
    found = Path(f"/proc/{pid}/stat")
    # proc(5): after the name in parentheses come state and then, as the 12th and 13th, user and system time in ticks.
    values = found.read_text().rpartition(")")[2].split() if found.exists() else []
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK") if values else 0.0


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
