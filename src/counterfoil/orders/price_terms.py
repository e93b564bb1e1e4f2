"""What the shop adds to the price of goods: how tax is shown, and what shipping costs (rule, pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import NO_PERCENT, Percent


@dataclass(frozen=True, slots=True)
class ShippingRate:
    """What shipping costs, and the worth of goods, discounts taken off, from which on it is free (None: never)."""

    fee: Money
    free_from: Money | None = None


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """How totals are made: whether prices contain their tax, and what shipping costs by currency.

    A currency without a rate is shipped for nothing. The fee is treated like a price: with `shipping_tax`, contained in
    it or added to it.
    """

    tax_included: bool = True
    shipping: Mapping[str, ShippingRate] = field(default_factory=dict)
    shipping_tax: Percent = NO_PERCENT


# A shop without tax and shipping: an order is worth its lines.
PLAIN_TERMS: Final = PriceTerms()


def parse_shipping_rates(text: str) -> dict[str, ShippingRate]:
    """Read `EUR:4.90:50.00,USD:5.90`: currency, fee, worth of goods from which on it is free. Raises ValueError."""
    rates: dict[str, ShippingRate] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match part.split(":"):
            case [currency, fee]:
                rate = ShippingRate(Money.parse(fee, currency))
            case [currency, fee, free_from]:
                rate = ShippingRate(Money.parse(fee, currency), Money.parse(free_from, currency))
            case _:
                raise ValueError("must look like EUR:4.90:50.00,USD:5.90")
        if currency in rates:
            raise ValueError(f"{currency} has two shipping rates")
        rates[currency] = rate
    return rates
