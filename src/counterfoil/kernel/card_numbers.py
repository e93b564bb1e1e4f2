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
_SEPARATOR: Final = r"[ \-._/\u00a0\u2009\u202f\u2010-\u2015]"
# Thirteen digits with at most three separators between any two: most texts are done here, after half a microsecond.
_CANDIDATE: Final = re.compile(rf"\d(?:{_SEPARATOR}{{0,3}}\d){{12}}")
_RUN: Final = re.compile(rf"\d+(?:{_SEPARATOR}{{1,3}}\d+)*")
_GROUP: Final = re.compile(r"\d+")
# What has digits in groups and is no card: UUIDs, digests, dates with their time of day, addresses of machines.
_OTHERS: Final = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|(?<![^\W_])(?:[0-9a-f]{128}|[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{32})(?![^\W_])"
    r"|(?<!\d)(?:(?:19|20)\d\d([-./])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])([-./])(?:0?[1-9]|[12]\d|3[01])\2(?:19|20)\d\d)"
    r"(?:[ T_-]{1,2}\d\d[:.-]\d\d(?:[:.-]\d\d(?:[.,]\d{1,9})?)?)?(?!\d)"
    r"|(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])",
    re.IGNORECASE,
)
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# No separator: what stands before and after is not joined.
_GAP: Final = "|"
# Points, underscores and slashes also stand inside of prices, dates and codes.
_POINTS: Final = frozenset("._/")
_GROUP_DIGITS: Final = 4
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
    rest = _IBAN.sub(_hide_account, _OTHERS.sub(_GAP, text))
    return any(_is_card_number(number) for number in _numbers(rest))


def _numbers(text: str) -> Iterator[str]:
    """Yield every number of 13 to 19 digits that begins and ends where a group of digits does."""
    for run in _RUN.finditer(text):
        groups = [_to_ascii(group) for group in _GROUP.findall(run[0])]
        gaps = _GROUP.split(run[0])[1:-1]
        dialled = text[: run.start()].endswith("+") or groups[0].startswith("0")
        if dialled and sum(map(len, groups)) <= _PHONE_DIGITS_MAX:
            continue
        for first in range(len(groups)):
            number = ""
            for last in range(first, len(groups)):
                number += groups[last]
                if len(number) > DIGITS_MAX:
                    break
                if len(number) >= DIGITS_MIN and _is_one_number(groups[first : last + 1], gaps[first:last]):
                    yield number


def _to_ascii(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)


def _hide_account(found: re.Match[str]) -> str:
    """Hide a right account number (ISO 13616), whose groups may look like a card's."""
    text = found[0].replace(" ", "")
    return _GAP if int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1 else found[0]


def _is_one_number(groups: list[str], gaps: list[str]) -> bool:
    """Tell groups of one number from several numbers side by side: sizes, prices, an article with a quantity."""
    if len(groups) > 1 and any(_is_article_number(group) for group in groups):
        return False
    points = {frozenset(gap) & _POINTS for gap in gaps}
    if len(points) > 1 and any(len(group) < _GROUP_DIGITS for group in groups[:-1]):
        return False
    return not _is_list_of_sizes(groups)


def _is_list_of_sizes(groups: list[str]) -> bool:
    """Tell `36 38 40 42 44 46 48` from a number: up to three digits each, rising."""
    values = [int(group) for group in groups]
    return all(len(group) <= 3 for group in groups) and all(a < b for a, b in itertools.pairwise(values))  # noqa: PLR2004 - see above


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
