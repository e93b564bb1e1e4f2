"""`counterfoil load-demo`: products, people and stock to try everything with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from counterfoil.cli.service import TerminalError, require_master_keys, use_database


class Source(StrEnum):
    """Where the demo data comes from."""

    CATALOGUE = "catalogue"
    COMPLETE_JOURNEY = "complete-journey"


@dataclass(frozen=True, slots=True)
class _Report:
    """What was added; the rest had been there. `passwords` are those of new accounts, by address."""

    source: Source
    products_found: int
    products_created: int
    users_found: int
    users_created: int
    units_received: int
    cleaning: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)


def load_demo(
    source: Annotated[
        Source, typer.Option(help="Our own small shop, or a year of a real retailer (needs an extra).")
    ] = Source.CATALOGUE,
    data: Annotated[
        Path | None, typer.Option(help="Data directory of `counterfoil up`, when DATABASE_URL is not set.")
    ] = None,
    journey_files: Annotated[
        Path | None, typer.Option(help="Directory of Complete Journey's Parquet files, when it is not installed.")
    ] = None,
    products_limit: Annotated[
        int | None, typer.Option(help="Load only so many products of Complete Journey, best-selling first.", min=1)
    ] = None,
    stock_factor: Annotated[
        int, typer.Option(help="Units to receive per unit that Complete Journey's year sold.", min=1, max=1000)
    ] = 3,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the summary to FILE, or - for stdout.")] = None,
) -> None:
    """Load demo products, people and stock; what is there already stays as it is, so it may be repeated."""
    use_database(data)
    require_master_keys()
    console = Console(stderr=True, soft_wrap=True)
    started = time.monotonic()
    with _database_errors(), _progress(console) as tell:
        if source is Source.CATALOGUE:
            report = _load_catalogue(tell)
        else:
            report = _load_complete_journey(tell, journey_files, products_limit, stock_factor)
    _write(report, time.monotonic() - started, json_file)


def _load_catalogue(tell: Callable[[str, int, int], None]) -> _Report:
    from counterfoil.demo.catalogue import load_catalogue

    loaded = load_catalogue(on_progress=lambda sentence: tell(sentence, 0, 1))
    return _Report(
        Source.CATALOGUE,
        products_found=loaded.products_found,
        products_created=loaded.products_created,
        users_found=len(loaded.user_ids),
        users_created=len(loaded.passwords),
        units_received=loaded.units_received,
        passwords=loaded.passwords,
    )


def _load_complete_journey(
    tell: Callable[[str, int, int], None], directory: Path | None, products_limit: int | None, stock_factor: int
) -> _Report:
    from counterfoil.demo.complete_journey import load_complete_journey

    loaded = load_complete_journey(
        on_progress=tell, products_limit=products_limit, stock_factor=stock_factor, directory=directory
    )
    return _Report(
        Source.COMPLETE_JOURNEY,
        products_found=loaded.products_found,
        products_created=loaded.products_created,
        users_found=loaded.users_found,
        users_created=loaded.users_created,
        units_received=loaded.units_received,
        cleaning=asdict(loaded.cleaning) | {"lines_kept": loaded.cleaning.lines_kept},
    )


@contextmanager
def _database_errors() -> Iterator[None]:
    """Turn what the database may say into one sentence with the next step."""
    from django import db

    try:
        yield
    except db.OperationalError as error:
        raise TerminalError(
            f"The database cannot be used ({str(error).strip()}); check it with `counterfoil doctor`."
            " What was loaded so far stays; repeat the command to complete it."
        ) from error
    except db.ProgrammingError as error:
        if "counterfoil_keys." in str(error):
            raise  # the key store's, which `main` tells
        raise TerminalError("This database has no schema of ours; run `counterfoil migrate` on it first.") from error
    finally:
        db.connections.close_all()


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar per phase."""
    bars: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in bars:
                bars[phase] = progress.add_task(phase, total=total)
            progress.update(bars[phase], completed=done, total=total)

        yield tell
        for bar in progress.tasks:
            progress.update(bar.id, completed=bar.total)


def _write(report: _Report, seconds: float, json_file: str | None) -> None:
    if json_file is not None:
        text = json.dumps(asdict(report) | {"seconds": round(seconds, 3)}, indent=2)
        if json_file == "-":
            print(text)
        else:
            Path(json_file).write_text(text + "\n", encoding="utf-8")
    if json_file != "-":
        _show(report, seconds)


def _show(report: _Report, seconds: float) -> None:
    table = Table(title=f"{report.source.value}, {seconds:.1f} s", title_justify="left")
    table.add_column("")
    table.add_column("In the data", justify="right")
    table.add_column("Added now", justify="right")
    table.add_row("Products", f"{report.products_found:,}", f"{report.products_created:,}")
    table.add_row("Accounts", f"{report.users_found:,}", f"{report.users_created:,}")
    table.add_row("Units received", "", f"{report.units_received:,}")
    for name, lines in report.cleaning.items():
        table.add_row(f"Sales: {name.replace('_', ' ')}", f"{lines:,}", "")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for email, password in report.passwords.items():
        console.print(f"Login  {email}  {password}", markup=False)
