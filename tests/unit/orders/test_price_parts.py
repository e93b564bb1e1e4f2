"""Tax, discounts and shipping: every total is the sum of rounded parts, whatever is sold in whatever order."""

from __future__ import annotations

import itertools
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.coupons.errors import CouponLimitReached, CouponUsedUp
from counterfoil.coupons.terms import AskedCoupon, CouponProblem, CouponTerms
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import CURRENCY_DIGITS, Money
from counterfoil.kernel.percent import Percent
from counterfoil.orders.commands import OrderLine
from counterfoil.orders.discounts import Share, allocate
from counterfoil.orders.events import OrderFacts
from counterfoil.orders.price_terms import PLAIN_TERMS, PriceTerms, ShippingRate, parse_shipping_rates
from counterfoil.orders.pricing import Offer, PricedLine, PricedOrder, price_order

RATES = st.integers(0, 999_999).map(Percent)
# All of them: with no digit after the point, with two, with three.
CURRENCIES = st.sampled_from(sorted(CURRENCY_DIGITS))


def sold(*each: tuple[str, int, str], currency: str = "EUR") -> tuple[list[OrderLine], dict[int, Offer]]:
    """Lines of (price, quantity, percent of tax)."""
    lines = [OrderLine(n, quantity, n - 1) for n, (_, quantity, _) in enumerate(each, 1)]
    return lines, {
        n: Offer(n, f"S-{n}", "Tea", Money.parse(price, currency), active=True, tax_rate=Percent.parse(rate))
        for n, (price, _, rate) in enumerate(each, 1)
    }


def coupon(n: int, benefit: Percent | Money, **values: Any) -> AskedCoupon:
    currency = benefit.currency if isinstance(benefit, Money) else values.pop("currency", None)
    return AskedCoupon(f"C{n}", CouponTerms(n, benefit, currency, values.pop("minimum", None)), **values)


@st.composite
def baskets(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that decides a price, in one currency."""
    currency = draw(CURRENCIES)
    money = st.integers(0, 10**7).map(lambda minor: Money(minor, currency))
    count = draw(st.integers(1, 8))
    lines = [OrderLine(n, draw(st.integers(1, 50)), n) for n in range(count)]
    offers = {
        n: Offer(n, "S", "N", draw(money), active=True, tax_rate=draw(st.just(Percent(0)) | RATES))
        for n in range(count)
    }
    benefits = st.integers(1, 1_000_000).map(Percent) | st.integers(1, 10**8).map(lambda minor: Money(minor, currency))
    coupons = [coupon(n, benefit) for n, benefit in enumerate(draw(st.lists(benefits, max_size=5)))]
    rate = st.none() | st.builds(ShippingRate, money, st.none() | money)
    shipping = draw(rate)
    terms = PriceTerms(draw(st.booleans()), {} if shipping is None else {currency: shipping}, draw(RATES))
    return {"lines": lines, "offers": offers, "coupons": coupons, "terms": terms}


def worth(each: PricedLine) -> int:
    return each.offer.price.amount_minor * each.line.quantity


def amounts(priced: PricedOrder, kind: str) -> list[int]:
    return [each.amount.amount_minor for each in priced.adjustments if each.kind == kind]


# ---------------------------------------------------------------- properties
@given(baskets())
def test_a_total_is_the_sum_of_rounded_parts_and_never_below_zero(basket: dict[str, Any]) -> None:
    priced = price_order(**basket)

    lines = sum(worth(each) for each in priced.lines)
    assert priced.total.amount_minor == lines + sum(each.amount.amount_minor for each in priced.adjustments)
    assert priced.total.amount_minor >= 0
    discount = sum(each.discount.amount_minor for each in priced.lines)
    assert discount == -sum(amounts(priced, "discount"))
    assert all(0 <= each.discount.amount_minor <= worth(each) for each in priced.lines)
    tax = sum(each.tax.amount_minor for each in (*priced.lines, *priced.adjustments))  # type: ignore[attr-defined]
    added = [] if basket["terms"].tax_included or tax == 0 else [tax]
    assert amounts(priced, "tax") == added


@given(baskets(), st.randoms())
def test_the_order_of_lines_and_of_coupons_does_not_matter(basket: dict[str, Any], random: Any) -> None:
    priced = price_order(**basket)
    for shuffled in (lines := [*basket["lines"]]), (coupons := [*basket["coupons"]]):
        random.shuffle(shuffled)

    again = price_order(lines, basket["offers"], terms=basket["terms"], coupons=coupons)

    assert (again.total, again.adjustments) == (priced.total, priced.adjustments)
    by_product = {each.line.product_id: (each.discount, each.tax) for each in priced.lines}
    assert {each.line.product_id: (each.discount, each.tax) for each in again.lines} == by_product


@given(baskets())
def test_tax_is_rounded_half_up_once_for_each_line(basket: dict[str, Any]) -> None:
    for each in price_order(**basket).lines:
        left, rate = Decimal(worth(each) - each.discount.amount_minor), each.offer.tax_rate.to_decimal() / 100
        exact = left * rate / (1 + rate) if basket["terms"].tax_included else left * rate
        # A contained tax that is periodic is never a half: comparing with 50 digits is comparing exactly.
        assert each.tax.amount_minor == exact.quantize(Decimal(1), ROUND_HALF_UP)


@given(baskets())
def test_contained_tax_is_the_tax_that_would_be_added_to_the_rest(basket: dict[str, Any]) -> None:
    """Taking the contained tax out and adding it again gives the price, up to the rounding of one unit a line."""
    terms = basket["terms"]
    included = PriceTerms(tax_included=True, shipping=terms.shipping, shipping_tax=terms.shipping_tax)
    for each in price_order(basket["lines"], basket["offers"], terms=included, coupons=basket["coupons"]).lines:
        net = worth(each) - each.discount.amount_minor - each.tax.amount_minor
        assert abs(each.offer.tax_rate.of(net) - each.tax.amount_minor) <= 1


@given(baskets())
def test_prices_that_contain_tax_cost_the_same_whatever_the_rate(basket: dict[str, Any]) -> None:
    terms = basket["terms"]
    included = PriceTerms(tax_included=True, shipping=terms.shipping, shipping_tax=terms.shipping_tax)
    untaxed = {n: Offer(n, o.sku, o.name, o.price, o.active) for n, o in basket["offers"].items()}

    with_tax = price_order(basket["lines"], basket["offers"], terms=included, coupons=basket["coupons"])
    without = price_order(basket["lines"], untaxed, terms=included, coupons=basket["coupons"])

    assert with_tax.total == without.total


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=100), st.data())
def test_an_allocation_adds_up_and_gives_nobody_more_than_one_unit_too_much(
    worths: list[int], data: st.DataObject
) -> None:
    lines = [Share(worth_minor, n) for n, worth_minor in enumerate(worths)]
    discount = data.draw(st.integers(0, sum(worths)))

    parts = allocate(discount, lines)

    assert sum(parts) == discount
    goods = sum(worths)
    for part, worth_minor in zip(parts, worths, strict=True):
        assert 0 <= part <= worth_minor
        assert goods == 0 or abs(part * goods - discount * worth_minor) < goods


# ---------------------------------------------------------------- by hand
def test_a_cent_that_cannot_be_divided_goes_to_the_largest_remainder_then_to_the_lower_product() -> None:
    assert allocate(100, [Share(1000, 3), Share(1000, 1), Share(1000, 2)]) == [33, 34, 33]
    # 2/3 and 1/3 of ten cents: 6.67 and 3.33.
    assert allocate(10, [Share(100, 1), Share(200, 2)]) == [3, 7]
    assert allocate(0, [Share(0, 1)]) == [0]
    assert allocate(5, [Share(0, 1), Share(5, 2)]) == [0, 5]


@pytest.mark.parametrize(
    ("included", "taxes", "adjustments", "total"),
    [
        # 19 % contained in 19.99 is 3.1917; in 3 x 0.99 at 7 %, 0.1943.
        (True, ["3.19", "0.19"], [], "22.96"),
        # 19 % of 19.99 is 3.7981; 7 % of 2.97 is 0.2079.
        (False, ["3.80", "0.21"], [("tax", "4.01")], "26.97"),
    ],
)
def test_tax_is_contained_in_prices_or_added_to_them(
    included: bool,  # noqa: FBT001 - pytest passes it by name
    taxes: list[str],
    adjustments: list[tuple[str, str]],
    total: str,
) -> None:
    lines, offers = sold(("19.99", 1, "19"), ("0.99", 3, "7"))

    priced = price_order(lines, offers, terms=PriceTerms(included))

    assert [str(each.tax.to_decimal()) for each in priced.lines] == taxes
    assert [(each.kind, str(each.amount.to_decimal())) for each in priced.adjustments] == adjustments
    assert str(priced.total.to_decimal()) == total


@pytest.mark.parametrize(("price", "tax"), [("0.50", "0.03"), ("0.70", "0.04"), ("0.30", "0.02"), ("0.10", "0.01")])
def test_half_a_cent_is_rounded_up(price: str, tax: str) -> None:
    lines, offers = sold((price, 1, "5"))

    [line] = price_order(lines, offers, terms=PriceTerms(tax_included=False)).lines

    assert line.tax == Money.parse(tax, "EUR")


@pytest.mark.parametrize(("goods", "fee"), [("49.99", "4.90"), ("50.00", None), ("50.01", None)])
def test_shipping_is_free_from_a_worth_of_goods_on(goods: str, fee: str | None) -> None:
    lines, offers = sold((goods, 1, "0"))
    terms = PriceTerms(shipping=parse_shipping_rates("EUR:4.90:50.00"), shipping_tax=Percent.parse("19"))

    priced = price_order(lines, offers, terms=terms)

    assert [(each.kind, str(each.amount.to_decimal()), str(each.tax.to_decimal())) for each in priced.adjustments] == (
        [] if fee is None else [("shipping", fee, "0.78")]
    )


def test_what_a_coupon_takes_off_counts_for_free_shipping_too() -> None:
    lines, offers = sold(("50.00", 1, "0"))
    terms = PriceTerms(shipping=parse_shipping_rates("EUR:4.90:50.00"))

    priced = price_order(lines, offers, terms=terms, coupons=[coupon(1, Money.parse("0.01", "EUR"))])

    assert str(priced.total.to_decimal()) == "54.89"


def test_percentages_are_taken_off_before_amounts_and_older_coupons_before_younger() -> None:
    lines, offers = sold(("100.00", 1, "0"))
    ten, half, five = coupon(3, Percent.parse("10")), coupon(2, Percent.parse("50")), coupon(1, Money(500, "EUR"))

    for asked in itertools.permutations((ten, half, five)):
        priced = price_order(lines, offers, coupons=asked)

        assert [(each.label, str(each.amount.to_decimal())) for each in priced.adjustments] == [
            ("C2", "-50.00"),
            ("C3", "-5.00"),
            ("C1", "-5.00"),
        ]
        assert str(priced.total.to_decimal()) == "40.00"


def test_a_shop_without_tax_coupons_and_shipping_adds_nothing() -> None:
    lines, offers = sold(("19.99", 3, "0"), ("0.10", 1, "0"))

    priced = price_order(lines, offers)

    assert (priced.adjustments, priced.tax_included) == ((), True)
    assert priced.total == Money(6007, "EUR")
    assert PriceTerms() == PLAIN_TERMS


def test_every_coupon_that_does_not_count_is_named_before_one_that_is_used_up() -> None:
    lines, offers = sold(("10.00", 1, "0"))
    spent = coupon(1, Percent.parse("10"), uses_left=0)
    ended = coupon(2, Percent.parse("10"), problem=CouponProblem.ENDED)
    minimum = coupon(3, Percent.parse("10"), currency="EUR", minimum=Money(1001, "EUR"))

    with pytest.raises(ValidationFailed) as refused:
        price_order(lines, offers, coupons=[spent, AskedCoupon("C9", None), ended, minimum])
    with pytest.raises(CouponUsedUp) as used_up:
        price_order(lines, offers, coupons=[spent])

    assert refused.value.details["fields"] == [
        {"field": "coupon_codes[1]", "message": "Coupon C9 is not valid."},
        {"field": "coupon_codes[2]", "message": "Coupon C2 is not valid."},
        {"field": "coupon_codes[3]", "message": "Coupon C3 needs goods worth 10.01 EUR or more."},
    ]
    assert used_up.value.details == {"coupon_code": "C1"}


def test_a_kept_coupon_needs_no_use_and_no_period_but_its_minimum_still() -> None:
    lines, offers = sold(("10.00", 1, "0"))
    kept = {"kept": True, "uses_left": 0, "customer_uses_left": 0, "problem": CouponProblem.INACTIVE}

    priced = price_order(lines, offers, coupons=[coupon(1, Percent.parse("10"), **kept)])
    assert str(priced.total.to_decimal()) == "9.00"

    with pytest.raises(ValidationFailed):
        price_order(lines, offers, coupons=[coupon(1, Money(1, "EUR"), minimum=Money(1001, "EUR"), **kept)])


def test_a_customers_own_limit_is_another_refusal() -> None:
    lines, offers = sold(("10.00", 1, "0"))

    with pytest.raises(CouponLimitReached) as refused:
        price_order(lines, offers, coupons=[coupon(1, Percent.parse("10"), customer_uses_left=0, customer_limit=2)])

    assert refused.value.message == "This customer has used coupon C1 as often as one may (2); order without it."


@pytest.mark.parametrize("text", ["EUR", "EUR:1:2:3", "EUR:4,90", "XXX:1", "EUR:1.234", "EUR:1,EUR:2", "EUR:-1", ":1"])
def test_shipping_rates_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must look like|plain digits|ISO 4217|digits after|two shipping rates"):
        parse_shipping_rates(text)


def test_shipping_rates_are_read_by_currency() -> None:
    assert parse_shipping_rates("") == {}
    assert parse_shipping_rates("EUR:4.90:50.00, JPY:500") == {
        "EUR": ShippingRate(Money(490, "EUR"), Money(5000, "EUR")),
        "JPY": ShippingRate(Money(500, "JPY")),
    }


def test_an_event_of_the_release_before_is_read_with_nothing_added() -> None:
    old = {
        "order_id": 1,
        "user_id": 2,
        "currency": "EUR",
        "total_minor": 10,
        "client_reference": None,
        "version": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "reserved_until": None,
        "items": [{"product_id": 3, "sku": "S", "name": "N", "quantity": 1, "unit_price_minor": 10}],
    }

    facts = msgspec.convert(old, OrderFacts)

    assert (facts.adjustments, facts.tax_included, facts.coupon_codes) == ((), True, ())
    assert (facts.items[0].tax_rate_ppm, facts.items[0].tax_minor, facts.items[0].discount_minor) == (0, 0, 0)
