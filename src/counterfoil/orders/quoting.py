"""What an order costs now: its products and coupons as the database has them, given to the rule that prices it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from counterfoil.coupons import services as coupons
from counterfoil.coupons.terms import AskedCoupon
from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import Percent
from counterfoil.orders import pricing
from counterfoil.orders.commands import OrderLine
from counterfoil.orders.history import OrderView
from counterfoil.orders.price_terms import PriceTerms
from counterfoil.orders.pricing import Offer, PricedOrder
from counterfoil.products import services as products


@transaction_required
def quote_draft(lines: Sequence[OrderLine], codes: Sequence[str], *, user_id: int, prices: PriceTerms) -> PricedOrder:
    """Price a draft for now. Takes no use of a coupon: a draft holds nothing. Raises as `price_order`."""
    asked = coupons.ask_for_coupons(codes, user_id=user_id)
    return pricing.price_order(lines, find_offers(lines), terms=prices, coupons=asked)


@transaction_required
def quote_order(
    before: OrderView, lines: Sequence[OrderLine], codes: Sequence[str], *, prices: PriceTerms
) -> PricedOrder:
    """Price an order that is placed, or becomes so, and let it use exactly these coupons.

    Joins the transaction that holds the order's lock and that of the customer's holds; locks the coupons. A product
    that was in the placed order keeps its price and tax, unless more of it is wanted, and a coupon keeps its use.
    Raises as `price_order`.
    """
    facts = before.facts
    coupons.lock_coupons(sorted({*codes, *facts.coupon_codes}))
    asked = coupons.ask_for_coupons(codes, user_id=facts.user_id, order_id=facts.order_id)
    priced = _price(before, lines, asked, prices)
    if codes or facts.coupon_codes:
        coupons.change_uses(asked, order_id=facts.order_id, user_id=facts.user_id)
    return priced


def preview_order(
    before: OrderView, lines: Sequence[OrderLine], codes: Sequence[str], *, prices: PriceTerms
) -> PricedOrder:
    """Price an order as `quote_order` would at this moment; locks nothing and takes no use. Raises as `price_order`."""
    asked = coupons.ask_for_coupons(codes, user_id=before.facts.user_id, order_id=before.facts.order_id)
    return _price(before, lines, asked, prices)


def _price(
    before: OrderView, lines: Sequence[OrderLine], asked: Sequence[AskedCoupon], prices: PriceTerms
) -> PricedOrder:
    is_placed = before.placed_at is not None
    terms = replace(prices, tax_included=before.facts.tax_included) if is_placed else prices
    offers = find_offers(lines, kept=before if is_placed else None)
    return pricing.price_order(lines, offers, terms=terms, coupons=asked)


def lines_of(view: OrderView) -> list[OrderLine]:
    """Return an order's lines as a caller would name them."""
    return [OrderLine(item.product_id, item.quantity, n) for n, item in enumerate(view.facts.items)]


def find_offers(lines: Sequence[OrderLine], *, kept: OrderView | None = None) -> dict[int, Offer]:
    """Return the products of these lines as sold now, or as they were sold to an order that keeps its prices."""
    found = products.find_products([line.product_id for line in lines])
    offers = {p.id: Offer(p.id, p.sku, p.name, p.price, p.active, p.tax_rate) for p in found.values()}
    if kept is not None:
        wanted = {line.product_id: line.quantity for line in lines}
        for item in kept.facts.items:
            if wanted.get(item.product_id, 0) > item.quantity:
                continue
            price, rate = Money(item.unit_price_minor, kept.facts.currency), Percent(item.tax_rate_ppm)
            offers[item.product_id] = Offer(item.product_id, item.sku, item.name, price, active=True, tax_rate=rate)
    return offers
