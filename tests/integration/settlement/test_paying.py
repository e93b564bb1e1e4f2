"""Paying over HTTP: a web process, a worker and the sandbox, for every outcome a gateway can have."""

from __future__ import annotations

from till import Till


def test_a_card_that_is_good_confirms_the_order_and_sets_its_stock_aside(till: Till) -> None:
    order = till.order()

    answer = till.pay(order)

    assert answer.status_code == 201, answer.text
    payment = answer.json()
    assert (payment["result"], payment["status"], payment["captured"]) == ("succeeded", "captured", 40.0)
    assert answer.headers["location"] == payment["status_url"] == f"/api/v1/payments/{payment['id']}"
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == ["payment.started", "payment.captured", "order.confirmed"]
    assert till.stock(order) == [(100, 0, 2)]
    assert till.charges(order) == [("captured", 4000)]
