"""`counterfoil reconcile`: every identity of the domain on the whole database; and the same with the gateway's list."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from counterfoil.cli.service import TerminalError, use_database

if TYPE_CHECKING:
    from counterfoil.payments.reconciliation import Comparison
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
    width = max(len(check.promise) for check in CHECKS)
    with console.status("") as status:
        for check in CHECKS:
            status.update(f"{check.promise}")
            finding = snapshot.run(check)
            findings.append(finding)
            _show(finding, console, width=width)
    return findings


def _show(finding: Finding, console: Console, *, width: int) -> None:
    mark = "[red]✗[/]" if finding.differences else "[green]✓[/]"
    console.print(f"{mark} {finding.check.promise:<{width}} {finding.rows:>11,} rows {finding.seconds:>6.1f} s")
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


# ---------------------------------------------------------------- with the gateway
def reconcile_gateway(
    since: Annotated[
        datetime | None, typer.Option(help="Payments created from then on, in UTC; by default eight days ago.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Up to then, in UTC; by default now.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory of `counterfoil up`, when DATABASE_URL is not set.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the report to FILE, or - for stdout.")] = None,
) -> None:
    """Hold payments and refunds against the gateway's own list, both ways; exits with 1 when anything differs.

    Payments under way are no difference. What differs is stored, and repaired by nobody but a person.
    """
    use_database(data)
    gateways = _gateways()
    console = Console(stderr=json_file == "-", soft_wrap=True, highlight=False)
    compared = [_compare(gateway, since, until, console) for gateway in gateways]
    findings = [_finding(each.gateway, found) for each in compared for found in each.differences]
    report = {
        "gateways": [
            {
                "gateway": each.gateway,
                "since": each.span.start,
                "until": each.span.end,
                "payments": each.payments,
                "refunds": each.refunds,
                "looked_at_again": len(each.looked_at),
            }
            for each in compared
        ],
        "findings": findings,
    }
    _write_report(report, json_file)
    for finding in findings:
        console.print(f"[red]{finding['code']}[/]  {escape(finding['sentence'])}")
    verdict = "[bold green]0 findings[/]" if not findings else f"[bold red]{len(findings):,} findings[/]"
    payments, refunds = sum(each.payments for each in compared), sum(each.refunds for each in compared)
    console.print(f"{payments:,} payments, {refunds:,} refunds, {verdict}.")
    if findings:
        raise typer.Exit(1)


def _gateways() -> list[Any]:
    """Return the gateways whose lists can be read; raises TerminalError where there is nothing to read."""
    from django.conf import settings

    from counterfoil.payments.wiring import gateways_for_lists

    if "sandbox" in settings.COUNTERFOIL.gateway_names and settings.COUNTERFOIL.sandbox_journal is None:
        raise TerminalError(
            "Without COUNTERFOIL_SANDBOX_JOURNAL each process has a sandbox of its own, so there is nothing to compare"
            " with; name the file that the service uses."
        )
    return list(gateways_for_lists().by_name.values())


def _compare(gateway: Any, since: datetime | None, until: datetime | None, console: Console) -> Comparison:
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.orders.commands import Trace
    from counterfoil.payments.gateways.base import TimeSpan
    from counterfoil.payments.reconciliation import default_span, reconcile_gateway

    usual = default_span()
    span = TimeSpan(_utc(since) if since else usual.start, _utc(until) if until else usual.end)
    if span.start >= span.end:
        raise TerminalError("--since must be before --until.")
    with console.status(f"Comparing with {gateway.name}"):
        return reconcile_gateway(gateway, span, Trace("cli:reconcile-gateway", new_request_id()))


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _finding(gateway: str, found: Any) -> dict[str, Any]:
    return {
        "gateway": gateway,
        "code": found.code,
        "subject": found.subject,
        "sentence": found.sentence,
        "order_id": found.order_id,
        "payment_id": found.payment_id,
        "refund_id": found.refund_id,
    }
