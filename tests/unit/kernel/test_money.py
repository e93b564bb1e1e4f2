"""Money is exact or refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.kernel.money import AMOUNT_MAX, CURRENCY_DIGITS, Money

currencies = st.sampled_from(sorted(CURRENCY_DIGITS))


@given(st.integers(0, 10**16), currencies)
def test_an_amount_survives_the_way_to_text_and_back(minor: int, currency: str) -> None:
    money = Money(minor, currency)

    if money.to_decimal() < AMOUNT_MAX:
        assert Money.parse(str(money.to_decimal()), currency) == money
    assert Money.from_decimal(money.to_decimal(), currency) == money


@given(st.integers(-(10**16), 10**16), st.integers(0, 10**6), currencies)
def test_a_product_is_the_sum_of_its_units(minor: int, quantity: int, currency: str) -> None:
    money = Money(minor, currency)

    assert (money * quantity).amount_minor == minor * quantity
    assert money * 2 == money + money


@pytest.mark.parametrize(
    ("minor", "currency", "shown"),
    [(9990, "EUR", "99.90 EUR"), (1500, "JPY", "1500 JPY"), (1005, "KWD", "1.005 KWD"), (5, "USD", "0.05 USD")],
)
def test_an_amount_is_shown_with_exactly_the_digits_of_its_currency(minor: int, currency: str, shown: str) -> None:
    assert str(Money(minor, currency)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", ".5", "5.", "1,5", "1 000", "-1", "+1"),
        *("1e3", "1_0", "0x1", "NaN", "\u0661", "\u00b2", "1.5.5", " 1", "1\n"),
    ],
)
def test_anything_but_plain_digits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain digits"):
        Money.parse(text, "EUR")


@pytest.mark.parametrize(("text", "currency"), [("1.999", "EUR"), ("1.5", "JPY"), ("1.0001", "KWD")])
def test_more_digits_than_the_currency_has_are_refused(text: str, currency: str) -> None:
    with pytest.raises(ValueError, match="digits after the point"):
        Money.parse(text, currency)


def test_trailing_zeros_are_no_digits() -> None:
    assert Money.parse("1.5000", "EUR") == Money(150, "EUR")
    assert Money.parse("0007", "JPY") == Money(7, "JPY")


def test_an_amount_beyond_the_column_is_refused() -> None:
    largest = AMOUNT_MAX - Decimal("0.01")

    assert Money.parse(f"{largest:f}", "EUR").to_decimal() == largest
    with pytest.raises(ValueError, match="must stay below"):
        Money.parse(f"{AMOUNT_MAX:f}", "EUR")


@pytest.mark.parametrize("currency", ["eur", "XXX", "", "EURO", "EUR "])
def test_an_unknown_currency_is_refused(currency: str) -> None:
    with pytest.raises(ValueError, match="not an ISO 4217"):
        Money(1, currency)


def test_two_currencies_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="cannot add JPY to EUR"):
        Money(1, "EUR") + Money(1, "JPY")
