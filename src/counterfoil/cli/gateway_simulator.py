"""`counterfoil gateway-simulator`: a payment gateway of one's own to test against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.panel import Panel

from counterfoil.cli.service import TerminalError, write_private

if TYPE_CHECKING:
    from counterfoil.proof.gateway_simulator.server import SimulatorConfig

_LOOPBACK: Final = {"127.0.0.1", "localhost", "::1"}
console = Console(stderr=True)


def gateway_simulator(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8420,
    journal: Annotated[Path, typer.Option(help="Journal of all money; continued when it exists.")] = Path(
        "gateway-simulator.jsonl"
    ),
    faults: Annotated[
        str, typer.Option(help="What goes wrong: a JSON file, or name=value,name=value (docs: Payments).")
    ] = "",
    webhook_url: Annotated[str, typer.Option(help="Where to send notices, on this machine.")] = "",
    webhook_secret: Annotated[str, typer.Option(help="Signs the notices.")] = "whsec_of_the_simulator",  # noqa: S107 - guards nothing
    api_key: Annotated[str, typer.Option(help="The key that callers must show.")] = "sk_test_simulator",
    seed: Annotated[int, typer.Option(help="Repeats the same faults.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the addresses to this file.")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a payment gateway that speaks as Stripe does, on this machine only, and fails as you wish."""
    from counterfoil.infrastructure.process import die_with_parent
    from counterfoil.proof.gateway_simulator.server import SimulatorConfig

    if parent is not None:
        die_with_parent(parent=parent)
    config = SimulatorConfig(
        port=port,
        journal=journal,
        faults=_read_faults(faults),
        webhook_url=_local(webhook_url),
        webhook_secret=webhook_secret,
        api_key=api_key,
        seed=seed,
    )

    _run(config, json_path)


def _run(config: SimulatorConfig, json_path: Path | None) -> None:
    from counterfoil.proof.gateway_simulator.faults import FaultPlanError
    from counterfoil.proof.gateway_simulator.journal import JournalError
    from counterfoil.proof.gateway_simulator.server import run_simulator

    def say_hello(url: str, payments: int) -> None:
        if json_path is not None:
            info = {"url": url, "control_url": f"{url}/control", "api_key": config.api_key}
            write_private(json_path, json.dumps(info | {"journal": str(config.journal)}, indent=2) + "\n")
        hello = "\n".join(_lines(config, url, payments))
        console.print(Panel(hello, title="The gateway simulator is up", expand=False))
        console.print("Stop with Ctrl-C.")

    try:
        run_simulator(config, on_ready=say_hello)
        console.print(f"Stopped; the journal is kept in {config.journal}")
    except (FaultPlanError, JournalError) as error:
        raise TerminalError(f"{error}.") from error
    except OSError as error:
        raise TerminalError(
            f"Port {config.port} cannot be used ({error.strerror}); choose another one with --port."
        ) from error


def _lines(config: SimulatorConfig, url: str, payments: int) -> list[str]:
    return [
        f"API        {url} (key {config.api_key})",
        f"Controls   {url}/control/ (GET state, PUT faults)",
        f"Journal    {config.journal} ({payments} payments so far)",
        f"Webhooks   {config.webhook_url or 'none (--webhook-url)'}",
        f"Faults     {', '.join(f'{name}={value}' for name, value in config.faults.items()) or 'none (--faults)'}",
        f"Seed       {config.seed}",
    ]


def _read_faults(text: str) -> dict[str, Any]:
    from counterfoil.proof.gateway_simulator.faults import FaultPlanError, split_words

    if not text or "=" in text:
        try:
            return dict(split_words(text))
        except FaultPlanError as error:
            raise TerminalError(f"{error}; --faults takes a JSON file or name=value,name=value.") from error
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TerminalError(f"{text} cannot be read as JSON ({error}); --faults takes a file or name=value.") from error
    if not isinstance(found, dict):
        raise TerminalError(f"{text} must hold one JSON object of names and values.")
    return found


def _local(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_local = parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.port != 0
    except ValueError:
        is_local = False
    if url and not is_local:
        raise TerminalError("--webhook-url must be an http:// address on this machine; nothing else is ever called.")
    return url
