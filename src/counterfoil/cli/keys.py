"""`counterfoil keys`: list, rotate and forget the master keys that wrap everybody's key."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from counterfoil.cli.service import TerminalError, require_master_keys, set_up_django, use_database

app = typer.Typer(
    name="keys", help="Master keys: list, rotate, forget. They wrap the keys of people.", no_args_is_help=True
)
# How long to leave rows alone that somebody else has in hand.
_LOCKED_SECONDS: Final = 0.05
console = Console(stderr=True, soft_wrap=True, highlight=False)
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data directory of `counterfoil up`, when DATABASE_URL is not set.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")]


@app.command(name="list")
def list_keys(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show every master key by its id, and how many keys it wraps."""
    _use_keys(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.key_store import list_master_keys

    uses = run_in_thread(list_master_keys)
    if as_json:
        print(json.dumps({"keys": [asdict(use) for use in uses]}, indent=2))
        return
    table = Table("id", "wraps", "")
    for use in uses:
        state = "current" if use.current else "" if use.in_file else "not in the file"
        table.add_row(use.key_id, f"{use.wraps:,}", state)
    Console().print(table)


@app.command()
def rotate(
    data: DataOption = None,
    new: Annotated[bool, typer.Option("--new", help="First put a fresh master key in front of the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Wrap every key anew with the current master key, while the service runs. May be interrupted and repeated."""
    if new:
        _add_key(data)
    _use_keys(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.key_store import count_stale_wraps, prepare_store, rewrap_some

    started = time.monotonic()
    run_in_thread(prepare_store)
    _require_complete_file()
    done, total = 0, run_in_thread(count_stale_wraps)
    columns = (TextColumn("Wrapping keys"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("keys", total=total)
        # To the last: what somebody else has in hand is skipped in one round and found in the next.
        while (batch := run_in_thread(rewrap_some)) or run_in_thread(count_stale_wraps):
            done += batch
            progress.update(bar, completed=done, total=max(done, total))
            if not batch:
                time.sleep(_LOCKED_SECONDS)
    if new or done:
        run_in_thread(_record, "keys.rotate", {"current": _current_key(), "rewrapped": done})
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        print(json.dumps({"rewrapped": done, "remaining": 0, "seconds": seconds}, indent=2))
    else:
        console.print(f"{done:,} keys are wrapped by the current master key now ({seconds} s).")


@app.command()
def forget(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id as `keys list` shows it.")],
    data: DataOption = None,
) -> None:
    """Take an old master key out of the file. Refused while it wraps anything, and for the current one."""
    _use_keys(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.master_keys import master_keys

    _require_complete_file()
    ids = [key.id.hex() for key in master_keys()]
    if key_id not in ids:
        raise TerminalError(f"There is no master key {key_id} in the file; `counterfoil keys list` shows them.")
    if key_id == ids[0]:
        raise TerminalError(f"{key_id} is the current master key; `counterfoil keys rotate --new` makes another one.")
    if not run_in_thread(_forget, bytes.fromhex(key_id)):
        raise TerminalError(f"{key_id} still wraps keys; run `counterfoil keys rotate` first.")
    run_in_thread(_record, "keys.forget", {"key": key_id})
    console.print(f"{key_id} is forgotten; destroy its other copies too.")


def _forget(key_id: bytes) -> bool:
    from counterfoil.infrastructure.key_store import forgetting_master_key
    from counterfoil.infrastructure.master_keys import remove_master_key

    with forgetting_master_key(key_id) as free:
        if free:
            remove_master_key(Path(os.environ["COUNTERFOIL_MASTER_KEYS_FILE"]), key_id)
    return free


@app.command()
def sweep(
    data: DataOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are only counted.")] = False,
    hours: Annotated[int, typer.Option(help="Only keys that are older.", min=1)] = 24,
    as_json: JsonOption = False,
) -> None:
    """Find keys of people who have no account: left by registrations that did not come to an end.

    Not a job: pointed at the wrong database, it would delete everybody's.
    """
    _use_keys(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.privacy.services import sweep_orphan_keys

    counts = run_in_thread(sweep_orphan_keys, older_than_hours=hours, delete=delete)
    result: dict[str, Any] = asdict(counts)
    run_in_thread(_record, "keys.sweep", result)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        console.print(f"{counts.looked_at:,} keys, {counts.orphans:,} without an account, {counts.deleted:,} deleted.")


def _use_keys(data: Path | None) -> None:
    use_database(data)
    require_master_keys()


def _current_key() -> str:
    from counterfoil.infrastructure.master_keys import master_keys

    return master_keys()[0].id.hex()


def _record(action: str, changes: dict[str, Any]) -> None:
    """Leave an entry in the audit trail: ids of master keys and counts, nothing that opens anything."""
    from django.db import ProgrammingError

    from counterfoil.infrastructure.audit import append_entry
    from counterfoil.infrastructure.database import transaction
    from counterfoil.kernel.ids import new_request_id

    # The first key is made before the tables are: there is no trail yet, and nobody's data.
    with suppress(ProgrammingError), transaction():
        append_entry(
            actor="cli:keys",
            action=action,
            target="master_keys",
            target_id=0,
            request_id=new_request_id(),
            changes=changes,
        )


def _require_complete_file() -> None:
    """Refuse to change anything while the file lacks a key that the store uses: it is another's, or an old copy."""
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.key_store import MasterKeyUnknown, list_master_keys

    for use in run_in_thread(list_master_keys):
        if use.wraps and not use.in_file:
            raise MasterKeyUnknown(key_id=use.key_id)


def _add_key(data: Path | None) -> None:
    """Put a fresh key into the file, which may not exist yet."""
    if not os.environ.get("DATABASE_URL"):
        use_database(data)
    path = os.environ.get("COUNTERFOIL_MASTER_KEYS_FILE")
    if not path:
        raise TerminalError("COUNTERFOIL_MASTER_KEYS_FILE is not set; set it to the path of the file to make.")
    set_up_django()
    from counterfoil.infrastructure.master_keys import MasterKeyFileError, add_master_key

    try:
        fresh = add_master_key(Path(path))
    except MasterKeyFileError as error:
        raise TerminalError(f"The file stays as it is: {error}.") from error
    except OSError as error:
        raise TerminalError(f"{path} cannot be written ({error.strerror}).") from error
    console.print(f"{fresh.id.hex()} is the current master key.")
