"""What a customer may hold without having paid, without a database."""

from __future__ import annotations

from typing import Any

import pytest

from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.orders.commands import OrderLine
from counterfoil.orders.errors import InsufficientInventory, OpenOrdersExceeded
from counterfoil.orders.holds import HoldTerms, OpenHolds, check_holds
from counterfoil.orders.pricing import Offer, PricedOrder, decide_order

OFFERS = {1: Offer(1, "SKU-1", "Tea", Money(1999, "EUR"), active=True)}


def details_of(refusal: pytest.ExceptionInfo[OpenOrdersExceeded]) -> dict[str, Any]:
    return refusal.value.details


@pytest.mark.parametrize("terms", [HoldTerms(60), HoldTerms(60, orders_max=5), HoldTerms(60, units_max=50)])
def test_what_stays_within_the_caps_is_accepted_to_the_last_unit(terms: HoldTerms) -> None:
    check_holds(OpenHolds(orders=4, units=47, seconds_left=10), terms, orders=1, units=3)


def test_without_caps_any_number_may_be_open() -> None:
    terms = HoldTerms(60)

    check_holds(OpenHolds(orders=10**6, units=10**9, seconds_left=1), terms, orders=1, units=10**6)

    assert not terms.capped


def test_one_order_more_than_the_cap_is_refused_with_the_time_until_the_first_hold_ends() -> None:
    with pytest.raises(OpenOrdersExceeded) as refused:
        check_holds(OpenHolds(5, 0, 17), HoldTerms(60, orders_max=5), orders=1, units=1)

    assert details_of(refused) == {
        "open_orders": 5,
        "open_orders_max": 5,
        "open_units": None,
        "open_units_max": 0,
        "retry_after_seconds": 17,
    }
    assert refused.value.message == (
        "5 unpaid orders hold stock for this customer already; pay or cancel one, or try again in 17 seconds."
    )


def test_one_unit_more_than_the_cap_is_refused_with_the_units_that_are_open() -> None:
    with pytest.raises(OpenOrdersExceeded) as refused:
        check_holds(OpenHolds(2, 48, 9), HoldTerms(60, orders_max=5, units_max=50), orders=1, units=3)

    assert (details_of(refused)["open_units"], details_of(refused)["open_units_max"]) == (48, 50)


def test_an_order_that_is_open_already_is_not_one_more() -> None:
    terms = HoldTerms(60, orders_max=5, units_max=50)

    check_holds(OpenHolds(orders=7, units=40, seconds_left=9), terms, orders=0, units=10)
    with pytest.raises(OpenOrdersExceeded):
        check_holds(OpenHolds(orders=7, units=40, seconds_left=9), terms, orders=0, units=11)


def test_an_order_that_is_too_large_by_itself_is_invalid_because_waiting_does_not_help() -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_holds(OpenHolds(), HoldTerms(60, units_max=50), orders=1, units=51)

    message = "An unpaid order can hold at most 50 units; order fewer."
    assert refused.value.details["fields"] == [{"field": "items", "message": message}]


def test_a_placed_order_is_counted_for_the_next_and_the_first_end_is_kept() -> None:
    held, available = OpenHolds(1, 2, 30), {1: 100}
    terms = HoldTerms(1800, orders_max=2)

    first = decide_order([OrderLine(1, 4)], OFFERS, available, terms=terms, held=held)
    second = decide_order([OrderLine(1, 1)], OFFERS, available, terms=terms, held=held)

    assert isinstance(first, PricedOrder)
    assert isinstance(second, OpenOrdersExceeded)
    assert (held, available) == (OpenHolds(2, 6, 30), {1: 96})


def test_a_cap_is_told_before_a_shortage_and_an_order_refused_for_stock_is_not_counted() -> None:
    held, available = OpenHolds(), {1: 0}
    terms = HoldTerms(1800, orders_max=1)

    short = decide_order([OrderLine(1, 1)], OFFERS, available, terms=terms, held=held)
    held.add(1, seconds=terms.seconds)
    full = decide_order([OrderLine(1, 1)], OFFERS, available, terms=terms, held=held)

    assert (type(short), type(full)) == (InsufficientInventory, OpenOrdersExceeded)
    assert held == OpenHolds(1, 1, 1800)
