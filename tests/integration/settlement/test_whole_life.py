"""A paid order to its end: shipped, partly given back, completed; or cancelled, with or without its money."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest
from till import Till, fresh_key, wait_until

ORDERS, FULFILLMENTS, RETURNS = "/api/v1/orders", "/api/v1/fulfillments", "/api/v1/returns"


def post(client: httpx.Client, path: str, body: Any = None, *, status: int = 200) -> dict[str, Any]:
    answer = client.post(path, json=body, headers=fresh_key())
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def paid(till: Till, **values: Any) -> int:
    order = till.order(**values)
    assert till.pay(order).status_code == 201
    return order


def ship(till: Till, order: int) -> None:
    fulfillment = post(till.admin, f"{ORDERS}/{order}/fulfillments", {}, status=201)["id"]
    post(till.admin, f"{FULFILLMENTS}/{fulfillment}/ship", {})


def give_back(till: Till, order: int, *, quantity: int) -> int:
    """Ask for a return, approve it and receive it."""
    product = till.read(order)["items"][0]["product_id"]
    body = {"items": [{"product_id": product, "quantity": quantity}], "reason": "damaged"}
    returned = int(post(till.customer, f"{ORDERS}/{order}/returns", body, status=201)["id"])
    post(till.admin, f"{RETURNS}/{returned}/approve", {})
    post(till.admin, f"{RETURNS}/{returned}/receive", {"items": [{"product_id": product, "restocked": quantity}]})
    return returned


def end_window(till: Till, order: int) -> None:
    till.db.execute("UPDATE orders SET return_until = now() WHERE id = %s", [order])


# ---------------------------------------------------------------- completion
def test_what_is_shipped_and_paid_completes_by_itself_once_the_time_for_returns_is_over(till: Till) -> None:
    done, unpaid, open_return, early = (paid(till) for _ in range(4))
    unpaid = till.order()
    post(till.admin, f"{ORDERS}/{unpaid}/confirm", {})
    for order in (done, unpaid, open_return, early):
        ship(till, order)
    product = till.read(open_return)["items"][0]["product_id"]
    body = {"items": [{"product_id": product, "quantity": 1}]}
    post(till.customer, f"{ORDERS}/{open_return}/returns", body, status=201)
    for order in (unpaid, open_return, done):
        end_window(till, order)

    wait_until(lambda: till.axes(done)[0] == "completed")

    assert [till.axes(order)[0] for order in (unpaid, open_return, early)] == ["confirmed"] * 3
    assert till.events(done)[-1] == "order.completed"
    [entry] = till.admin.get(f"{ORDERS}/{done}/timeline").json()["events"][-1:]
    assert entry["actor"] == "job:complete-orders"
    assert till.read(done)["allowed_actions"] == ["note", "refund"]
    till.require_identities()


def test_two_workers_complete_each_order_once(till: Till) -> None:
    orders = [paid(till) for _ in range(10)]
    for order in orders:
        ship(till, order)

    with till.worker():
        till.db.execute("UPDATE orders SET return_until = now() WHERE id = ANY (%s)", [orders])
        wait_until(lambda: {till.axes(order)[0] for order in orders} == {"completed"})

    assert [till.events(order).count("order.completed") for order in orders] == [1] * 10
    till.require_identities()


def test_staff_completes_early_and_only_once(till: Till) -> None:
    order = paid(till)
    ship(till, order)
    together = Barrier(6)

    def complete(_: int) -> int:
        together.wait(10)
        return till.admin.post(f"{ORDERS}/{order}/complete").status_code

    with ThreadPoolExecutor(6) as threads:
        statuses = list(threads.map(complete, range(6)))

    assert statuses == [200] * 6
    assert till.events(order).count("order.completed") == 1
    entries = till.db.execute(
        "SELECT count(*) FROM audit_entries WHERE target = 'order' AND target_id = %s AND action = 'order.complete'",
        [order],
    ).fetchone()
    assert entries == (1,)


@pytest.mark.parametrize("case", ["unpaid", "not shipped", "open return"])
def test_an_order_with_something_to_do_is_not_completed(till: Till, case: str) -> None:
    if case == "unpaid":
        order = till.order()
        post(till.admin, f"{ORDERS}/{order}/confirm", {})
    else:
        order = paid(till)
    if case != "not shipped":
        ship(till, order)
    if case == "open return":
        give_back(till, order, quantity=1)
    before = till.read(order)

    answer = till.admin.post(f"{ORDERS}/{order}/complete")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ACTION_NOT_ALLOWED")
    assert till.read(order) == before


# ---------------------------------------------------------------- money of returns
def test_closing_a_return_gives_back_what_came_and_only_once(till: Till) -> None:
    order = paid(till, price="20.00", quantity=3)
    ship(till, order)
    returned = give_back(till, order, quantity=2)

    first = post(till.admin, f"{RETURNS}/{returned}/close", {"refund": True})
    again = post(till.admin, f"{RETURNS}/{returned}/close", {"refund": True})

    assert first == again
    wait_until(lambda: till.refunds(order) == [("succeeded", "40.00", False)])
    wait_until(lambda: till.axes(order) == ("confirmed", "partially_refunded"))
    assert till.charges(order) == [("captured", 6000)]
    end_window(till, order)
    wait_until(lambda: till.axes(order)[0] == "completed")
    till.require_identities()


@pytest.mark.parametrize(
    ("body", "refunds"), [({}, []), ({"amount": "5.00"}, [("succeeded", "5.00", False)])], ids=["nothing", "an amount"]
)
def test_staff_says_how_much_goes_back(till: Till, body: dict[str, str], refunds: list[Any]) -> None:
    order = paid(till)
    ship(till, order)

    post(till.admin, f"{RETURNS}/{give_back(till, order, quantity=1)}/close", body)

    wait_until(lambda: till.refunds(order) == refunds)


@pytest.mark.parametrize(
    ("amount", "status", "code"),
    [("40.01", 409, "REFUND_EXCEEDS_CAPTURED"), ("1.005", 400, "VALIDATION_FAILED")],
)
def test_a_refund_that_cannot_be_leaves_the_return_open(till: Till, amount: str, status: int, code: str) -> None:
    order = paid(till, price="20.00", quantity=2)
    ship(till, order)
    returned = give_back(till, order, quantity=1)
    before = till.read(order)

    answer = till.admin.post(f"{RETURNS}/{returned}/close", json={"amount": amount}, headers=fresh_key())

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert till.read(order) == before
    assert till.refunds(order) == []


def test_what_goes_back_is_what_was_paid_for_the_units_and_not_their_price(till: Till) -> None:
    order = with_coupon(till, quantity=3)
    assert till.pay(order).status_code == 201
    ship(till, order)

    post(till.admin, f"{RETURNS}/{give_back(till, order, quantity=1)}/close", {"refund": True})

    wait_until(lambda: till.refunds(order) == [("succeeded", "18.00", False)])


def with_coupon(till: Till, *, quantity: int) -> int:
    """An order at 20.00 a unit with a tenth off."""
    code = f"TENTH-{secrets.token_hex(4)}"
    post(till.admin, "/api/v1/coupons", {"code": code, "kind": "percent", "value": "10", "usage_limit": 1}, status=201)
    items = [{"product_id": till.product(price="20.00"), "quantity": quantity}]
    order = post(till.customer, ORDERS, {"items": items, "coupon_codes": [code]}, status=201)
    assert order["total"] == 18.0 * quantity
    return int(order["id"])


@pytest.mark.parametrize("status", ["created", "confirmed"])
def test_a_cancelled_order_gives_its_coupon_back_once(till: Till, status: str) -> None:
    order = with_coupon(till, quantity=1)
    if status == "confirmed":
        assert till.pay(order).status_code == 201
    used = "SELECT c.used FROM coupons c JOIN coupon_uses u ON u.coupon_id = c.id WHERE u.order_id = %s"
    [coupon] = till.db.execute("SELECT coupon_id FROM coupon_uses WHERE order_id = %s", [order]).fetchall()
    assert till.db.execute(used, [order]).fetchone() == (1,)

    for _ in range(2):
        post(till.admin, f"{ORDERS}/{order}/cancel", {"reason": "customer_request"})

    assert till.db.execute("SELECT used FROM coupons WHERE id = %s", coupon).fetchone() == (0,)
    wait_until(lambda: till.axes(order)[0] == "cancelled")


def test_a_service_takes_goods_back_and_gives_no_money(till: Till) -> None:
    order = paid(till)
    ship(till, order)
    returned = give_back(till, order, quantity=1)

    with till.client("service") as program:
        answer = program.post(f"{RETURNS}/{returned}/close", json={"refund": True}, headers=fresh_key())
        closed = program.post(f"{RETURNS}/{returned}/close", json={}, headers=fresh_key())

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ROLE_MISSING")
    assert (closed.status_code, closed.json()["status"]) == (200, "closed")
    assert till.refunds(order) == []


# ---------------------------------------------------------------- money of cancelled orders
@pytest.mark.parametrize("refund", ["back", "kept"])
def test_cancelling_a_paid_order_says_what_becomes_of_the_money(till: Till, refund: str) -> None:
    order = paid(till, price="20.00", quantity=2)

    body = {"reason": "customer_request", "refund": refund == "back"}
    cancelled = post(till.admin, f"{ORDERS}/{order}/cancel", body)

    assert cancelled["status"] == "cancelled"
    if refund == "back":
        wait_until(lambda: till.axes(order) == ("cancelled", "refunded"))
        assert till.refunds(order) == [("succeeded", "40.00", False)]
    else:
        assert till.axes(order) == ("cancelled", "paid")
        assert till.refunds(order) == []
    assert till.stock(order) == [(100, 0, 0)]
    till.require_identities()


@pytest.mark.parametrize("refund", [True, False], ids=["back", "kept"])
def test_what_is_only_held_is_released_in_any_case(till: Till, *, refund: bool) -> None:
    order = till.order()
    assert till.pay(order, capture=False).status_code == 201
    assert till.axes(order) == ("confirmed", "authorized")

    post(till.admin, f"{ORDERS}/{order}/cancel", {"reason": "out_of_stock", "refund": refund})

    wait_until(lambda: till.axes(order) == ("cancelled", "unpaid"))
    assert till.charges(order) == [("voided", 0)]
