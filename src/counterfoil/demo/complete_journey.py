"""The Complete Journey: a year of real baskets of 2,469 households, as catalogue, customers, stock and order stream.

The data has no names, prices, stock or addresses. Names are made from type, brand and package size; prices are
derived (journey_tables.py); stock is sized from what was sold; customers are household numbers at example.com.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from counterfoil.demo.journey_baskets import (
    Basket,
    email_of,
    locate_journey,
    open_tables,
    read_baskets,
    readable,
    sku_of,
)
from counterfoil.demo.stocking import ACTOR, Article, stock_articles
from counterfoil.infrastructure.database import refresh_statistics, transaction
from counterfoil.kernel.ids import new_request_id
from counterfoil.kernel.money import Money
from counterfoil.products.services import NewProduct
from counterfoil.users.permissions import Role
from counterfoil.users.services import NewUser, create_users, find_user_ids

if TYPE_CHECKING:  # imports pyarrow, which is an extra
    from counterfoil.demo.journey_tables import Cleaning, SoldProduct

__all__ = ["Basket", "JourneySummary", "describe_article", "load_complete_journey", "locate_journey", "read_baskets"]

# (what is done now, how much of it is done, how much there is)
Progress = Callable[[str, int, int], None]

CURRENCY: Final = "USD"
# Three times what the whole year sold: every basket can be replayed three times before anything runs out.
STOCK_FACTOR: Final = 3
# One transaction each: about 0.3 s, far from the statement timeout of 5 s, and little to repeat after a kill.
_BATCH: Final = 2_000
_REASON: Final = "Complete Journey data"


@dataclass(frozen=True, slots=True)
class JourneySummary:
    """What a load found and what it added: the rest was there before."""

    products_found: int
    products_created: int
    users_found: int
    users_created: int
    units_received: int
    cleaning: Cleaning


def load_complete_journey(
    *,
    on_progress: Progress | None = None,
    products_limit: int | None = None,
    stock_factor: int = STOCK_FACTOR,
    directory: Path | None = None,
) -> JourneySummary:
    """Load every product that was sold (or the `products_limit` best-selling), every household, and stock.

    Opens one transaction per batch; what is there already is left as it is, so a load that was interrupted is
    completed by repeating it. Raises JourneyMissing and JourneyUnreadable.
    """
    assert stock_factor >= 1, "less than what was sold would refuse real baskets"
    tell = on_progress or _tell_nobody
    location = locate_journey(directory)
    tell("Reading sales", 0, 1)
    with readable(location):
        tables = open_tables(location)
        sold, cleaning = tables.read_sold_products()
        households = tables.read_households()
    tell("Reading sales", 1, 1)
    request_id = new_request_id()
    users_created = _load_users(households, request_id, tell)
    articles = [describe_article(product, stock_factor) for product in sold[:products_limit]]
    products_created, units_received = _load_articles(articles, request_id, tell)
    # Tables a thousand times their former size: until the planner knows, a running service keeps its old plans.
    refresh_statistics("users", "products", "stock_levels", "stock_movements")
    return JourneySummary(
        products_found=len(articles),
        products_created=products_created,
        users_found=len(households),
        users_created=users_created,
        units_received=units_received,
        cleaning=cleaning,
    )


def describe_article(product: SoldProduct, stock_factor: int) -> Article:
    """Turn a product of the tables into one with a name, a price and stock."""
    kind = _tidy(product.type or product.category or product.department)
    size = f", {' '.join(product.package_size.lower().split())}" if product.package_size else ""
    brand = "private label" if product.brand == "Private" else f"{product.brand.lower()} brand"
    return Article(
        NewProduct(
            sku=sku_of(product.product_id),
            name=f"{kind}{size}, {brand}",
            description=f"Department: {_tidy(product.department)}. Manufacturer {product.manufacturer_id}.",
            category=_tidy(product.category or product.department),
            price=Money(product.price_cents, CURRENCY),
        ),
        stock=product.units_sold * stock_factor,
    )


def _load_users(households: Sequence[int], request_id: str, tell: Progress) -> int:
    """Create the households that are not there as customers without a password; returns how many."""
    created = 0
    for start in range(0, len(households), _BATCH):
        tell("Creating customers", start, len(households))
        batch = households[start : start + _BATCH]
        users = [NewUser(email_of(household), f"Household {household}", Role.CUSTOMER) for household in batch]
        with transaction():
            known = find_user_ids([user.email for user in users])
            missing = [user for user in users if user.email not in known]
            created += len(create_users(missing, actor=ACTOR, request_id=request_id, reason=_REASON))
    tell("Creating customers", len(households), len(households))
    return created


def _load_articles(articles: Sequence[Article], request_id: str, tell: Progress) -> tuple[int, int]:
    """Create the products that are not there with their stock; returns how many products and units."""
    products, units = 0, 0
    for start in range(0, len(articles), _BATCH):
        tell("Creating products and stock", start, len(articles))
        stocked = stock_articles(articles[start : start + _BATCH], request_id=request_id, reason=_REASON)
        products += stocked.products
        units += stocked.units
    tell("Creating products and stock", len(articles), len(articles))
    return products, units


def _tidy(text: str) -> str:
    """Make `HOT CEREAL` readable as `Hot Cereal`."""
    return " ".join(text.title().split())


def _tell_nobody(_phase: str, _done: int, _total: int) -> None:
    """Do nothing with progress that nobody asked for."""
