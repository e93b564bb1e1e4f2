"""The course of a drill: payments through faults and kills, rest, and the comparison with the gateway's journal."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from counterfoil.proof.drill.clients import Clients
from counterfoil.proof.drill.comparison import PROMISES, OurOrder, Violations, compare, read_gateway_money
from counterfoil.proof.drill.door import Door, DrillFailed, Traffic
from counterfoil.proof.drill.ledger import ClientLedger
from counterfoil.proof.drill.observer import wait_for_rest
from counterfoil.proof.drill.plan import HEALED, draw_attempts, fault_words
from counterfoil.proof.drill.site import Killer, Site, control, own_site

REST_SECONDS_MAX: Final = 120.0
_KILL_SECONDS: Final = 5.0
_READERS: Final = 8
_COMMAND_SECONDS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """How much, how badly, and of which seed. `resolver_speed` divides the resolver's waits: hours become seconds."""

    attempts: int = 1000
    clients: int = 20
    seed: int = 1
    kills: bool = False
    hang_seconds: float = 2.0
    resolver_speed: float = 20.0


@dataclass(slots=True)
class DrillResult:
    """What happened. `checked` names the promises that could be looked at."""

    plan: DrillPlan
    violations: Violations = field(default_factory=Violations)
    checked: tuple[str, ...] = tuple(PROMISES)
    did: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    lost_answers: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    notices: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


def make_report(result: DrillResult) -> dict[str, Any]:
    """Turn a result into the report, plain values for JSON; the first four keys are those of every drill."""
    violations = {name: result.violations.counts[name] for name in result.checked}
    return {
        "seed": result.plan.seed,
        "attempts": result.plan.attempts,
        "violations": violations,
        "ok": not any(violations.values()),
        "figures": {
            "orders": dict(sorted(result.states.items())),
            "did": dict(sorted(result.did.items())),
            "answers": {str(status): count for status, count in sorted(result.answers.items())},
            "problems": dict(sorted(result.codes.items())),
            "requests_without_answer": result.lost_answers,
            "faults": result.faults,
            "notices": result.notices,
            "kills": result.kills,
            "seconds": {name: round(seconds, 1) for name, seconds in result.seconds.items()},
        },
        "examples": {name: cases for name, cases in result.violations.examples.items() if cases},
    }


def run_own_drill(plan: DrillPlan, *, on_progress: Callable[[str], None]) -> DrillResult:
    """Run a drill on a service of its own, which is gone at the end.

    Raises DrillFailed or EmbeddedPostgresError when something cannot run at all.
    """
    with own_site(
        run=f"{plan.seed}", seed_number=plan.seed, speed=plan.resolver_speed, on_progress=on_progress
    ) as site:
        return run_drill(plan, site, on_progress=on_progress)


def run_drill(plan: DrillPlan, site: Site, *, on_progress: Callable[[str], None]) -> DrillResult:
    """Attack a service whose gateway is the site's simulator, and look at what is left. Raises DrillFailed."""
    result, traffic, timer = DrillResult(plan), Traffic(), _Timer()
    with _ledger(site) as ledger:
        door = Door(site.url, ledger=ledger, traffic=traffic)
        clients = Clients(door, site.shop, stop=traffic.stop)
        _attack(plan, site, clients, traffic.stop, result, on_progress)
        result.seconds["under fault"] = timer.lap()
        orders = _come_to_rest(site, door, clients, ledger, traffic, on_progress)
        result.seconds["until rest"] = timer.lap()
        on_progress("Comparing with the gateway's journal")
        money = read_gateway_money(control(site.simulator_url, "GET", "moves")["moves"])
        mine = {payment.reference for order in orders for payment in order.payments}
        # Somebody's service has payments of other days: only an own simulator holds nothing but this drill's.
        theirs = [each for each in money.values() if site.environment or each.reference in mine]
        result.violations = compare(orders, theirs, ledger.answers)
        _check_acknowledged(orders, ledger, result.violations)
    _ask_the_service(site, result, on_progress)
    _take_figures(site, result, traffic, clients, orders)
    result.seconds["checks"] = timer.lap()
    return result


def _attack(
    plan: DrillPlan,
    site: Site,
    clients: Clients,
    stop: threading.Event,
    result: DrillResult,
    on_progress: Callable[[str], None],
) -> None:
    control(site.simulator_url, "PUT", "faults", fault_words(hang_seconds=plan.hang_seconds))
    done = threading.Event()

    def run() -> None:
        try:
            clients.run(
                draw_attempts(plan.attempts, seed=plan.seed),
                clients=plan.clients,
                on_done=lambda count: on_progress(f"Under fault: {count:,} of {plan.attempts:,} attempts"),
            )
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            if plan.kills:
                killer = Killer(site, seed_number=plan.seed, every_seconds=_KILL_SECONDS)
                killer.run_until(done)
                result.kills = killer.kills
            running.result()
        finally:
            # Ends the clients too, when it was not they who came to an end.
            if not done.is_set():
                stop.set()
            on_progress("Healing every fault")
            control(site.simulator_url, "PUT", "faults", HEALED)


def _come_to_rest(
    site: Site,
    door: Door,
    clients: Clients,
    ledger: ClientLedger,
    traffic: Traffic,
    on_progress: Callable[[str], None],
) -> list[OurOrder]:
    """Wait until all money is at rest, ask every key once more, and read every order."""

    def rest(seconds: float) -> list[OurOrder]:
        return wait_for_rest(
            door,
            clients.tally.orders,
            site.shop.staff_token,
            seconds=seconds,
            stop=traffic.stop,
            on_progress=on_progress,
        )

    rest(REST_SECONDS_MAX)
    on_progress("Asking every key once more")
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(door.ask_again, list(ledger.requests)))
    return rest(REST_SECONDS_MAX)


def _check_acknowledged(orders: Sequence[OurOrder], ledger: ClientLedger, violations: Violations) -> None:
    """Every 201 for a payment names one that is there, with at least the money it told of."""
    payments = {payment.id: payment for order in orders for payment in order.payments}
    for answer in ledger.answers:
        if answer.status != HTTPStatus.CREATED or not answer.key.endswith("-pay"):
            continue
        told = json.loads(answer.body)
        payment = payments.get(told["id"])
        if payment is None or (told["status"] == "captured" and not payment.captured):
            violations.add("acknowledged_lost", f"payment {told['id']} was told to be {told['status']}")


def _ask_the_service(site: Site, result: DrillResult, on_progress: Callable[[str], None]) -> None:
    """Run the service's own checks, where its database is ours to look at."""
    if not site.environment:
        result.checked = tuple(name for name in PROMISES if name not in {"reconcile_differences", "gateway_findings"})
        return
    on_progress("Checking every identity of the database")
    report = _run_command(site, "reconcile", "--json", "-")
    for check in report["checks"]:
        if check["differences"]:
            case = f"{check['name']}: {check['examples'][:1]}"
            result.violations.add("reconcile_differences", case, times=check["differences"])
    on_progress("Comparing with the gateway's list")
    for finding in _run_command(site, "reconcile-gateway", "--json", "-")["findings"]:
        result.violations.add("gateway_findings", f"{finding['code']}: {finding['sentence']}")


def _run_command(site: Site, *arguments: str) -> dict[str, Any]:
    run = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "counterfoil", *arguments],
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS_MAX,
        check=False,
    )
    try:
        found = json.loads(run.stdout)
    except ValueError as error:
        raise DrillFailed(f"`counterfoil {arguments[0]}` failed: {run.stderr.strip()[-500:]}") from error
    assert isinstance(found, dict)
    return found


def _take_figures(
    site: Site, result: DrillResult, traffic: Traffic, clients: Clients, orders: Sequence[OurOrder]
) -> None:
    state = control(site.simulator_url, "GET", "state")
    result.faults, result.notices = state["faults_met"], state["webhooks"]
    result.did = clients.tally.done
    result.answers, result.codes, result.lost_answers = traffic.statuses, traffic.codes, traffic.lost
    result.states = Counter(order.status for order in orders)


@contextmanager
def _ledger(site: Site) -> Iterator[ClientLedger]:
    """Keep the clients' ledger in the drill's directory, or in one of its own."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-drill-") as directory:
        ledger = ClientLedger((site.directory if site.environment else Path(directory)) / "clients.jsonl")
        try:
            yield ledger
        finally:
            ledger.close()


class _Timer:
    """Measures one lap after the other."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        return seconds
