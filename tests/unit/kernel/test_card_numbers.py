"""Card numbers are found however they are written; other numbers are left alone."""

from __future__ import annotations

import random
import uuid

import pytest

from counterfoil.kernel.card_numbers import contains_card_number

# The card networks' published test numbers.
CARDS = [
    "4111111111111111",
    "4222222222222",
    "4000002500003155002",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "341111111111111",
    "30569309025904",
    "38520000023237",
    "6011111111111117",
    "3530111333300000",
    "6205500000000000004",
    "6759649826438453",
]


@pytest.mark.parametrize("number", CARDS)
@pytest.mark.parametrize("form", ["{}", "my card is {}, thanks", "({})", "a:{};", "ref_{}", "1 {} 12/29"])
def test_security_LUHN_01_a_card_number_is_found_in_any_sentence(number: str, form: str) -> None:
    assert contains_card_number(form.format(number))


@pytest.mark.parametrize("separator", [" ", "-", "\u00a0", "\u2013"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_security_LUHN_02_spaces_and_dashes_do_not_hide_it(separator: str, size: int) -> None:
    number = "4111111111111111"

    text = separator.join(number[start : start + size] for start in range(0, len(number), size))

    assert contains_card_number(text)


def test_digits_of_other_scripts_do_not_hide_it() -> None:
    assert contains_card_number("".join(chr(0xFF10 + int(digit)) for digit in "4111111111111111"))


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",  # wrong check digit
        "1736937000123456",  # microseconds since 1970: no issuer begins with 1
        "9999999999999995",  # right check digit, no issuer
        "411111111111",  # 12 digits
        "41111111111111111111",  # 20 digits
        "x4111111111111111",  # a part of a longer word
        "4111111111111111a",
        "+49 1511 2345678",  # a phone number that is dialled as such
        "0049 151 1234 5678",
        "4006381333931",  # the article number of a pen
        "sizes 36 38 40 42 44 46 48",
        "2025-01-15 10:30:00",
        "PO-2025-17",
        "",
    ],
)
def test_security_LUHN_03_a_number_that_is_no_card_is_left_alone(text: str) -> None:
    assert not contains_card_number(text)


def test_no_millisecond_of_this_century_until_2033_is_taken_for_a_card() -> None:
    randomness = random.Random(1)
    moments = [str(randomness.randrange(946_684_800_000, 2_000_000_000_000)) for _ in range(20_000)]

    assert [moment for moment in moments if contains_card_number(moment)] == []


def test_no_uuid_is_taken_for_a_card() -> None:
    randomness = random.Random(2)
    # Decimal digits only: what a random one is once in a while, and what would look like a number.
    texts = [str(uuid.UUID("".join(randomness.choices("0123456789", k=32)))) for _ in range(20_000)]

    assert [text for text in texts if contains_card_number(text)] == []
