"""Products on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import Amount, Category, CurrencyCode, Line, LongText, Sku
from counterfoil.products.services import ProductRecord


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


class ProductOut(Struct, frozen=True):
    """A product of the catalogue."""

    id: int
    sku: str
    name: str
    description: str
    category: str
    price: Annotated[str, Meta(examples=["19.99"])]
    currency: str
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
        active=product.active,
        version=product.version,
        created_at=product.created_at,
        updated_at=product.updated_at,
    )
