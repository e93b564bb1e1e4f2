"""Lines, tax, coupons and shipping to totals, and whether stock covers the lines (rule, pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from counterfoil.coupons.terms import AskedCoupon, CouponTerms, check_coupons
from counterfoil.kernel.errors import DomainError, ValidationFailed
from counterfoil.kernel.money import AMOUNT_MAX, Money
from counterfoil.kernel.percent import NO_PERCENT, Percent
from counterfoil.orders.commands import OrderLine
from counterfoil.orders.discounts import Share, allocate, reduce_goods
from counterfoil.orders.errors import InsufficientInventory, Shortage
from counterfoil.orders.holds import HoldTerms, OpenHolds, check_holds
from counterfoil.orders.price_terms import PLAIN_TERMS, PriceTerms


@dataclass(frozen=True, slots=True)
class Offer:
    """A product as it can be sold now, at this price and with this tax."""

    product_id: int
    sku: str
    name: str
    price: Money
    active: bool
    tax_rate: Percent = NO_PERCENT


@dataclass(frozen=True, slots=True)
class PricedLine:
    """One line with its part of the discounts and its tax, which is of what is left of the line's worth."""

    line: OrderLine
    offer: Offer
    discount: Money
    tax: Money


@dataclass(frozen=True, slots=True)
class PricedAdjustment:
    """An amount on top of or off the lines; `tax` is contained in or comes on top of it, as for lines."""

    kind: str
    label: str
    amount: Money
    tax_rate: Percent
    tax: Money


@dataclass(frozen=True, slots=True)
class PricedOrder:
    """An order that can be written: its lines in the caller's order, the adjustments, and the total of both."""

    lines: tuple[PricedLine, ...]
    adjustments: tuple[PricedAdjustment, ...]
    tax_included: bool
    total: Money


def price_order(
    lines: Sequence[OrderLine],
    offers: Mapping[int, Offer],
    *,
    terms: PriceTerms = PLAIN_TERMS,
    coupons: Sequence[AskedCoupon] = (),
) -> PricedOrder:
    """Price every line, take the coupons off, and add shipping and tax.

    Every amount is rounded once (half up), where it comes to be; the total is the sum of the rounded amounts, never
    below zero. Raises ValidationFailed, naming every line without a sellable product, a second currency, coupons that
    do not count, or too large a total; CouponUsedUp, CouponLimitReached.
    """
    problems = [problem for line in lines if (problem := _line_problem(line, offers.get(line.product_id)))]
    if problems:
        raise ValidationFailed(problems)
    chosen = [(line, offers[line.product_id]) for line in lines]
    goods = _add_up(chosen)
    if goods.to_decimal() >= AMOUNT_MAX:
        raise total_too_large()
    priced = _price_parts(chosen, goods, terms, check_coupons(coupons, goods))
    assert priced.total.amount_minor >= 0, "no more can be taken off than there is"
    if priced.total.to_decimal() >= AMOUNT_MAX:
        raise total_too_large()
    return priced


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
    prices: PriceTerms = PLAIN_TERMS,
    coupons: Sequence[AskedCoupon] = (),
) -> PricedOrder | DomainError:
    """Decide one order; when it can be placed, take its stock out of `available` and add it to `held`.

    `held` is what the customer has open, None when that does not matter: no cap, or somebody else orders for them.
    What is left of coupons is the caller's to count down.
    The reference for place_orders_v3(), which applies the same decision to a whole batch in arrival order.
    """
    units = sum(line.quantity for line in lines)
    try:
        priced = price_order(lines, offers, terms=prices, coupons=coupons)
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


def _add_up(chosen: Sequence[tuple[OrderLine, Offer]]) -> Money:
    currencies = [offer.price.currency for _, offer in chosen]
    for currency in currencies:
        if currency != currencies[0]:
            raise currency_mixed(currencies[0], currency)
    goods = Money(0, currencies[0])
    for line, offer in chosen:
        goods += offer.price * line.quantity
    return goods


def _price_parts(
    chosen: Sequence[tuple[OrderLine, Offer]],
    goods: Money,
    terms: PriceTerms,
    coupons: Sequence[tuple[str, CouponTerms]],
) -> PricedOrder:
    currency = goods.currency
    reductions = reduce_goods(goods.amount_minor, coupons)
    discount = sum(amount for _, amount in reductions)
    shares = [Share(offer.price.amount_minor * line.quantity, offer.product_id) for line, offer in chosen]
    lines = tuple(
        PricedLine(
            line,
            offer,
            Money(part, currency),
            Money(_tax_of(share.worth_minor - part, offer.tax_rate, terms), currency),
        )
        for (line, offer), share, part in zip(chosen, shares, allocate(discount, shares), strict=True)
    )
    adjustments = [_adjustment("discount", code, -amount, currency) for code, amount in reductions]
    rate = terms.shipping.get(currency)
    if rate is not None and rate.fee.amount_minor > 0:
        left = goods.amount_minor - discount
        if rate.free_from is None or left < rate.free_from.amount_minor:
            fee = rate.fee.amount_minor
            tax = Money(_tax_of(fee, terms.shipping_tax, terms), currency)
            adjustments.append(PricedAdjustment("shipping", "Shipping", rate.fee, terms.shipping_tax, tax))
    tax_minor = sum(line.tax.amount_minor for line in lines) + sum(each.tax.amount_minor for each in adjustments)
    if not terms.tax_included and tax_minor > 0:
        adjustments.append(_adjustment("tax", "Tax", tax_minor, currency))
    total = goods.amount_minor + sum(each.amount.amount_minor for each in adjustments)
    return PricedOrder(lines, tuple(adjustments), terms.tax_included, Money(total, currency))


def _tax_of(minor: int, rate: Percent, terms: PriceTerms) -> int:
    return rate.contained_in(minor) if terms.tax_included else rate.of(minor)


def _adjustment(kind: str, label: str, minor: int, currency: str) -> PricedAdjustment:
    return PricedAdjustment(kind, label, Money(minor, currency), NO_PERCENT, Money(0, currency))
