"""Every offending field of a body that does not fit its schema.

msgspec stops at the first problem, which is right for the fast path. A refused body is read again here, field by
field, so that the caller can mend all of it at once.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgspec
from msgspec.inspect import (
    EnumType,
    Field,
    IntType,
    ListType,
    LiteralType,
    Metadata,
    StructType,
    Type,
    UnionType,
    type_info,
)

from counterfoil.api.schemas.sentences import Bounds, rephrase

PROBLEMS_MAX: Final = 50


def find_problems(schema: Any, body: bytes) -> list[dict[str, str]]:
    """Return one `{"field", "message"}` per offending field, at most 50; empty when the body is not JSON at all."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return []
    problems: list[dict[str, str]] = []
    _check(type_info(schema), schema, value, "", problems)
    return problems[:PROBLEMS_MAX]


def _check(info: Type, schema: Any, value: Any, path: str, problems: list[dict[str, str]]) -> None:
    inner = _unwrap(info, value)
    if isinstance(inner, StructType) and isinstance(value, dict):
        _check_struct(inner, value, path, problems)
        return
    # A list that is too long is one problem; its entries are not looked at.
    if isinstance(inner, ListType) and isinstance(value, list) and len(value) <= (inner.max_length or PROBLEMS_MAX):
        before = len(problems)
        for position, item in enumerate(value):
            if len(problems) >= PROBLEMS_MAX:
                return
            _check(inner.item_type, None, item, f"{path}[{position}]", problems)
        if len(problems) > before:
            return
    _check_leaf(info, schema, value, path, problems)


def _check_struct(info: StructType, value: dict[str, Any], path: str, problems: list[dict[str, str]]) -> None:
    fields = {field.encode_name: field for field in info.fields}
    unknown = itertools.islice((name for name in value if name not in fields), PROBLEMS_MAX)
    problems += [{"field": _join(path, name), "message": "This field is not known here."} for name in unknown]
    before = len(problems)
    for name, field in fields.items():
        if name in value:
            _check(field.type, _annotation(info, field), value[name], _join(path, name), problems)
        elif field.required:
            problems.append({"field": _join(path, name), "message": "This field is required."})
    if len(problems) == before:
        _check_leaf(info, info.cls, {k: v for k, v in value.items() if k in fields}, path, problems)


def _check_leaf(info: Type, schema: Any, value: Any, path: str, problems: list[dict[str, str]]) -> None:
    target = schema if schema is not None else _rebuild(info)
    try:
        msgspec.convert(value, target, strict=True)
    except msgspec.ValidationError as error:
        message, _, _ = str(error).partition(" - at `")
        problems.append(
            {"field": path or "body", "message": rephrase(message, allowed=_allowed(info, value), bounds=_bounds(info))}
        )


def choices_of(annotation: Any) -> list[str] | None:
    """Return the values of an enum or literal, also of an optional one; None for anything else."""
    return _allowed(type_info(annotation), None)


def _bounds(info: Type) -> Bounds:
    """Return the least and the greatest value of a whole number, also of an optional one."""
    members = info.types if isinstance(info, UnionType) else [info]
    for member in members:
        inner = member.type if isinstance(member, Metadata) else member
        if isinstance(inner, IntType):
            return inner.ge, inner.le
    return None, None


def _allowed(info: Type, value: Any) -> list[str] | None:
    """Return the values of an enum or literal, also of an optional one."""
    members = (
        [_unwrap(member, value) for member in info.types] if isinstance(info, UnionType) else [_unwrap(info, value)]
    )
    for member in members:
        if isinstance(member, EnumType):
            return [str(choice.value) for choice in member.cls]
        if isinstance(member, LiteralType):
            return [str(choice) for choice in member.values]
    return None


def _unwrap(info: Type, value: Any) -> Type:
    """Look through metadata and optional unions at the member that the value is meant for."""
    if isinstance(info, Metadata):
        return _unwrap(info.type, value)
    if isinstance(info, UnionType):
        wanted = StructType if isinstance(value, dict) else ListType
        members = [_unwrap(member, value) for member in info.types]
        return next((member for member in members if isinstance(member, wanted)), info)
    return info


def _annotation(info: StructType, field: Field) -> Any:
    return next(known.type for known in msgspec.structs.fields(info.cls) if known.name == field.name)


def _rebuild(info: Type) -> Any:
    inner = info.type if isinstance(info, Metadata) else info
    return inner.cls if isinstance(inner, StructType) else Any


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
