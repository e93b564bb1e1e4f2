"""`counterfoil audit`: verify the trail, and sign where it ends."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from counterfoil.cli.service import DEFAULT_DATA, TerminalError, use_database

if TYPE_CHECKING:
    from counterfoil.infrastructure.audit_anchors import Anchor
    from counterfoil.proof.audit_chain import Verdict

# The worker chains once a second; what waits this long is a matter for a person.
_WAITING_SECONDS_MAX = 300
_NO_KEY = (
    "There are anchors, and no key to tell whether they are ours: set COUNTERFOIL_SECRET, or name the public key with"
    " --key."
)
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Data directory of `counterfoil up`: its database unless DATABASE_URL is set, its anchors."
    ),
]
app = typer.Typer(
    name="audit", help="Verify the audit trail, and sign where it ends.", no_args_is_help=True, add_completion=False
)


@app.command()
def verify(
    data: DataOption = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(
            help="File or directory of anchors; repeatable. By default COUNTERFOIL_ANCHOR_DIR, else DATA/anchors."
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Public key (hexadecimal) of anchors signed before the secret was changed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Recompute the chain and name the first entry that is not as it was; exits with 0 only when the chain holds.

    Reads one consistent snapshot and stops nobody: safe on a database that takes orders.
    """
    sources = _anchor_sources(data, anchor)
    _use_secret(data)
    url = use_database(data)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    started = time.monotonic()
    try:
        anchors, keys = _read_anchors(sources), _keys(key or [])
        if anchors and not keys:
            raise TerminalError(_NO_KEY)  # noqa: TRY301 - told below like an anchor that cannot be read
    except TerminalError as error:
        if as_json:
            print(json.dumps({"ok": False, "error": str(error)}, indent=2))
        raise
    verdict = _verify(url, anchors, keys, console)
    if as_json:
        print(json.dumps(_report(verdict), indent=2))
    _show(verdict, time.monotonic() - started, console)
    if not verdict.is_ok:
        raise typer.Exit(1)


@app.command("anchor")
def write(
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory, or file to append to. By default COUNTERFOIL_ANCHOR_DIR, else DATA/anchors."),
    ] = None,
) -> None:
    """Sign where the chain ends now and write it outside of the database; keep it on another machine.

    Needs COUNTERFOIL_SECRET, from which the key is derived.
    """
    target = out or _anchor_directory(data)
    _use_secret(data)
    use_database(data)
    from counterfoil.infrastructure.audit import seal_entries
    from counterfoil.infrastructure.audit_anchors import AnchorFailed, write_anchor
    from counterfoil.infrastructure.database import run_in_thread

    try:
        run_in_thread(seal_entries)
        path, head = run_in_thread(write_anchor, target)
    except AnchorFailed as error:
        raise TerminalError(str(error)) from error
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"[green]✓[/] {head.entries:,} entries are anchored in {escape(str(path))}"
    )


def _anchor_sources(data: Path | None, given: list[Path] | None) -> list[Path]:
    """Return where to look for anchors: what was named, else the directory that `anchor` writes to, if it exists."""
    if given:
        return given
    directory = _anchor_directory(data)
    return [directory] if directory.is_dir() or os.environ.get("COUNTERFOIL_ANCHOR_DIR") else []


def _anchor_directory(data: Path | None) -> Path:
    return Path(os.environ.get("COUNTERFOIL_ANCHOR_DIR") or (data or DEFAULT_DATA) / "anchors")


def _use_secret(data: Path | None) -> None:
    """Take the secret that `up` has made for its data directory, unless one is set."""
    path = (data or DEFAULT_DATA) / "secret"
    own = not os.environ.get("DATABASE_URL")
    if own and not os.environ.get("COUNTERFOIL_SECRET") and path.is_file():
        os.environ["COUNTERFOIL_SECRET"] = path.read_text(encoding="ascii").strip()


def _read_anchors(sources: list[Path]) -> list[Anchor]:
    from counterfoil.infrastructure.audit_anchors import AnchorFailed, read_anchors

    try:
        return read_anchors(sources)
    except AnchorFailed as error:
        raise TerminalError(str(error)) from error


def _keys(given: list[str]) -> frozenset[bytes]:
    from counterfoil.infrastructure.audit_anchors import public_key

    try:
        keys = {bytes.fromhex(text) for text in given}
    except ValueError as error:
        raise TerminalError("--key takes the 64 hexadecimal digits of a public key.") from error
    own = public_key()
    return frozenset(keys | {own}) if own is not None else frozenset(keys)


def _verify(url: str, anchors: list[Anchor], keys: frozenset[bytes], console: Console) -> Verdict:
    import psycopg

    from counterfoil.proof.audit_chain import open_trail, verify_chain

    try:
        with open_trail(url) as trail, _progress(console) as progress:
            bar = progress.add_task("Recomputing the chain", total=None)
            return verify_chain(
                trail,
                anchors=anchors,
                keys=keys,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise TerminalError("This database has no chained trail; run `counterfoil migrate` on it first.") from error


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _report(verdict: Verdict) -> dict[str, Any]:
    return {
        "entries": verdict.entries,
        "ok": verdict.is_ok,
        "first_bad": None if verdict.first_bad is None else asdict(verdict.first_bad),
        "waiting": verdict.waiting,
        "anchors": verdict.anchors,
    }


def _show(verdict: Verdict, seconds: float, console: Console) -> None:
    if verdict.first_bad is not None:
        where = f" (position {verdict.first_bad.position:,})" if verdict.first_bad.position else ""
        console.print(f"[bold red]✗ {verdict.first_bad.problem}:[/] {escape(verdict.first_bad.detail)}{where}")
    else:
        console.print("[bold green]✓ The chain holds.[/]")
    console.print(
        f"{verdict.entries:,} entries chained, {verdict.waiting:,} waiting to be, {verdict.anchors} anchors,"
        f" {seconds:.1f} s."
    )
    if verdict.oldest_seconds > _WAITING_SECONDS_MAX:
        console.print(
            f"[bold yellow]! The oldest entry that waits to be chained is {verdict.oldest_seconds / 60:,.0f} minutes"
            " old, and can be changed without a trace until it is.[/] Does `counterfoil work` run, and is there a"
            " transaction as old in pg_stat_activity?"
        )
    if not verdict.anchors:
        console.print("Without an anchor nobody can tell whether the end was cut off; see `counterfoil audit anchor`.")
