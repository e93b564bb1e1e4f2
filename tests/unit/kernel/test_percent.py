"""Percentages: exact as they are written, and rounded half up where they are applied."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.kernel.percent import Percent, round_half_up


@given(st.integers(0, 10**8))
def test_a_percentage_is_read_back_as_it_was_written(ppm: int) -> None:
    percent = Percent(ppm)

    assert Percent.parse(str(percent.to_decimal())) == percent
    assert percent.to_decimal() == Decimal(ppm) / 10_000


@pytest.mark.parametrize(
    ("text", "ppm", "shown"), [("19", 190_000, "19"), ("8.10", 81_000, "8.1"), ("0.0001", 1, "0.0001"), ("0", 0, "0")]
)
def test_as_many_digits_are_shown_as_it_needs(text: str, ppm: int, shown: str) -> None:
    assert Percent.parse(text) == Percent(ppm)
    assert str(Percent(ppm).to_decimal()) == shown


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e2", "1,5", "0.00001", ".5", "1.", "NaN", "\u0661"])
def test_anything_looser_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="percentage"):
        Percent.parse(text)


@given(st.integers(0, 10**20), st.integers(1, 10**12))
def test_half_up_is_the_nearest_and_the_upper_one_of_two(dividend: int, divisor: int) -> None:
    rounded = round_half_up(dividend, divisor)

    assert -divisor < 2 * (dividend - rounded * divisor) <= divisor or 2 * (rounded * divisor - dividend) == divisor
    assert 2 * dividend < (2 * rounded + 1) * divisor


def test_below_zero_there_is_none() -> None:
    with pytest.raises(ValueError, match="below zero"):
        Percent(-1)
