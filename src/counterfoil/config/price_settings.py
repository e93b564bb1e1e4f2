"""Settings of prices: how tax is shown, and what shipping costs."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from counterfoil.kernel.percent import Percent
from counterfoil.orders.price_terms import PriceTerms, parse_shipping_rates


class PriceSettings(BaseSettings):
    """What the shop adds to the price of goods."""

    counterfoil_prices_include_tax: bool = Field(
        default=True,
        description="Whether prices contain their tax; otherwise it is added. Placed orders stay as they are.",
    )
    counterfoil_shipping: str = Field(
        "",
        description="Shipping by currency, such as EUR:4.90:50.00,USD:5.90: fee, and from which worth of goods, less "
        "discounts, it is free; other currencies: free.",
    )
    counterfoil_shipping_tax: Decimal = Field(
        Decimal(0),
        ge=0,
        lt=100,
        decimal_places=4,
        description="Tax on shipping in percent, contained or added as for prices.",
    )

    @field_validator("counterfoil_shipping")
    @classmethod
    def _are_rates(cls, value: str) -> str:
        parse_shipping_rates(value)
        return value

    @property
    def price_terms(self) -> PriceTerms:
        """How totals are made."""
        return PriceTerms(
            self.counterfoil_prices_include_tax,
            parse_shipping_rates(self.counterfoil_shipping),
            Percent.from_decimal(self.counterfoil_shipping_tax),
        )
