"""`counterfoil privacy`: erase and export people, and keep erased people erased after a restore."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from counterfoil.cli.service import TerminalError, require_master_keys, use_database, write_private

if TYPE_CHECKING:
    from counterfoil.privacy.services import Erasure

app = typer.Typer(name="privacy", help="People's data: erase, export, and what waits.", no_args_is_help=True)
console = Console(stderr=True, soft_wrap=True, highlight=False)
_SHOWN_MAX: Final = 200
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data directory of `counterfoil up`, when DATABASE_URL is not set.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")]
WhoArgument = Annotated[
    str, typer.Argument(metavar="USER", help="The account's id or e-mail address; - reads it from standard input.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the audit trail; nothing personal.")]


@app.command()
def erase(who: WhoArgument, reason: ReasonOption = "", data: DataOption = None, as_json: JsonOption = False) -> None:
    """Erase a person. Deferred, with the reason, while an order of theirs is open; safe to repeat."""
    _use(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.privacy.services import erase_person

    erasure = run_in_thread(erase_person, _find(who), actor="cli:privacy", request_id=new_request_id(), reason=reason)
    if as_json:
        print(json.dumps(_as_dict(erasure), indent=2))
    elif erasure.completed_at is not None:
        console.print(f"User {erasure.user_id} is erased.")
    else:
        console.print(f"User {erasure.user_id} is erased later, by the worker. {erasure.deferred_reason}")


@app.command()
def export(
    who: WhoArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it: *.json or *.zip (CSV tables).")],
    reason: ReasonOption = "",
    data: DataOption = None,
) -> None:
    """Write everything that is known about a person into a file that only you can read."""
    _use(data)
    if out.suffix not in {".json", ".zip"}:
        raise TerminalError(f"{out} ends in neither .json nor .zip; its name says which of the two is written.")
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.privacy.export import render_csv, render_json
    from counterfoil.privacy.services import export_person

    found = run_in_thread(
        export_person,
        _find(who),
        actor="cli:privacy",
        request_id=new_request_id(),
        orders_max=None,
        reason=reason,
    )
    write_private(out, render_json(found) if out.suffix == ".json" else render_csv(found))
    console.print(f"{out}: {len(found.orders):,} orders, {len(found.audit):,} audit entries.")


@app.command()
def status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the requests to be erased: first those that wait, with what they wait for."""
    _use(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.privacy.services import list_erasures

    found = run_in_thread(list_erasures, limit=_SHOWN_MAX)
    if as_json:
        print(json.dumps({"erasures": [_as_dict(erasure) for erasure in found]}, indent=2))
        return
    table = Table("user", "requested", "by", "state", "last step", "waits for")
    for each in found:
        when = f"{each.requested_at:%Y-%m-%d %H:%M:%S} UTC"
        table.add_row(str(each.user_id), when, each.requested_by, each.state, each.step, each.deferred_reason)
    Console().print(table)


@app.command()
def reapply_tombstones(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Erase again whoever a restored backup has brought back. Run it before a restored service gets traffic."""
    _use(data)
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.key_store import prepare_store
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.privacy.services import reapply_tombstones as reapply

    run_in_thread(prepare_store)
    done = run_in_thread(reapply, request_id=new_request_id())
    if as_json:
        print(json.dumps(asdict(done), indent=2))
    else:
        console.print(
            f"{done.tombstones:,} tombstones: {done.people_erased:,} people erased again,"
            f" {done.keys_deleted:,} keys deleted again."
        )


def _use(data: Path | None) -> None:
    use_database(data)
    require_master_keys()


def _find(who: str) -> int:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.users.services import find_user_ids, normalise_email

    if who == "-":
        # Arguments are seen by everybody on the machine and kept by the shell; a line of input is not.
        who = sys.stdin.readline().strip()
    if who.isascii() and who.isdigit():
        return int(who)
    try:
        email = normalise_email(who)
    except ValueError as error:
        raise TerminalError(f"{who} is {error}, nor is it the number of an account.") from error
    found = run_in_thread(find_user_ids, [email])
    if email not in found:
        raise TerminalError("There is no account with this e-mail address.")
    return found[email]


def _as_dict(erasure: Erasure) -> dict[str, Any]:
    shown = {name: getattr(erasure, name) for name in ("user_id", "state", "requested_by", "step", "deferred_reason")}
    completed = erasure.completed_at
    return {
        **shown,
        "requested_at": erasure.requested_at.isoformat(),
        "completed_at": completed.isoformat() if completed else None,
    }
