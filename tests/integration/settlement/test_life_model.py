"""The whole life of orders and their money against a model in plain Python, in any order of steps (G33)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from till import Till, fresh_key, wait_until

PRICE = 2000
STOCK = 100_000
RUNS = int(os.environ.get("COUNTERFOIL_TEST_MODEL_RUNS", "6"))
STEPS = int(os.environ.get("COUNTERFOIL_TEST_MODEL_STEPS", "30"))
API = "/api/v1"


@dataclass
class Payment:
    """One payment of the model; amounts in cents."""

    id: int
    amount: int
    status: str
    captured: int = 0
    refunded: int = 0


@dataclass
class Order:
    """What the model knows of one order."""

    id: int
    quantity: int
    status: str = "created"
    shipped: int = 0
    delivered: int = 0
    returned: int = 0
    open_return: tuple[int, int] | None = None
    payments: list[Payment] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.quantity * PRICE

    @property
    def held(self) -> int:
        return sum(payment.amount for payment in self.payments if payment.status == "authorized")

    @property
    def captured(self) -> int:
        return sum(payment.captured for payment in self.payments)

    @property
    def refunded(self) -> int:
        return sum(payment.refunded for payment in self.payments)

    @property
    def missing(self) -> int:
        return self.total - self.held - self.captured + self.refunded

    @property
    def payment_status(self) -> str:
        if self.refunded:
            return "refunded" if self.refunded == self.captured else "partially_refunded"
        if self.captured > self.total:
            return "overpaid"
        if self.captured == self.total:
            return "paid"
        if self.captured:
            return "partially_paid"
        return "authorized" if self.held >= self.total else "unpaid"

    @property
    def fulfillment_status(self) -> str:
        if not self.shipped:
            return "unfulfilled"
        return "partially_fulfilled" if self.shipped < self.quantity else "fulfilled"

    @property
    def return_status(self) -> str:
        if self.returned:
            return "returned" if self.returned == self.shipped else "partially_returned"
        return "requested" if self.open_return else "none"

    def cover(self) -> None:
        """Confirm the order when what is held and taken reaches its total."""
        if self.status == "created" and self.missing <= 0:
            self.status = "confirmed"


class Life(RuleBasedStateMachine):
    """Every rule does one thing to both, and compares the answers; the invariants compare everything."""

    orders: Bundle[Order] = Bundle("orders")
    till: Till

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Order] = []
        self.on_hand = STOCK
        self.product = 0

    @initialize()
    def open_shop(self) -> None:
        self.product = self.till.product(stock=STOCK, price="20.00")

    # ------------------------------------------------------------ orders
    @rule(target=orders, quantity=st.integers(1, 3))
    def place(self, quantity: int) -> Order:
        order = Order(self.till.order(product=self.product, quantity=quantity), quantity)
        self.known.append(order)
        return order

    @rule(order=orders)
    def confirm_on_terms(self, order: Order) -> None:
        answer = self._staff(f"orders/{order.id}/confirm", {})
        if order.status in {"created", "confirmed"}:
            self._done(answer, 200)
            order.status = "confirmed"
        else:
            self._refused(answer, "ACTION_NOT_ALLOWED")

    @rule(order=orders, refund=st.booleans(), restock=st.booleans())
    def cancel(self, order: Order, *, refund: bool, restock: bool) -> None:
        answer = self._staff(f"orders/{order.id}/cancel", {"reason": "other", "refund": refund, "restock": restock})
        if order.status == "cancelled":
            self._done(answer, 200)
            return
        if order.status == "completed" or order.shipped:
            self._refused(answer, "ACTION_NOT_ALLOWED")
            return
        self._done(answer, 200)
        order.status = "cancelled"
        self.on_hand -= 0 if restock else order.quantity
        for payment in order.payments:
            if payment.status == "authorized":
                payment.status = "cancelled"
            elif refund:
                payment.refunded = payment.captured

    @rule(order=orders)
    def complete(self, order: Order) -> None:
        answer = self._staff(f"orders/{order.id}/complete", {})
        is_paid = order.payment_status in {"paid", "overpaid", "partially_refunded", "refunded"}
        if order.status == "completed":
            self._done(answer, 200)
        elif order.status == "confirmed" and order.shipped == order.quantity and is_paid and not order.open_return:
            self._done(answer, 200)
            order.status = "completed"
        else:
            self._refused(answer, "ACTION_NOT_ALLOWED")

    # ------------------------------------------------------------ money
    @rule(order=orders, capture=st.booleans(), part=st.booleans())
    def pay(self, order: Order, *, capture: bool, part: bool) -> None:
        amount = max(1, order.missing // 2) if part else order.missing
        more = {"amount": f"{amount / 100:.2f}"} if part else {}
        answer = self.till.pay(order.id, capture=capture, **more)
        if not self._may_be_paid(order):
            self._refused(answer, "ACTION_NOT_ALLOWED")
            return
        self._done(answer, 201)
        status = "captured" if capture else "authorized"
        order.payments.append(Payment(answer.json()["id"], amount, status, captured=amount if capture else 0))
        order.cover()

    @rule(order=orders)
    def pay_with_a_bad_card(self, order: Order) -> None:
        answer = self.till.pay(order.id, "pm_card_visa_chargeDeclined")
        if not self._may_be_paid(order):
            self._refused(answer, "ACTION_NOT_ALLOWED")
            return
        assert answer.status_code == 402, answer.text

    @rule(order=orders)
    def capture(self, order: Order) -> None:
        for payment in order.payments[-1:]:
            answer = self.till.act(payment.id, "capture", {})
            if payment.status == "authorized":
                self._done(answer, 200)
                payment.status, payment.captured = "captured", payment.amount
            else:
                self._refused(answer, "PAYMENT_ACTION_NOT_ALLOWED")

    @rule(order=orders, share=st.sampled_from([1, 2, 3]))
    def refund(self, order: Order, share: int) -> None:
        for payment in order.payments[-1:]:
            amount = max(1, payment.amount // share)
            answer = self.till.act(payment.id, "refunds", {"amount": f"{amount / 100:.2f}"})
            if payment.captured - payment.refunded >= amount:
                self._done(answer, 201)
                payment.refunded += amount
            else:
                assert answer.status_code == 409, answer.text

    # ------------------------------------------------------------ goods
    @rule(order=orders, quantity=st.integers(1, 3))
    def ship(self, order: Order, quantity: int) -> None:
        answer = self._staff(f"orders/{order.id}/fulfillments", {"items": self._items(quantity)})
        if order.status != "confirmed" or order.shipped == order.quantity:
            self._refused(answer, "ACTION_NOT_ALLOWED")
        elif quantity > order.quantity - order.shipped:
            assert answer.status_code == 409, answer.text
        else:
            self._done(answer, 201)
            self._done(self._staff(f"fulfillments/{answer.json()['id']}/ship", {}), 200)
            order.shipped += quantity
            self.on_hand -= quantity

    @rule(order=orders, quantity=st.integers(1, 3))
    def ask_for_a_return(self, order: Order, quantity: int) -> None:
        if order.open_return:
            return
        body = {"items": self._items(quantity), "reason": "other"}
        path = f"{API}/orders/{order.id}/returns"
        answer = self.till.customer.post(path, json=body, headers=fresh_key())
        if order.status != "confirmed" or not order.shipped:
            self._refused(answer, "ACTION_NOT_ALLOWED")
        elif quantity > order.shipped - order.returned:
            assert answer.status_code == 409, answer.text
        else:
            self._done(answer, 201)
            order.open_return = (answer.json()["id"], quantity)

    @rule(order=orders, is_damaged=st.booleans())
    def take_the_return_in(self, order: Order, *, is_damaged: bool) -> None:
        if order.open_return is None:
            return
        number, quantity = order.open_return
        line = {"product_id": self.product, "damaged" if is_damaged else "restocked": quantity}
        self._done(self._staff(f"returns/{number}/approve", {}), 200)
        self._done(self._staff(f"returns/{number}/receive", {"items": [line]}), 200)
        self._done(self._staff(f"returns/{number}/close", {}), 200)
        order.open_return = None
        order.returned += quantity
        self.on_hand += 0 if is_damaged else quantity

    # ------------------------------------------------------------ invariants
    @invariant()
    def every_order_is_what_the_model_says(self) -> None:
        for order in self.known:
            wait_until(lambda order=order: self._is_at_rest(order))  # type: ignore[misc]
        rows = self.till.db.execute(
            "SELECT id, status, payment_status, fulfillment_status, return_status, authorized_amount * 100,"
            " captured_amount * 100, refunded_amount * 100, payment_in_flight, payment_unknown"
            " FROM orders WHERE id = ANY (%s)",
            [[order.id for order in self.known]],
        ).fetchall()
        assert {row[0]: row[1:] for row in rows} == {
            o.id: (
                *(o.status, o.payment_status, o.fulfillment_status, o.return_status),
                *(o.held, o.captured, o.refunded, False, False),
            )
            for o in self.known
        }

    @invariant()
    def the_gateway_has_what_the_model_says(self) -> None:
        for order in self.known[-1:]:
            captured = [taken for status, taken in self.till.charges(order.id) if status != "declined"]
            assert captured == [payment.captured for payment in order.payments]
            assert sum(self.till.given_back(order.id)) == order.refunded

    @invariant()
    def stock_is_what_the_model_says(self) -> None:
        if not self.known:
            return
        reserved = sum(order.quantity for order in self.known if order.status == "created")
        allocated = sum(order.quantity - order.shipped for order in self.known if order.status == "confirmed")
        assert self.till.stock(self.known[0].id) == [(self.on_hand, reserved, allocated)]

    # ------------------------------------------------------------ steps
    def _may_be_paid(self, order: Order) -> bool:
        return order.status in {"created", "confirmed"} and order.missing > 0

    def _is_at_rest(self, order: Order) -> bool:
        return self.till.db.execute(
            "SELECT NOT EXISTS (SELECT FROM payment_attempts a JOIN payments p ON p.id = a.payment_id"
            " WHERE p.order_id = %s AND a.next_at IS NOT NULL)",
            [order.id],
        ).fetchone() == (True,)

    def _items(self, quantity: int) -> list[dict[str, int]]:
        return [{"product_id": self.product, "quantity": quantity}]

    def _staff(self, path: str, body: Any) -> httpx.Response:
        return self.till.admin.post(f"{API}/{path}", json=body, headers=fresh_key())

    def _done(self, answer: httpx.Response, status: int) -> None:
        assert answer.status_code == status, answer.text

    def _refused(self, answer: httpx.Response, code: str) -> None:
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, code), answer.text


def run_model(till: Till, *, runs: int, steps: int) -> None:
    assert till.pay(till.order()).status_code == 201  # from here on the gateway has a journal to read
    bound = type("BoundLife", (Life,), {"till": till})
    # `print_blob` gives the line that repeats a failure; the runs differ each time.
    limits = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(bound, settings=limits)  # type: ignore[no-untyped-call]


def test_orders_and_their_money_live_as_the_model_does(till: Till) -> None:
    run_model(till, runs=RUNS, steps=STEPS)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_orders_and_their_money_live_as_the_model_does_in_many_runs(till: Till) -> None:
    run_model(till, runs=500, steps=50)
