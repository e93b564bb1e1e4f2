"""What the bench makes of its measurements, without running any."""

from __future__ import annotations

import random
from xml.etree import ElementTree as ET

import pytest

from counterfoil.proof.bench.machine import Machine
from counterfoil.proof.bench.pgbench import render_script
from counterfoil.proof.bench.picture import draw_picture
from counterfoil.proof.bench.report import check_targets, make_report
from counterfoil.proof.bench.runner import BenchResult, Round, Scale
from counterfoil.proof.bench.workload import draw_orders, make_hot, make_uniform

MACHINE = Machine("Some CPU <2>", 2, 8.0, "Linux 6", "3.11.7", "18.6", 400)


@pytest.fixture
def result() -> BenchResult:
    return BenchResult(
        MACHINE,
        rounds={
            "uniform": [Round(100, 200, 1, 2, 600), Round(300, 250, 1, 2, 400), Round(200, 400, 1, 2, 500)],
            "hot": [Round(700, 100, 1, 2, 300)] * 3,
        },
        latency_ms={
            f"{kind}_{percent}": value
            for kind, value in (("create", 10.0), ("pay", 200.0), ("get", 6.0), ("list", 30.0))
            for percent in ("p50", "p99")
        },
        memory_mb={
            "start": {"main": 60.0, "web 1": 80.0},
            "after 50000 orders": {"main": 60.0, "web 1": 100.0},
            "end": {"main": 60.0, "web 1": 103.0},
        },
        orders_acknowledged=1234,
    )


def test_a_ratio_is_that_of_the_medians_and_every_pair_keeps_its_own(result: BenchResult) -> None:
    report = make_report(result)

    assert {key: report["uniform"][key] for key in ("orders_per_s", "pgbench_per_s", "ratio", "service_cpu_us")} == {
        "orders_per_s": 200,
        "pgbench_per_s": 250,
        "ratio": 0.8,
        "service_cpu_us": 500,
    }
    assert [each["ratio"] for each in report["uniform"]["rounds"]] == [0.5, 1.2, 0.5]


def test_the_report_keeps_the_promised_keys(result: BenchResult) -> None:
    report = make_report(result)

    assert set(report) >= {"uniform", "hot", "latency_ms", "violations", "machine"}
    assert set(report["latency_ms"]) >= {"create_p50", "create_p99", "pay_p99", "get_p99", "list_p99"}
    assert report["violations"] == 0
    assert report["machine"]["fdatasync_us"] == 400


def test_violations_are_added_up_and_named(result: BenchResult) -> None:
    result.violations["oversold products"] = 2
    result.violations["orders whose total differs from their lines"] = 1

    report = make_report(result)

    assert report["violations"] == 3
    assert report["violations_by_rule"]["oversold products"] == 2


def test_figures_are_held_to_target_and_milestone_and_absent_ones_are_left_out(result: BenchResult) -> None:
    verdicts = {t["figure"]: (t["met"], t["milestone_met"]) for t in check_targets(make_report(result))}

    assert verdicts == {
        "orders/s ÷ pgbench, uniform": (False, True),
        "orders/s ÷ pgbench, hot": (True, True),
        "oversold, lost, duplicated": (True, True),
        "create p99 at 100/s": (True, True),
        "pay p99 in the sandbox at 50/s": (False, True),
        "get p99 at 100/s": (False, True),
        "list 50 orders p99": (True, True),
        "memory of a web process at the end ÷ after 50,000 orders": (True, True),
        "memory of a web process at the start": (True, True),
    }


def test_a_large_table_is_compared_with_a_small_one(result: BenchResult) -> None:
    result.scale = Scale(10_000, 1_000_000, 1000.0, 850.0, 10.0, 16.0)

    report = make_report(result)
    verdicts = {t["figure"]: (t["met"], t["milestone_met"]) for t in report["targets"]}

    assert (report["scale"]["orders_ratio"], report["scale"]["list_ratio"]) == (0.85, 1.6)
    assert verdicts["orders/s, large table ÷ small table"] == (False, True)
    assert verdicts["list p99, any page of the large table ÷ first of the small"] == (False, True)


def test_the_picture_is_one_svg_that_asks_no_other_host_for_anything(result: BenchResult) -> None:
    picture = draw_picture(make_report(result))

    root = ET.fromstring(picture)  # noqa: S314 - our own output
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<script" not in picture
    assert "href" not in picture
    assert "Some CPU &lt;2&gt;" in picture


def test_pgbench_draws_from_the_same_products_in_ascending_order() -> None:
    script = render_script(make_uniform(range(1, 11), range(100, 400)), server_version=180_006)

    assert "\\set user_id random(1, 10)" in script
    for number, (low, high) in enumerate([(100, 199), (200, 299), (300, 399)], start=1):
        assert f"\\set product_{number} random({low}, {high})" in script
    assert "uuidv7()" in script
    assert "$" not in script


def test_a_server_before_18_makes_random_uuids() -> None:
    script = render_script(make_hot(range(1, 11), 7), server_version=170_002)

    assert "uuidv7" not in script
    assert "\\set product_1 random(7, 7)" in script
    assert "product_2" not in script


def test_orders_are_drawn_alike_with_keys_that_never_repeat() -> None:
    workload = make_uniform(range(1, 3), range(1, 31))
    tokens = {1: "one", 2: "two"}

    def draw() -> list[bytes]:
        orders = draw_orders(workload, url="http://h:1", tokens=tokens, randomness=random.Random(1))
        return [next(orders).payload for _ in range(200)]

    drawn = draw()

    assert drawn == draw()
    assert len({payload.split(b"Idempotency-Key: ")[1][:36] for payload in drawn}) == 200
