"""Payment card numbers in free text, so that none is ever stored (ISO/IEC 7812).

A guard against accidents, not against smugglers: a customer who writes the card into a note, a clerk who pastes it
into a reason. Luhn's check digit alone would refuse every tenth number of 13 to 19 digits, timestamps and references
among them; so the issuer's prefix must exist too, with a length that this issuer uses.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final

DIGITS_MIN: Final = 13
DIGITS_MAX: Final = 19
_SEPARATOR: Final = r"[ \-\u00a0\u2009\u2010-\u2015]"
# Thirteen digits with at most one space or dash between any two: most texts are done here, after half a microsecond.
_CANDIDATE: Final = re.compile(rf"\d(?:{_SEPARATOR}?\d){{12}}")
_RUN: Final = re.compile(rf"(?<![^\W_])\d+(?:{_SEPARATOR}\d+)*(?![^\W_])")
_GROUP: Final = re.compile(r"\d+")
_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE)
# The longest number that can be dialled (E.164).
_PHONE_DIGITS_MAX: Final = 15
_EAN_DIGITS: Final = 13
_LONG: Final = frozenset(range(16, 20))

# Issuer's first digits, from and to, and the lengths this issuer has.
_ISSUERS: Final[tuple[tuple[str, str, frozenset[int]], ...]] = (
    ("4", "4", frozenset({13, 16, 18, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),  # Mastercard, the second series
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),  # American Express
    ("300", "305", frozenset({14})),  # Diners Club
    ("3095", "3095", frozenset({14})),  # Diners Club
    ("36", "36", frozenset({14, 16, 17, 18, 19})),  # Diners Club
    ("38", "39", frozenset({14, 16, 17, 18, 19})),  # Diners Club
    ("3528", "3589", _LONG),  # JCB
    ("2200", "2204", _LONG),  # Mir
    ("60", "60", _LONG),  # Discover, RuPay
    ("62", "62", _LONG),  # UnionPay
    ("644", "649", _LONG),  # Discover
    ("65", "65", _LONG),  # Discover, RuPay
    ("81", "82", _LONG),  # UnionPay, RuPay
    ("50", "50", frozenset(range(13, 20))),  # Maestro
    ("56", "58", frozenset(range(13, 20))),  # Maestro
    ("63", "63", frozenset(range(13, 20))),  # Maestro
    ("67", "67", frozenset(range(13, 20))),  # Maestro
)


def contains_card_number(text: str) -> bool:
    """Tell whether a text holds a number that could be a payment card's."""
    if len(text) < DIGITS_MIN or _CANDIDATE.search(text) is None:
        return False
    return any(_is_card_number(number) for number in _numbers(_UUID.sub("x", text)))


def _numbers(text: str) -> Iterator[str]:
    """Yield every number of 13 to 19 digits that begins and ends where a group of digits does."""
    for run in _RUN.finditer(text):
        groups = [_to_ascii(group) for group in _GROUP.findall(run[0])]
        dialled = text[: run.start()].endswith("+") or groups[0].startswith("00")
        if dialled and sum(map(len, groups)) <= _PHONE_DIGITS_MAX:
            continue
        for first in range(len(groups)):
            number = ""
            for last in range(first, len(groups)):
                number += groups[last]
                if len(number) > DIGITS_MAX:
                    break
                if len(number) >= DIGITS_MIN and not _is_list_of_sizes(groups[first : last + 1]):
                    yield number


def _to_ascii(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)


def _is_list_of_sizes(groups: list[str]) -> bool:
    """Tell `36 38 40 42 44 46 48` from a number: two digits each, rising."""
    values = [int(group) for group in groups]
    return all(len(group) <= 2 for group in groups) and all(a < b for a, b in itertools.pairwise(values))  # noqa: PLR2004 - see above


def _is_card_number(number: str) -> bool:
    issued = any(first <= number[: len(first)] <= last and len(number) in lengths for first, last, lengths in _ISSUERS)
    return issued and _has_luhn_digit(number) and not _is_article_number(number)


def _has_luhn_digit(number: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value  # noqa: PLR2004 - the sum of the two digits of 10 to 18
    return total % 10 == 0


def _is_article_number(number: str) -> bool:
    """Tell whether 13 digits are a right EAN: those of Germany begin with 4, as Visa's numbers of 13 digits did."""
    if len(number) != _EAN_DIGITS:
        return False
    return sum(int(digit) * (3 if position % 2 else 1) for position, digit in enumerate(number)) % 10 == 0
