"""Whose money is under way is not forgotten; and what is known about payments is told to who asks."""

from __future__ import annotations

from till import Till, fresh_key, wait_until

TILL = {"COUNTERFOIL_RESOLVER_SPEED": "1"}


def test_an_erasure_waits_for_money_that_is_under_way(till: Till) -> None:
    body = {"items": [{"product_id": till.product(), "quantity": 1}]}
    with till.client("customer") as person:
        order = int(person.post("/api/v1/orders", json=body).json()["id"])
        pending = person.post(
            f"/api/v1/orders/{order}/payments", json={"method": "pm_sandbox_answer_lost"}, headers=fresh_key()
        )
        assert pending.status_code == 202
        person.delete(f"/api/v1/orders/{order}")

        asked = person.delete("/api/v1/users/me")

    assert (asked.status_code, asked.json()["state"]) == (202, "deferred")
    assert asked.json()["reason"] == f"These orders are not finished: {order} (cancelled, its money is under way)."
    wait_until(lambda: _refunded(till, order))
    assert till.read(order)["payment_status"] == "refunded"


def _refunded(till: Till, order: int) -> bool:
    till.look_now()
    return till.axes(order) == ("cancelled", "refunded")


def test_payments_and_refunds_are_in_what_a_person_takes_along(till: Till) -> None:
    order = till.order()
    till.pay(order, "pm_card_visa_chargeDeclined")
    payment = till.pay(order).json()
    refund = till.act(payment["id"], "refunds", {"amount": "10.00", "reason": "a broken cup"}).json()

    found = till.customer.get("/api/v1/users/me/export").json()

    assert [(p["order_id"], p["status"], p["amount"], p["refunded"]) for p in found["payments"]] == [
        (order, "failed", "40.00", "0.00"),
        (order, "captured", "40.00", "10.00"),
    ]
    assert [(r["id"], r["payment_id"], r["amount"], r["reason"]) for r in found["refunds"]] == [
        (refund["id"], payment["id"], "10.00", "a broken cup")
    ]
