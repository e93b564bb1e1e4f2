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


def rephrase(message: str, *, allowed: list[str] | None = None) -> str:
    """Return a sentence for a person; a message of an unknown kind stays as it is. `allowed` are an enum's values."""
    if allowed and message.startswith("Invalid enum value"):
        return f"Must be one of {', '.join(allowed)}."
    for pattern, sentence in _RULES:
        if found := pattern.match(message):
            return sentence(found)
    return message.rstrip(".") + "."
