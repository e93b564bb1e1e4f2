"""`counterfoil reconcile`: every identity of the domain on the whole database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from counterfoil.cli.service import TerminalError, use_database

if TYPE_CHECKING:
    from counterfoil.proof.reconcile import Finding, Snapshot


def reconcile(
    data: Annotated[
        Path | None, typer.Option(help="Data directory of `counterfoil up`, when DATABASE_URL is not set.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report to FILE, or - for stdout.")] = None,
) -> None:
    """Check every identity of the domain on the whole database; exits with 1 when there is any difference.

    Reads one consistent snapshot and stops nobody: safe on a database that takes orders.
    """
    url = use_database(data)
    import psycopg

    from counterfoil.proof.reconcile import open_snapshot

    console = Console(stderr=json_file == "-", soft_wrap=True, highlight=False)
    try:
        with open_snapshot(url) as snapshot:
            findings = _run_checks(snapshot, console)
            orders = snapshot.rows["orders"]
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction) as error:
        raise TerminalError("This database has no schema of ours; run `counterfoil migrate` on it first.") from error
    differences = sum(finding.differences for finding in findings)
    _write_report(_report(orders, findings), json_file)
    seconds = sum(finding.seconds for finding in findings)
    verdict = "[bold green]0 differences[/]" if differences == 0 else f"[bold red]{differences:,} differences[/]"
    console.print(f"\n{orders:,} orders, {len(findings)} checks, {verdict} in {seconds:.1f} s.")
    if differences:
        raise typer.Exit(1)


def _run_checks(snapshot: Snapshot, console: Console) -> list[Finding]:
    from counterfoil.proof.reconcile import CHECKS

    findings: list[Finding] = []
    with console.status("") as status:
        for check in CHECKS:
            status.update(f"{check.promise}")
            finding = snapshot.run(check)
            findings.append(finding)
            _show(finding, console)
    return findings


def _show(finding: Finding, console: Console) -> None:
    mark = "[red]✗[/]" if finding.differences else "[green]✓[/]"
    console.print(f"{mark} {finding.check.promise:<62} {finding.rows:>11,} rows {finding.seconds:>6.1f} s")
    if not finding.differences:
        return
    console.print(f"  [red]{finding.differences:,} differences[/] ({finding.check.name}):")
    for example in finding.examples:
        console.print("    " + escape("  ".join(f"{name}={value}" for name, value in example.items())))
    if finding.differences > len(finding.examples):
        console.print(f"    … and {finding.differences - len(finding.examples):,} more")


def _report(orders: int, findings: list[Finding]) -> dict[str, Any]:
    return {
        "orders": orders,
        "differences": sum(finding.differences for finding in findings),
        "checks": [
            {
                "name": finding.check.name,
                "rows": finding.rows,
                "differences": finding.differences,
                "seconds": round(finding.seconds, 3),
                "examples": finding.examples,
            }
            for finding in findings
        ],
    }


def _write_report(report: dict[str, Any], target: str | None) -> None:
    if target is None:
        return
    text = json.dumps(report, indent=2, default=str)  # ids, amounts and instants that JSON has no type for
    if target == "-":
        print(text)
        return
    try:
        Path(target).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise TerminalError(f"The report cannot be written to {target}: {error.strerror}.") from error
