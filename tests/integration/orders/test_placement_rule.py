"""The statement that places a batch decides exactly as the pure rule does, order by order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.infrastructure.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from counterfoil.kernel.errors import DomainError, ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.orders.commands import OrderLine, PlaceOrder
from counterfoil.orders.errors import InsufficientInventory, OpenOrdersExceeded
from counterfoil.orders.holds import HoldTerms, OpenHolds
from counterfoil.orders.placement import PlacedOrder, place_batch
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


@dataclass(frozen=True)
class Order:
    """An order as somebody sends it; indexes beyond the shop's products and people are unknown ones."""

    user: int
    lines: tuple[tuple[int, int], ...]
    key: int | None
    for_somebody_else: bool = False


@dataclass(frozen=True)
class Shop:
    """One example: a catalogue, and batches of orders sent to it one after the other."""

    products: tuple[Product, ...]
    batches: tuple[tuple[Order, ...], ...]
    terms: HoldTerms = TERMS


PRICES = {"EUR": ["0.00", "0.01", "19.99", "99999999999999.99"], "JPY": ["1", "250"], "KWD": ["0.125", "3.000"]}
PRODUCTS = st.sampled_from(["EUR", "EUR", "EUR", "JPY", "KWD"]).flatmap(
    lambda currency: st.builds(
        Product,
        price=st.sampled_from(PRICES[currency]),
        currency=st.just(currency),
        on_hand=st.integers(0, 8),
        allow_backorder=st.sampled_from([False, False, False, True]),
        state=st.sampled_from(["active"] * 6 + ["inactive", "deleted"]),
    )
)
# People 0 and 1 are customers, 2 is not active, 3 does not exist.
PEOPLE = 4
SOMEBODY_ELSE = "user:0"
_LEAVE_NO_KEY = ValidationFailed | OpenOrdersExceeded


def orders(products: int) -> st.SearchStrategy[Order]:
    line = st.tuples(st.integers(0, products), st.integers(1, 5))
    return st.builds(
        Order,
        user=st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]),
        lines=st.lists(line, min_size=1, max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
        key=st.sampled_from([None, None, 0, 1, 2]),
        for_somebody_else=st.sampled_from([False, False, False, True]),
    )


SHOPS = st.lists(PRODUCTS, min_size=1, max_size=4).flatmap(
    lambda products: st.builds(
        Shop,
        products=st.just(tuple(products)),
        batches=st.lists(
            st.lists(orders(len(products)), min_size=1, max_size=6).map(tuple), min_size=1, max_size=3
        ).map(tuple),
        terms=st.builds(HoldTerms, st.just(1800), st.sampled_from([0, 1, 2, 3]), st.sampled_from([0, 0, 4, 8])),
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
        outcome = decide_order(command.lines, self.offers, self.available, terms=self.terms, held=capped)
        if isinstance(outcome, PricedOrder):
            if not own:
                held.add(sum(line.quantity for line in command.lines), seconds=self.terms.seconds)
            self.placed.append((command, outcome))
        return outcome


def _told(outcome: PricedOrder | DomainError, replay_of: str | None) -> tuple[str, Any]:
    """Bring an outcome of either side into one comparable form."""
    if isinstance(outcome, PricedOrder):
        items = [
            (line.product_id, offer.sku, offer.name, line.quantity, offer.price.amount_minor)
            for line, offer in outcome.lines
        ]
        return "replayed" if replay_of else "placed", (outcome.total, items)
    replay = replay_of if isinstance(outcome, InsufficientInventory) else None
    return type(outcome).__name__, (outcome.details, replay)


def told_by_database(outcome: PlacedOrder | DomainError) -> tuple[str, Any]:
    if isinstance(outcome, PlacedOrder):
        facts = outcome.facts
        items = [(i.product_id, i.sku, i.name, i.quantity, i.unit_price_minor) for i in facts.items]
        return "replayed" if outcome.replayed else "placed", (Money(facts.total_minor, facts.currency), items)
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
                    "INSERT INTO products (sku, name, description, category, price, currency, active, deleted_at)"
                    " VALUES ('rule-' || gen_random_uuid(), %s, '', '', %s, %s, %s, CASE WHEN %s THEN now() END)"
                    " RETURNING id",
                    [
                        f"Tea {n}",
                        product.price,
                        product.currency,
                        product.state == "active",
                        product.state == "deleted",
                    ],
                )
            )
            await self.connection.execute(
                "INSERT INTO stock_levels (product_id, on_hand, allow_backorder) VALUES (%s, %s, %s)",
                [self.products[-1], product.on_hand, product.allow_backorder],
            )
        skus = dict(await self._all("SELECT id, sku FROM products WHERE id = ANY(%s)", [self.products]))
        self.products.append(self.products[-1] + 1_000_000)
        pairs = list(zip(self.products, self.shop.products, strict=False))
        return Reference(
            offers={
                i: Offer(i, skus[i], f"Tea {n}", Money.parse(p.price, p.currency), p.state == "active")
                for n, (i, p) in enumerate(pairs)
                if p.state != "deleted"
            },
            available={i: None if p.allow_backorder else p.on_hand for i, p in pairs},
            active_users=set(self.users[:2]),
            terms=self.shop.terms,
        )

    def command(self, batch: int, place: int, order: Order) -> PlaceOrder:
        lines = tuple(OrderLine(self.products[p], q, n) for n, (p, q) in enumerate(order.lines))
        return PlaceOrder(
            user_id=self.users[order.user],
            lines=lines,
            principal=SOMEBODY_ELSE if order.for_somebody_else else f"user:{self.users[order.user]}",
            request_id=f"request-{batch}-{place}",
            idempotency_key=None if order.key is None else f"key-of-the-rule-{order.key}",
            fingerprint=None if order.key is None else repr(order.lines).encode(),
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
            "SELECT user_id, status, total_amount, currency, version, reserved_until - placed_at ="
            " make_interval(secs => 1800) FROM orders WHERE user_id = ANY(%(users)s) ORDER BY id",
            mine,
        ) == [
            (c.user_id, "created", priced.total.to_decimal(), priced.total.currency, 1, True)
            for c, priced in reference.placed
        ]
        assert await self._all(
            "SELECT i.product_id, i.line_no, i.sku, i.quantity, i.unit_price FROM order_items i"
            " JOIN orders o ON o.id = i.order_id WHERE o.user_id = ANY(%(users)s) ORDER BY i.order_id, i.line_no",
            mine,
        ) == [
            (line.product_id, n, offer.sku, line.quantity, offer.price.to_decimal())
            for _, priced in reference.placed
            for n, (line, offer) in enumerate(priced.lines, start=1)
        ]
        # By order and product: which row of one statement is written first is nobody's promise.
        assert await self._all(
            "SELECT m.product_id, m.kind, m.reserved_delta, m.actor FROM stock_movements m JOIN orders o"
            " ON o.id = m.order_id WHERE o.user_id = ANY(%(users)s) ORDER BY m.order_id, m.product_id",
            mine,
        ) == [
            (line.product_id, "reserve", line.quantity, c.principal)
            for c, priced in reference.placed
            for line, _ in sorted(priced.lines, key=lambda pair: pair[0].product_id)
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
                found = await place_batch(pool, commands, terms=shop.terms)
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
