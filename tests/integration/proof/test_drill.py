"""The drill itself: payments through a hostile gateway, kills and notices, and no promise broken (G13, G14)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from conftest import run_counterfoil
from counterfoil.proof.drill.comparison import PROMISES

# A tenth of the goal's size; `make test-long` runs all of it.
ATTEMPTS = int(os.environ.get("COUNTERFOIL_TEST_DRILL_ATTEMPTS", "1000"))
SEED = int(os.environ.get("COUNTERFOIL_TEST_DRILL_SEED", "20261125"))


def run_drill(attempts: int, tmp_path: Path, *more: str, seconds: int) -> dict[str, Any]:
    report = tmp_path / "drill.json"
    arguments = ["--attempts", str(attempts), "--seed", str(SEED), "--clients", "60", "--json", str(report), *more]
    run = run_counterfoil("drill", "payments", *arguments, check=False, seconds=seconds)
    print(run.stderr)  # shown when the test fails
    assert run.returncode == 0
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def require_a_hostile_gateway(report: dict[str, Any], attempts: int) -> None:
    """Every promise was looked at and held, and there was something to break it."""
    assert list(report)[:4] == ["seed", "attempts", "violations", "ok"]
    assert (report["seed"], report["attempts"], report["ok"]) == (SEED, attempts, True)
    assert report["violations"] == dict.fromkeys(PROMISES, 0)
    figures = report["figures"]
    assert sum(figures["orders"].values()) == attempts
    faults = figures["faults"]
    assert sum(faults.values()) > attempts * 0.15
    assert faults.keys() == {
        *("charge_then_hang", "hang_before_charge", "error_500", "error_500_charged"),
        *("rate_limited", "in_flight", "reset_mid_body", "broken_json"),
    }
    # One to five of each notice, and of one payment at least its creation and its capture.
    assert figures["notices"]["accepted"] > attempts * 4


@pytest.mark.timeout(600)
def test_a_hostile_gateway_and_kills_break_no_promise(tmp_path: Path) -> None:
    report = run_drill(ATTEMPTS, tmp_path, "--kills", seconds=580)

    require_a_hostile_gateway(report, ATTEMPTS)
    assert set(report["figures"]["kills"]) == {"serve", "work"}
    assert min(report["figures"]["kills"].values()) >= 1


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ten_thousand_payments_through_a_hostile_gateway_and_kills_break_no_promise(tmp_path: Path) -> None:
    report = run_drill(10_000, tmp_path, "--kills", seconds=7000)

    require_a_hostile_gateway(report, 10_000)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--url", "http://127.0.0.1:1"], "--url and --simulator go together"),
        (["--simulator", "http://127.0.0.1:1"], "--url and --simulator go together"),
        (["--url", "http://127.0.0.1:1", "--simulator", "http://127.0.0.1:1", "--kills"], "--kills needs a service"),
        (
            ["--url", "http://127.0.0.1:1", "--simulator", "http://127.0.0.1:1", "--token", "t"],
            "start one with `counterfoil gateway-simulator`",
        ),
    ],
)
def test_a_drill_that_cannot_begin_says_what_to_do(arguments: list[str], sentence: str) -> None:
    run = run_counterfoil("drill", "payments", *arguments, check=False)

    assert run.returncode == 1
    assert sentence in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
