"""`counterfoil create-api-key`: the first way in for a program, made where the database is."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from counterfoil.cli.processes import DataOption
from counterfoil.cli.service import TerminalError, use_database

if TYPE_CHECKING:
    from counterfoil.users.api_keys import ApiKeyRecord

console = Console(stderr=True, soft_wrap=True, highlight=False)


def create_api_key(
    user: Annotated[str, typer.Option(help="The account the key acts as: its id or its e-mail address.")],
    name: Annotated[str, typer.Option(help="What the key is for, shown in lists.")],
    scope: Annotated[list[str], typer.Option(help="What it may do, such as orders:read; repeat for several.")],
    days: Annotated[int, typer.Option(help="For how many days it works.", min=1, max=730)] = 90,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of the bare key.")] = False,
    data: DataOption = None,
) -> None:
    """Make an API key and print it, once: it is stored hashed, so nobody can show it again."""
    use_database(data)
    from counterfoil.infrastructure.database import run_in_thread, transaction
    from counterfoil.kernel.errors import ValidationFailed
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.users.api_keys import create_key
    from counterfoil.users.permissions import Permission

    known = {permission.value: permission for permission in Permission}
    if unknown := sorted(set(scope) - known.keys()):
        raise TerminalError(f"There is no scope {unknown[0]}; choose from {', '.join(sorted(known))}.")

    def create() -> tuple[ApiKeyRecord, str]:
        with transaction():
            return create_key(
                user_id=_find_account(user),
                name=name,
                scopes=[known[value] for value in scope],
                days=days,
                actor=None,
                request_id=new_request_id(),
            )

    try:
        record, key = run_in_thread(create)
    except ValidationFailed as error:
        raise TerminalError(" ".join(field["message"] for field in error.details["fields"])) from error
    _show(record, key, as_json=as_json)


def _show(record: ApiKeyRecord, key: str, *, as_json: bool) -> None:
    expires_at = record.expires_at.isoformat()
    if as_json:
        print(json.dumps({"id": record.id, "key": key, "scopes": record.scopes, "expires_at": expires_at}))
        return
    print(key, flush=True)
    if sys.stdout.isatty():
        console.print(f"Key {record.id} works until {expires_at[:10]}. Keep it now: it is not shown again.")


def _find_account(text: str) -> int:
    from counterfoil.users.services import find_user_ids, normalise_email

    if text.isascii() and text.isdigit():
        return int(text)
    try:
        email = normalise_email(text)
    except ValueError as error:
        raise TerminalError(f"{text} is neither an id nor an e-mail address.") from error
    found = find_user_ids([email])
    if email not in found:
        raise TerminalError(f"There is no account {email}.")
    return found[email]
