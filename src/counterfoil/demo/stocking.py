"""Put articles into the catalogue together with their stock, as often as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.infrastructure.database import transaction
from counterfoil.inventory.services import open_levels, record_receipts
from counterfoil.products.services import NewProduct, create_products, find_product_ids

# Who the audit entries and stock movements of demo data name.
ACTOR: Final = "cli:load-demo"


@dataclass(frozen=True, slots=True)
class Article:
    """A product to sell and how many units of it to receive at the start."""

    product: NewProduct
    stock: int
    allow_backorder: bool = False


@dataclass(frozen=True, slots=True)
class Stocked:
    """What one call added."""

    products: int
    units: int


def stock_articles(articles: Sequence[Article], *, request_id: str, reason: str) -> Stocked:
    """Create the articles whose SKU was never used, with their stock, and leave all others as they are.

    Opens one transaction: an article is there with its stock or not at all, so an interrupted load is completed by
    repeating it. An article that somebody deleted stays deleted.
    """
    with transaction():
        used = find_product_ids([article.product.sku for article in articles], include_deleted=True)
        new = {article.product.sku: article for article in articles if article.product.sku not in used}
        created = create_products(
            [article.product for article in new.values()], actor=ACTOR, request_id=request_id, reason=reason
        )
        for allow in (False, True):
            opened = [id_ for sku, id_ in created.items() if new[sku].allow_backorder is allow]
            open_levels(opened, allow_backorder=allow)
        received = {id_: new[sku].stock for sku, id_ in created.items() if new[sku].stock}
        record_receipts(received, actor=ACTOR, request_id=request_id, reason=reason)
    return Stocked(products=len(created), units=sum(received.values()))
