"""`counterfoil bench` and `counterfoil replay`: speed and promises, measured on the real service."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from counterfoil.cli.service import DEFAULT_DATA, TerminalError, locate_service, set_up_django

if TYPE_CHECKING:
    from collections.abc import Callable

    from counterfoil.proof.replay import ReplayResult

JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the report to FILE, or - for stdout.")
]
console = Console(stderr=True, soft_wrap=True, highlight=False)


def bench(
    quick: Annotated[bool, typer.Option(help="Short rounds, no large table: ends within 3 minutes.")] = False,
    json_file: JsonOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of bench.json and bench.svg; by default beside --json.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="A PostgreSQL server to make the bench's database on; by default its own.")
    ] = None,
    enforce_targets: Annotated[bool, typer.Option(help="Also exit with 1 when a target is missed.")] = False,
) -> None:
    """Measure orders per second against pgbench, latencies, and that nothing is oversold, lost or placed twice.

    Starts the service on a fresh database and removes all of it at the end. Exits with 0 only when every promise held.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    set_up_django()
    from counterfoil.proof.bench.report import make_report
    from counterfoil.proof.bench.runner import FULL, QUICK

    started = time.monotonic()
    result = _run_bench(QUICK if quick else FULL, database_url)
    report = make_report(result)
    report["seconds"] = round(time.monotonic() - started, 1)
    _print_bench(report)
    _write_bench(report, json_file, out)
    broken = report["violations"] or report["unexpected_answers"]
    missed = [target for target in report["targets"] if not target["met"]]
    if broken or (enforce_targets and missed):
        raise typer.Exit(1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run_bench(plan: Any, database_url: str | None) -> Any:
    import psycopg

    from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgresError
    from counterfoil.proof.bench.pgbench import PgbenchFailed
    from counterfoil.proof.bench.product import ProductFailed
    from counterfoil.proof.bench.runner import run_bench

    try:
        with console.status("Starting") as status:
            return run_bench(plan, database_url=database_url, on_progress=_narrator(status.update))
    except (EmbeddedPostgresError, ProductFailed, PgbenchFailed) as error:
        raise TerminalError(str(error)) from error
    except psycopg.Error as error:
        problem = str(error).strip().rstrip(".")
        raise TerminalError(
            f"The database refused ({problem}); check --database-url and the rights of its user."
        ) from error


def _narrator(show: Callable[[str], None]) -> Callable[[str], None]:
    """Show each step as it goes on, or print it as a line where there is no terminal."""
    started = time.monotonic()

    def tell(step: str) -> None:
        text = f"{time.monotonic() - started:6.1f} s  {escape(step)}"
        if console.is_terminal:
            show(text)
        else:
            console.print(text)

    return tell


def _print_bench(report: dict[str, Any]) -> None:
    columns = ("workload", "round", "service/s", "pgbench/s", "ratio", "p50 ms", "p99 ms", "CPU µs an order")
    rounds = Table(*columns, title="Rounds, in turn")
    for name in ("uniform", "hot"):
        for number, each in enumerate(report[name]["rounds"], start=1):
            figures = [f"{each[key]:,.0f}" for key in ("orders_per_s", "pgbench_per_s")]
            latencies = [f"{each['p50_ms']:.1f}", f"{each['p99_ms']:.1f}"]
            cpu = f"{each['service_cpu_us']:.0f}"
            rounds.add_row(name, str(number), *figures, f"{each['ratio']:.2f}", *latencies, cpu)
        median = [f"{report[name][key]:,.0f}" for key in ("orders_per_s", "pgbench_per_s")]
        rounds.add_row(name, "median", *median, f"{report[name]['ratio']:.2f}", style="bold", end_section=True)
    console.print(rounds)
    targets = Table("figure", "measured", "target", "", "first milestone", "", title="Targets")
    for target in report["targets"]:
        measured = f"{target['measured']:g} {target['unit']}".strip()
        targets.add_row(
            target["figure"],
            measured,
            target["target"],
            _verdict(held=target["met"]),
            target["milestone"],
            _verdict(held=target["milestone_met"]),
        )
    console.print(targets)
    for rule, count in report["violations_by_rule"].items():
        console.print(f"[bold red]Violation:[/] {count:,} {rule}")
    for answer, count in report["unexpected_answers"].items():
        console.print(f"[bold red]Unexpected answer:[/] {answer}, {count:,} times")
    console.print(
        f"{report['orders_acknowledged']:,} orders acknowledged, {report['violations']} violations,"
        f" {report['seconds']:.0f} s."
    )


def _verdict(*, held: bool) -> str:
    return "[green]met[/]" if held else "[bold yellow]missed[/]"


def _write_bench(report: dict[str, Any], json_file: str | None, out: Path | None) -> None:
    from counterfoil.proof.bench.picture import draw_picture

    to_file = json_file not in {None, "-"}
    directory = out or (Path(str(json_file)).parent if to_file else DEFAULT_DATA / "bench")
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    picture = directory / (f"{Path(str(json_file)).stem}.svg" if to_file and out is None else "bench.svg")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        picture.write_text(draw_picture(report), encoding="utf-8")
        if out is not None or json_file is None:
            (directory / "bench.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise TerminalError(
            f"{directory} cannot be written ({error.strerror}); name another one with --out."
        ) from error
    _write_json(text, json_file)
    console.print(f"Picture: {picture}")


def _write_json(text: str, json_file: str | None) -> None:
    if json_file == "-":
        sys.stdout.write(text)
    elif json_file is not None:
        try:
            Path(json_file).write_text(text, encoding="utf-8")
        except OSError as error:
            raise TerminalError(f"{json_file} cannot be written ({error.strerror}); name another file.") from error


def replay(
    orders: Annotated[int, typer.Option(help="How many baskets, from the first one on.", min=1)] = 20_000,
    concurrency: Annotated[int, typer.Option(help="Orders under way at the same time.", min=1, max=1_000)] = 32,
    run: Annotated[
        str, typer.Option(help="Name of this replay: the same name places nothing twice, another one all anew.")
    ] = "1",
    url: Annotated[str | None, typer.Option(help="Where the API is; by default the running `counterfoil up`.")] = None,
    token: Annotated[str | None, typer.Option(help="An administrator's access token; default as for --url.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data directory of the running `counterfoil up`.")] = None,
    journey_files: Annotated[
        Path | None, typer.Option(help="Directory of Complete Journey's Parquet files, when it is not installed.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Send real baskets of the Complete Journey data in their real order as orders over HTTP.

    Needs `counterfoil load-demo --source complete-journey`. Exits with 0 only when every answer is an order or a
    documented refusal, and a sample of the accepted orders reads back as it was sent.
    """
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", run) is None:
        raise TerminalError("--run takes up to 60 letters, digits, dots, dashes and underscores.")
    address, bearer = _service(url, token, data)
    set_up_django()
    from counterfoil.demo.complete_journey import locate_journey
    from counterfoil.proof.replay import ReplayFailed, make_report

    locate_journey(journey_files)
    try:
        result = _replay(address, bearer, orders, concurrency, run, journey_files)
    except ReplayFailed as error:
        raise TerminalError(str(error)) from error
    report = make_report(result)
    _print_replay(report)
    _write_json(json.dumps(report, indent=2) + "\n", json_file)
    if report["unexplained"] or report["sample_unreadable"]:
        raise typer.Exit(1)


def _service(url: str | None, token: str | None, data: Path | None) -> tuple[str, str]:
    """Return root address and token, from the options or from what `up` has written about itself."""
    if url is None or token is None:
        service = locate_service(data)
        url, token = url or service.api_url, token or service.admin_token
    root = url.rstrip("/").removesuffix("/api/v1")
    if urlsplit(root).scheme != "http" or not urlsplit(root).hostname:
        raise TerminalError(f"{url} is not an address like http://127.0.0.1:8000; name the service with --url.")
    return root, token


def _replay(url: str, token: str, orders: int, concurrency: int, run: str, journey_files: Path | None) -> ReplayResult:
    from counterfoil.demo.complete_journey import read_baskets
    from counterfoil.proof.replay import Replay, fetch_directory

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        listing = progress.add_task("Looking up products", total=None)
        directory = fetch_directory(
            url,
            token,
            on_progress=lambda what, count: progress.update(listing, description=f"Looking up {what}", completed=count),
        )
        found = len(directory.products) + len(directory.users)
        progress.update(listing, description="Products and customers", completed=found, total=found)
        sending = progress.add_task("Placing orders", total=orders)
        return Replay(url, token, directory, run=run, concurrency=concurrency).send(
            read_baskets(limit=orders, directory=journey_files),
            on_progress=lambda done: progress.update(sending, completed=done),
        )


def _print_replay(report: dict[str, Any]) -> None:
    table = Table("", "orders", title="Replay")
    table.add_row("sent", f"{report['sent']:,}")
    table.add_row("accepted", f"{report['accepted']:,}")
    if report["already_placed"]:
        table.add_row("  of these placed by an earlier replay", f"{report['already_placed']:,}")
    for code, count in sorted(report["refused"].items()):
        table.add_row(f"refused: {code}", f"{count:,}")
    for answer, count in sorted(report["unexplained"].items()):
        table.add_row(f"[bold red]unexplained: {answer}[/]", f"{count:,}")
    if report["baskets_left_out"]:
        table.add_row("baskets left out (customer or products not loaded)", f"{report['baskets_left_out']:,}")
    table.add_section()
    table.add_row("orders per second", f"{report['orders_per_s']:,.0f}")
    for name in ("p50", "p95", "p99"):
        table.add_row(f"{name} ms", f"{report[f'{name}_ms']:.1f}")
    table.add_row("read back and compared", f"{report['sample_checked']:,}")
    console.print(table)
    if "422 IDEMPOTENCY_KEY_REUSED" in report["unexplained"]:
        console.print("Baskets of this replay were sent with other lines before; name a new one with --run.")
    for order_id in report["sample_unreadable"]:
        console.print(f"[bold red]Error:[/] order {order_id} was accepted and does not read back as it was sent.")
