"""Paying over HTTP: a web process, a worker and the sandbox, for every outcome a gateway can have."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from till import Till, fresh_key

PAID = ["payment.started", "payment.captured", "order.confirmed"]


def test_a_card_that_is_good_confirms_the_order_and_sets_its_stock_aside(till: Till) -> None:
    order = till.order()

    answer = till.pay(order)

    assert answer.status_code == 201, answer.text
    payment = answer.json()
    assert (payment["result"], payment["status"], payment["captured"]) == ("succeeded", "captured", 40.0)
    assert answer.headers["location"] == payment["status_url"] == f"/api/v1/payments/{payment['id']}"
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == PAID
    assert till.stock(order) == [(100, 0, 2)]
    assert till.charges(order) == [("captured", 4000)]
    assert till.customer.get(payment["status_url"]).json() == payment
    assert till.customer.get(f"/api/v1/orders/{order}/payments").json() == {"items": [payment]}


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_visa_chargeDeclined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error"),
        ("pm_sandbox_rejected", "gateway_rejected"),
        ("pm_nobody_knows", "payment_method_unknown"),
    ],
)
def test_a_declined_card_is_402_and_leaves_the_order_payable(till: Till, method: str, code: str) -> None:
    order = till.order()

    declined = till.pay(order, method)
    after = till.read(order)
    paid = till.pay(order)

    assert declined.status_code == 402, declined.text
    error = declined.json()["error"]
    assert (error["code"], error["details"]["gateway_code"]) == ("PAYMENT_DECLINED", code)
    assert declined.headers["content-type"] == "application/problem+json"
    assert (after["status"], after["payment_status"]) == ("created", "unpaid")
    assert "pay" in after["allowed_actions"]
    assert paid.status_code == 201
    assert till.events(order) == ["payment.started", "payment.failed", *PAID]


def test_a_buyer_who_has_to_act_is_told_where_and_may_give_it_up(till: Till) -> None:
    order = till.order()

    asked = till.pay(order, "pm_card_authenticationRequired", return_url="https://shop.example/thanks")
    second = till.pay(order)
    given_up = till.customer.post(asked.json()["status_url"] + "/void", headers=fresh_key())
    paid = till.pay(order)

    assert (asked.status_code, asked.json()["result"]) == (202, "requires_action")
    assert asked.json()["action_url"].startswith("sandbox:authenticate/")
    assert asked.json()["allowed_actions"] == ["void"]
    assert (second.status_code, second.json()["error"]["code"]) == (409, "PAYMENT_IN_FLIGHT")
    assert (given_up.status_code, given_up.json()["status"]) == (200, "cancelled")
    assert paid.status_code == 201
    assert till.charges(order) == [("voided", 0), ("captured", 4000)]


def test_an_order_that_costs_nothing_is_confirmed_without_a_gateway(till: Till) -> None:
    order = till.order(price="0.00")
    key = fresh_key()

    answer = till.pay(order, headers=key)
    again = till.pay(order, headers=key)

    assert (answer.status_code, answer.json()["status"]) == (200, "confirmed")
    assert till.events(order) == ["payment.not_needed", "order.confirmed"]
    assert till.payments(order) == []
    assert (again.content, again.headers["idempotent-replayed"]) == (answer.content, "true")


# ---------------------------------------------------------------- keys
def test_the_same_key_gets_the_same_bytes_and_one_charge(till: Till) -> None:
    order = till.order()
    key = fresh_key()

    first = till.pay(order, headers=key)
    again = till.pay(order, headers=key)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert again.headers["location"] == first.headers["location"]
    assert till.charges(order) == [("captured", 4000)]


def test_a_declined_answer_is_repeated_byte_for_byte(till: Till) -> None:
    order = till.order()
    key = fresh_key()

    first = till.pay(order, "pm_card_visa_chargeDeclined", headers=key)
    again = till.pay(order, "pm_card_visa_chargeDeclined", headers=key)

    assert (first.status_code, again.status_code) == (402, 402)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert len(till.payments(order)) == 1


def test_a_key_is_needed_and_is_for_one_request_only(till: Till) -> None:
    order, other = till.order(), till.order()
    key = fresh_key()
    body = {"method": "pm_card_visa"}

    without = till.customer.post(f"/api/v1/orders/{order}/payments", json=body)
    till.pay(order, headers=key)
    other_body = till.pay(order, "pm_card_mastercard", headers=key)
    other_order = till.pay(other, headers=key)

    assert (without.status_code, without.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_MISSING")
    assert (other_body.status_code, other_order.status_code) == (422, 422)
    assert till.payments(other) == []


def test_the_same_request_at_the_same_moment_is_one_payment_and_one_answer(till: Till) -> None:
    order = till.order()
    key = fresh_key()

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: till.pay(order, headers=key), range(10)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert till.charges(order) == [("captured", 4000)]
    assert till.events(order) == PAID


def test_of_twenty_clients_who_pay_the_same_order_at_once_one_is_charged(till: Till) -> None:
    order = till.order()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: till.pay(order), range(20)))

    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] + [409] * 19
    refused = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409}
    assert refused <= {"PAYMENT_IN_FLIGHT", "ACTION_NOT_ALLOWED"}
    assert till.charges(order) == [("captured", 4000)]
    assert till.events(order) == PAID


def test_a_repetition_is_not_for_somebody_else(till: Till) -> None:
    order = till.order()
    key = fresh_key()
    till.pay(order, headers=key)

    with till.client("customer") as stranger:
        answer = stranger.post(f"/api/v1/orders/{order}/payments", json={"method": "pm_card_visa"}, headers=key)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ORDER_NOT_FOUND")


# ---------------------------------------------------------------- amounts
def test_several_payments_confirm_the_order_when_they_cover_it(till: Till) -> None:
    order = till.order()

    first = till.pay(order, amount="15.00")
    between = till.axes(order)
    too_much = till.pay(order, amount="25.01")
    rest = till.pay(order)

    assert (first.status_code, first.json()["amount"]) == (201, 15.0)
    assert between == ("created", "partially_paid")
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (409, "AMOUNT_EXCEEDS_OPEN")
    assert (rest.status_code, rest.json()["amount"]) == (201, 25.0)
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == ["payment.started", "payment.captured", *PAID]


@pytest.mark.parametrize("amount", ["0", "0.00", "-1", "1e3", "1,00", "40.001", "", "99999999999999999999"])
def test_an_amount_that_is_none_is_refused_and_nothing_changes(till: Till, amount: str) -> None:
    order = till.order()
    before = till.read(order)

    answer = till.pay(order, amount=amount)

    assert answer.status_code == 400, answer.text
    assert [field["field"] for field in answer.json()["error"]["details"]["fields"]] == ["amount"]
    assert till.read(order) == before
    assert till.payments(order) == []


def test_an_order_that_is_paid_or_over_cannot_be_paid(till: Till) -> None:
    paid, cancelled = till.order(), till.order()
    till.pay(paid)
    till.customer.delete(f"/api/v1/orders/{cancelled}")
    before = [till.read(paid), till.read(cancelled)]

    answers = [till.pay(paid), till.pay(cancelled)]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(409, "ACTION_NOT_ALLOWED")] * 2
    assert [a.json()["error"]["details"]["allowed_actions"] for a in answers] == [["cancel"], []]
    assert [till.read(paid), till.read(cancelled)] == before


# ---------------------------------------------------------------- speed
def test_a_payment_is_decided_when_the_worker_says_so_and_not_a_second_later(till: Till) -> None:
    """The worker and the waiting request are woken; nobody sleeps until the next look."""
    seconds = []
    for _ in range(5):
        order = till.order()
        started = time.monotonic()
        assert till.pay(order, headers={"Idempotency-Key": secrets.token_hex(16)}).status_code == 201
        seconds.append(time.monotonic() - started)

    assert sorted(seconds)[2] < 0.9
