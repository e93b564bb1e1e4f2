"""The gateway simulator as a process of its own, and a server that takes its notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec

from counterfoil.payments.gateways.registry import GatewayConfig
from counterfoil.payments.gateways.stripe import StripeGateway
from counterfoil.proof.gateway_simulator.journal import PaymentTruth, read_moves, read_truth

API_KEY = "sk_test_of_the_tests"
SECRET = "whsec_of_the_tests"
START_SECONDS_MAX = 30


@dataclass
class Simulator:
    """A running simulator."""

    url: str
    journal: Path
    process: subprocess.Popen[bytes]

    def config(self) -> GatewayConfig:
        return GatewayConfig(callback_secrets=(SECRET,), stripe_key=API_KEY, stripe_url=self.url)

    def stripe(self) -> StripeGateway:
        return StripeGateway(api_key=API_KEY, callback_secrets=(SECRET,), api_url=self.url)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.url}/control/{path}", json=body, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def plan(self, **words: Any) -> None:
        """Set the fault plan; `next_1="slow"` is the fault of the next request."""
        self.control("PUT", "faults", {name.replace("next_", "next."): value for name, value in words.items()})

    def moves(self) -> list[tuple[str, int]]:
        """What happened to money so far: (kind, amount), from the journal."""
        return [(move["kind"], move["amount"]) for move in read_moves(self.journal)]

    def truth(self) -> dict[str, PaymentTruth]:
        """What happened to each reference; a reference that was charged twice fails here."""
        found = read_truth(self.journal)
        by_reference = {payment.reference: payment for payment in found}
        assert len(by_reference) == len(found), "one payment for each reference"
        return by_reference


@contextmanager
def simulator(directory: Path, *options: str, port: int = 0) -> Iterator[Simulator]:
    """Run `counterfoil gateway-simulator` until the block ends; it is then stopped by its own pid."""
    info, journal = directory / "simulator.json", directory / "journal.jsonl"
    info.unlink(missing_ok=True)
    arguments = ["--port", str(port), "--journal", str(journal), "--json", str(info), "--parent", str(os.getpid())]
    arguments += ["--api-key", API_KEY, "--webhook-secret", SECRET, *options]
    output = directory / "simulator.out"
    with output.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "gateway-simulator", *arguments], stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not info.exists():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        yield Simulator(json.loads(info.read_text())["url"], journal, process)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


@dataclass
class Receiver:
    """Takes notices and answers with the next of `answers`, then with 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    notices: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(body) for body, _ in self.notices]

    def wait_for(self, count: int, *, seconds: float = 15.0) -> list[dict[str, Any]]:
        """Wait until at least `count` notices are there."""
        deadline = time.monotonic() + seconds
        while len(self.notices) < count:
            assert time.monotonic() < deadline, f"{len(self.notices)} of {count} notices"
            time.sleep(0.01)
        return self.events()


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a server for notices on a free port until the block ends."""
    taken = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.notices.append((body, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(taken.answers.pop(0) if taken.answers else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    taken.url = f"http://127.0.0.1:{server.server_address[1]}/payments/callbacks/stripe"
    try:
        yield taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
