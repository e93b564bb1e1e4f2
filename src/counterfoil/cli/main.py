"""The command table, and how a failure is told in a terminal."""

from __future__ import annotations

import sys
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape

from counterfoil import __version__
from counterfoil.cli import (
    access,
    audit,
    demo,
    doctor,
    drill,
    gateway_simulator,
    keys,
    privacy,
    processes,
    proofs,
    reconcile,
    up,
)
from counterfoil.cli.service import TerminalError
from counterfoil.kernel.errors import DomainError, Unavailable

EXIT_FAILED: Final = 1
EXIT_UNAVAILABLE: Final = 3

app = typer.Typer(
    name="counterfoil",
    help="An order service that never oversells, never loses an acknowledged order, and proves it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RUN: Final = "Run"
_PROVE: Final = "Prove"
_OPERATE: Final = "Operate"
# SQLSTATE, so that nothing of Django or psycopg is loaded for `--help`.
_UNDEFINED_TABLE: Final = "42P01"
_NO_KEY_STORE: Final = (
    "The key store has no tables; run `counterfoil migrate`, or set COUNTERFOIL_KEYS_URL to the database that has them."
)

app.command(rich_help_panel=_RUN)(up.up)
app.command(rich_help_panel=_RUN)(processes.serve)
app.command(rich_help_panel=_RUN)(processes.work)
app.command(rich_help_panel=_RUN)(processes.migrate)
app.command(name="load-demo", rich_help_panel=_RUN)(demo.load_demo)
app.command(rich_help_panel=_PROVE)(proofs.bench)
app.command(rich_help_panel=_PROVE)(proofs.replay)
app.command(rich_help_panel=_PROVE)(reconcile.reconcile)
app.command(name="reconcile-gateway", rich_help_panel=_PROVE)(reconcile.reconcile_gateway)
app.add_typer(audit.app, rich_help_panel=_PROVE)
app.add_typer(drill.app, rich_help_panel=_PROVE)
app.command(rich_help_panel=_PROVE)(gateway_simulator.gateway_simulator)
app.command(rich_help_panel=_OPERATE)(doctor.doctor)
app.command(name="create-api-key", rich_help_panel=_OPERATE)(access.create_api_key)
app.add_typer(keys.app, rich_help_panel=_OPERATE)
app.add_typer(privacy.app, rich_help_panel=_OPERATE)


def _show_version(*, value: bool) -> None:
    if value:
        print(f"counterfoil {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=lambda value: _show_version(value=value), is_eager=True),
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line; an expected failure is one sentence on standard error and an exit code."""
    try:
        app()
    except TerminalError as error:
        _complain(str(error))
        sys.exit(EXIT_FAILED)
    except DomainError as error:
        _complain(error.message)
        sys.exit(EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_FAILED)
    except Exception as error:
        if not _lacks_key_store(error):
            raise
        _complain(_NO_KEY_STORE)
        sys.exit(EXIT_FAILED)


def _lacks_key_store(error: Exception) -> bool:
    """Tell whether a statement asked for a table of the key store where there is none."""
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) == _UNDEFINED_TABLE and "counterfoil_keys." in str(cause)


def _complain(sentence: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/] {escape(sentence)}", highlight=False)
