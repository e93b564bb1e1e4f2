"""All SQL of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import NO_PERCENT, Percent


@dataclass(frozen=True, slots=True)
class ProductRecord:
    """One product of the catalogue as it is now."""

    id: int
    sku: str
    name: str
    description: str
    category: str
    price: Money
    tax_rate: Percent
    active: bool
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Return the entity tag, which changes with every change of the product."""
        return f'"{self.version}"'


@dataclass(frozen=True, slots=True)
class NewProduct:
    """A product to create."""

    sku: str
    name: str
    description: str
    category: str
    price: Money
    active: bool = True
    tax_rate: Percent = NO_PERCENT


_COLUMNS = "id, sku, name, description, category, price, currency, tax_rate, active, version, created_at, updated_at"


def _record(row: tuple[Any, ...]) -> ProductRecord:
    id_, sku, name, description, category, price, currency, tax_rate, active, version, created_at, updated_at = row
    return ProductRecord(
        id_,
        sku,
        name,
        description,
        category,
        Money.from_decimal(price, currency),
        Percent.from_decimal(tax_rate),
        active,
        version,
        created_at,
        updated_at,
    )


def read_product(product_id: int, *, include_inactive: bool, lock: bool = False) -> ProductRecord | None:
    """Return a product, or None when it is unknown, deleted, or inactive and those are not asked for.

    The lock lets foreign keys through: a batch of orders that holds stock rows must not wait for a price change that
    waits for the same stock row.
    """
    row = fetch_one(
        f"SELECT {_COLUMNS} FROM products WHERE id = %(id)s AND deleted_at IS NULL"
        f" AND (active OR %(inactive)s){' FOR NO KEY UPDATE' if lock else ''}",
        {"id": product_id, "inactive": include_inactive},
    )
    return None if row is None else _record(row)


def read_products(product_ids: Sequence[int]) -> dict[int, ProductRecord]:
    """Return the products that exist (inactive ones too), by id."""
    rows = fetch_all(
        f"SELECT {_COLUMNS} FROM products WHERE id = ANY(%(ids)s) AND deleted_at IS NULL",
        {"ids": list(product_ids)},
    )
    return {row[0]: _record(row) for row in rows}


def read_page(
    *, text: str | None, category: str | None, include_inactive: bool, after: int, limit: int
) -> list[ProductRecord]:
    """Return up to `limit` products by id, above `after`. `text` is found literally in name, SKU or description."""
    where = ["deleted_at IS NULL", "id > %(after)s"]
    if not include_inactive:
        where.append("active")
    if category is not None:
        where.append("category = %(category)s")
    if text is not None:
        where.append("strpos(lower(sku || ' ' || name || ' ' || description), lower(%(text)s)) > 0")
    rows = fetch_all(
        f"SELECT {_COLUMNS} FROM products WHERE {' AND '.join(where)} ORDER BY id LIMIT %(limit)s",
        {"text": text, "category": category, "after": after, "limit": limit},
    )
    return [_record(row) for row in rows]


@transaction_required
def insert_product(product: NewProduct) -> ProductRecord | None:
    """Insert a product and return it, or None when the SKU is taken. Joins the open transaction."""
    row = fetch_one(
        "INSERT INTO products (sku, name, description, category, price, currency, tax_rate, active) VALUES (%(sku)s,"
        " %(name)s, %(description)s, %(category)s, %(price)s, %(currency)s, %(tax_rate)s, %(active)s)"
        f" ON CONFLICT (sku) WHERE deleted_at IS NULL DO NOTHING RETURNING {_COLUMNS}",
        {
            "sku": product.sku,
            "name": product.name,
            "description": product.description,
            "category": product.category,
            "price": product.price.to_decimal(),
            "currency": product.price.currency,
            "tax_rate": product.tax_rate.to_decimal(),
            "active": product.active,
        },
    )
    return None if row is None else _record(row)


def read_ids_by_sku(skus: Sequence[str], *, include_deleted: bool) -> dict[str, int]:
    """Return the ids of the products that exist (inactive ones too), by SKU; of several, the newest."""
    rows = fetch_all(
        "SELECT sku, max(id) FROM products WHERE sku = ANY(%(skus)s) AND (deleted_at IS NULL OR %(deleted)s)"
        " GROUP BY sku",
        {"skus": list(skus), "deleted": include_deleted},
    )
    return dict(rows)


@transaction_required
def insert_products(products: Sequence[NewProduct]) -> dict[str, int]:
    """Insert many products in one statement; returns the ids of those whose SKU was free. Joins the transaction."""
    # In SKU order: two loaders of the same catalogue wait for each other in a line, never in a circle.
    ordered = sorted(products, key=lambda product: product.sku)
    rows = fetch_all(
        """
        INSERT INTO products (sku, name, description, category, price, currency, tax_rate, active)
        SELECT * FROM unnest(%(skus)s::text[], %(names)s::text[], %(descriptions)s::text[], %(categories)s::text[],
                             %(prices)s::numeric[], %(currencies)s::text[], %(tax_rates)s::numeric[],
                             %(active)s::boolean[])
        ON CONFLICT (sku) WHERE deleted_at IS NULL DO NOTHING
        RETURNING sku, id
        """,
        {
            "skus": [product.sku for product in ordered],
            "names": [product.name for product in ordered],
            "descriptions": [product.description for product in ordered],
            "categories": [product.category for product in ordered],
            "prices": [product.price.to_decimal() for product in ordered],
            "currencies": [product.price.currency for product in ordered],
            "tax_rates": [product.tax_rate.to_decimal() for product in ordered],
            "active": [product.active for product in ordered],
        },
    )
    return dict(rows)


@transaction_required
def update_product(product: ProductRecord) -> ProductRecord:
    """Write a product's new values and raise its version. Joins the transaction that holds its lock.

    Raises IntegrityError when the SKU is taken.
    """
    row = fetch_one(
        "UPDATE products SET sku = %(sku)s, name = %(name)s, description = %(description)s, category = %(category)s,"
        " price = %(price)s, currency = %(currency)s, tax_rate = %(tax_rate)s, active = %(active)s,"
        " version = version + 1, updated_at = now()"
        f" WHERE id = %(id)s RETURNING {_COLUMNS}",
        {
            "id": product.id,
            "sku": product.sku,
            "name": product.name,
            "description": product.description,
            "category": product.category,
            "price": product.price.to_decimal(),
            "currency": product.price.currency,
            "tax_rate": product.tax_rate.to_decimal(),
            "active": product.active,
        },
    )
    assert row is not None, product.id
    return _record(row)


@transaction_required
def delete_product(product_id: int) -> None:
    """Take a product out of the catalogue; past orders keep pointing at the row. Joins the open transaction."""
    fetch_all(
        "UPDATE products SET deleted_at = now(), updated_at = now(), version = version + 1 WHERE id = %(id)s",
        {"id": product_id},
    )
