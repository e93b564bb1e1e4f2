"""Paying while the gateway fails: each test has a worker of its own, whose breaker nobody has opened yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from till import Till, fresh_key, wait_until

TILL = {"worker": False}


@pytest.fixture(autouse=True)
def worker(till: Till) -> Iterator[None]:
    """A worker of the test's own."""
    with till.worker():
        yield


@pytest.mark.parametrize("method", ["pm_sandbox_answer_lost_once", "pm_sandbox_rate_limited_once"])
def test_what_goes_wrong_once_is_done_all_the_same(till: Till, method: str) -> None:
    order = till.order()

    answer = till.pay(order, method)

    assert answer.status_code == 201, answer.text
    assert till.axes(order) == ("confirmed", "paid")
    assert till.charges(order) == [("captured", 4000)]


def test_a_call_that_is_still_running_is_waited_for(till: Till) -> None:
    order = till.order()

    answer = till.pay(order, "pm_sandbox_running_once")

    assert answer.status_code in {201, 202}
    wait_until(lambda: till.axes(order) == ("confirmed", "paid"))
    assert till.charges(order) == [("captured", 4000)]


def test_a_lost_answer_is_202_with_where_to_look_and_the_order_is_confirmed_later(till: Till) -> None:
    order = till.order()
    key = fresh_key()

    pending = till.pay(order, "pm_sandbox_answer_lost", headers=key)

    assert pending.status_code == 202, pending.text
    assert pending.json()["result"] == "payment_pending"
    assert pending.headers["location"] == pending.json()["status_url"]
    wait_until(lambda: till.customer.get(pending.json()["status_url"]).json()["status"] == "captured")
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == ["payment.started", "payment.unknown", "payment.captured", "order.confirmed"]
    again = till.pay(order, "pm_sandbox_answer_lost", headers=key)
    assert (again.status_code, again.json()["result"]) == (201, "succeeded")
    assert till.charges(order) == [("captured", 4000)]


def test_a_gateway_out_of_reach_is_503_and_the_same_key_asks_again(till: Till) -> None:
    order = till.order()
    key = fresh_key()

    first = till.pay(order, "pm_sandbox_unreachable", headers=key)
    again = till.pay(order, "pm_sandbox_unreachable", headers=key)

    for answer in (first, again):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "GATEWAY_UNAVAILABLE")
        assert answer.headers["retry-after"] == "5"
        assert "idempotent-replayed" not in answer.headers
    [payment] = till.payments(order)
    assert (payment["status"], payment["result"]) == ("failed", "gateway_unavailable")
    assert till.events(order) == ["payment.started", "payment.failed"] * 2
    assert "pay" in till.read(order)["allowed_actions"]
    # One call, written down once: the second request made it due again, with the same key at the gateway.
    attempts = till.db.execute(
        "SELECT count(*), count(DISTINCT gateway_key) FROM payment_attempts WHERE payment_id = %s", [payment["id"]]
    ).fetchone()
    assert attempts == (1, 1)
