"""Tax, shipping and discounts over HTTP, in shops that are set up in different ways."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Service, run_counterfoil, running_service

ORDERS = "/api/v1/orders"
PRODUCTS = "/api/v1/products"
MakeProduct = Callable[..., int]
MakeToken = Callable[..., str]
Unchanged = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def net_shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A shop whose prices do not contain their tax, and which charges for shipping."""
    values = {
        "COUNTERFOIL_PRICES_INCLUDE_TAX": "false",
        "COUNTERFOIL_SHIPPING": "EUR:4.90:50.00,JPY:500",
        "COUNTERFOIL_SHIPPING_TAX": "19",
    }
    with running_service(database_url, tmp_path_factory.mktemp("net"), **values) as running:
        yield running


@pytest.fixture
def net_customer(net_shop: Service, make_token: MakeToken) -> Iterator[httpx.Client]:
    with net_shop.client(make_token()) as client:
        yield client


def order_of(*lines: tuple[int, int], **values: Any) -> dict[str, Any]:
    return {"items": [{"product_id": product, "quantity": quantity} for product, quantity in lines], **values}


def place(client: httpx.Client, *lines: tuple[int, int], **values: Any) -> dict[str, Any]:
    answer = client.post(ORDERS, json=order_of(*lines, **values))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def sums(order: dict[str, Any]) -> tuple[float, ...]:
    return tuple(order[name] for name in ("subtotal", "discount", "shipping", "tax", "total"))


def adjustments(order: dict[str, Any]) -> list[tuple[str, str, float, float, float]]:
    return [(a["kind"], a["label"], a["amount"], a["tax_rate"], a["tax"]) for a in order["adjustments"]]


def make_coupon(admin: httpx.Client, **values: Any) -> str:
    body = {"code": f"P-{secrets.token_hex(6)}", "kind": "percent", "value": "10", **values}
    code: str = admin.post("/api/v1/coupons", json=body).json()["code"]
    return code


def test_prices_contain_their_tax_and_show_it(customer: httpx.Client, make_product: MakeProduct) -> None:
    tea, book = make_product(price="19.99", tax_rate="19"), make_product(price="0.99", tax_rate="7")

    answer = customer.post(ORDERS, json=order_of((tea, 1), (book, 3)))

    order = answer.json()
    assert sums(order) == (22.96, 0, 0, 3.38, 22.96)
    assert (order["tax_included"], order["adjustments"], order["coupon_codes"]) == (True, [], [])
    assert [(i["tax_rate"], i["tax"], i["discount"]) for i in order["items"]] == [(19, 3.19, 0), (7, 0.19, 0)]
    # Numbers with exactly the currency's digits, and a rate with as many as it needs.
    assert b'"subtotal":22.96,"discount":0.00,"shipping":0.00,"tax":3.38' in answer.content
    assert b'"tax_rate":19,"tax":3.19' in answer.content
    assert customer.get(f"{ORDERS}/{order['id']}").json() == order


def test_tax_and_shipping_are_added_where_prices_do_not_contain_tax(
    net_customer: httpx.Client, make_product: MakeProduct, admin: httpx.Client
) -> None:
    tea, book = make_product(price="19.99", tax_rate="19"), make_product(price="0.99", tax_rate="7")
    code = make_coupon(admin)

    order = place(net_customer, (tea, 1), (book, 3), coupon_codes=[code])

    # 10 % of 22.96 is 2.30, 2.00 for the tea; 19 % of 17.99 is 3.42, 7 % of 2.67 is 0.19, 19 % of 4.90 is 0.93.
    assert [(i["discount"], i["tax"]) for i in order["items"]] == [(2.00, 3.42), (0.30, 0.19)]
    assert adjustments(order) == [
        ("discount", code, -2.30, 0, 0),
        ("shipping", "Shipping", 4.90, 19, 0.93),
        ("tax", "Tax", 4.54, 0, 0),
    ]
    assert sums(order) == (22.96, 2.30, 4.90, 4.54, 30.10)
    assert order["tax_included"] is False
    assert net_customer.get(f"{ORDERS}/{order['id']}").json() == order


def test_shipping_is_free_from_a_worth_on_and_each_currency_has_its_own(
    net_customer: httpx.Client, make_product: MakeProduct
) -> None:
    tea, cup, pot = (
        make_product(price="25.00"),
        make_product(price="100", currency="JPY"),
        make_product(price="1.000", currency="KWD"),
    )

    totals = [sums(place(net_customer, line)) for line in [(tea, 1), (tea, 2), (cup, 1), (pot, 1)]]

    assert totals == [
        (25, 0, 4.90, 0.93, 30.83),
        (50, 0, 0, 0, 50),
        (100, 0, 500, 95, 695),
        (1, 0, 0, 0, 1),
    ]


def test_the_ways_to_an_order_come_to_the_same_price(
    net_customer: httpx.Client, make_product: MakeProduct, admin: httpx.Client
) -> None:
    tea, book = make_product(price="9.99", tax_rate="8.1"), make_product(price="3.33", tax_rate="2.6")
    code = make_coupon(admin, value="33.3333")
    lines = ((tea, 3), (book, 2))

    placed = place(net_customer, *lines, coupon_codes=[code])
    draft = place(net_customer, *lines, coupon_codes=[code], draft=True)
    from_draft = net_customer.post(f"{ORDERS}/{draft['id']}/place").json()
    edited = place(net_customer, (tea, 1))
    edited = net_customer.put(f"{ORDERS}/{edited['id']}", json=order_of(*lines, coupon_codes=[code])).json()

    for order in (draft, from_draft, edited):
        assert sums(order) == sums(placed)
        assert adjustments(order) == adjustments(placed)
        assert order["items"] == placed["items"]


def test_a_placed_order_keeps_its_prices_tax_and_the_way_tax_is_shown(
    net_customer: httpx.Client, service: Service, make_token: MakeToken, make_product: MakeProduct, admin: httpx.Client
) -> None:
    tea = make_product(price="10.00", tax_rate="10", sku=(sku := f"T-{secrets.token_hex(6)}"))
    book = make_product(price="5.00", tax_rate="10")
    order = place(net_customer, (tea, 2))
    raised = {"sku": sku, "name": "Tea", "price": "99.00", "currency": "EUR", "tax_rate": "50"}
    assert admin.put(f"{PRODUCTS}/{tea}", json=raised).status_code == 200

    # Changed at a door whose prices contain tax: the order was placed at one where they do not.
    with service.client(make_token("support")) as clerk:
        changed = clerk.put(f"{ORDERS}/{order['id']}", json=order_of((tea, 1), (book, 1)))

    assert sums(order) == (20, 0, 4.90, 2.93, 27.83)
    assert changed.status_code == 200, changed.text
    assert [(i["unit_price"], i["tax_rate"], i["tax"]) for i in changed.json()["items"]] == [(10, 10, 1), (5, 10, 0.5)]
    # That door ships for nothing.
    assert sums(changed.json()) == (15, 0, 0, 1.5, 16.5)
    assert changed.json()["tax_included"] is False


def test_a_preview_tells_what_an_edit_will_cost_and_takes_nothing(
    customer: httpx.Client,
    make_product: MakeProduct,
    admin: httpx.Client,
    nothing_written: Unchanged,
    django_ready: None,
) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.orders import repositories
    from counterfoil.orders.commands import OrderLine
    from counterfoil.orders.price_terms import PLAIN_TERMS
    from counterfoil.orders.quoting import preview_order

    assert django_ready is None
    tea, code = make_product(price="10.00", tax_rate="10"), make_coupon(admin, usage_limit=1)
    order = place(customer, (tea, 1))["id"]

    def preview() -> tuple[int, int]:
        [before] = repositories.read_orders([order])
        priced = preview_order(before, [OrderLine(tea, 3)], [code], prices=PLAIN_TERMS)
        return priced.total.amount_minor, sum(line.tax.amount_minor for line in priced.lines)

    with nothing_written():
        told = run_in_thread(preview)
    changed = customer.put(f"{ORDERS}/{order}", json=order_of((tea, 3), coupon_codes=[code])).json()

    assert told == (2700, 245)
    assert (changed["total"], changed["tax"]) == (27, 2.45)


def test_history_tells_the_adjustments_of_each_event(
    net_customer: httpx.Client, make_product: MakeProduct, admin: httpx.Client
) -> None:
    tea, code = make_product(price="10.00"), make_coupon(admin, kind="fixed", value="1.00", currency="EUR")
    order = place(net_customer, (tea, 1), coupon_codes=[code])
    net_customer.put(f"{ORDERS}/{order['id']}", json={"coupon_codes": []})

    events = net_customer.get(f"{ORDERS}/{order['id']}/timeline").json()["events"]
    then = net_customer.get(f"{ORDERS}/{order['id']}/timeline", params={"at": events[0]["occurred_at"]}).json()

    assert [[a["kind"] for a in event["adjustments"]] for event in events] == [
        ["discount", "shipping", "tax"],
        ["shipping", "tax"],
    ]
    assert (then["coupon_codes"], sums(then)) == ([code], sums(order))


def test_a_replay_of_a_priced_order_is_the_first_answer_byte_for_byte(
    net_customer: httpx.Client, make_product: MakeProduct, admin: httpx.Client
) -> None:
    body = order_of((make_product(price="9.99", tax_rate="7.7"), 3), coupon_codes=[make_coupon(admin)])
    headers = {"Idempotency-Key": secrets.token_hex(16)}

    first, second = (net_customer.post(ORDERS, json=body, headers=headers) for _ in range(2))

    assert (first.status_code, second.status_code, second.content) == (201, 201, first.content)
    assert second.headers["idempotent-replayed"] == "true"


def test_an_order_without_tax_coupons_and_shipping_is_stored_as_it_always_was(
    customer: httpx.Client, make_product: MakeProduct, db: psycopg.Connection[Any]
) -> None:
    order = place(customer, (make_product(price="5.00"), 2))

    row = db.execute(
        "SELECT payload FROM outbox_events WHERE aggregate_id = %s AND aggregate = 'order'", [order["id"]]
    ).fetchone()

    assert row is not None
    assert sorted(row[0]) == [
        *("client_reference", "created_at", "currency", "items", "order_id", "reserved_until", "total_minor"),
        *("user_id", "version"),
    ]
    assert sorted(row[0]["items"][0]) == ["name", "product_id", "quantity", "sku", "unit_price_minor"]


def test_a_tax_rate_is_exact_and_left_alone_when_it_is_not_named(admin: httpx.Client) -> None:
    body = {"sku": f"T-{secrets.token_hex(6)}", "name": "Tea", "price": "1.00", "currency": "EUR"}

    made = admin.post(PRODUCTS, json={**body, "tax_rate": "8.10"}).json()
    kept = admin.put(f"{PRODUCTS}/{made['id']}", json=body).json()
    changed = admin.put(f"{PRODUCTS}/{made['id']}", json={**body, "tax_rate": "0.0001"}).json()

    assert (made["tax_rate"], kept["tax_rate"], changed["tax_rate"]) == ("8.1", "8.1", "0.0001")
    assert admin.post(PRODUCTS, json={**body, "sku": f"T-{secrets.token_hex(6)}"}).json()["tax_rate"] == "0"


@pytest.mark.parametrize("rate", ["100", "-1", "1.00001", "19%", "1e1", "", 19, "\u0663"])
def test_a_tax_rate_that_is_none_is_refused(rate: Any, admin: httpx.Client, nothing_written: Unchanged) -> None:
    body = {"sku": f"T-{secrets.token_hex(6)}", "name": "Tea", "price": "1.00", "currency": "EUR", "tax_rate": rate}

    with nothing_written():
        answer = admin.post(PRODUCTS, json=body)

    assert (answer.status_code, answer.json()["error"]["details"]["fields"][0]["field"]) == (400, "tax_rate")


@pytest.mark.parametrize(
    "values",
    [
        {"COUNTERFOIL_SHIPPING": "EUR=4.90"},
        {"COUNTERFOIL_SHIPPING": "XXX:1"},
        {"COUNTERFOIL_SHIPPING_TAX": "100"},
        {"COUNTERFOIL_SHIPPING_TAX": "0.00001"},
        {"COUNTERFOIL_PRICES_INCLUDE_TAX": "sometimes"},
    ],
)
def test_a_shop_with_price_settings_that_mean_nothing_does_not_start(values: dict[str, str], database_url: str) -> None:
    run = run_counterfoil("serve", "--port", "1", check=False, DATABASE_URL=database_url, **values)

    assert run.returncode != 0
    [name] = values
    assert name in run.stderr.upper()
