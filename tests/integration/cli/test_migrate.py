"""`counterfoil migrate` and `counterfoil work` on a real database."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

import counterfoil
from conftest import run_counterfoil, with_database


def test_two_at_once_migrate_once(postgres_url: str) -> None:
    name = f"cf_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = with_database(postgres_url, name)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: run_counterfoil("migrate", DATABASE_URL=url), range(2)))

    outputs = sorted(result.stdout for result in results)
    assert outputs[1] == "The schema is up to date.\n"
    count = len(list((Path(counterfoil.__file__).parent / "migrations").glob("0*.py")))
    assert outputs[0].endswith(f"\n{count} migrations applied.\n")
    assert outputs[0].count("  applied counterfoil.") == outputs[0].count("  applied ") == count


def test_the_worker_expires_what_is_past_its_deadline_and_frees_its_stock(
    customer: httpx.Client,
    admin: httpx.Client,
    make_product: Callable[..., int],
    database_url: str,
    tmp_path: Path,
) -> None:
    product = make_product(stock=10)
    late, live = (
        customer.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": n}]}).json()["id"]
        for n in (3, 4)
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [late])
        connection.execute(
            "INSERT INTO idempotency_keys (principal, key, fingerprint, expires_at) VALUES ('user:0', %s, '', now())",
            [f"an-expired-key-{late}"],
        )
    assert admin.get(f"/api/v1/inventory/{product}").json()["reserved"] == 7

    with working(database_url, tmp_path / "work.log") as worker:
        deadline = time.monotonic() + 30
        while admin.get(f"/api/v1/inventory/{product}").json()["reserved"] != 4:
            assert worker.poll() is None, (tmp_path / "work.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "work.log").read_text()
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0

    shown = customer.get(f"/api/v1/orders/{late}").json()
    assert (shown["status"], shown["version"]) == ("expired", 2)
    assert customer.get(f"/api/v1/orders/{live}").json()["status"] == "created"
    events = customer.get(f"/api/v1/orders/{late}/timeline").json()["events"]
    assert [(event["type"], event["actor"]) for event in events][1:] == [("order.expired", "job:expire-orders")]
    movements = admin.get(f"/api/v1/inventory/{product}/movements").json()["items"]
    assert [(m["kind"], m["reserved_delta"], m["order_id"], m["reason"]) for m in movements][:1] == [
        ("release", -3, late, "expired")
    ]
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM idempotency_keys WHERE key = %s", [f"an-expired-key-{late}"]
        ).fetchone()
    assert row == (0,)


@contextmanager
def working(database_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `counterfoil work` until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "work"],
            env={**os.environ, "DATABASE_URL": database_url},
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)
