"""A running service on its database, with what is needed to load it and to hold it to its word."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from itertools import islice
from typing import Final
from urllib.parse import quote

import msgspec

from counterfoil.proof.bench import database as databases
from counterfoil.proof.bench.database import BenchDatabase, Seeded
from counterfoil.proof.bench.product import Product
from counterfoil.proof.bench.workload import (
    ORDERS_PATH,
    Workload,
    draw_orders,
    draw_pages,
    draw_payments,
    draw_reads,
    make_hot,
    make_uniform,
)
from counterfoil.proof.load_client import Answer, Exchange, LoadLimits, LoadResult, render_request, run_load
from counterfoil.users.permissions import Role

CONNECTIONS: Final = 64
PAGE_ORDERS: Final = 50
_PAGES: Final = 50
_RATE_PER_S: Final = 100
# A page is read less often than an order: 20 a second, so that the list is measured and not its own queue.
_LIST_RATE_PER_S: Final = 20
_PAY_RATE_PER_S: Final = 50
# Requests are made before a round, so that making them takes nothing from the server: three times what the last
# round used, and for the first one more than it can use.
_DRAWS_MARGIN: Final = 3
_DRAWS_PER_S_MIN: Final = 1_000
_DRAWS_PER_S_MAX: Final = 10_000


class _OrderId(msgspec.Struct):
    id: int


class _Page(msgspec.Struct):
    items: list[_OrderId]
    next: str | None


_order_id = msgspec.json.Decoder(_OrderId)
_page = msgspec.json.Decoder(_Page)


class Site:
    """One service under load. Remembers every acknowledged order, and every answer that should not have been."""

    def __init__(self, database: BenchDatabase, seeded: Seeded, product: Product) -> None:
        self.database = database
        self.seeded = seeded
        self.product = product
        self.uniform = make_uniform(seeded.customers, seeded.products)
        self.hot = make_hot(seeded.customers, seeded.products[0])
        self.acknowledged: list[tuple[int, int]] = []
        self.unexpected: Counter[str] = Counter()
        self.repeats = 0
        self.checked = 0
        self._draws_per_s: float = _DRAWS_PER_S_MAX
        self._tokens = product.issue_tokens(seeded.customers)
        self._admin = product.issue_tokens(range(seeded.administrator, seeded.administrator + 1), Role.ADMIN)
        # Fixed, so that every bench draws the same orders; only the keys must never come twice in one database.
        self._randomness = random.Random(20_260_101)  # noqa: S311 - a workload, not a secret

    def place_orders(self, workload: Workload, *, seconds: float) -> LoadResult:
        """Place orders over 64 connections, each as soon as the one before is answered."""
        orders = list(islice(self._draw_orders(workload), int(seconds * self._draws_per_s)))
        result = self._load(orders, LoadLimits(CONNECTIONS, seconds))
        self._draws_per_s = min(_DRAWS_PER_S_MAX, max(result.per_second() * _DRAWS_MARGIN, _DRAWS_PER_S_MIN))
        return result

    def place_orders_steadily(self, workload: Workload, *, seconds: float) -> LoadResult:
        """Place 100 orders a second."""
        orders = list(islice(self._draw_orders(workload), int(seconds * _RATE_PER_S)))
        return self._load(orders, LoadLimits(CONNECTIONS, seconds, rate_per_s=_RATE_PER_S))

    def read_orders_steadily(self, *, seconds: float) -> LoadResult:
        """Read 100 orders a second, each by its owner."""
        reads = draw_reads(self.acknowledged, url=self.product.url, tokens=self._tokens, randomness=self._randomness)
        return self._load(reads, LoadLimits(CONNECTIONS, seconds, rate_per_s=_RATE_PER_S))

    def pay_orders_steadily(self, *, seconds: float) -> LoadResult:
        """Pay 50 orders a second in the sandbox, each by its owner, the newest orders of all."""
        unpaid = self.acknowledged[-int(seconds * _PAY_RATE_PER_S) :]
        pays = draw_payments(unpaid, url=self.product.url, tokens=self._tokens, randomness=self._randomness)
        result = run_load(self.product.url, pays, LoadLimits(CONNECTIONS, seconds + 10, rate_per_s=_PAY_RATE_PER_S))
        # 201 is a payment too: not an order to remember.
        self._count(result, frozenset())
        return result

    def read_pages_steadily(self, addresses: list[str], *, seconds: float) -> LoadResult:
        """Read 20 pages of 50 orders a second."""
        pages = draw_pages(addresses, url=self.product.url, token=self._admin_token, randomness=self._randomness)
        return self._load(pages, LoadLimits(CONNECTIONS, seconds, rate_per_s=_LIST_RATE_PER_S))

    def fire_at_last_units(self, *, units: int) -> LoadResult:
        """Order twice as many units as a new product has, one by one; only half of them may be accepted."""
        with self.database.connect() as connection:
            product_id = databases.add_product(connection, units=units)
        scarce = make_hot(self.seeded.customers, product_id, quantity_max=1)
        orders = list(islice(self._draw_orders(scarce), 2 * units))
        return self._load(orders, LoadLimits(CONNECTIONS, 600.0), refusals=frozenset({"INSUFFICIENT_INVENTORY"}))

    @property
    def first_page(self) -> str:
        """The address of the newest 50 orders."""
        return f"{ORDERS_PATH}?limit={PAGE_ORDERS}"

    def find_pages(self) -> list[str]:
        """Return addresses of full pages from all over the table, as the service itself names them (`next`)."""
        with self.database.connect() as connection:
            first, last = connection.execute(databases.QUERIES["span_orders"]).fetchone() or (None, None)
        moments = [first + (last - first) * self._randomness.uniform(0.05, 1) for _ in range(_PAGES)]
        starts = [f"{self.first_page}&created_before={quote(moment.isoformat())}" for moment in moments]
        found: list[str] = []

        def follow(answer: Answer) -> None:
            page = _page.decode(answer.body) if answer.status == HTTPStatus.OK else None
            if page is not None and page.next is not None:
                found.append(page.next)

        exchanges = [Exchange(render_request(self.product.url, "GET", s, token=self._admin_token)) for s in starts]
        self._count(run_load(self.product.url, exchanges, LoadLimits(4, 600.0), on_answer=follow), frozenset())
        return found or [self.first_page]

    def check(self) -> dict[str, int]:
        """Check the whole database against what was acknowledged; returns what was broken, how often."""
        return databases.count_violations(self.database, self.acknowledged)

    @property
    def _admin_token(self) -> str:
        return self._admin[self.seeded.administrator]

    def _draw_orders(self, workload: Workload) -> Iterable[Exchange]:
        return draw_orders(workload, url=self.product.url, tokens=self._tokens, randomness=self._randomness)

    def _load(
        self, exchanges: Iterable[Exchange], limits: LoadLimits, *, refusals: frozenset[str] = frozenset()
    ) -> LoadResult:
        result = run_load(self.product.url, exchanges, limits, on_answer=self._remember)
        self._count(result, refusals)
        return result

    def _remember(self, answer: Answer) -> None:
        if answer.status == HTTPStatus.CREATED:
            self.acknowledged.append((_order_id.decode(answer.body).id, answer.tag))

    def _count(self, result: LoadResult, refusals: frozenset[str]) -> None:
        self.repeats += result.repeats
        for (status, code), count in result.outcomes.items():
            if status not in {HTTPStatus.OK, HTTPStatus.CREATED} and code not in refusals:
                self.unexpected[f"{status} {code}".strip()] += count
