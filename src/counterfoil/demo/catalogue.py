"""The small shop that `counterfoil up` shows: our own products with names, prices and stock, and a few people."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from counterfoil.demo.stocking import ACTOR, Article, stock_articles
from counterfoil.infrastructure.database import transaction
from counterfoil.kernel.ids import new_request_id
from counterfoil.kernel.money import Money
from counterfoil.products.services import NewProduct, find_product_ids, find_products
from counterfoil.users.permissions import Role
from counterfoil.users.services import create_user, find_user_ids, hash_password

_FILE: Final = Path(__file__).with_name("catalogue.json")
_REASON: Final = "demo catalogue"


@dataclass(frozen=True, slots=True)
class DemoAccounts:
    """Who is there to act as, and what to order first.

    `passwords` holds, by address, those of the accounts that this call created: they are stored nowhere else.
    """

    admin_id: int
    customer_id: int
    product_id: int
    user_ids: dict[str, int]
    products_found: int
    products_created: int
    units_received: int
    passwords: dict[str, str] = field(repr=False)


class _Product(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    sku: str
    name: str
    description: str
    category: str
    price: str
    stock: int
    active: bool = True
    allow_backorder: bool = False


class _Person(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    email: str
    name: str
    role: Role


class _Catalogue(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    currency: str
    people: list[_Person]
    products: list[_Product]


def load_catalogue(
    *, on_progress: Callable[[str], None] | None = None, passwords: Mapping[str, str] | None = None
) -> DemoAccounts:
    """Load the shop's products and people, once: what is there already, or was deleted since, is left as it is.

    Opens one transaction for the products and one for the people. New accounts get a password of their own, random
    unless `passwords` has one for the address.
    """
    tell = on_progress or _tell_nobody
    catalogue = msgspec.json.decode(_FILE.read_bytes(), type=_Catalogue)
    request_id = new_request_id()
    tell(f"Loading {len(catalogue.products)} demo products")
    articles = [_article(product, catalogue.currency) for product in catalogue.products]
    stocked = stock_articles(articles, request_id=request_id, reason=_REASON)
    tell(f"Loading {len(catalogue.people)} demo people")
    user_ids, new_passwords = _load_people(catalogue.people, passwords or {}, request_id)
    return DemoAccounts(
        admin_id=_first_with(Role.ADMIN, catalogue.people, user_ids),
        customer_id=_first_with(Role.CUSTOMER, catalogue.people, user_ids),
        product_id=_first_to_order([product.sku for product in catalogue.products]),
        user_ids=user_ids,
        products_found=len(articles),
        products_created=stocked.products,
        units_received=stocked.units,
        passwords=new_passwords,
    )


def _article(product: _Product, currency: str) -> Article:
    return Article(
        NewProduct(
            sku=product.sku,
            name=product.name,
            description=product.description,
            category=product.category,
            price=Money.parse(product.price, currency),
            active=product.active,
        ),
        stock=product.stock,
        allow_backorder=product.allow_backorder,
    )


def _load_people(
    people: Sequence[_Person], chosen: Mapping[str, str], request_id: str
) -> tuple[dict[str, int], dict[str, str]]:
    """Create the people who are not there; returns everybody's id, and the new ones' passwords, by address.

    One transaction for all: a password whose account is committed is always returned.
    """
    user_ids = find_user_ids([person.email for person in people])
    passwords = {
        # 16 characters of 6 random bits each: nothing to guess, short enough to type.
        person.email: chosen.get(person.email) or secrets.token_urlsafe(12)
        for person in people
        if person.email not in user_ids
    }
    if not passwords:
        return user_ids, passwords
    hashes = {
        person.email: hash_password(passwords[person.email], email=person.email, name=person.name)
        for person in people
        if person.email in passwords
    }
    with transaction():
        for person in people:
            if person.email in passwords:
                user = create_user(
                    email=person.email,
                    name=person.name,
                    password_hash=hashes[person.email],
                    role=person.role,
                    actor=ACTOR,
                    request_id=request_id,
                )
                user_ids[person.email] = user.id
    return user_ids, passwords


def _first_with(role: Role, people: Sequence[_Person], user_ids: Mapping[str, int]) -> int:
    return next(user_ids[person.email] for person in people if person.role is role)


def _first_to_order(skus: Sequence[str]) -> int:
    """Return the first product, in the catalogue's order, that is still for sale; else the first that ever was."""
    known = find_product_ids(skus, include_deleted=True)
    products = find_products(list(known.values()))
    for sku in skus:
        product = products.get(known[sku])
        if product is not None and product.active:
            return product.id
    return known[skus[0]]


def _tell_nobody(_sentence: str) -> None:
    """Do nothing with progress that nobody asked for."""
