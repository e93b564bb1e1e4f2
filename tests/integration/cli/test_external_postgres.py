"""DATABASE_URL: the oldest PostgreSQL we promise, one that is too old, one that is not there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from conftest import free_port, run_counterfoil, running_service

BINARIES = Path("/usr/lib/postgresql/15/bin")
NOBODY = 65534

# In CI a missing server is a failure, not a reason to skip.
needs_postgres_15 = pytest.mark.skipif(
    not BINARIES.exists() and "CI" not in os.environ, reason="needs the system's PostgreSQL 15"
)


@pytest.fixture(scope="module")
def external_url() -> Iterator[str]:
    """A PostgreSQL 15 that somebody else runs: the system's, on a folder of its own."""
    # Not below pytest's folder: PostgreSQL refuses root, and nobody else may look into that one.
    directory = Path(tempfile.mkdtemp(prefix="counterfoil-postgres-15-"))
    unprivileged: list[str] = []
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
        unprivileged = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    data, port = directory / "data", free_port()
    initdb = [*unprivileged, str(BINARIES / "initdb"), "-D", str(data), "-U", "shop", "-A", "trust", "-E", "UTF8"]
    subprocess.run(initdb, cwd=directory, capture_output=True, check=True)
    server = subprocess.Popen(
        [*unprivileged, str(BINARIES / "postgres"), "-D", str(data), "-p", str(port), "-k", "", "-h", "127.0.0.1"],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"postgresql://shop@127.0.0.1:{port}/postgres"
        with connect_when_ready(url, server) as connection:
            connection.execute("CREATE DATABASE shop")
        yield f"postgresql://shop@127.0.0.1:{port}/shop"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(directory)


def connect_when_ready(url: str, server: subprocess.Popen[bytes]) -> psycopg.Connection[tuple[object, ...]]:
    deadline = time.monotonic() + 30
    while True:
        try:
            return psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


@needs_postgres_15
def test_everything_works_on_the_oldest_postgresql_we_promise(
    external_url: str, make_token: Callable[..., str], tmp_path: Path
) -> None:
    empty = run_counterfoil("doctor", check=False, DATABASE_URL=external_url)
    migrated = run_counterfoil("migrate", DATABASE_URL=external_url)
    again = run_counterfoil("migrate", DATABASE_URL=external_url)
    token = make_token("admin", database_url=external_url)
    with running_service(external_url, tmp_path) as service, service.client(token) as admin:
        body = {"sku": "T-1", "name": "Tea", "price": "2.50", "currency": "EUR"}
        product = admin.post("/api/v1/products", json=body).json()["id"]
        movement = {"kind": "receipt", "quantity": 5}
        address = f"/api/v1/inventory/{product}"
        admin.post(f"{address}/movements", json=movement, headers={"Idempotency-Key": "first-delivery-01"})
        items = [{"product_id": product, "quantity": 2}]
        placed = admin.post("/api/v1/orders", json={"items": items})
        updated = admin.put(f"/api/v1/orders/{placed.json()['id']}", json={"items": [{**items[0], "quantity": 3}]})
        listed = admin.get("/api/v1/orders").json()["items"]
        level = admin.get(address).json()
    report = run_counterfoil("reconcile", check=False, DATABASE_URL=external_url)
    findings = run_counterfoil("doctor", check=False, DATABASE_URL=external_url)
    run_counterfoil("audit", "anchor", "--out", str(tmp_path / "anchors"), DATABASE_URL=external_url)
    verdict = run_counterfoil(
        "audit", "verify", "--json", "--anchor", str(tmp_path / "anchors"), DATABASE_URL=external_url
    )

    assert empty.returncode == 1
    assert "Run `counterfoil migrate`." in " ".join(empty.stdout.split())
    assert "migrations applied." in migrated.stdout
    assert again.stdout == "The schema is up to date.\n"
    assert (placed.status_code, placed.json()["total"]) == (201, 5.0)
    assert (updated.status_code, listed) == (200, [updated.json()])
    assert (level["on_hand"], level["reserved"]) == (5, 3)
    assert report.returncode == 0, report.stdout + report.stderr
    assert findings.returncode == 0, findings.stdout
    assert "PostgreSQL 15 answers, database shop" in " ".join(findings.stdout.split())
    found = json.loads(verdict.stdout)
    assert (found["ok"], found["waiting"], found["anchors"]) == (True, 0, 1)
    assert found["entries"] > 5


@needs_postgres_15
def test_an_owner_who_may_make_roles_needs_no_superuser(external_url: str) -> None:
    with psycopg.connect(external_url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE maker LOGIN CREATEROLE")
        superuser.execute("CREATE DATABASE maker OWNER maker")
    url = external_url.replace("shop@", "maker@").replace("/shop", "/maker")

    migrated = run_counterfoil("migrate", DATABASE_URL=url)
    loaded = run_counterfoil("load-demo", DATABASE_URL=url, COUNTERFOIL_DATABASE_ROLE="counterfoil_app")
    found = run_counterfoil("doctor", "--json", "-", check=False, DATABASE_URL=url)

    assert "applied counterfoil.0003_audit" in migrated.stdout
    assert loaded.returncode == 0
    assert "maker, the owner of the tables" in found.stdout


@pytest.mark.parametrize("command", ["migrate", "reconcile"])
def test_a_database_that_is_not_there_is_one_clear_sentence(command: str) -> None:
    url = f"postgresql://shop@127.0.0.1:{free_port()}/shop"

    refused = run_counterfoil(command, check=False, DATABASE_URL=url)

    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_the_doctor_says_that_a_database_is_not_there() -> None:
    found = run_counterfoil("doctor", check=False, DATABASE_URL=f"postgresql://shop@127.0.0.1:{free_port()}/shop")

    assert found.returncode == 1
    assert "Connection refused" in " ".join(found.stdout.split())
    assert "Traceback" not in found.stderr


@contextmanager
def old_postgresql() -> Iterator[str]:
    """A server that greets as PostgreSQL 14 and does no more; its protocol's first words are enough to know it."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", len(body) + 4) + body

    greeting = (
        message(b"R", struct.pack("!i", 0))
        + message(b"S", b"server_version\x0014.9\x00")
        + message(b"S", b"client_encoding\x00UTF8\x00")
        + message(b"K", struct.pack("!ii", 1, 1))
        + message(b"Z", b"I")
    )
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(4096)
                client.sendall(greeting)
                client.recv(4096)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"postgresql://shop@127.0.0.1:{listener.getsockname()[1]}/shop?sslmode=disable&gssencmode=disable"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_a_database_that_is_too_old_is_one_clear_sentence() -> None:
    with old_postgresql() as url:
        refused = run_counterfoil("migrate", check=False, DATABASE_URL=url)
        found = run_counterfoil("doctor", check=False, DATABASE_URL=url)

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: The database is PostgreSQL 14; use 15 or newer")
    assert refused.stderr.count("\n") == 1
    assert found.returncode == 1
    assert "Use PostgreSQL 15 or newer." in " ".join(found.stdout.split())


def test_a_service_that_starts_before_its_database_answers_503_until_it_is_there(tmp_path: Path) -> None:
    port = free_port()
    url = f"postgresql://shop@127.0.0.1:{port}/shop"
    log = tmp_path / "serve.log"
    api = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "serve", "--port", str(api)],
            env={**os.environ, "DATABASE_URL": url},
            stdout=out,
            stderr=out,
        )
    try:
        answers = [ask_when_up(f"http://127.0.0.1:{api}{path}") for path in ("/livez", "/readyz", "/api/v1/products")]
    finally:
        process.terminate()
        process.wait(45)

    assert [answer.status_code for answer in answers] == [200, 503, 503], log.read_text()
    assert answers[2].json()["error"]["code"] in {"DATABASE_UNAVAILABLE", "SERVICE_UNAVAILABLE"}
    assert answers[2].headers["retry-after"] == "1"


def ask_when_up(address: str) -> httpx.Response:
    deadline = time.monotonic() + 30
    while True:
        try:
            return httpx.get(address, timeout=20)
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
