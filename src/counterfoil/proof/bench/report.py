"""What a bench says: figures as JSON, each held to its target."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from counterfoil.proof.bench.runner import BenchResult, Round

AT_LEAST: Final = "≥"
AT_MOST: Final = "≤"
_TIMES: Final = "to 1"
LATENCY_TARGETS_MS: Final = {"create": 20, "pay": 100, "get": 5, "list": 30}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of the report, what it must reach in the end and what it must reach first."""

    name: str
    read: Callable[[dict[str, Any]], float | None]
    bound: str
    target: float
    milestone: float
    unit: str = ""

    def holds(self, figure: float, limit: float) -> bool:
        """Tell whether the figure is on the right side of the limit."""
        return figure >= limit if self.bound == AT_LEAST else figure <= limit


def _in(*keys: str) -> Callable[[dict[str, Any]], float | None]:
    def read(report: dict[str, Any]) -> float | None:
        value: Any = report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return None if value is None else float(value)

    return read


TARGETS: Final = (
    Target("orders/s ÷ pgbench, uniform", _in("uniform", "ratio"), AT_LEAST, 1.2, 0.6, _TIMES),
    Target("orders/s ÷ pgbench, hot", _in("hot", "ratio"), AT_LEAST, 6, 3, _TIMES),
    Target("oversold, lost, duplicated", _in("violations"), AT_MOST, 0, 0),
    Target("create p99 at 100/s", _in("latency_ms", "create_p99"), AT_MOST, LATENCY_TARGETS_MS["create"], 50, "ms"),
    Target(
        "pay p99 in the sandbox at 50/s", _in("latency_ms", "pay_p99"), AT_MOST, LATENCY_TARGETS_MS["pay"], 300, "ms"
    ),
    Target("get p99 at 100/s", _in("latency_ms", "get_p99"), AT_MOST, LATENCY_TARGETS_MS["get"], 20, "ms"),
    Target("list 50 orders p99", _in("latency_ms", "list_p99"), AT_MOST, LATENCY_TARGETS_MS["list"], 100, "ms"),
    Target(
        "list p99, any page of the large table ÷ first of the small",
        _in("scale", "list_ratio"),
        AT_MOST,
        1.5,
        2,
        _TIMES,
    ),
    Target("orders/s, large table ÷ small table", _in("scale", "orders_ratio"), AT_LEAST, 0.9, 0.8, _TIMES),
    Target(
        "memory of a web process at the end ÷ after 50,000 orders", _in("memory_growth"), AT_MOST, 1.05, 1.1, _TIMES
    ),
    Target("memory of a web process at the start", _in("web_start_mb"), AT_MOST, 150, 150, "MB"),
)


def make_report(result: BenchResult) -> dict[str, Any]:
    """Turn a result into the report: plain values, ready for JSON."""
    report: dict[str, Any] = {name: _workload(rounds) for name, rounds in result.rounds.items()}
    report["latency_ms"] = {name: round(value, 2) for name, value in result.latency_ms.items()}
    report["violations"] = sum(result.violations.values())
    report["violations_by_rule"] = dict(result.violations)
    report["unexpected_answers"] = dict(result.unexpected)
    report["repeated_requests"] = result.repeats
    report["orders_acknowledged"] = result.orders_acknowledged
    report["last_units"] = result.last_units
    report["memory_mb"] = result.memory_mb
    report["web_start_mb"] = _web_mb(result, "start")
    settled = next((name for name in result.memory_mb if name.startswith("after ")), None)
    if settled is not None:
        last = list(result.memory_mb)[-1]
        report["memory_growth"] = round(_web_mb(result, last) / _web_mb(result, settled), 3)
    if result.scale is not None:
        scale = asdict(result.scale)
        scale["orders_ratio"] = result.scale.large_orders_per_s / result.scale.small_orders_per_s
        scale["list_ratio"] = result.scale.large_any_page_p99_ms / result.scale.small_first_page_p99_ms
        report["scale"] = {name: round(value, 2) for name, value in scale.items()}
    report["machine"] = asdict(result.machine)
    report["targets"] = check_targets(report)
    return report


def check_targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold every figure that the report has to its target and its first milestone."""
    found = []
    for target in TARGETS:
        figure = target.read(report)
        if figure is not None:
            found.append(
                {
                    "figure": target.name,
                    "measured": figure,
                    "unit": target.unit,
                    "target": f"{target.bound} {target.target:g}",
                    "met": target.holds(figure, target.target),
                    "milestone": f"{target.bound} {target.milestone:g}",
                    "milestone_met": target.holds(figure, target.milestone),
                }
            )
    return found


def _workload(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds; the ratio is that of the medians, each pair's own stands in `rounds`."""
    orders_per_s = statistics.median(each.orders_per_s for each in rounds)
    pgbench_per_s = statistics.median(each.pgbench_per_s for each in rounds)
    return {
        "orders_per_s": round(orders_per_s, 1),
        "pgbench_per_s": round(pgbench_per_s, 1),
        "ratio": round(orders_per_s / pgbench_per_s, 2),
        "service_cpu_us": round(statistics.median(each.service_cpu_us for each in rounds), 1),
        "rounds": [
            {name: round(value, 2) for name, value in asdict(each).items()}
            | {"ratio": round(each.orders_per_s / each.pgbench_per_s, 2)}
            for each in rounds
        ],
    }


def _web_mb(result: BenchResult, moment: str) -> float:
    return max((size for name, size in result.memory_mb[moment].items() if name.startswith("web")), default=0.0)
