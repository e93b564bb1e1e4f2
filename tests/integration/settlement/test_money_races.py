"""Released together: pay and cancel, two refunds, many partial refunds and kills, pay and expire (G3, G4, G16)."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx
import pytest
from till import Till, fresh_key, wait_until

T = TypeVar("T")
TILL = {"worker": False}
ROUNDS = int(os.environ.get("COUNTERFOIL_TEST_RACE_ROUNDS", "16"))
REFUNDED_ORDERS = int(os.environ.get("COUNTERFOIL_TEST_REFUNDED_ORDERS", "100"))
HOLDS = int(os.environ.get("COUNTERFOIL_TEST_HOLDS", "200"))
SEED = int(os.environ.get("COUNTERFOIL_TEST_SEED", "7"))


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls in threads that are released together; returns their results in order."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def statuses(answers: Sequence[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def kept(till: Till, order: int) -> int:
    """What the sandbox has taken for an order and not given back, by its own journal."""
    return sum(captured for _, captured in till.charges(order)) - sum(till.given_back(order))


def is_at_rest(till: Till, order: int) -> bool:
    return till.db.execute(
        "SELECT NOT EXISTS (SELECT FROM payment_attempts a JOIN payments p ON p.id = a.payment_id"
        " WHERE p.order_id = %s AND a.next_at IS NOT NULL)",
        [order],
    ).fetchone() == (True,)


def come_to_rest(till: Till, orders: Sequence[int]) -> None:
    for order in orders:
        wait_until(lambda order=order: is_at_rest(till, order), seconds=60)  # type: ignore[misc]


# ---------------------------------------------------------------- G3
def test_of_pay_and_cancel_at_once_the_order_is_paid_or_off_and_never_both(till: Till) -> None:
    product = till.product(stock=10_000)
    outcomes: Counter[str] = Counter()
    with till.worker():
        for _ in range(ROUNDS):
            order = till.order(product=product)
            pays = [lambda order=order: till.pay(order) for _ in range(4)]  # type: ignore[misc]
            cancels = [lambda order=order: till.customer.delete(f"/api/v1/orders/{order}") for _ in range(4)]  # type: ignore[misc]
            answers = at_once([*pays, *cancels])
            come_to_rest(till, [order])
            status = till.read(order)["status"]

            assert statuses(answers).keys() <= {200, 201, 202, 204, 402, 409}, statuses(answers)
            assert statuses(answers[:4])[201] <= 1
            assert kept(till, order) == (4000 if status == "confirmed" else 0)
            assert (status == "cancelled") is (204 in statuses(answers[4:]))
            outcomes[status] += 1
    assert set(outcomes) <= {"confirmed", "cancelled"}
    assert sum(outcomes.values()) == ROUNDS
    till.require_identities()


def test_of_ten_refunds_of_everything_at_once_one_is_made(till: Till) -> None:
    product = till.product(stock=10_000)
    with till.worker():
        for _ in range(ROUNDS):
            order = till.order(product=product)
            payment = till.pay(order).json()["id"]

            answers = at_once([lambda payment=payment: till.act(payment, "refunds", {}) for _ in range(10)])  # type: ignore[misc]
            come_to_rest(till, [order])

            assert statuses(answers) in ({201: 1, 409: 9}, {202: 1, 409: 9})
            assert till.refunds(order) == [("succeeded", "40.00", False)]
            assert till.given_back(order) == [4000]
            assert till.axes(order) == ("confirmed", "refunded")
    till.require_identities()


# ---------------------------------------------------------------- G16
def test_partial_refunds_at_once_and_killed_workers_give_back_no_more_than_was_taken(till: Till) -> None:
    product = till.product(stock=10_000)
    with till.worker():
        orders = [till.order(product=product) for _ in range(REFUNDED_ORDERS)]
        with ThreadPoolExecutor(8) as pool:
            payments = list(pool.map(lambda order: till.pay(order).json()["id"], orders))
    stop = threading.Event()
    kills = []

    def keep_killing() -> None:
        while not stop.is_set():
            with till.worker() as worker:
                if not stop.wait(3.0):
                    worker.kill()
                    worker.wait(10)
                    kills.append(worker.pid)
            till.look_now()

    # Twenty for each order, each a fifth of it: five fit.
    requests = [payment for payment in payments for _ in range(20)]
    random.Random(SEED).shuffle(requests)
    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda payment: till.act(payment, "refunds", {"amount": "8.00"}), requests))
    finally:
        stop.set()
        killer.join()
    with till.worker():
        till.look_now()
        come_to_rest(till, orders)

    assert kills
    assert statuses(answers)[409] == 15 * REFUNDED_ORDERS
    assert statuses(answers)[201] + statuses(answers)[202] == 5 * REFUNDED_ORDERS
    assert {tuple(till.given_back(order)) for order in orders} == {(800,) * 5}
    assert {tuple(till.refunds(order)) for order in orders} == {(("succeeded", "8.00", False),) * 5}
    till.require_identities()


# ---------------------------------------------------------------- G4
def test_who_pays_when_the_time_runs_out_has_the_order_or_the_money_never_neither(till: Till) -> None:
    product = till.product(stock=2 * HOLDS)
    draw = random.Random(SEED)
    delays = [draw.uniform(-0.05, 0.05) for _ in range(HOLDS)]

    def pay_at_expiry(delay: float) -> tuple[int, httpx.Response]:
        order = till.order(product=product)
        row = till.db.execute(
            "UPDATE orders SET reserved_until = clock_timestamp() + interval '0.3 s' WHERE id = %s"
            " RETURNING extract(epoch FROM reserved_until)::float",
            [order],
        ).fetchone()
        assert row is not None
        time.sleep(max(0.0, row[0] + delay - time.time()))
        return order, till.pay(order, headers=fresh_key())

    with till.worker(), ThreadPoolExecutor(8) as pool:
        results = list(pool.map(pay_at_expiry, delays))
        orders = [order for order, _ in results]
        come_to_rest(till, orders)
        # An order whose time is over reads as expired at once; its stock comes back when the worker has been there.
        wait_until(lambda: till.stock(orders[0])[0][1] == 0, seconds=60)
        come_to_rest(till, orders)

    ends = Counter((till.axes(order), kept(till, order)) for order in orders)
    assert set(ends) <= {(("confirmed", "paid"), 4000), (("expired", "unpaid"), 0), (("expired", "refunded"), 0)}
    assert statuses([answer for _, answer in results]).keys() <= {201, 202, 409}
    # Both sides of the instant were met, or this has shown nothing.
    assert len({status for (status, _), _ in ends}) == 2, ends
    sold = sum(count for ((status, _), _), count in ends.items() if status == "confirmed")
    assert till.stock(orders[0]) == [(2 * HOLDS, 0, 2 * sold)]
    till.require_identities()


# ---------------------------------------------------------------- on its way out
def wait_for_call(till: Till, order: int, operation: str) -> None:
    """Wait until a call is written down, and keep it from every worker."""
    wait_until(
        lambda: till.db.execute(
            "UPDATE payment_attempts SET next_at = now() + interval '1 hour' WHERE operation = %s AND payment_id IN"
            " (SELECT id FROM payments WHERE order_id = %s) RETURNING 1",
            [operation, order],
        ).fetchall()
    )


def let_go(till: Till, order: int, operation: str) -> None:
    till.db.execute(
        "UPDATE payment_attempts SET next_at = now() WHERE operation = %s AND payment_id IN"
        " (SELECT id FROM payments WHERE order_id = %s)",
        [operation, order],
    )


@pytest.mark.parametrize("way_out", ["refund", "void", "refused refund"])
def test_money_on_its_way_out_confirms_no_order(till: Till, way_out: str) -> None:
    order = till.order()
    with till.worker():
        first = till.pay(order, amount="15.00", capture=way_out != "void").json()["id"]
    with ThreadPoolExecutor(2) as pool:
        paid = pool.submit(till.pay, order, amount="25.00")
        wait_until(lambda: len(till.payments(order)) == 2)
        action, body = ("void", None) if way_out == "void" else ("refunds", {})
        back = pool.submit(till.act, first, action, body)
        operation = action.removesuffix("s")
        wait_for_call(till, order, operation)
        with till.worker():
            assert paid.result().status_code == 201
            between = till.axes(order)
            if way_out == "refused refund":
                # The gateway gives back no more than it took.
                till.db.execute(
                    "UPDATE payment_attempts SET amount = 16 WHERE refund_id IS NOT NULL AND payment_id = %s", [first]
                )
            let_go(till, order, operation)
            back.result()
            come_to_rest(till, [order])

    assert between[0] == "created"
    refused = way_out == "refused refund"
    assert till.axes(order)[0] == ("confirmed" if refused else "created")
    assert kept(till, order) == (4000 if refused else 2500)


def test_a_hold_that_could_not_be_captured_is_released_when_its_order_is_off(till: Till) -> None:
    order = till.order()
    with till.worker():
        payment = till.pay(order, capture=False).json()["id"]
    with ThreadPoolExecutor(1) as pool:
        captured = pool.submit(till.act, payment, "capture", {})
        wait_for_call(till, order, "capture")
        assert till.admin.delete(f"/api/v1/orders/{order}").status_code == 204
        # The gateway takes no more than it holds.
        till.db.execute(
            "UPDATE payment_attempts SET amount = 41 WHERE operation = 'capture' AND payment_id = %s", [payment]
        )
        with till.worker():
            let_go(till, order, "capture")
            assert captured.result().status_code in {202, 409}
            come_to_rest(till, [order])

    assert till.axes(order) == ("cancelled", "unpaid")
    assert till.charges(order) == [("voided", 0)]
