"""The service against a model in plain Python: any sequence of placing, editing, cancelling, expiring, restocking."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from conftest import Service
from counterfoil.orders.commands import Trace

ORDERS = "/api/v1/orders"
PRICES = ("19.99", "0.10", "7.50")
# Few enough that orders run out of stock, and one product that is sold without limit.
STOCK = (6, 3, 0)
BACKORDER = 2

LINES = st.dictionaries(st.integers(0, len(PRICES) - 1), st.integers(1, 3), min_size=1, max_size=3)
PERSON = st.integers(0, 2)


@dataclass
class ModelOrder:
    """What the model knows of one order; `events` are the types of its history."""

    owner: int
    lines: dict[int, int]
    status: str
    events: list[str]
    order_id: int = 0

    @property
    def total(self) -> Decimal:
        return sum((Decimal(PRICES[product]) * quantity for product, quantity in self.lines.items()), Decimal(0))


@dataclass
class Model:
    """The shop in plain Python: three numbers per product, and the orders."""

    on_hand: list[int] = field(default_factory=lambda: list(STOCK))
    orders: list[ModelOrder] = field(default_factory=list)
    # Who used which key for what, and what came of it: an order, or None for a refusal.
    keys: dict[tuple[int, str], tuple[dict[int, int], ModelOrder | None, bytes]] = field(default_factory=dict)

    def reserved(self, product: int) -> int:
        return sum(order.lines.get(product, 0) for order in self.orders if order.status == "created")

    def can_take(self, wanted: dict[int, int], held: dict[int, int]) -> bool:
        """Whether stock covers `wanted` for an order that holds `held` already."""
        return all(
            product == BACKORDER or quantity <= self.on_hand[product] - self.reserved(product) + held.get(product, 0)
            for product, quantity in wanted.items()
        )


class World:
    """The real service, with people, products and a look into the database; made once, its products per run."""

    def __init__(
        self, people: list[httpx.Client], admin: httpx.Client, db: psycopg.Connection[Any], expire: Callable[[], None]
    ) -> None:
        self.people, self.admin, self.db, self.expire = people, admin, db, expire

    def make_products(self) -> list[int]:
        products: list[int] = []
        for n, (price, stock) in enumerate(zip(PRICES, STOCK, strict=True)):
            body = {
                "sku": f"M-{secrets.token_hex(6)}",
                "name": f"Model {n}",
                "price": price,
                "currency": "EUR",
                "allow_backorder": n == BACKORDER,
            }
            answer = self.admin.post("/api/v1/products", json=body)
            assert answer.status_code == 201, answer.text
            products.append(answer.json()["id"])
            if stock:
                self.move(products[-1], "receipt", stock)
        return products

    def move(self, product: int, kind: str, quantity: int) -> httpx.Response:
        return self.admin.post(
            f"/api/v1/inventory/{product}/movements",
            json={"kind": kind, "quantity": quantity},
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )


class Shop(RuleBasedStateMachine):
    """Every rule does one thing to both, and compares the answers; the invariants compare everything."""

    orders: Bundle[ModelOrder] = Bundle("orders")
    keys: Bundle[tuple[int, str]] = Bundle("keys")
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.products: list[int] = []
        self.answer: httpx.Response

    @initialize()
    def open_shop(self) -> None:
        self.products = self.world.make_products()

    # ------------------------------------------------------------ rules
    @rule(target=orders, person=PERSON, lines=LINES)
    def place(self, person: int, lines: dict[int, int]) -> Any:
        return self._place(person, lines, headers={})

    @rule(target=keys, person=PERSON, lines=LINES)
    def place_with_a_key(self, person: int, lines: dict[int, int]) -> tuple[int, str]:
        key = secrets.token_hex(16)
        order = self._place(person, lines, headers={"Idempotency-Key": key})
        self.model.keys[person, key] = (lines, order, self.answer.content)
        return person, key

    @rule(used=keys)
    def repeat_a_key(self, used: tuple[int, str]) -> None:
        lines, order, body = self.model.keys[used]
        answer = self._post(used[0], lines, headers={"Idempotency-Key": used[1]})
        assert answer.status_code == (409 if order is None else 201)
        assert (answer.content, answer.headers["idempotent-replayed"]) == (body, "true")

    @rule(used=keys, other=LINES)
    def use_a_key_for_something_else(self, used: tuple[int, str], other: dict[int, int]) -> None:
        lines = self.model.keys[used][0]
        if list(lines.items()) == list(other.items()):
            return
        answer = self._post(used[0], other, headers={"Idempotency-Key": used[1]})
        self._refused(answer, 422, "IDEMPOTENCY_KEY_REUSED")

    @rule(target=orders, person=PERSON, lines=LINES)
    def draft(self, person: int, lines: dict[int, int]) -> ModelOrder:
        answer = self._post(person, lines, headers={}, draft=True)
        assert answer.status_code == 201, answer.text
        return self._remember(ModelOrder(person, dict(lines), "draft", ["order.drafted"]), answer)

    @rule(order=orders)
    def place_a_draft(self, order: ModelOrder | None) -> None:
        if order is None:
            return
        answer = self.world.people[order.owner].post(f"{ORDERS}/{order.order_id}/place")
        if order.status != "draft":
            self._refused(answer, 409, "ACTION_NOT_ALLOWED")
        elif not self.model.can_take(order.lines, {}):
            self._refused(answer, 409, "INSUFFICIENT_INVENTORY")
        else:
            assert answer.status_code == 200, answer.text
            order.status = "created"
            order.events.append("order.created")

    @rule(order=orders, lines=LINES)
    def edit_lines(self, order: ModelOrder | None, lines: dict[int, int]) -> None:
        if order is None:
            return
        address = f"{ORDERS}/{order.order_id}"
        answer = self.world.people[order.owner].put(address, json={"items": self._items(lines)})
        if order.status not in {"draft", "created"}:
            self._refused(answer, 409, "ACTION_NOT_ALLOWED")
        elif order.status == "created" and not self.model.can_take(lines, order.lines):
            self._refused(answer, 409, "INSUFFICIENT_INVENTORY")
        else:
            assert answer.status_code == 200, answer.text
            order.lines = dict(lines)
            order.events.append("order.updated")

    @rule(order=orders)
    def cancel(self, order: ModelOrder | None) -> None:
        if order is None:
            return
        answer = self.world.people[order.owner].delete(f"{ORDERS}/{order.order_id}")
        if order.status == "expired":
            self._refused(answer, 409, "ACTION_NOT_ALLOWED")
            return
        assert answer.status_code == 204, answer.text
        if order.status != "cancelled":
            order.events.append("order.discarded" if order.status == "draft" else "order.cancelled")
            order.status = "cancelled"

    @rule(order=orders, stranger=PERSON)
    def meddle_with_the_order_of_another(self, order: ModelOrder | None, stranger: int) -> None:
        if order is None or order.owner == stranger:
            return
        self._refused(self.world.people[stranger].delete(f"{ORDERS}/{order.order_id}"), 404, "ORDER_NOT_FOUND")

    @rule(order=orders, read_first=st.booleans())
    def expire(self, order: ModelOrder | None, read_first: bool) -> None:  # noqa: FBT001 - Hypothesis fills it in
        if order is None or order.status != "created":
            return
        self.world.db.execute(
            "UPDATE orders SET reserved_until = now() - interval '1 s' WHERE id = %s", [order.order_id]
        )
        if read_first:  # expired for every reader at once, not only when the job has been there
            shown = self.world.people[order.owner].get(f"{ORDERS}/{order.order_id}").json()
            assert (shown["status"], shown["allowed_actions"]) == ("expired", [])
            self._refused(
                self.world.people[order.owner].delete(f"{ORDERS}/{order.order_id}"), 409, "ACTION_NOT_ALLOWED"
            )
        self.world.expire()
        order.status = "expired"
        order.events.append("order.expired")

    @rule(product=st.integers(0, len(PRICES) - 1), quantity=st.integers(1, 4))
    def restock(self, product: int, quantity: int) -> None:
        answer = self.world.move(self.products[product], "receipt", quantity)
        assert answer.status_code == 201, answer.text
        self.model.on_hand[product] += quantity

    @rule(product=st.integers(0, len(PRICES) - 1), quantity=st.integers(1, 4))
    def write_off(self, product: int, quantity: int) -> None:
        answer = self.world.move(self.products[product], "loss", -quantity)
        left = self.model.on_hand[product] - quantity
        if left < 0 or (product != BACKORDER and left < self.model.reserved(product)):
            self._refused(answer, 409, "STOCK_TOO_LOW")
        else:
            assert answer.status_code == 201, answer.text
            self.model.on_hand[product] = left

    # ------------------------------------------------------------ invariants
    @invariant()
    def stock_is_what_the_model_says(self) -> None:
        rows = self.world.db.execute(
            "SELECT on_hand, reserved, allocated FROM stock_levels WHERE product_id = ANY(%s) ORDER BY product_id",
            [self.products],
        ).fetchall()
        assert rows == [(self.model.on_hand[n], self.model.reserved(n), 0) for n in range(len(self.products))]

    @invariant()
    def orders_are_what_the_model_says(self) -> None:
        ids = [order.order_id for order in self.model.orders]
        rows = self.world.db.execute(
            "SELECT o.id, o.status, o.total_amount, (SELECT array_agg(e.type ORDER BY e.seq) FROM outbox_events e"
            " WHERE e.aggregate = 'order' AND e.aggregate_id = o.id), o.version"
            " FROM orders o WHERE o.id = ANY(%s)",
            [ids],
        ).fetchall()
        found = {row[0]: (row[1], row[2], row[3], row[4]) for row in rows}
        assert found == {o.order_id: (o.status, o.total, o.events, len(o.events)) for o in self.model.orders}

    def teardown(self) -> None:
        """Read everything once more through the public door."""
        for order in self.model.orders:
            shown = self.world.people[order.owner].get(f"{ORDERS}/{order.order_id}").json()
            assert (shown["status"], Decimal(str(shown["total"]))) == (order.status, order.total)
            assert [(i["product_id"], i["quantity"]) for i in shown["items"]] == [
                (self.products[product], quantity) for product, quantity in order.lines.items()
            ]

    # ------------------------------------------------------------ steps
    def _items(self, lines: dict[int, int]) -> list[dict[str, int]]:
        return [{"product_id": self.products[p], "quantity": q} for p, q in lines.items()]

    def _post(self, person: int, lines: dict[int, int], headers: dict[str, str], **more: Any) -> httpx.Response:
        body = {"items": self._items(lines), **more}
        return self.world.people[person].post(ORDERS, json=body, headers=headers)

    def _place(self, person: int, lines: dict[int, int], headers: dict[str, str]) -> ModelOrder | None:
        self.answer = self._post(person, lines, headers)
        if not self.model.can_take(lines, {}):
            self._refused(self.answer, 409, "INSUFFICIENT_INVENTORY")
            return None
        assert self.answer.status_code == 201, self.answer.text
        return self._remember(ModelOrder(person, dict(lines), "created", ["order.created"]), self.answer)

    def _remember(self, order: ModelOrder, answer: httpx.Response) -> ModelOrder:
        order.order_id = answer.json()["id"]
        self.model.orders.append(order)
        return order

    def _refused(self, answer: httpx.Response, status: int, code: str) -> None:
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


@pytest.fixture(scope="module")
def world(service: Service, make_token: Callable[..., str]) -> Iterator[World]:
    # make_token has set Django up on the service's database.
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.orders.services import expire_orders

    def expire() -> None:
        while run_in_thread(expire_orders, limit=50, trace=Trace("job:expire-orders", "req-of-the-model")) == 50:
            pass

    with ExitStack() as stack:
        people = [stack.enter_context(service.client(make_token("customer"))) for _ in range(3)]
        admin = stack.enter_context(service.client(make_token("admin")))
        db = stack.enter_context(psycopg.connect(service.database_url, autocommit=True))
        yield World(people, admin, db, expire)


def run_model(world: World, *, runs: int) -> None:
    bound = type("BoundShop", (Shop,), {"world": world})
    # `print_blob` gives the line that repeats a failure; the runs differ each time.
    limits = settings(
        max_examples=runs,
        stateful_step_count=50,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(bound, settings=limits)  # type: ignore[no-untyped-call]


def test_the_service_behaves_as_its_model(world: World) -> None:
    run_model(world, runs=30)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_service_behaves_as_its_model_in_many_runs(world: World) -> None:
    run_model(world, runs=500)
