"""The catalogue: create, change, find and take out products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import IntegrityError

from counterfoil.infrastructure.database import transaction_required
from counterfoil.infrastructure.outbox import append_audit
from counterfoil.kernel.money import Money
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
def create_product(
    *,
    sku: str,
    name: str,
    description: str,
    category: str,
    price: Money,
    active: bool,
    actor: str,
    request_id: str,
) -> ProductRecord:
    """Create a product. Joins the open transaction. Raises SkuTaken."""
    product = repositories.insert_product(
        sku=sku,
        name=name,
        description=description,
        category=category,
        price=price.to_decimal(),
        currency=price.currency,
        active=active,
    )
    if product is None:
        raise SkuTaken(sku=sku)
    _audit("product.create", product.id, actor, request_id, {"created": _plain(product)})
    return product


@transaction_required
def create_products(products: Sequence[NewProduct], *, actor: str, request_id: str, reason: str) -> dict[str, int]:
    """Create those of many products whose SKU is free, in two statements; returns the new ids by SKU.

    Joins the open transaction. Taken SKUs are left as they are, so a load that was interrupted can be repeated.
    """
    created = repositories.insert_products(products)
    append_audit(
        actor=actor,
        action="product.create",
        target="product",
        target_ids=list(created.values()),
        request_id=request_id,
        reason=reason,
    )
    return created


@transaction_required
def replace_product(
    product_id: int, *, new_values: dict[str, Any], etag: str | None, actor: str, request_id: str
) -> ProductRecord:
    """Replace a product's values. Joins the open transaction; locks the product.

    Raises ProductNotFound, SkuTaken, and ProductChanged when `etag` is given and no longer true.
    """
    before = repositories.read_product(product_id, include_inactive=True, lock=True)
    if before is None:
        raise ProductNotFound
    if etag is not None and etag != before.etag:
        raise ProductChanged
    try:
        after = repositories.update_product(dataclasses.replace(before, **new_values))
    except IntegrityError as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise SkuTaken(sku=new_values["sku"]) from error
        raise
    _audit("product.update", product_id, actor, request_id, {"before": _plain(before), "after": _plain(after)})
    return after


@transaction_required
def delete_product(product_id: int, *, etag: str | None, actor: str, request_id: str) -> None:
    """Take a product out of the catalogue. Joins the open transaction. Open orders keep it and their stock.

    Raises ProductNotFound, also for the second time, and ProductChanged as above.
    """
    before = repositories.read_product(product_id, include_inactive=True, lock=True)
    if before is None:
        raise ProductNotFound
    if etag is not None and etag != before.etag:
        raise ProductChanged
    repositories.delete_product(product_id)
    _audit("product.delete", product_id, actor, request_id, {"before": _plain(before)})


def _audit(action: str, product_id: int, actor: str, request_id: str, changes: dict[str, Any]) -> None:
    append_audit(
        actor=actor, action=action, target="product", target_ids=[product_id], request_id=request_id, changes=changes
    )


def _plain(product: ProductRecord) -> dict[str, Any]:
    return {
        "sku": product.sku,
        "name": product.name,
        "category": product.category,
        "price": str(product.price),
        "active": product.active,
        "version": product.version,
    }
