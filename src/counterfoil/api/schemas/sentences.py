"""The decoder's messages in words for people."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number with a fraction",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "datetime": "an instant with its zone, such as 2025-01-15T10:30:00Z",
}
_Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _kinds(names: str) -> str:
    return " or ".join(_KINDS.get(name, name) for name in names.split(" | "))


_RULES: Final[tuple[_Rule, ...]] = (
    (re.compile(r"Expected `([^`]+)`, got `([^`]+)`"), lambda m: f"Must be {_kinds(m[1])}, not {_kinds(m[2])}."),
    (re.compile(r"Expected `array` of length >= (\d+)"), lambda m: f"Needs at least {m[1]} in the list."),
    (re.compile(r"Expected `array` of length <= (\d+)"), lambda m: f"May have at most {m[1]} in the list."),
    (re.compile(r"Expected `str` of length >= (\d+)"), lambda m: f"Needs at least {m[1]} characters."),
    (re.compile(r"Expected `str` of length <= (\d+)"), lambda m: f"May have at most {m[1]} characters."),
    (re.compile(r"Expected `str` matching regex (.+)"), lambda m: f"Does not have the required form {m[1]}."),
    (re.compile(r"Expected `(\w+)` >= (-?\d+)"), lambda m: f"Must be {_kinds(m[1])} of at least {m[2]}."),
    (re.compile(r"Expected `(\w+)` <= (-?\d+)"), lambda m: f"Must be {_kinds(m[1])} of at most {m[2]}."),
    (re.compile(r"Object contains unknown field `(.+)`"), lambda m: f"The field {m[1]} is not known here."),
    (re.compile(r"Object missing required field `(.+)`"), lambda m: f"The field {m[1]} is required."),
)


Bounds = tuple[float | None, float | None]
_WHOLE: Final = re.compile(r"Expected `int(?: \| null)?`(?: [<>]=? -?\d+|, got `([^`]+)`)")


def rephrase(message: str, *, allowed: list[str] | None = None, bounds: Bounds = (None, None)) -> str:
    """Return a sentence for a person; a message of an unknown kind stays as it is.

    `allowed` are an enum's values, `bounds` the least and the greatest whole number.
    """
    if allowed and message.startswith(("Invalid enum value", "Expected `str")):
        return f"Must be one of {', '.join(allowed)}."
    if None not in bounds and (found := _WHOLE.match(message)):
        given = f", not {_kinds(found[1])}" if found[1] else ""
        return f"Must be a whole number from {bounds[0]} to {bounds[1]}{given}."
    for pattern, sentence in _RULES:
        if found := pattern.match(message):
            return sentence(found)
    return message.rstrip(".") + "."
