"""A service to be treated badly: PostgreSQL, simulator, web process and worker of the drill's own, gone at the end."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Any, Final

from counterfoil.infrastructure.master_keys import add_master_key
from counterfoil.proof.bench.database import fresh_database, seed
from counterfoil.proof.drill.clients import Shop
from counterfoil.proof.drill.door import DrillFailed
from counterfoil.users.permissions import Actor, Role
from counterfoil.users.tokens import issue_token

_READY_SECONDS_MAX: Final = 60.0
# How long a process that could not start waits before it is started again, as any supervisor does.
_RESTART_SECONDS: Final = 0.5
_CUSTOMERS: Final = 200
_API_KEY: Final = "sk_test_of_the_drill"
_CALLBACK_PATH: Final = "/payments/callbacks/stripe"


class Child:
    """A process of ours that can be killed with all of its children, and started again."""

    def __init__(self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        """Describe it; nothing runs yet."""
        self.name = name
        self.kills = 0
        self._arguments = [sys.executable, "-m", "counterfoil", *arguments, "--parent", str(os.getpid())]
        self._environment = dict(environment)
        self._log: IO[bytes] = log.open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            self._arguments,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # A session of its own: Ctrl-C reaches only the drill, and a kill reaches the whole group.
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill the whole group at once, as a power switch does."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def is_running(self) -> bool:
        """Tell whether it has not ended by itself."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it at once: what a drill has learned is learned, and its database goes too."""
        if self._process is not None:
            self.kill()
        self._log.close()


@dataclass(slots=True)
class Site:
    """A service under attack. `web` and `worker` are None where the drill only visits somebody's service."""

    url: str
    simulator_url: str
    shop: Shop
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    web: Child | None = None
    worker: Child | None = None


@contextmanager
def own_site(*, run: str, seed_number: int, speed: float, on_progress: Callable[[str], None]) -> Iterator[Site]:
    """Start everything a drill needs, and remove it all at the end. Raises DrillFailed, EmbeddedPostgresError."""
    with fresh_database(None, on_progress) as database, ExitStack() as stack:
        on_progress("Creating customers and stock")
        seeded = seed(database, customers=_CUSTOMERS, products=1)
        port, secret, callback_secret = _free_port(), secrets.token_urlsafe(48), f"whsec_{secrets.token_hex(16)}"
        on_progress("Starting the gateway")
        simulator_url = _start_simulator(
            stack, database.directory, callback_secret, f"http://127.0.0.1:{port}{_CALLBACK_PATH}", seed_number
        )
        environment = {
            **os.environ,
            "DATABASE_URL": database.url,
            **_settings(database.directory, secret, port, simulator_url, callback_secret, speed),
        }
        on_progress("Starting the service")
        web = _child(stack, database.directory, environment, "serve", "--port", str(port))
        worker = _child(stack, database.directory, environment, "work")
        web.start()
        wait_until_ready(web, port, database.directory / "serve.log")
        worker.start()
        shop = Shop(
            _owners(list(seeded.customers), secret),
            _token(seeded.administrator, Role.ADMIN, secret),
            seeded.products[0],
            run,
        )
        yield Site(f"http://127.0.0.1:{port}", simulator_url, shop, database.directory, environment, web, worker)


def _settings(
    directory: Path, secret: str, port: int, simulator_url: str, callback_secret: str, speed: float
) -> dict[str, str]:
    keys = directory / "master.keys"
    add_master_key(keys)
    return {
        "COUNTERFOIL_SECRET": secret,
        "COUNTERFOIL_KEYS_URL": "",
        "COUNTERFOIL_MASTER_KEYS_FILE": str(keys),
        "COUNTERFOIL_PORT": str(port),
        "COUNTERFOIL_DEMO": "1",
        # Everything comes from one address.
        "COUNTERFOIL_LIMIT_FACTOR": "100000",
        "COUNTERFOIL_OPEN_ORDERS_MAX": "0",
        "COUNTERFOIL_OPEN_UNITS_MAX": "0",
        "COUNTERFOIL_GATEWAY": "stripe",
        "COUNTERFOIL_STRIPE_KEY": _API_KEY,
        "COUNTERFOIL_STRIPE_URL": simulator_url,
        "COUNTERFOIL_CALLBACK_SECRETS": callback_secret,
        "COUNTERFOIL_RESOLVER_SPEED": f"{speed:g}",
    }


def _start_simulator(
    stack: ExitStack, directory: Path, callback_secret: str, webhook_url: str, seed_number: int
) -> str:
    info = directory / "simulator.json"
    arguments = ["--port", "0", "--journal", str(directory / "money.jsonl"), "--json", str(info)]
    arguments += ["--webhook-url", webhook_url, "--webhook-secret", callback_secret, "--api-key", _API_KEY]
    simulator = _child(stack, directory, dict(os.environ), "gateway-simulator", *arguments, "--seed", str(seed_number))
    simulator.start()
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while not info.exists():
        if not simulator.is_running() or time.monotonic() > deadline:
            raise DrillFailed(f"The simulator did not start: {_last_words(directory / 'gateway-simulator.log')}")
        time.sleep(0.02)
    return str(json.loads(info.read_text(encoding="utf-8"))["url"])


def _child(stack: ExitStack, directory: Path, environment: Mapping[str, str], *arguments: str) -> Child:
    child = Child(arguments[0], arguments, environment=environment, log=directory / f"{arguments[0]}.log")
    stack.callback(child.stop)
    return child


def _owners(customers: list[int], secret: str) -> Callable[[int], tuple[str, int | None]]:
    tokens = [_token(customer, Role.CUSTOMER, secret) for customer in customers]
    return lambda number: (tokens[number % len(tokens)], None)


def _token(user_id: int, role: Role, secret: str) -> str:
    return issue_token(Actor(user_id, role), secret=secret)


def wait_until_ready(child: Child, port: int, log: Path, *, is_supervised: bool = False) -> None:
    """Wait until the web process answers; raises DrillFailed.

    A supervised one is started again when it ends: its port may still be with the last children of the one before.
    """
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < deadline and (child.is_running() or is_supervised):
        if not child.is_running():
            time.sleep(_RESTART_SECONDS)
            child.start()
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:  # noqa: PLR2004 - HTTP's OK
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise DrillFailed(f"The service did not become ready: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- the simulator's controls
def control(simulator_url: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the simulator about itself, or tell it what to do. Raises DrillFailed when it is not there."""
    host, _, port = simulator_url.removeprefix("http://").rstrip("/").partition(":")
    connection = HTTPConnection(host, int(port or 80), timeout=30)
    try:
        connection.request(method, f"/control/{path}", None if body is None else json.dumps(body))
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        raise DrillFailed(
            f"No simulator answers at {simulator_url} ({error}); start one with `counterfoil gateway-simulator`."
        ) from error
    finally:
        connection.close()
    if answer.status != 200 or not isinstance(found, dict):  # noqa: PLR2004 - HTTP's OK
        raise DrillFailed(f"The simulator answered {answer.status} to {method} {path}: {found}")
    return found


# ---------------------------------------------------------------- kills
class Killer:
    """Kills the web process or the worker every few seconds, as the seed says, and starts it again.

    In the thread that has started them: the kernel takes that thread's end for the end of their parent.
    """

    def __init__(self, site: Site, *, seed_number: int, every_seconds: float) -> None:
        """Make a killer that has not begun."""
        assert site.web is not None
        assert site.worker is not None
        self._children = (site.web, site.worker)
        self._port = int(site.url.rpartition(":")[2])
        self._log = site.directory / "serve.log"
        self._draw = random.Random(f"kills:{seed_number}")  # noqa: S311 - repeatable, not secret
        self._every = every_seconds

    @property
    def kills(self) -> dict[str, int]:
        """How often each was killed."""
        return {child.name: child.kills for child in self._children}

    def run_until(self, done: threading.Event) -> None:
        """Kill until told that it is over; then both are up. Raises DrillFailed when one does not come back."""
        while not done.wait(self._every * self._draw.uniform(0.6, 1.4)):
            victim = self._draw.choice(self._children)
            victim.kill()
            victim.kills += 1
            victim.start()
            if victim.name == "serve":
                wait_until_ready(victim, self._port, self._log, is_supervised=True)
