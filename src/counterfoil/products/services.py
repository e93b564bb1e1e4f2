"""The catalogue: create, change, find and take out products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import IntegrityError

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.products import repositories
from counterfoil.products.errors import ProductChanged, ProductNotFound, SkuTaken
from counterfoil.products.repositories import NewProduct, ProductRecord

__all__ = [
    "NewProduct",
    "ProductRecord",
    "create_product",
    "create_products",
    "delete_product",
    "find_product",
    "find_product_ids",
    "find_products",
    "list_products",
    "replace_product",
]


def find_product(product_id: int, *, include_inactive: bool) -> ProductRecord:
    """Return one product; raises ProductNotFound."""
    product = repositories.read_product(product_id, include_inactive=include_inactive)
    if product is None:
        raise ProductNotFound
    return product


def find_products(product_ids: Sequence[int]) -> dict[int, ProductRecord]:
    """Return the products that exist, inactive ones included, by id, in one query."""
    return repositories.read_products(product_ids)


def find_product_ids(skus: Sequence[str], *, include_deleted: bool = False) -> dict[str, int]:
    """Return the ids of the products that exist, inactive ones included, by SKU, in one query."""
    return repositories.read_ids_by_sku(skus, include_deleted=include_deleted)


def list_products(
    *, text: str | None, category: str | None, include_inactive: bool, after: int, limit: int
) -> list[ProductRecord]:
    """Return up to `limit` products in the order of their ids, above `after`."""
    return repositories.read_page(
        text=text, category=category, include_inactive=include_inactive, after=after, limit=limit
    )


@transaction_required
def create_product(new: NewProduct, *, actor: str, request_id: str) -> ProductRecord:
    """Create a product. Joins the open transaction. Raises SkuTaken."""
    declare_change(actor=actor, action="product.create", request_id=request_id)
    product = repositories.insert_product(new)
    if product is None:
        raise SkuTaken(sku=new.sku)
    return product


@transaction_required
def create_products(products: Sequence[NewProduct], *, actor: str, request_id: str, reason: str) -> dict[str, int]:
    """Create those of many products whose SKU is free, in two statements; returns the new ids by SKU.

    Joins the open transaction. Taken SKUs are left as they are, so a load that was interrupted can be repeated.
    """
    declare_change(actor=actor, action="product.create", request_id=request_id, reason=reason)
    return repositories.insert_products(products)


@transaction_required
def replace_product(
    product_id: int, *, new_values: dict[str, Any], etag: str | None, actor: str, request_id: str
) -> ProductRecord:
    """Replace a product's values. Joins the open transaction; locks the product.

    Raises ProductNotFound, SkuTaken, and ProductChanged when `etag` is given and no longer true.
    """
    declare_change(actor=actor, action="product.update", request_id=request_id)
    before = repositories.read_product(product_id, include_inactive=True, lock=True)
    if before is None:
        raise ProductNotFound
    if etag is not None and etag != before.etag:
        raise ProductChanged
    try:
        return repositories.update_product(dataclasses.replace(before, **new_values))
    except IntegrityError as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise SkuTaken(sku=new_values["sku"]) from error
        raise


@transaction_required
def delete_product(product_id: int, *, etag: str | None, actor: str, request_id: str) -> None:
    """Take a product out of the catalogue. Joins the open transaction. Open orders keep it and their stock.

    Raises ProductNotFound, also for the second time, and ProductChanged as above.
    """
    declare_change(actor=actor, action="product.delete", request_id=request_id)
    before = repositories.read_product(product_id, include_inactive=True, lock=True)
    if before is None:
        raise ProductNotFound
    if etag is not None and etag != before.etag:
        raise ProductChanged
    repositories.delete_product(product_id)
