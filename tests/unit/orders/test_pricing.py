"""Prices, totals and the decision on stock, without a database."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import CURRENCY_DIGITS, Money
from counterfoil.orders.commands import QUANTITY_MAX, OrderLine, merge_lines
from counterfoil.orders.errors import InsufficientInventory
from counterfoil.orders.holds import HoldTerms
from counterfoil.orders.pricing import Offer, PricedOrder, check_stock, decide_order, price_order


def offer(product_id: int, price: str = "19.99", currency: str = "EUR", *, active: bool = True) -> Offer:
    return Offer(product_id, f"SKU-{product_id}", f"Tea {product_id}", Money.parse(price, currency), active)


def offers(*each: Offer) -> dict[int, Offer]:
    return {one.product_id: one for one in each}


def test_a_total_is_the_exact_sum_of_quantity_times_price() -> None:
    priced = price_order([OrderLine(1, 3), OrderLine(2, 1, 1)], offers(offer(1, "0.10"), offer(2, "19.99")))

    assert priced.total == Money(2029, "EUR")
    assert [(line.product_id, o.sku) for line, o in [(each.line, each.offer) for each in priced.lines]] == [
        (1, "SKU-1"),
        (2, "SKU-2"),
    ]


@pytest.mark.parametrize(
    ("currency", "price", "total"), [("JPY", "199", "597"), ("KWD", "0.125", "0.375"), ("EUR", "0.01", "0.03")]
)
def test_a_currency_keeps_its_own_number_of_digits(currency: str, price: str, total: str) -> None:
    priced = price_order([OrderLine(1, 3)], offers(offer(1, price, currency)))

    assert priced.total == Money.parse(total, currency)
    assert str(priced.total.to_decimal()) == total


def test_every_line_without_a_sellable_product_is_named_at_its_place_in_the_request() -> None:
    lines = [OrderLine(1, 1, 0), OrderLine(2, 1, 1), OrderLine(3, 1, 4)]

    with pytest.raises(ValidationFailed) as refused:
        price_order(lines, offers(offer(1), offer(2, active=False)))

    assert refused.value.details["fields"] == [
        {"field": "items[1].product_id", "message": "Product 2 is not for sale at the moment."},
        {"field": "items[4].product_id", "message": "There is no product 3."},
    ]


def test_two_currencies_in_one_order_are_refused_by_name() -> None:
    lines = [OrderLine(1, 1), OrderLine(2, 1, 1), OrderLine(3, 1, 2)]

    with pytest.raises(ValidationFailed) as refused:
        price_order(lines, offers(offer(1), offer(2, "5.00", "USD"), offer(3, "5", "JPY")))

    message = "An order has one currency, but these products are sold in EUR and USD; place two orders."
    assert refused.value.details["fields"] == [{"field": "items", "message": message}]


def test_a_total_at_the_limit_is_refused_and_one_unit_below_it_is_not() -> None:
    almost = price_order([OrderLine(1, 1)], offers(offer(1, "99999999999999.99")))
    assert almost.total == Money(9_999_999_999_999_999, "EUR")

    lines = [OrderLine(1, 1), OrderLine(2, 1, 1)]
    with pytest.raises(ValidationFailed) as refused:
        price_order(lines, offers(offer(1, "99999999999999.99"), offer(2, "0.01")))

    message = "The total must stay below 100000000000000."
    assert refused.value.details["fields"] == [{"field": "items", "message": message}]


def test_every_short_product_is_named_with_what_is_left() -> None:
    with pytest.raises(InsufficientInventory) as refused:
        check_stock({1: 5, 2: 1, 3: 4, 4: 9}, {1: 2, 2: 1, 3: -7, 4: None})

    assert refused.value.message == "Product 1 has only 2 units available"
    assert refused.value.details["products"] == [
        {"product_id": 1, "requested": 5, "available": 2},
        {"product_id": 3, "requested": 4, "available": 0},
    ]


def test_a_placed_order_takes_its_units_and_a_refused_one_takes_none() -> None:
    available: dict[int, int | None] = {1: 5, 2: 1, 3: None}
    catalogue = offers(offer(1), offer(2), offer(3))

    first = decide_order([OrderLine(1, 4), OrderLine(3, 9, 1)], catalogue, available, terms=HoldTerms(1800))
    second = decide_order([OrderLine(1, 1), OrderLine(2, 2, 1)], catalogue, available, terms=HoldTerms(1800))

    assert isinstance(first, PricedOrder)
    assert isinstance(second, InsufficientInventory)
    assert available == {1: 1, 2: 1, 3: None}


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 1000)), min_size=1, max_size=20),
    st.sampled_from(sorted(CURRENCY_DIGITS)),
)
def test_a_total_equals_the_sum_in_decimals_for_every_currency(priced: list[tuple[int, int]], currency: str) -> None:
    catalogue = {n: Offer(n, "S", "N", Money(minor, currency), active=True) for n, (minor, _) in enumerate(priced, 1)}
    lines = [OrderLine(n, quantity) for n, (_, quantity) in enumerate(priced, 1)]

    total = price_order(lines, catalogue).total

    expected = sum((o.price.to_decimal() * q for o, (_, q) in zip(catalogue.values(), priced, strict=True)), Decimal(0))
    assert total.to_decimal() == expected


def test_the_same_product_twice_is_one_line_at_its_first_place() -> None:
    assert merge_lines([(7, 1), (8, 2), (7, 3)]) == (OrderLine(7, 4, 0), OrderLine(8, 2, 1))


def test_merged_lines_together_keep_the_limit_of_one_line() -> None:
    assert merge_lines([(7, QUANTITY_MAX - 1), (7, 1)]) == (OrderLine(7, QUANTITY_MAX),)
    with pytest.raises(ValidationFailed) as refused:
        merge_lines([(8, 1), (7, QUANTITY_MAX), (7, 1)])

    message = "The lines of product 7 add up to more than 1000000 units."
    assert refused.value.details["fields"] == [{"field": "items[1].quantity", "message": message}]
