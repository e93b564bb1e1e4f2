"""Capture, void and refund over HTTP, and what the trail says of them."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from till import Till, fresh_key, wait_until


def hold(till: Till, **body: Any) -> tuple[int, int]:
    """An order of 40.00 whose money is held; returns its id and the payment's."""
    order = till.order()
    answer = till.pay(order, capture=False, **body)
    assert (answer.status_code, answer.json()["status"]) == (201, "authorized"), answer.text
    return order, int(answer.json()["id"])


def take(till: Till) -> tuple[int, int]:
    """An order of 40.00 that is paid; returns its id and the payment's."""
    order = till.order()
    answer = till.pay(order)
    assert answer.status_code == 201, answer.text
    return order, int(answer.json()["id"])


def test_held_money_confirms_the_order_and_is_captured_later(till: Till) -> None:
    order, payment = hold(till)
    held = till.axes(order)

    captured = till.act(payment, "capture", {})

    assert held == ("confirmed", "authorized")
    assert (captured.status_code, captured.json()["status"], captured.json()["captured"]) == (200, "captured", 40.0)
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == [
        "payment.started",
        "payment.authorized",
        "order.confirmed",
        "payment.capture_requested",
        "payment.captured",
    ]


def test_a_part_is_captured_and_the_rest_is_released(till: Till) -> None:
    order, payment = hold(till)

    too_much = till.act(payment, "capture", {"amount": "40.01"})
    part = till.act(payment, "capture", {"amount": "30.00"})
    again = till.act(payment, "capture", {"amount": "10.00"})

    assert (too_much.status_code, too_much.json()["error"]["code"]) == (409, "AMOUNT_TOO_LARGE")
    assert (part.status_code, part.json()["captured"]) == (200, 30.0)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "PAYMENT_ACTION_NOT_ALLOWED")
    assert again.json()["error"]["details"]["allowed_actions"] == ["refund"]
    assert till.axes(order) == ("confirmed", "partially_paid")
    assert till.charges(order) == [("captured", 3000)]


def test_held_money_of_an_unpaid_part_is_released(till: Till) -> None:
    order = till.order()
    payment = till.pay(order, capture=False, amount="10.00").json()

    answer = till.act(payment["id"], "void")

    assert (answer.status_code, answer.json()["status"], answer.json()["result"]) == (200, "cancelled", "voided")
    assert till.axes(order) == ("created", "unpaid")
    assert till.events(order)[-2:] == ["payment.void_requested", "payment.voided"]
    assert till.charges(order) == [("voided", 0)]


def test_what_covers_a_confirmed_order_is_not_released_under_it(till: Till) -> None:
    order, payment = hold(till)
    before = till.read(order)

    answer = till.act(payment, "void")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "VOID_UNCOVERS_ORDER")
    assert till.read(order) == before


def test_a_customer_does_not_release_held_money(till: Till) -> None:
    order = till.order()
    payment = till.pay(order, capture=False, amount="10.00").json()
    before = till.read(order)

    answer = till.customer.post(f"/api/v1/payments/{payment['id']}/void", headers=fresh_key())

    assert payment["allowed_actions"] == []
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "PAYMENT_ACTION_NOT_ALLOWED")
    assert answer.json()["error"]["details"]["allowed_actions"] == []
    assert till.read(order) == before


def test_money_is_given_back_in_parts_until_nothing_is_left(till: Till) -> None:
    order, payment = take(till)

    first = till.act(payment, "refunds", {"amount": "10.00", "reason": "a broken cup"})
    too_much = till.act(payment, "refunds", {"amount": "30.01"})
    rest = till.act(payment, "refunds", {})
    nothing = till.act(payment, "refunds", {})

    assert (first.status_code, first.json()["status"], first.json()["amount"]) == (201, "succeeded", 10.0)
    assert first.headers["location"] == f"/api/v1/refunds/{first.json()['id']}"
    assert (first.json()["reason"], first.json()["automatic"]) == ("a broken cup", False)
    assert till.customer.get(first.headers["location"]).json() == {**first.json(), "reason": None}
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (409, "REFUND_EXCEEDS_CAPTURED")
    assert (rest.status_code, rest.json()["amount"]) == (201, 30.0)
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "REFUND_EXCEEDS_CAPTURED")
    assert till.axes(order) == ("confirmed", "refunded")
    listed = till.admin.get(f"/api/v1/payments/{payment}/refunds").json()["items"]
    assert [item["id"] for item in listed] == [first.json()["id"], rest.json()["id"]]


@pytest.mark.parametrize("action", ["capture", "refunds", "void"])
def test_the_same_key_does_it_once_and_another_request_with_it_is_refused(till: Till, action: str) -> None:
    if action == "refunds":
        order, payment = take(till)
    else:
        order = till.order()
        payment = int(till.pay(order, capture=False, amount="20.00").json()["id"])
    key, body = fresh_key(), None if action == "void" else {"amount": "5.00"}
    path = f"/api/v1/payments/{payment}/{action}"

    first = till.admin.post(path, json=body, headers=key)
    events = till.events(order)
    again = till.admin.post(path, json=body, headers=key)
    other = till.admin.post(f"/api/v1/payments/{payment}/refunds", json={"amount": "1.00"}, headers=key)

    assert first.is_success, first.text
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert till.events(order) == events


def test_twenty_refunds_at_once_give_back_no_more_than_was_taken(till: Till) -> None:
    order, payment = take(till)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: till.act(payment, "refunds", {"amount": "7.00"}), range(20)))
    wait_until(
        lambda: not till.read(order)["payment_unknown"] and "refund" in till.payments(order)[0]["allowed_actions"]
    )

    assert sorted({answer.status_code for answer in answers}) in ([201, 409], [201, 202, 409], [202, 409])
    wait_until(lambda: till.refunds(order) == [("succeeded", "7.00", False)] * 5)
    assert till.payments(order)[0]["refunded"] == 35.0
    assert till.axes(order) == ("confirmed", "partially_refunded")


@pytest.mark.parametrize(
    ("action", "body"),
    [("capture", {}), ("void", None), ("refunds", {}), ("capture", {"amount": "1"}), ("refunds", {"amount": "1"})],
)
def test_what_a_payment_does_not_allow_changes_nothing(till: Till, action: str, body: Any) -> None:
    order = till.order()
    till.pay(order, "pm_card_visa_chargeDeclined")
    [payment] = till.payments(order)
    before = till.read(order)

    answer = till.act(payment["id"], action, body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "PAYMENT_ACTION_NOT_ALLOWED")
    assert answer.json()["error"]["details"]["allowed_actions"] == payment["allowed_actions"] == []
    assert till.read(order) == before


@pytest.mark.parametrize("path", ["payments/{}/capture", "payments/{}/void", "payments/{}/refunds"])
def test_what_does_not_exist_is_not_found(till: Till, path: str) -> None:
    answer = till.admin.post("/api/v1/" + path.format(2**62), json={}, headers=fresh_key())

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "PAYMENT_NOT_FOUND")


def test_what_needs_a_person_is_off_the_list_when_one_has_looked(till: Till) -> None:
    order = till.order()
    till.pay(order, "pm_sandbox_rejected")
    [doubtful] = till.payments(order)
    before = till.read(order)

    refused = till.customer.post(f"/api/v1/payments/{doubtful['id']}/review", json={"reason": "mine"})
    looked = till.act(doubtful["id"], "review", {"reason": "the token was mistyped"})

    assert doubtful["review_reason"] == "rejected:parameter_invalid"
    assert till.customer.get(doubtful["status_url"]).json()["review_reason"] is None
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "ROLE_MISSING")
    assert (looked.status_code, looked.json()["review_reason"]) == (200, None)
    assert till.read(order) == before
    entry = till.db.execute(
        "SELECT action, reason FROM audit_entries WHERE target = 'payment' AND target_id = %s ORDER BY id DESC LIMIT 1",
        [doubtful["id"]],
    ).fetchone()
    assert entry == ("payment.finish_review", "the token was mistyped")


def test_a_lost_answer_is_looked_for_when_staff_say_so(till: Till) -> None:
    """Nobody looks by the clock any more; the customer may not ask for it."""
    order = till.order()
    pending = till.pay(order, "pm_sandbox_answer_lost").json()
    till.db.execute("UPDATE payment_attempts SET next_at = NULL WHERE payment_id = %s", [pending["id"]])

    refused = till.customer.post(f"/api/v1/payments/{pending['id']}/look")
    asked = till.act(pending["id"], "look")

    assert refused.status_code == 403
    assert asked.status_code == 200
    wait_until(lambda: till.axes(order) == ("confirmed", "paid"))


def test_the_trail_names_who_asked_and_who_recorded(till: Till) -> None:
    order, payment = take(till)
    request_id = f"req-{secrets.token_hex(8)}"
    path = f"/api/v1/payments/{payment}/refunds"
    body = {"amount": "10.00", "reason": "a broken cup"}
    me = till.admin.get("/api/v1/users/me").json()["id"]

    till.admin.post(path, json=body, headers={**fresh_key(), "X-Request-ID": request_id})

    entries = till.db.execute(
        "SELECT actor, action, target, reason FROM audit_entries WHERE request_id = %s AND action <> 'payment.claim'"
        " ORDER BY id",
        [request_id],
    ).fetchall()
    asked, recorded = f"user:{me}", "job:payments"
    assert sorted(set(entries)) == sorted(
        {
            (asked, "payment.refund", "order", "a broken cup"),
            (asked, "refund.start", "refund", "a broken cup"),
            (asked, "refund.start", "payment_attempt", "a broken cup"),
            (recorded, "payment.refund", "payment_attempt", ""),
            (recorded, "payment.refund", "payment", ""),
            (recorded, "payment.refund", "refund", ""),
            (recorded, "order.settle", "order", ""),
        }
    )
    timeline = till.admin.get(f"/api/v1/orders/{order}/timeline").json()["events"][-2:]
    assert [(e["type"], e["actor"], e["request_id"]) for e in timeline] == [
        ("refund.requested", asked, request_id),
        ("refund.succeeded", recorded, request_id),
    ]
    assert timeline[0]["about"]["refund_minor"] == 1000
