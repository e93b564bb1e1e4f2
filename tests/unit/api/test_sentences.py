"""What a person reads about a field that does not have its form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from counterfoil.api.schemas import sentences
from counterfoil.api.schemas.sentences import rephrase

# The forms are read from the files: to import them takes the whole core.
PATTERNS = sorted(
    {
        found[1]
        for file in Path(sentences.__file__).parent.glob("*.py")
        for found in re.finditer(r'(?:pattern=|_LINE = |_NO_NUL: Final = )r"([^"]+)"', file.read_text(encoding="utf-8"))
    }
)


def _sentence(value: str, pattern: str) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Annotated[str, Meta(pattern=pattern)])
    return rephrase(str(caught.value))


@pytest.mark.parametrize("end", ["$", r"$(?!\n)"])
def test_a_form_is_told_in_words(end: str) -> None:
    assert _sentence("-5.00", r"^[0-9]+(\.[0-9]+)?" + end) == "Must be a decimal number without a sign, such as 19.99."


def test_an_unknown_form_is_shown_as_it_is() -> None:
    assert _sentence("b", r"^\d+$") == r"Does not have the required form ^\d+$."


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_form_of_a_body_has_its_words(pattern: str) -> None:
    told = rephrase(f"Expected `str` matching regex {pattern!r}")

    assert "required form" not in told
