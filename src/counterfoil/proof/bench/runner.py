"""The course of a bench: the service and pgbench in turn, the last units, latencies, and then a large table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from counterfoil.infrastructure.postgres_binaries import find_binaries
from counterfoil.proof.bench import database as databases
from counterfoil.proof.bench.database import BenchDatabase
from counterfoil.proof.bench.machine import Machine, describe_machine
from counterfoil.proof.bench.pgbench import render_script, run_pgbench
from counterfoil.proof.bench.product import running_product
from counterfoil.proof.bench.site import CONNECTIONS, Site
from counterfoil.proof.bench.workload import Workload

_ENVIRONMENT: Final = {
    # Nobody pays these orders; their expiry in the middle of a long run is not what is measured.
    "COUNTERFOIL_HOLD_SECONDS": "86400",
    # For the same reason a customer has thousands of them open.
    "COUNTERFOIL_OPEN_ORDERS_MAX": "0",
    "COUNTERFOIL_OPEN_UNITS_MAX": "0",
}

# From here on the memory of a process must not grow any more.
_SETTLED_ORDERS: Final = 50_000


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """How long and how much: seconds per round, rounds, seconds per latency, orders in the large table (0: none)."""

    round_seconds: int
    rounds: int
    latency_seconds: int
    large_orders: int
    small_orders: int = 10_000
    warm_up_seconds: int = 2
    customers: int = 1_000
    products: int = 10_000
    scarce_units: int = 500


QUICK: Final = BenchPlan(round_seconds=7, rounds=3, latency_seconds=7, large_orders=0)
FULL: Final = BenchPlan(round_seconds=20, rounds=3, latency_seconds=20, large_orders=1_000_000)


@dataclass(frozen=True, slots=True)
class Round:
    """One pair: the service and pgbench, one right after the other."""

    orders_per_s: float
    pgbench_per_s: float
    p50_ms: float
    p99_ms: float
    service_cpu_us: float  # processor time of the service's processes per order


@dataclass(frozen=True, slots=True)
class Scale:
    """The same on a small and on a large table, measured in turn: medians of the rounds."""

    small_orders: int
    large_orders: int
    small_orders_per_s: float
    large_orders_per_s: float
    small_first_page_p99_ms: float
    large_any_page_p99_ms: float


@dataclass(slots=True)
class BenchResult:
    """Everything that was measured. `violations` and `unexpected` name what should not be, and must be empty."""

    machine: Machine
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, dict[str, float]] = field(default_factory=dict)
    last_units: dict[str, int] = field(default_factory=dict)
    violations: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    orders_acknowledged: int = 0
    repeats: int = 0
    scale: Scale | None = None


def run_bench(plan: BenchPlan, *, database_url: str | None, on_progress: Callable[[str], None]) -> BenchResult:
    """Run the whole bench on a fresh database (on this server, or on a PostgreSQL of its own) and remove it all.

    Raises EmbeddedPostgresError, ProductFailed, PgbenchFailed or psycopg.Error when something cannot run at all.
    """
    bin_dir = find_binaries().bin_dir
    with databases.fresh_database(database_url, on_progress) as database, ExitStack() as stack:
        on_progress("Looking at the machine")
        result = BenchResult(
            describe_machine(server_version=database.server_version, bin_dir=bin_dir, directory=database.directory)
        )
        site = _open_site(stack, database, plan, on_progress)
        result.memory_mb["start"] = site.product.memory_mb()
        for workload in (site.uniform, site.hot):
            result.rounds[workload.name] = _run_rounds(site, workload, plan, bin_dir / "pgbench", on_progress)
            _note_memory(site, result)
            _check(site, result, on_progress)
        _sell_last_units(site, plan, result, on_progress)
        result.latency_ms = _measure_latencies(site, plan, on_progress)
        result.memory_mb["end"] = site.product.memory_mb()
        if plan.large_orders:
            result.scale = _measure_scale(stack, site, plan, result, on_progress)
            result.memory_mb["large table"] = site.product.memory_mb()
        _check(site, result, on_progress)
        return result


def _open_site(stack: ExitStack, database: BenchDatabase, plan: BenchPlan, on_progress: Callable[[str], None]) -> Site:
    on_progress("Creating customers, products and stock")
    seeded = databases.seed(database, customers=plan.customers, products=plan.products)
    on_progress("Starting the service")
    return Site(database, seeded, stack.enter_context(running_product(database, environment=_ENVIRONMENT)))


def _run_rounds(
    site: Site, workload: Workload, plan: BenchPlan, pgbench: Path, on_progress: Callable[[str], None]
) -> list[Round]:
    """Warm both up, then measure them in turn: a machine that drifts drifts for both."""
    script = site.database.directory / f"{workload.name}.sql"
    script.write_text(render_script(workload, server_version=site.database.server_version), encoding="utf-8")
    rounds: list[Round] = []
    for number in range(plan.rounds + 1):
        seconds = plan.round_seconds if number else plan.warm_up_seconds
        label = f"round {number} of {plan.rounds}" if number else "warm-up"
        on_progress(f"{workload.name}, {label}: the service")
        cpu_before = site.product.cpu_seconds()
        placed = site.place_orders(workload, seconds=seconds)
        cpu_seconds = site.product.cpu_seconds() - cpu_before
        on_progress(f"{workload.name}, {label}: pgbench")
        baseline = run_pgbench(pgbench, site.database.url, script, connections=CONNECTIONS, seconds=seconds)
        if number:
            rounds.append(
                Round(
                    orders_per_s=placed.per_second(HTTPStatus.CREATED),
                    pgbench_per_s=baseline.orders_per_s,
                    p50_ms=placed.percentile_ms(50),
                    p99_ms=placed.percentile_ms(99),
                    service_cpu_us=cpu_seconds * 1e6 / max(placed.count(HTTPStatus.CREATED), 1),
                )
            )
    return rounds


def _note_memory(site: Site, result: BenchResult) -> None:
    """Note the memory of a service that is no longer young, to compare with the end."""
    name = f"after {_SETTLED_ORDERS} orders"
    if len(site.acknowledged) >= _SETTLED_ORDERS and name not in result.memory_mb:
        result.memory_mb[name] = site.product.memory_mb()


def _sell_last_units(site: Site, plan: BenchPlan, result: BenchResult, on_progress: Callable[[str], None]) -> None:
    """Sell a product to its last unit, with twice as many orders as units: exactly the units must be sold."""
    units = plan.scarce_units
    on_progress(f"The last units: {2 * units:,} orders for {units:,} units")
    fired = site.fire_at_last_units(units=units)
    accepted, refused = fired.count(HTTPStatus.CREATED), fired.count(HTTPStatus.CONFLICT)
    result.last_units = {"units": units, "orders": fired.answered, "accepted": accepted, "refused": refused}
    if accepted != units:
        result.violations["units of the scarce product sold too many or left over"] += abs(accepted - units)


def _measure_latencies(site: Site, plan: BenchPlan, on_progress: Callable[[str], None]) -> dict[str, float]:
    """Measure at a fixed rate of arrival, each latency from the moment its request was due."""
    seconds = plan.latency_seconds
    on_progress("Latency: 100 orders placed per second")
    created = site.place_orders_steadily(site.uniform, seconds=seconds)
    on_progress("Latency: 50 orders paid per second")
    paid = site.pay_orders_steadily(seconds=seconds)
    on_progress("Latency: 100 orders read per second")
    got = site.read_orders_steadily(seconds=seconds)
    on_progress("Latency: 20 pages of 50 orders per second")
    listed = site.read_pages_steadily(site.find_pages(), seconds=seconds)
    return {
        "create_p50": created.percentile_ms(50),
        "create_p99": created.percentile_ms(99),
        "pay_p50": paid.percentile_ms(50),
        "pay_p99": paid.percentile_ms(99),
        "get_p50": got.percentile_ms(50),
        "get_p99": got.percentile_ms(99),
        "list_p50": listed.percentile_ms(50),
        "list_p99": listed.percentile_ms(99),
    }


def _measure_scale(
    stack: ExitStack, large: Site, plan: BenchPlan, result: BenchResult, on_progress: Callable[[str], None]
) -> Scale:
    """Fill the table up, and compare with a second service whose table is small, in turn."""
    with large.database.connect() as connection:
        stored = databases.count_orders(connection)
    databases.fill_orders(
        large.database, large.seeded, orders=max(plan.large_orders - stored, 0), on_progress=on_progress
    )
    second = stack.enter_context(databases.second_database(large.database))
    small = _open_site(stack, second, plan, on_progress)
    databases.fill_orders(second, small.seeded, orders=plan.small_orders, on_progress=on_progress)
    on_progress("Small table: pages")
    small_pages = small.read_pages_steadily([small.first_page], seconds=plan.latency_seconds)
    on_progress("Large table: pages")
    large_pages = large.read_pages_steadily(large.find_pages(), seconds=plan.latency_seconds)
    rates: dict[str, list[float]] = {"small": [], "large": []}
    for number in range(plan.rounds + 1):
        for name, site in (("small", small), ("large", large)):
            on_progress(f"{name.capitalize()} table, round {number} of {plan.rounds}: orders")
            # Short rounds, so that the small table stays small.
            seconds = plan.warm_up_seconds if number == 0 else plan.round_seconds / 4
            rates[name].append(site.place_orders(site.uniform, seconds=seconds).per_second())
    _check(small, result, on_progress)
    return Scale(
        small_orders=plan.small_orders,
        large_orders=plan.large_orders,
        small_orders_per_s=statistics.median(rates["small"][1:]),
        large_orders_per_s=statistics.median(rates["large"][1:]),
        small_first_page_p99_ms=small_pages.percentile_ms(99),
        large_any_page_p99_ms=large_pages.percentile_ms(99),
    )


def _check(site: Site, result: BenchResult, on_progress: Callable[[str], None]) -> None:
    """Check the whole database, and move what the site has noticed into the result."""
    on_progress("Checking every order and every unit of stock")
    # A violation stays until the end and is found by every later check: the most counts, not the sum.
    result.violations |= Counter(site.check())
    result.unexpected.update(site.unexpected)
    site.unexpected.clear()
    result.repeats += site.repeats
    site.repeats = 0
    result.orders_acknowledged += len(site.acknowledged) - site.checked
    site.checked = len(site.acknowledged)
