"""Products on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END, Amount, Category, CurrencyCode, Line, LongText, Sku
from counterfoil.kernel.percent import Percent
from counterfoil.products.services import ProductRecord

# Below 100, with up to four digits after the point: what the column holds.
TaxRate = Annotated[str, Meta(max_length=7, pattern=r"^[0-9]{1,2}(\.[0-9]{1,4})?" + END, examples=["19"])]


class ProductIn(Struct, forbid_unknown_fields=True, frozen=True):
    """A product to create, or all of its new values."""

    sku: Annotated[Sku, Meta(examples=["TEA-100"])]
    name: Annotated[Line, Meta(examples=["Earl Grey, 100 g"])]
    price: Amount
    currency: CurrencyCode
    description: LongText = ""
    category: Category = ""
    active: bool = True
    allow_backorder: Annotated[
        bool | None, Meta(description="Sell more than there is; left out: as it is (at first: no).")
    ] = None
    tax_rate: Annotated[TaxRate, Meta(description="Percent; left out: as it is (at first: 0).")] | None = None


class ProductOut(Struct, frozen=True):
    """A product of the catalogue."""

    id: int
    sku: str
    name: str
    description: str
    category: str
    price: Annotated[str, Meta(examples=["19.99"])]
    currency: str
    tax_rate: Annotated[str, Meta(examples=["19"], description="Percent.")]
    active: bool
    version: int
    created_at: datetime
    updated_at: datetime


class ProductPage(Struct, frozen=True):
    """One page; `next` is the address of the following one, null on the last."""

    items: list[ProductOut]
    next_cursor: str | None
    next: str | None


def render_product(product: ProductRecord) -> ProductOut:
    """Turn the core's record into what is shown."""
    return ProductOut(
        id=product.id,
        sku=product.sku,
        name=product.name,
        description=product.description,
        category=product.category,
        price=str(product.price.to_decimal()),
        currency=product.price.currency,
        tax_rate=str(product.tax_rate.to_decimal()),
        active=product.active,
        version=product.version,
        created_at=product.created_at,
        updated_at=product.updated_at,
    )


def parse_tax_rate(text: str) -> Percent:
    """Return the rate; the field's pattern lets nothing through that is none."""
    return Percent.parse(text)
