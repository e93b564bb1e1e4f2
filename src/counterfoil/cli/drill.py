"""`counterfoil drill`: break things on purpose, and count which promises are broken with them."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from counterfoil.cli.service import TerminalError, locate_service, set_up_django

if TYPE_CHECKING:
    from collections.abc import Callable

    from counterfoil.proof.drill.runner import DrillPlan, DrillResult

app = typer.Typer(
    name="drill",
    help="Break things on purpose, and count which promises are broken with them.",
    no_args_is_help=True,
)
console = Console(stderr=True, soft_wrap=True, highlight=False)
_START_ONE: Final = (
    "start one with `counterfoil gateway-simulator`, and the service with COUNTERFOIL_GATEWAY=stripe,"
    " COUNTERFOIL_STRIPE_URL and COUNTERFOIL_STRIPE_KEY (docs: Run a drill)"
)


@app.callback()
def _drills() -> None:
    """Keep `payments` a command of its own, though it is the only one so far."""


@app.command()
def payments(
    attempts: Annotated[int, typer.Option(help="Orders to pay.", min=1, max=1_000_000)] = 1000,
    clients: Annotated[int, typer.Option(help="How many pay at the same time.", min=1, max=200)] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same attempts, faults and kills.")] = 1,
    kills: Annotated[
        bool, typer.Option("--kills", help="Also kill -9 the web process or the worker all the time.")
    ] = False,
    hang_seconds: Annotated[
        float, typer.Option(help="How long a gateway that hangs stays silent.", min=0.1, max=120)
    ] = 2.0,
    url: Annotated[
        str | None, typer.Option(help="A running service to attack instead of a throwaway one; needs --simulator.")
    ] = None,
    simulator: Annotated[str | None, typer.Option(help="The gateway simulator that this service pays with.")] = None,
    token: Annotated[
        str | None, typer.Option(help="An administrator's access token; default: of the running `up`.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data directory of the running `counterfoil up`.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report to FILE, or - for stdout.")
    ] = None,
) -> None:
    """Pay through a gateway that hangs, fails and lies, and compare with its journal what is left.

    Without --url everything is the drill's own: PostgreSQL, simulator, service and worker, all gone at the end. Exits
    with 1 when any promise was broken.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    from counterfoil.proof.drill.runner import DrillPlan, make_report

    plan = DrillPlan(attempts=attempts, clients=clients, seed=seed, kills=kills, hang_seconds=hang_seconds)
    if (url is None) != (simulator is None):
        raise TerminalError(f"--url and --simulator go together; {_START_ONE}.")
    if url is not None and kills:
        raise TerminalError("--kills needs a service of the drill's own; leave --url away.")
    set_up_django()
    result = _run(plan, _visit(url, str(simulator), token, data) if url is not None else None)
    report = make_report(result)
    _show(report)
    _write_json(report, json_file)
    if not report["ok"]:
        raise typer.Exit(1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(plan: DrillPlan, visit: Any) -> DrillResult:
    from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgresError
    from counterfoil.proof.drill.door import DrillFailed
    from counterfoil.proof.drill.runner import run_drill, run_own_drill

    try:
        with console.status("Starting") as status:
            tell = _narrator(status.update)
            if visit is None:
                return run_own_drill(plan, on_progress=tell)
            return run_drill(plan, visit(tell), on_progress=tell)
    except (DrillFailed, EmbeddedPostgresError) as error:
        raise TerminalError(str(error)) from error


def _visit(url: str, simulator: str, token: str | None, data: Path | None) -> Callable[[Callable[[str], None]], Any]:
    from counterfoil.proof.drill.visit import visit_site

    bearer = token or locate_service(data).admin_token
    root = url.rstrip("/").removesuffix("/api/v1")
    run = secrets.token_hex(4)
    return lambda tell: visit_site(root, simulator.rstrip("/"), bearer, run=run, on_progress=tell)


def _narrator(show: Callable[[str], None]) -> Callable[[str], None]:
    """Show each step as it goes on, or print it as a line where there is no terminal, once a kind."""
    started, told = time.monotonic(), {""}

    def tell(step: str) -> None:
        text = f"{time.monotonic() - started:6.1f} s  {escape(step)}"
        if console.is_terminal:
            show(text)
        elif step.partition(":")[0] not in told:
            told.add(step.partition(":")[0])
            console.print(text)

    return tell


def _show(report: dict[str, Any]) -> None:
    from counterfoil.proof.drill.comparison import PROMISES

    table = Table("", "violations", "what it would mean", title=f"Payments, seed {report['seed']}")
    for name, count in report["violations"].items():
        shown = f"[bold red]{count:,}[/]" if count else "[green]0[/]"
        table.add_row(name, shown, PROMISES[name])
    console.print(table)
    for name in set(PROMISES) - report["violations"].keys():
        console.print(f"Not checked here: {name}; it needs the service's database.")
    for name, cases in report["examples"].items():
        for case in cases:
            console.print(f"[bold red]{name}:[/] {escape(case)}")
    figures = report["figures"]
    for title in ("orders", "did", "answers", "problems", "faults", "notices", "kills", "seconds"):
        words = ", ".join(f"{name} {count:,}" for name, count in figures[title].items())
        console.print(f"{title:<10} {escape(words) or 'none'}")
    verdict = "[bold green]every promise held[/]" if report["ok"] else "[bold red]promises were broken[/]"
    console.print(f"{report['attempts']:,} attempts, seed {report['seed']}: {verdict}.")


def _write_json(report: dict[str, Any], json_file: str | None) -> None:
    if json_file is None:
        return
    text = json.dumps(report, indent=2) + "\n"
    if json_file == "-":
        sys.stdout.write(text)
        return
    try:
        Path(json_file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise TerminalError(f"{json_file} cannot be written ({error.strerror}); name another file.") from error
