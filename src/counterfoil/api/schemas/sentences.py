"""The decoder's messages in words for people."""

from __future__ import annotations

import ast
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
# A pattern without its end is the key; what is not here is shown as the pattern that it is.
_LETTERS: Final = "letters, digits,"
_FORMS: Final = {
    r"^[0-9]+(\.[0-9]+)?": "Must be a decimal number without a sign, such as 19.99.",
    r"^[0-9]{1,2}(\.[0-9]{1,4})?": "Must be a percentage below 100 with at most 4 digits after the point, such as 19.",
    r"^[A-Z]{3}": "Must be an ISO 4217 currency code in capitals, such as EUR.",
    r"^([A-Z]{2})?": "Must be a country's two capitals, such as DE.",
    r"^[^\x00-\x20]+@[^\x00-\x20]+": "Must be an e-mail address.",
    r"^https?://[!-~]+": "Must be an address that begins with https:// or http://, without blanks.",
    r"^(https?://[!-~]+)?": "Must be an address that begins with https:// or http://, without blanks.",
    r"^[A-Za-z0-9_.:-]{1,200}": f"Must be the gateway's token: up to 200 {_LETTERS} _ . : and -.",
    r"^[A-Za-z0-9_-]+": f"May have only {_LETTERS} _ and -.",
    r"^[A-Za-z0-9._:/#-]+": f"May have only {_LETTERS} . _ : / # and -.",
    r"^[A-Za-z0-9][A-Za-z0-9._/-]*": f"Must begin with a letter or digit and have only {_LETTERS} . _ / and -.",
    r"^[^\x00-\x1f]*": "Must be one line without control characters.",
    r"^[^\x00-\x1f]*[^\x00-\x1f\s][^\x00-\x1f]*": "Must be one line that is not blank, without control characters.",
    r"^[^\x00]*": "Must not have the character NUL.",
    r"^[^\x00]*[^\x00\s][^\x00]*": "Must not be blank or have the character NUL.",
}
_ENDS: Final = (r"$(?!\n)", "$")
_Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _kinds(names: str) -> str:
    return " or ".join(_KINDS.get(name, name) for name in names.split(" | "))


def _form(quoted: str) -> str:
    """Say in words what a pattern asks for; the decoder quotes it as Python does."""
    pattern = ast.literal_eval(quoted)
    for end in _ENDS:
        if sentence := _FORMS.get(pattern.removesuffix(end)):
            return sentence
    return f"Does not have the required form {pattern}."


_RULES: Final[tuple[_Rule, ...]] = (
    (re.compile(r"Expected `([^`]+)`, got `([^`]+)`"), lambda m: f"Must be {_kinds(m[1])}, not {_kinds(m[2])}."),
    (re.compile(r"Expected `array` of length >= (\d+)"), lambda m: f"Needs at least {m[1]} in the list."),
    (re.compile(r"Expected `array` of length <= (\d+)"), lambda m: f"May have at most {m[1]} in the list."),
    (re.compile(r"Expected `str` of length >= (\d+)"), lambda m: f"Needs at least {m[1]} characters."),
    (re.compile(r"Expected `str` of length <= (\d+)"), lambda m: f"May have at most {m[1]} characters."),
    (re.compile(r"Expected `str` matching regex ('.+')"), lambda m: _form(m[1])),
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
