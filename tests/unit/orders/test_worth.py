"""What goes back for units of a line: never more than the line was sold for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.orders.events import ItemFacts
from counterfoil.orders.worth import worth_of


def line(quantity: int, price: int, *, discount: int = 0, tax: int = 0) -> ItemFacts:
    return ItemFacts(1, "TEA", "Tea", quantity, price, tax_minor=tax, discount_minor=discount)


@pytest.mark.parametrize(
    ("item", "units", "tax_included", "expected"),
    [
        (line(3, 1000), 2, True, 2000),
        (line(3, 1000), 0, True, 0),
        (line(3, 1000, tax=479), 3, True, 3000),
        (line(3, 1000, tax=570), 3, False, 3570),
        (line(3, 1000, discount=1000), 1, True, 666),
        (line(3, 1000, discount=1000), 3, True, 2000),
    ],
)
def test_units_are_worth_their_part_of_the_line(
    item: ItemFacts, units: int, *, tax_included: bool, expected: int
) -> None:
    assert worth_of(item, units, tax_included=tax_included) == expected


@given(st.integers(1, 50), st.integers(0, 10_000), st.integers(0, 100), st.lists(st.integers(1, 50), max_size=50))
def test_parts_are_never_worth_more_than_the_whole(quantity: int, price: int, percent: int, parts: list[int]) -> None:
    item = line(quantity, price, discount=quantity * price * percent // 100)
    taken = [units for n, units in enumerate(parts) if sum(parts[: n + 1]) <= quantity]

    whole = worth_of(item, quantity, tax_included=True)

    assert sum(worth_of(item, units, tax_included=True) for units in taken) <= whole
    assert whole == quantity * price - item.discount_minor
