"""Money that comes when the order has gone on: its answer was lost, and meanwhile the order was ended."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from till import Till, fresh_key, wait_until

# The answer is lost after at most 3.5 s, and looked for ten seconds later: time enough to end the order meanwhile.
TILL = {"worker": False, "COUNTERFOIL_RESOLVER_SPEED": "1"}
UNKNOWN = ["payment.started", "payment.unknown"]
FOUND = [*UNKNOWN, "payment.captured"]


@pytest.fixture(autouse=True)
def worker(till: Till) -> Iterator[None]:
    """A worker of each test's own, whose breaker nobody has opened yet."""
    with till.worker():
        yield


def lose(till: Till, order: int, **body: object) -> None:
    """Pay an order, and lose the gateway's answer."""
    answer = till.pay(order, "pm_sandbox_answer_lost", **body)
    assert (answer.status_code, answer.json()["status"]) == (202, "unknown"), answer.text
    assert till.read(order)["payment_unknown"] is True


def expire(till: Till, order: int) -> None:
    """Let an order's time run out while nobody knows of its payment, as after a restore of the database."""
    till.db.execute(
        "UPDATE orders SET payment_in_flight = false, reserved_until = now() WHERE id = %s AND status = 'created'",
        [order],
    )
    wait_until(lambda: till.events(order)[-1] == "order.expired")


def told(till: Till, order: int) -> list[str]:
    """An order's events, but those about the flag that `expire` has taken away and a look has set again."""
    return [event for event in till.events(order) if event != "payment.status_changed"]


def settled(till: Till, order: int) -> bool:
    till.look_now()
    return (
        not till.read(order)["payment_unknown"]
        and not till.db.execute(
            "SELECT 1 FROM payment_attempts a JOIN payments p ON p.id = a.payment_id"
            " WHERE p.order_id = %s AND a.state IN ('due', 'running', 'unknown')",
            [order],
        ).fetchone()
    )


def test_an_unknown_payment_keeps_its_order_from_expiring_and_from_being_paid_twice(till: Till) -> None:
    order = till.order()
    lose(till, order)
    till.db.execute("UPDATE orders SET reserved_until = now() - interval '1 minute' WHERE id = %s", [order])
    other = till.order()
    till.db.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [other])
    wait_until(lambda: till.events(other) == ["order.expired"])

    second = till.pay(order)

    assert (second.status_code, second.json()["error"]["code"]) == (409, "PAYMENT_IN_FLIGHT")
    assert till.axes(order) == ("created", "unpaid")
    assert till.stock(order) == [(100, 2, 0)]
    wait_until(lambda: settled(till, order))
    # Its time was over, and nobody had taken its stock yet: who pays keeps it.
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == [*FOUND, "order.confirmed"]
    assert till.charges(order) == [("captured", 4000)]


def test_money_for_an_expired_order_takes_its_stock_again(till: Till) -> None:
    order = till.order()
    lose(till, order)
    expire(till, order)
    assert till.stock(order) == [(100, 0, 0)]

    wait_until(lambda: settled(till, order))

    assert till.axes(order) == ("confirmed", "paid")
    assert told(till, order) == [*UNKNOWN, "order.expired", "payment.captured", "order.reinstated", "order.confirmed"]
    assert till.stock(order) == [(100, 0, 2)]
    assert till.refunds(order) == []


def test_money_for_an_expired_order_whose_stock_is_gone_goes_back_once(till: Till) -> None:
    product = till.product(stock=2)
    order = till.order(product=product)
    lose(till, order)
    expire(till, order)
    rival = till.order(product=product, quantity=1)

    wait_until(lambda: settled(till, order))
    till.look_now()

    assert till.axes(order) == ("expired", "refunded")
    assert till.refunds(order) == [("succeeded", "40.00", True)]
    assert told(till, order) == [
        *UNKNOWN,
        "order.expired",
        "payment.captured",
        "refund.requested",
        "refund.succeeded",
    ]
    assert till.stock(order) == [(2, 1, 0)]
    assert till.axes(rival) == ("created", "unpaid")


@pytest.mark.parametrize("coupon", ["still there", "used by another", "there and the stock gone"])
def test_money_for_an_expired_order_needs_its_coupon_again(till: Till, coupon: str) -> None:
    product = till.product(stock=2)
    code = f"HALF-{secrets.token_hex(4).upper()}"
    limits = {"code": code, "kind": "percent", "value": "50", "usage_limit": 1}
    assert till.admin.post("/api/v1/coupons", json=limits).status_code == 201
    body = {"items": [{"product_id": product, "quantity": 1}], "coupon_codes": [code]}
    order = till.customer.post("/api/v1/orders", json=body).json()["id"]
    lose(till, order)
    expire(till, order)
    if coupon == "used by another":
        assert till.customer.post("/api/v1/orders", json=body).status_code == 201
    if coupon == "there and the stock gone":
        till.order(product=product, quantity=2)

    wait_until(lambda: settled(till, order))
    wait_until(lambda: till.axes(order)[1] in {"paid", "refunded"})

    back = coupon != "still there"
    assert till.axes(order) == (("expired", "refunded") if back else ("confirmed", "paid"))
    assert till.refunds(order) == ([("succeeded", "10.00", True)] if back else [])
    used = till.db.execute("SELECT used FROM coupons WHERE code = %s", [code]).fetchone()
    assert used == (0 if coupon == "there and the stock gone" else 1,)
    till.require_identities()


def test_money_that_is_only_held_for_an_expired_order_is_released(till: Till) -> None:
    product = till.product(stock=2)
    order = till.order(product=product)
    lose(till, order, capture=False)
    expire(till, order)
    till.order(product=product, quantity=2)

    wait_until(lambda: settled(till, order))

    assert till.axes(order) == ("expired", "unpaid")
    assert till.refunds(order) == []
    assert till.events(order)[-3:] == ["payment.authorized", "payment.void_requested", "payment.voided"]
    assert till.charges(order) == [("voided", 0)]


def test_money_for_a_cancelled_order_goes_back_once(till: Till) -> None:
    order = till.order()
    lose(till, order)

    cancelled = till.customer.delete(f"/api/v1/orders/{order}")
    wait_until(lambda: settled(till, order))
    till.look_now()

    assert cancelled.status_code == 204
    assert till.axes(order) == ("cancelled", "refunded")
    assert till.refunds(order) == [("succeeded", "40.00", True)]
    assert till.events(order) == [
        *UNKNOWN,
        "order.cancelled",
        "payment.captured",
        "refund.requested",
        "refund.succeeded",
    ]
    assert till.stock(order) == [(100, 0, 0)]


def test_an_order_that_is_paid_in_part_when_it_expires_gives_the_money_back(till: Till) -> None:
    order = till.order()
    till.pay(order, amount="15.00")
    assert till.pay(order, amount="5.00", capture=False).status_code == 201
    till.db.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [order])

    wait_until(lambda: till.axes(order) == ("expired", "refunded"))
    wait_until(lambda: settled(till, order))

    assert till.refunds(order) == [("succeeded", "15.00", True)]
    assert sorted(till.charges(order)) == [("captured", 1500), ("voided", 0)]


def test_a_paid_order_that_is_cancelled_gives_its_money_back(till: Till) -> None:
    order = till.order()
    till.pay(order)

    cancelled = till.customer.delete(f"/api/v1/orders/{order}")
    wait_until(lambda: till.axes(order) == ("cancelled", "refunded"))

    assert cancelled.status_code == 204
    assert till.refunds(order) == [("succeeded", "40.00", False)]
    assert till.stock(order) == [(100, 0, 0)]


def test_an_edit_that_leaves_the_order_covered_confirms_it(till: Till) -> None:
    product = till.product()
    order = till.order(product=product, quantity=2)
    till.pay(order, amount="20.00")

    answer = till.customer.put(f"/api/v1/orders/{order}", json={"items": [{"product_id": product, "quantity": 1}]})

    assert (answer.status_code, answer.json()["status"], answer.json()["payment_status"]) == (200, "confirmed", "paid")
    assert till.events(order)[-3:] == ["order.updated", "payment.status_changed", "order.confirmed"]
    assert till.stock(order) == [(100, 0, 1)]


def test_a_closed_return_gives_back_what_the_units_were_sold_for(till: Till) -> None:
    product = till.product()
    order = till.order(product=product, quantity=2)
    till.pay(order)
    made = till.admin.post(f"/api/v1/orders/{order}/fulfillments", json={}).json()["id"]
    till.admin.post(f"/api/v1/fulfillments/{made}/ship", json={})
    one = {"items": [{"product_id": product, "quantity": 1}]}
    returned = till.customer.post(f"/api/v1/orders/{order}/returns", json=one).json()["id"]
    till.admin.post(f"/api/v1/returns/{returned}/approve", json={})
    received = {"items": [{"product_id": product, "restocked": 1}]}
    came = till.admin.post(f"/api/v1/returns/{returned}/receive", json=received, headers=fresh_key())
    assert came.status_code == 200, came.text

    address, key = f"/api/v1/returns/{returned}/close", fresh_key()
    closed = [till.admin.post(address, json={"refund": True}, headers=key) for key in (key, key, fresh_key())]

    assert [answer.status_code for answer in closed] == [200] * 3, closed[0].text
    wait_until(lambda: till.axes(order) == ("confirmed", "partially_refunded"))
    assert till.refunds(order) == [("succeeded", "20.00", False)]


def test_a_cancelled_order_keeps_its_money_when_staff_say_so(till: Till) -> None:
    order = till.order()
    till.pay(order)

    answer = till.admin.post(f"/api/v1/orders/{order}/cancel", json={"reason": "customer_request", "refund": False})

    assert (answer.status_code, answer.json()["payment_status"]) == (200, "paid"), answer.text
    assert till.events(order)[-1] == "order.cancelled"
    assert till.refunds(order) == []
    [payment] = till.payments(order)
    assert till.act(payment["id"], "refunds", {"amount": "5.00"}).status_code == 201
    assert till.refunds(order) == [("succeeded", "5.00", False)]
