"""The statement that places a batch decides exactly as the pure rule does, order by order."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.coupons.errors import CouponLimitReached, CouponUsedUp
from counterfoil.coupons.terms import AskedCoupon, CouponProblem, CouponTerms
from counterfoil.infrastructure.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from counterfoil.kernel.errors import DomainError, ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import Percent
from counterfoil.orders.commands import OrderLine, PlaceOrder
from counterfoil.orders.errors import InsufficientInventory, OpenOrdersExceeded
from counterfoil.orders.events import AdjustmentFacts, ItemFacts
from counterfoil.orders.holds import HoldTerms, OpenHolds
from counterfoil.orders.placement import PlacedOrder, place_batch
from counterfoil.orders.price_terms import PLAIN_TERMS, PriceTerms, parse_shipping_rates
from counterfoil.orders.pricing import Offer, PricedOrder, decide_order

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
TERMS = HoldTerms(1800)


@dataclass(frozen=True)
class Product:
    """A product of the shop; `state` is active, inactive or deleted."""

    price: str
    currency: str
    on_hand: int
    allow_backorder: bool
    state: str
    tax_rate: str = "0"


@dataclass(frozen=True)
class Code:
    """A coupon of the shop; `state` is valid or a problem that it has whatever the order."""

    benefit: Percent | Money
    currency: str | None
    minimum: Money | None
    state: str
    usage_limit: int | None
    per_customer_limit: int | None


@dataclass(frozen=True)
class Order:
    """An order as somebody sends it; indexes beyond the shop's products and people are unknown ones."""

    user: int
    lines: tuple[tuple[int, int], ...]
    key: int | None
    for_somebody_else: bool = False
    coupons: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shop:
    """One example: a catalogue, and batches of orders sent to it one after the other."""

    products: tuple[Product, ...]
    batches: tuple[tuple[Order, ...], ...]
    terms: HoldTerms = TERMS
    coupons: tuple[Code, ...] = ()
    prices: PriceTerms = PLAIN_TERMS


PRICES = {"EUR": ["0.00", "0.01", "19.99", "99999999999999.99"], "JPY": ["1", "250"], "KWD": ["0.125", "3.000"]}
PRODUCTS = st.sampled_from(["EUR", "EUR", "EUR", "JPY", "KWD"]).flatmap(
    lambda currency: st.builds(
        Product,
        price=st.sampled_from(PRICES[currency]),
        currency=st.just(currency),
        on_hand=st.integers(0, 8),
        allow_backorder=st.sampled_from([False, False, False, True]),
        state=st.sampled_from(["active"] * 6 + ["inactive", "deleted"]),
        tax_rate=st.sampled_from(["0", "0", "0", "19", "8.1", "0.0001", "99.9999"]),
    )
)
BENEFITS: list[tuple[Percent | Money, str | None]] = [
    (Percent.parse("10"), None),
    (Percent.parse("33.3333"), "EUR"),
    (Percent.parse("100"), None),
    (Money.parse("0.01", "EUR"), "EUR"),
    (Money.parse("5.00", "EUR"), "EUR"),
    (Money.parse("99999999999999.99", "EUR"), "EUR"),
    (Money.parse("100", "JPY"), "JPY"),
    (Money.parse("0.100", "KWD"), "KWD"),
]
# At the boundary itself: a coupon counts from its first instant on, and at its last no more. The transaction's time
# stands still.
PERIODS = {
    "valid": ("0", "1 microsecond"),
    "not_yet": ("1 microsecond", None),
    "ended": ("-1 day", "0"),
    "inactive": (None, None),
}
CODES = st.sampled_from(BENEFITS).flatmap(
    lambda pair: st.builds(
        Code,
        benefit=st.just(pair[0]),
        currency=st.just(pair[1]),
        minimum=st.just(None) if pair[1] is None else st.sampled_from([None, None, Money.parse("2", pair[1])]),
        state=st.sampled_from(["valid"] * 8 + ["inactive", "not_yet", "ended"]),
        usage_limit=st.sampled_from([None, 1, 1, 2, 3]),
        per_customer_limit=st.sampled_from([None, None, 1, 2]),
    )
)
TERMS_OF_PRICES = st.builds(
    PriceTerms,
    st.booleans(),
    st.sampled_from(
        ["", "EUR:4.90:20.00", "EUR:4.90,JPY:500:600", "KWD:0.333", "EUR:99999999999999.99", "EUR:0.00,JPY:1:0"]
    ).map(parse_shipping_rates),
    st.sampled_from(["0", "19", "7.7"]).map(Percent.parse),
)
# People 0 and 1 are customers, 2 is not active, 3 does not exist.
PEOPLE = 4
SOMEBODY_ELSE = "user:0"
_LEAVE_NO_KEY = ValidationFailed | OpenOrdersExceeded | CouponUsedUp | CouponLimitReached


def orders(products: int, codes: int) -> st.SearchStrategy[Order]:
    line = st.tuples(st.integers(0, products), st.integers(1, 5))
    return st.builds(
        Order,
        user=st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]),
        lines=st.lists(line, min_size=1, max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
        key=st.sampled_from([None, None, 0, 1, 2]),
        for_somebody_else=st.sampled_from([False, False, False, True]),
        coupons=st.lists(st.integers(0, codes), max_size=min(5, codes + 1), unique=True).map(tuple)
        if codes
        else st.just(()),
    )


SHOPS = st.tuples(
    st.lists(PRODUCTS, min_size=1, max_size=4), st.lists(CODES, max_size=6), st.just(PLAIN_TERMS) | TERMS_OF_PRICES
).flatmap(
    lambda shop: st.builds(
        Shop,
        products=st.just(tuple(shop[0])),
        batches=st.lists(
            st.lists(orders(len(shop[0]), len(shop[1])), min_size=1, max_size=6).map(tuple), min_size=1, max_size=3
        ).map(tuple),
        terms=st.builds(HoldTerms, st.just(1800), st.sampled_from([0, 1, 2, 3]), st.sampled_from([0, 0, 4, 8])),
        coupons=st.just(tuple(shop[1])),
        prices=st.just(shop[2]),
    )
)


class OnePool:
    """Stands in for the pool: lends the one connection whose transaction is rolled back after each example."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        yield self._connection


@dataclass
class Reference:
    """What the pure rule says, applied in the order of arrival."""

    offers: dict[int, Offer]
    available: dict[int, int | None]
    active_users: set[int]
    terms: HoldTerms
    prices: PriceTerms
    codes: dict[str, tuple[int, Code]]
    uses: Counter[str] = field(default_factory=Counter)
    customer_uses: Counter[tuple[str, int]] = field(default_factory=Counter)
    held: defaultdict[int, OpenHolds] = field(default_factory=lambda: defaultdict(OpenHolds))
    keys: dict[tuple[str, str], tuple[bytes | None, str, PricedOrder | DomainError]] = field(default_factory=dict)
    placed: list[tuple[PlaceOrder, PricedOrder]] = field(default_factory=list)

    def decide_batch(self, commands: Sequence[PlaceOrder]) -> list[tuple[str, Any]]:
        first_uses: dict[tuple[str, str], tuple[PlaceOrder, PricedOrder | DomainError]] = {}
        return [self._answer(command, first_uses) for command in commands]

    def _answer(
        self, command: PlaceOrder, first_uses: dict[tuple[str, str], tuple[PlaceOrder, PricedOrder | DomainError]]
    ) -> tuple[str, Any]:
        if command.idempotency_key is None:
            return _told(self._decide(command), None)
        scope = (command.principal, command.idempotency_key)
        stored = self.keys.get(scope)
        if scope in first_uses:
            first, outcome = first_uses[scope]
            if command.fingerprint == first.fingerprint:
                return _told(outcome, stored[1] if stored else None)
            # The first use settled nothing for this request: it may ask again.
            unsettled = isinstance(outcome, _LEAVE_NO_KEY | IdempotencyKeyReused)
            return _told(IdempotencyInProgress() if unsettled else IdempotencyKeyReused(), None)
        if stored is not None:
            fingerprint, request_id, outcome = stored
            same = fingerprint == command.fingerprint
            first_uses[scope] = (command, outcome if same else IdempotencyKeyReused())
            return _told(outcome, request_id) if same else _told(IdempotencyKeyReused(), None)
        outcome = self._decide(command)
        first_uses[scope] = (command, outcome)
        if not isinstance(outcome, _LEAVE_NO_KEY):
            self.keys[scope] = (command.fingerprint, command.request_id, outcome)
        return _told(outcome, None)

    def _decide(self, command: PlaceOrder) -> PricedOrder | DomainError:
        if command.user_id not in self.active_users:
            message = f"There is no active user {command.user_id}."
            return ValidationFailed([{"field": "user_id", "message": message}])
        held, own = self.held[command.user_id], command.principal == f"user:{command.user_id}"
        capped = held if own and self.terms.capped else None
        outcome = decide_order(
            command.lines,
            self.offers,
            self.available,
            terms=self.terms,
            held=capped,
            prices=self.prices,
            coupons=[self._ask(code, command.user_id) for code in command.coupon_codes],
        )
        if isinstance(outcome, PricedOrder):
            self.uses.update(command.coupon_codes)
            self.customer_uses.update((code, command.user_id) for code in command.coupon_codes)
            if not own:
                held.add(sum(line.quantity for line in command.lines), seconds=self.terms.seconds)
            self.placed.append((command, outcome))
        return outcome

    def _ask(self, code: str, user_id: int) -> AskedCoupon:
        if code not in self.codes:
            return AskedCoupon(code, None)
        coupon_id, coupon = self.codes[code]
        limit, own_limit = coupon.usage_limit, coupon.per_customer_limit
        return AskedCoupon(
            code,
            CouponTerms(coupon_id, coupon.benefit, coupon.currency, coupon.minimum),
            None if coupon.state == "valid" else CouponProblem(coupon.state),
            None if limit is None else limit - self.uses[code],
            None if own_limit is None else own_limit - self.customer_uses[code, user_id],
            own_limit,
        )


def _told(outcome: PricedOrder | DomainError, replay_of: str | None) -> tuple[str, Any]:
    """Bring an outcome of either side into one comparable form."""
    if isinstance(outcome, PricedOrder):
        items = tuple(
            ItemFacts(
                each.line.product_id,
                each.offer.sku,
                each.offer.name,
                each.line.quantity,
                each.offer.price.amount_minor,
                tax_rate_ppm=each.offer.tax_rate.ppm,
                tax_minor=each.tax.amount_minor,
                discount_minor=each.discount.amount_minor,
            )
            for each in outcome.lines
        )
        adjustments = tuple(
            AdjustmentFacts(each.kind, each.label, each.amount.amount_minor, each.tax_rate.ppm, each.tax.amount_minor)
            for each in outcome.adjustments
        )
        told = outcome.total, items, adjustments, outcome.tax_included
        return "replayed" if replay_of else "placed", told
    replay = replay_of if isinstance(outcome, InsufficientInventory) else None
    return type(outcome).__name__, (outcome.details, replay)


def told_by_database(outcome: PlacedOrder | DomainError) -> tuple[str, Any]:
    if isinstance(outcome, PlacedOrder):
        facts = outcome.facts
        total = Money(facts.total_minor, facts.currency)
        told = total, facts.items, facts.adjustments, facts.tax_included
        return "replayed" if outcome.replayed else "placed", told
    return type(outcome).__name__, (outcome.details, outcome.replay_of)


class Example:
    """One shop in the database, inside a transaction that never ends in a commit."""

    def __init__(self, connection: Connection, shop: Shop) -> None:
        self.connection, self.shop = connection, shop
        self.users: list[int] = []
        self.products: list[int] = []

    async def fill(self) -> Reference:
        for n in range(PEOPLE - 1):
            self.users.append(
                await self._one(
                    "INSERT INTO users (role, password, is_active) VALUES ('customer', '!', %s) RETURNING id",
                    [n < 2],
                )
            )
        self.users.append(self.users[-1] + 1_000_000)
        for n, product in enumerate(self.shop.products):
            self.products.append(
                await self._one(
                    "INSERT INTO products (sku, name, description, category, price, currency, active, deleted_at,"
                    " tax_rate) VALUES ('rule-' || gen_random_uuid(), %s, '', '', %s, %s, %s,"
                    " CASE WHEN %s THEN now() END, %s) RETURNING id",
                    [
                        f"Tea {n}",
                        product.price,
                        product.currency,
                        product.state == "active",
                        product.state == "deleted",
                        product.tax_rate,
                    ],
                )
            )
            await self.connection.execute(
                "INSERT INTO stock_levels (product_id, on_hand, allow_backorder) VALUES (%s, %s, %s)",
                [self.products[-1], product.on_hand, product.allow_backorder],
            )
        codes = {f"RULE-{n}": (await self._insert(n, coupon), coupon) for n, coupon in enumerate(self.shop.coupons)}
        skus = dict(await self._all("SELECT id, sku FROM products WHERE id = ANY(%s)", [self.products]))
        self.products.append(self.products[-1] + 1_000_000)
        pairs = list(zip(self.products, self.shop.products, strict=False))
        return Reference(
            offers={
                i: Offer(
                    i,
                    skus[i],
                    f"Tea {n}",
                    Money.parse(p.price, p.currency),
                    p.state == "active",
                    Percent.parse(p.tax_rate),
                )
                for n, (i, p) in enumerate(pairs)
                if p.state != "deleted"
            },
            available={i: None if p.allow_backorder else p.on_hand for i, p in pairs},
            active_users=set(self.users[:2]),
            terms=self.shop.terms,
            prices=self.shop.prices,
            codes=codes,
        )

    def command(self, batch: int, place: int, order: Order) -> PlaceOrder:
        lines = tuple(OrderLine(self.products[p], q, n) for n, (p, q) in enumerate(order.lines))
        return PlaceOrder(
            user_id=self.users[order.user],
            lines=lines,
            principal=SOMEBODY_ELSE if order.for_somebody_else else f"user:{self.users[order.user]}",
            request_id=f"request-{batch}-{place}",
            idempotency_key=None if order.key is None else f"key-of-the-rule-{order.key}",
            fingerprint=None if order.key is None else repr((order.lines, order.coupons)).encode(),
            coupon_codes=tuple(f"RULE-{n}" for n in order.coupons),
        )

    async def _insert(self, n: int, coupon: Code) -> int:
        return await self._one(
            "INSERT INTO coupons (code, kind, value, currency, minimum_total, active, starts_at, ends_at, usage_limit,"
            " per_customer_limit) VALUES (%s, %s, %s, %s, %s, %s, now() + %s::interval, now() + %s::interval, %s, %s)"
            " RETURNING id",
            [
                f"RULE-{n}",
                "percent" if isinstance(coupon.benefit, Percent) else "fixed",
                coupon.benefit.to_decimal(),
                coupon.currency,
                None if coupon.minimum is None else coupon.minimum.to_decimal(),
                coupon.state != "inactive",
                *PERIODS[coupon.state],
                coupon.usage_limit,
                coupon.per_customer_limit,
            ],
        )

    async def check_rows(self, reference: Reference) -> None:
        """Nothing but what the rule placed is in the database, and all of it."""
        mine = {
            "users": self.users,
            "products": self.products,
            "principals": [SOMEBODY_ELSE, *(f"user:{u}" for u in self.users)],
        }
        assert await self._all(
            "SELECT product_id, CASE WHEN allow_backorder THEN NULL ELSE on_hand - reserved END FROM stock_levels"
            " WHERE product_id = ANY(%(products)s) ORDER BY 1",
            mine,
        ) == sorted(reference.available.items())
        assert await self._all(
            "SELECT user_id, status, total_amount, currency, version, tax_included, reserved_until - placed_at ="
            " make_interval(secs => 1800) FROM orders WHERE user_id = ANY(%(users)s) ORDER BY id",
            mine,
        ) == [
            (c.user_id, "created", priced.total.to_decimal(), priced.total.currency, 1, priced.tax_included, True)
            for c, priced in reference.placed
        ]
        assert await self._all(
            "SELECT i.product_id, i.line_no, i.sku, i.quantity, i.unit_price, i.tax_rate, i.tax_amount,"
            " i.discount_amount FROM order_items i"
            " JOIN orders o ON o.id = i.order_id WHERE o.user_id = ANY(%(users)s) ORDER BY i.order_id, i.line_no",
            mine,
        ) == [
            (
                *(each.offer.product_id, n, each.offer.sku, each.line.quantity, each.offer.price.to_decimal()),
                *(each.offer.tax_rate.to_decimal(), each.tax.to_decimal(), each.discount.to_decimal()),
            )
            for _, priced in reference.placed
            for n, each in enumerate(priced.lines, start=1)
        ]
        assert await self._all(
            "SELECT a.kind, a.label, a.amount, a.tax_rate, a.tax_amount FROM adjustments a"
            " JOIN orders o ON o.id = a.order_id WHERE o.user_id = ANY(%(users)s) ORDER BY a.order_id, a.id",
            mine,
        ) == [
            (a.kind, a.label, a.amount.to_decimal(), a.tax_rate.to_decimal(), a.tax.to_decimal())
            for _, priced in reference.placed
            for a in priced.adjustments
        ]
        assert await self._all("SELECT code, used FROM coupons WHERE code LIKE 'RULE-%%' ORDER BY code", mine) == [
            (code, reference.uses[code]) for code in sorted(reference.codes)
        ]
        uses = await self._all(
            "SELECT c.code, u.user_id FROM coupon_uses u JOIN coupons c ON c.id = u.coupon_id"
            " JOIN orders o ON o.id = u.order_id AND o.user_id = u.user_id"
            " WHERE u.released_at IS NULL AND u.user_id = ANY(%(users)s)",
            mine,
        )
        assert Counter(uses) == reference.customer_uses
        # By order and product: which row of one statement is written first is nobody's promise.
        assert await self._all(
            "SELECT m.product_id, m.kind, m.reserved_delta, m.actor FROM stock_movements m JOIN orders o"
            " ON o.id = m.order_id WHERE o.user_id = ANY(%(users)s) ORDER BY m.order_id, m.product_id",
            mine,
        ) == [
            (each.offer.product_id, "reserve", each.line.quantity, c.principal)
            for c, priced in reference.placed
            for each in sorted(priced.lines, key=lambda each: each.offer.product_id)
        ]
        assert await self._all(
            "SELECT e.type, e.seq, e.actor, e.cause, (e.payload ->> 'total_minor')::bigint FROM outbox_events e"
            " JOIN orders o ON o.id = e.aggregate_id WHERE o.user_id = ANY(%(users)s) ORDER BY o.id",
            mine,
        ) == [
            ("order.created", 1, c.principal, c.request_id, priced.total.amount_minor) for c, priced in reference.placed
        ]
        assert await self._all(
            "SELECT a.action, a.actor, a.request_id FROM audit_entries a JOIN orders o ON o.id = a.target_id"
            " WHERE a.target = 'order' AND o.user_id = ANY(%(users)s) ORDER BY o.id",
            mine,
        ) == [("order.place", c.principal, c.request_id) for c, _ in reference.placed]
        assert await self._all(
            "SELECT principal, key, fingerprint, response_status, resource_id IS NULL, response_body IS NULL"
            " FROM idempotency_keys WHERE principal = ANY(%(principals)s)"
            ' ORDER BY principal COLLATE "C", key COLLATE "C"',
            mine,
        ) == [
            (
                principal,
                key,
                fingerprint,
                *((201, False, True) if isinstance(outcome, PricedOrder) else (409, True, False)),
            )
            for (principal, key), (fingerprint, _, outcome) in sorted(reference.keys.items())
        ]

    async def _one(self, sql: str, values: Any) -> int:
        [row] = await self._all(sql, values)
        return int(row[0])

    async def _all(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        return await (await self.connection.execute(sql.encode(), values)).fetchall()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def connection(runner: asyncio.Runner, database_url: str) -> Iterator[Connection]:
    async def connect() -> Connection:
        return await psycopg.AsyncConnection.connect(database_url, autocommit=True)

    connection = runner.run(connect())
    yield connection
    runner.run(connection.close())


@given(shop=SHOPS)
@settings(max_examples=150, deadline=None)
def test_every_batch_is_decided_as_the_rule_decides_it(
    shop: Shop, runner: asyncio.Runner, connection: Connection
) -> None:
    async def compare() -> None:
        async with connection.transaction(force_rollback=True):
            example = Example(connection, shop)
            reference = await example.fill()
            pool: Any = OnePool(connection)
            for b, batch in enumerate(shop.batches):
                commands = [example.command(b, n, order) for n, order in enumerate(batch)]
                found = await place_batch(pool, commands, terms=shop.terms, prices=shop.prices)
                assert [told_by_database(outcome) for outcome in found] == reference.decide_batch(commands)
            await example.check_rows(reference)

    runner.run(compare())


def test_a_replay_gives_the_facts_of_the_first_answer_byte_for_byte(
    runner: asyncio.Runner, connection: Connection
) -> None:
    shop = Shop((Product("19.99", "EUR", 5, allow_backorder=False, state="active"),), ())

    async def compare() -> None:
        async with connection.transaction(force_rollback=True):
            example = Example(connection, shop)
            await example.fill()
            pool: Any = OnePool(connection)
            command = example.command(0, 0, Order(0, ((0, 2),), 0))
            [first] = await place_batch(pool, [command], terms=TERMS)
            second = await place_batch(pool, [command, command], terms=TERMS)

            assert isinstance(first, PlacedOrder)
            assert [type(again) for again in second] == [PlacedOrder, PlacedOrder]
            encoded = {msgspec.json.encode(again.facts) for again in (first, *second)}  # type: ignore[union-attr]
            assert len(encoded) == 1

    runner.run(compare())


def test_a_misused_key_does_not_turn_away_the_rightful_repetition_beside_it(
    runner: asyncio.Runner, connection: Connection
) -> None:
    shop = Shop((Product("19.99", "EUR", 5, allow_backorder=False, state="active"),), ())

    async def compare() -> None:
        async with connection.transaction(force_rollback=True):
            example = Example(connection, shop)
            await example.fill()
            pool: Any = OnePool(connection)
            rightful, misuse = (example.command(0, 0, Order(0, ((0, quantity),), 0)) for quantity in (2, 3))
            await place_batch(pool, [rightful], terms=TERMS)

            found = await place_batch(pool, [misuse, rightful], terms=TERMS)

            assert [type(outcome) for outcome in found] == [IdempotencyKeyReused, IdempotencyInProgress]
            [again] = await place_batch(pool, [rightful], terms=TERMS)
            assert isinstance(again, PlacedOrder)
            assert again.replayed

    runner.run(compare())
