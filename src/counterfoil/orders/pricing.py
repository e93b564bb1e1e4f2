"""Lines to totals, and whether stock covers them (rule, pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from counterfoil.kernel.errors import DomainError, ValidationFailed
from counterfoil.kernel.money import AMOUNT_MAX, Money
from counterfoil.orders.commands import OrderLine
from counterfoil.orders.errors import InsufficientInventory, Shortage
from counterfoil.orders.holds import HoldTerms, OpenHolds, check_holds


@dataclass(frozen=True, slots=True)
class Offer:
    """A product as it can be sold now, at this price."""

    product_id: int
    sku: str
    name: str
    price: Money
    active: bool


@dataclass(frozen=True, slots=True)
class PricedOrder:
    """An order that can be written: the offers of its lines, in the order of the lines, and the total."""

    lines: tuple[tuple[OrderLine, Offer], ...]
    total: Money


def price_order(lines: Sequence[OrderLine], offers: Mapping[int, Offer]) -> PricedOrder:
    """Price every line. No rounding: a whole number of units at a price in minor units is exact.

    Raises ValidationFailed, naming every line without a sellable product, a second currency, or too large a total.
    """
    problems = [problem for line in lines if (problem := _line_problem(line, offers.get(line.product_id)))]
    if problems:
        raise ValidationFailed(problems)
    priced = tuple((line, offers[line.product_id]) for line in lines)
    currencies = [offer.price.currency for _, offer in priced]
    for currency in currencies:
        if currency != currencies[0]:
            raise currency_mixed(currencies[0], currency)
    total = Money(0, currencies[0])
    for line, offer in priced:
        total += offer.price * line.quantity
    if total.to_decimal() >= AMOUNT_MAX:
        raise total_too_large()
    return PricedOrder(priced, total)


def check_stock(wanted: Mapping[int, int], available: Mapping[int, int | None]) -> None:
    """Raise InsufficientInventory unless every wanted quantity is available (None: sold without limit)."""
    shortages: list[Shortage] = []
    for product_id, quantity in wanted.items():
        left = available[product_id]
        if left is not None and quantity > left:
            shortages.append({"product_id": product_id, "requested": quantity, "available": max(left, 0)})
    if shortages:
        raise InsufficientInventory.of(shortages)


def decide_order(
    lines: Sequence[OrderLine],
    offers: Mapping[int, Offer],
    available: dict[int, int | None],
    *,
    terms: HoldTerms,
    held: OpenHolds | None = None,
) -> PricedOrder | DomainError:
    """Decide one order; when it can be placed, take its stock out of `available` and add it to `held`.

    `held` is what the customer has open, None when that does not matter: no cap, or somebody else orders for them.
    The reference for place_orders_v2(), which applies the same decision to a whole batch in arrival order.
    """
    units = sum(line.quantity for line in lines)
    try:
        priced = price_order(lines, offers)
        if held is not None:
            check_holds(held, terms, orders=1, units=units)
        check_stock({line.product_id: line.quantity for line in lines}, available)
    except DomainError as error:
        return error
    for line in lines:
        left = available[line.product_id]
        available[line.product_id] = None if left is None else left - line.quantity
    if held is not None:
        held.add(units, seconds=terms.seconds)
    return priced


def currency_mixed(first: str, other: str) -> ValidationFailed:
    """Say that one order cannot hold two currencies."""
    message = f"An order has one currency, but these products are sold in {first} and {other}; place two orders."
    return ValidationFailed([{"field": "items", "message": message}])


def total_too_large() -> ValidationFailed:
    """Say that the total exceeds what an order may be worth."""
    return ValidationFailed([{"field": "items", "message": f"The total must stay below {AMOUNT_MAX:f}."}])


def line_problem(line: OrderLine, *, known: bool) -> dict[str, str]:
    """Say why a line's product cannot be sold."""
    message = (
        f"Product {line.product_id} is not for sale at the moment."
        if known
        else f"There is no product {line.product_id}."
    )
    return {"field": f"items[{line.item}].product_id", "message": message}


def _line_problem(line: OrderLine, offer: Offer | None) -> dict[str, str] | None:
    if offer is None:
        return line_problem(line, known=False)
    return None if offer.active else line_problem(line, known=True)
