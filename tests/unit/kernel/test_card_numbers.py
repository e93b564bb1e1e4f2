"""Card numbers are found however they are written; other numbers are left alone."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

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
@pytest.mark.parametrize(
    "form", ["{}", "my card is {}, thanks", "({})", "a:{};", "ref_{}", "1 {} 12/29", "Visa{}", "no.{}", "{}EUR", "x{}x"]
)
def test_security_LUHN_01_a_card_number_is_found_in_any_sentence(number: str, form: str) -> None:
    assert contains_card_number(form.format(number))


@pytest.mark.parametrize(
    "separator", [" ", "-", "\u00a0", "\u2013", "\u202f", ".", "_", "/", "  ", "   ", " - ", " / ", "._."]
)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_security_LUHN_02_spaces_and_dashes_do_not_hide_it(separator: str, size: int) -> None:
    number = "4111111111111111"

    text = separator.join(number[start : start + size] for start in range(0, len(number), size))

    assert contains_card_number(text)


@pytest.mark.parametrize("text", ["4111.1111 1111/1111", "4111  1111-1111_1111", "3782 822463 10005"])
def test_security_LUHN_02_different_separators_do_not_hide_it(text: str) -> None:
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
        "4.99 5.99 12.50 3.20 11.00",  # prices
        "52.520008 13.404954",  # a place
        "62.103.220.155 62.103.220.156",  # machines
        "4006381333931 100",  # an article and how many
        "30.05.2025 10.30.00",
        "030/4111 2222 333",
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


def _iban(randomness: random.Random) -> str:
    account = "".join(randomness.choices("0123456789", k=18))
    return f"DE{98 - int(account + '131400') % 97:02}{account}"


def _in_fours(text: str) -> str:
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


# What shops write into references and notes.
REFERENCES: dict[str, Callable[[random.Random, datetime], str]] = {
    "ISO 8601": lambda _, at: at.isoformat(),
    "a German date": lambda _, at: f"{at:%d.%m.%Y %H.%M.%S}",
    "an American date": lambda _, at: f"{at:%m/%d/%Y %H:%M:%S}",
    "a name of a file": lambda _, at: f"export_{at:%Y-%m-%d_%H-%M-%S}.csv",
    "digits of a moment": lambda _, at: f"{at:%Y%m%d%H%M%S%f}",
    "an invoice": lambda randomness, at: f"INV-{at:%Y}-{randomness.randrange(10**7):07}",
    "an order": lambda randomness, at: f"PO/{at:%Y/%m}/{randomness.randrange(10**6):06}",
    "prices": lambda randomness, _: " ".join(f"{randomness.randrange(10_000) / 100:.2f}" for _ in range(5)),
    "a phone": lambda randomness, _: f"+49 {randomness.randrange(100, 1000)}/{randomness.randrange(10**7, 10**8)}",
    "a phone at home": lambda randomness, _: f"0{randomness.randrange(100, 1000)}/{randomness.randrange(10**8, 10**9)}",
    "machines": lambda randomness, _: " ".join(
        ".".join(str(randomness.randrange(100, 256)) for _ in range(4)) for _ in range(2)
    ),
    "an account": lambda randomness, _: _iban(randomness),
    "an account in fours": lambda randomness, _: _in_fours(_iban(randomness)),
    "a digest": lambda randomness, _: f"{randomness.getrandbits(256):064x}",
    "a UUID without dashes": lambda randomness, _: f"{randomness.getrandbits(128):032x}",
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_no_reference_of_the_usual_kinds_is_taken_for_a_card(kind: str) -> None:
    randomness = random.Random(3)
    start = datetime(2000, 1, 1, tzinfo=UTC)

    texts = [
        REFERENCES[kind](randomness, start + timedelta(microseconds=randomness.randrange(10**15)))
        for _ in range(10_000)
    ]

    assert [text for text in texts if contains_card_number(text)] == []
