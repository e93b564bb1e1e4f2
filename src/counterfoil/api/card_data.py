"""No card number enters: every free text of a body and of a query is looked at before anything is done with it.

What is looked at is derived from the schemas, so a new field cannot be forgotten. Passwords are left alone: they are
hashed at once and never shown, and a person may well have digits in one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec.inspect import (
    AnyType,
    DictType,
    ListType,
    Metadata,
    StrType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from counterfoil.kernel.card_numbers import DIGITS_MIN, contains_card_number
from counterfoil.kernel.errors import Invalid

EXEMPT_FIELDS: Final = frozenset({"password", "current_password", "new_password"})
# Our own sealed positions: digits by chance, never stored.
_EXEMPT_PARAMETERS: Final = frozenset({"cursor"})

_Texts = Callable[[Any, str], Iterator[tuple[str, str]]]


class CardNumberRefused(Invalid):
    """A payment card's number must not be sent here; nothing of this request was kept."""

    code = "CARD_NUMBER_REFUSED"

    def __init__(self, fields: list[str]) -> None:
        """Take the paths of the fields; what stands in them is not repeated."""
        message = "This looks like a payment card's number; leave it out."
        super().__init__(fields=[{"field": field, "message": message} for field in fields])


def refuse_card_numbers(schema: Any, value: Any) -> None:
    """Raise CardNumberRefused when a free text of a decoded body holds a card number."""
    texts = _reader(schema)
    if texts is not None and (found := [path for path, text in texts(value, "") if contains_card_number(text)]):
        raise CardNumberRefused(found)


def check_query(app: ASGIApp) -> ASGIApp:
    """Wrap a route: refuse a query with a card number in it, such as a search for one."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        query: bytes = scope["query_string"]
        if len(query) >= DIGITS_MIN:
            found = [
                name
                for name, value in parse_qsl(query.decode("latin-1"))
                if name not in _EXEMPT_PARAMETERS and contains_card_number(value)
            ]
            if found:
                raise CardNumberRefused(sorted(set(found)))
        await app(scope, receive, send)

    return checked


def free_text_fields(schema: Any) -> list[str]:
    """Return the paths of all fields of a schema that are looked at, `[]` standing for any entry."""
    return sorted(_paths(type_info(schema), "", ()))


@functools.cache
def _reader(schema: Any) -> _Texts | None:
    return _compile(type_info(schema))


def _compile(info: Type) -> _Texts | None:
    """Turn a type into a generator of its texts with their paths; None when there can be none."""
    found: _Texts | None = None
    if isinstance(info, Metadata):
        found = _compile(info.type)
    elif isinstance(info, UnionType):
        found = next((texts for member in info.types if (texts := _compile(member)) is not None), None)
    elif isinstance(info, StrType):
        found = _read_text
    elif isinstance(info, ListType | VarTupleType):
        item = _compile(info.item_type)
        found = None if item is None else functools.partial(_read_list, item)
    elif isinstance(info, StructType):
        fields = [
            (field.name, field.encode_name, texts)
            for field in info.fields
            if field.encode_name not in EXEMPT_FIELDS and (texts := _compile(field.type)) is not None
        ]
        found = functools.partial(_read_struct, fields) if fields else None
    elif isinstance(info, DictType | AnyType):
        found = _read_anything
    return found


def _read_text(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value


def _read_list(item: _Texts, value: Any, path: str) -> Iterator[tuple[str, str]]:
    for position, entry in enumerate(value or ()):
        yield from item(entry, f"{path}[{position}]")


def _read_struct(fields: list[tuple[str, str, _Texts]], value: Any, path: str) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    for name, shown, texts in fields:
        if (member := getattr(value, name)) is not None:
            yield from texts(member, f"{path}.{shown}" if path else shown)


def _read_anything(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield path, str(name)
            yield from _read_anything(entry, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for position, entry in enumerate(value):
            yield from _read_anything(entry, f"{path}[{position}]")


def _paths(info: Type, path: str, seen: tuple[type, ...]) -> Iterator[str]:
    if isinstance(info, Metadata):
        yield from _paths(info.type, path, seen)
    elif isinstance(info, UnionType):
        for member in info.types:
            yield from _paths(member, path, seen)
    elif isinstance(info, ListType | VarTupleType):
        yield from _paths(info.item_type, f"{path}[]", seen)
    elif isinstance(info, StructType) and info.cls not in seen:
        for field in info.fields:
            if field.encode_name not in EXEMPT_FIELDS:
                inner = f"{path}.{field.encode_name}" if path else field.encode_name
                yield from _paths(field.type, inner, (*seen, info.cls))
    elif isinstance(info, StrType | DictType | AnyType):
        yield path
