"""The whole bench and the replay, small, on real processes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres
from counterfoil.proof.bench.report import make_report
from counterfoil.proof.bench.runner import BenchPlan, run_bench
from counterfoil.proof.replay import Replay, ReplayFailed, fetch_directory
from counterfoil.proof.replay import make_report as make_replay_report

TINY = BenchPlan(
    round_seconds=2,
    rounds=1,
    latency_seconds=1,
    large_orders=3_000,
    small_orders=300,
    warm_up_seconds=2,
    customers=20,
    products=300,
    scarce_units=50,
)


@pytest.fixture
def idle_postgres_url(tmp_path: Path) -> Iterator[str]:
    """A server of its own: the bench wants 64 connections of the 100, and the session's services hold theirs."""
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        yield server.url


def test_a_tiny_bench_measures_everything_breaks_no_promise_and_leaves_nothing_behind(idle_postgres_url: str) -> None:
    with psycopg.connect(idle_postgres_url, autocommit=True) as connection:
        before = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
        steps: list[str] = []

        result = run_bench(TINY, database_url=idle_postgres_url, on_progress=steps.append)
        report = json.loads(json.dumps(make_report(result)))

        assert report["violations_by_rule"] == {}
        assert report["unexpected_answers"] == {}
        for name in ("uniform", "hot"):
            assert report[name]["orders_per_s"] > 0
            assert report[name]["pgbench_per_s"] > 0
            assert len(report[name]["rounds"]) == 1
        assert report["last_units"] == {"units": 50, "orders": 100, "accepted": 50, "refused": 50}
        assert all(report["latency_ms"][name] > 0 for name in ("create_p99", "pay_p99", "get_p99", "list_p99"))
        assert report["scale"]["orders_ratio"] > 0
        assert report["orders_acknowledged"] > 100
        assert report["memory_mb"]["start"]["web 1"] > 10
        assert len(steps) > 10
        assert connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall() == before


@dataclass(frozen=True)
class Bought:
    basket_id: str
    email: str
    lines: tuple[tuple[str, int], ...]


@pytest.fixture
def shopper(make_token: Callable[..., str]) -> str:
    email = f"household-{secrets.token_hex(6)}@example.com"
    make_token("customer", email=email)
    return email


@pytest.fixture
def replay(service: Any, make_token: Callable[..., str]) -> Callable[..., Any]:
    token = make_token("admin")  # one per test: keys belong to their principal

    def run(baskets: list[Bought], name: str) -> Any:
        directory = fetch_directory(service.url, token, on_progress=lambda *_: None)
        return Replay(service.url, token, directory, run=name, concurrency=4).send(baskets, on_progress=lambda _: None)

    return run


def test_baskets_become_orders_refusals_are_counted_and_the_orders_read_back(
    admin: httpx.Client, make_product: Callable[..., int], shopper: str, replay: Callable[..., Any]
) -> None:
    sku = admin.get(f"/api/v1/products/{make_product(stock=5)}").json()["sku"]
    baskets = [Bought(f"b{n}", shopper, ((sku, 1), ("NO-SUCH-SKU", 1))) for n in range(8)]
    baskets.append(Bought("b8", "nobody@example.com", ((sku, 1),)))

    report = make_replay_report(replay(baskets, secrets.token_hex(4)))

    assert {key: report[key] for key in ("sent", "accepted", "refused", "unexplained")} == {
        "sent": 8,
        "accepted": 5,
        "refused": {"INSUFFICIENT_INVENTORY": 3},
        "unexplained": {},
    }
    assert (report["lines_left_out"], report["baskets_left_out"]) == (8, 1)
    assert (report["sample_checked"], report["sample_unreadable"]) == (5, [])


def test_a_replay_of_the_same_name_places_nothing_twice(
    admin: httpx.Client, make_product: Callable[..., int], shopper: str, replay: Callable[..., Any]
) -> None:
    product_id = make_product(stock=100)
    sku = admin.get(f"/api/v1/products/{product_id}").json()["sku"]
    baskets = [Bought(f"b{n}", shopper, ((sku, 2),)) for n in range(10)]

    first = make_replay_report(replay(baskets, "again"))
    second = make_replay_report(replay(baskets, "again"))

    assert (first["accepted"], first["already_placed"]) == (10, 0)
    assert (second["accepted"], second["already_placed"]) == (10, 10)
    assert admin.get(f"/api/v1/inventory/{product_id}").json()["reserved"] == 20


def test_baskets_that_are_not_loaded_are_told_with_the_next_step(replay: Callable[..., Any]) -> None:
    with pytest.raises(ReplayFailed, match="load-demo --source complete-journey"):
        replay([Bought("b0", "nobody@example.com", (("NO-SUCH-SKU", 1),))], "1")


def test_a_service_that_is_not_there_is_told_with_the_next_step() -> None:
    with pytest.raises(ReplayFailed, match="make up"):
        fetch_directory("http://127.0.0.1:9", "token", on_progress=lambda *_: None)
