"""Killed in the middle of a payment: a web process that waits, a worker that calls. Another one finishes it, once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from till import Till, fresh_key, wait_until

# Workers are the test's own; a lease or a look that is due is brought about by `look_now`.
TILL = {"worker": False, "COUNTERFOIL_RESOLVER_SPEED": "1"}
PAID = ["payment.started", "payment.captured", "order.confirmed"]


def begin(till: Till, order: int, key: dict[str, str], method: str = "pm_card_visa") -> threading.Thread:
    """Pay in a thread of its own, whatever becomes of it."""

    def send() -> None:
        with suppress(httpx.TransportError):
            till.pay(order, method, headers=key)

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: till.payments(order))
    return thread


def paid(till: Till, order: int) -> bool:
    till.look_now()
    return till.axes(order) == ("confirmed", "paid")


@pytest.mark.parametrize(
    "point",
    [
        "claim.committed",
        "call.before_send",
        "call.answered",
        "record.ledger_written",
        "settle.committed",
    ],
)
def test_what_a_killed_worker_leaves_is_finished_by_the_next_one(till: Till, point: str) -> None:
    order = till.order()
    key = fresh_key()
    waiting = begin(till, order, key)

    with till.worker(COUNTERFOIL_FAILPOINTS=point) as doomed:
        assert doomed.wait(30) == 137
    with till.worker():
        wait_until(lambda: paid(till, order))
        waiting.join()
        answer = till.pay(order, headers=key)

    assert (answer.status_code, answer.json()["status"]) == (201, "captured")
    assert till.charges(order) == [("captured", 4000)]
    assert till.events(order) in (PAID, ["payment.started", "payment.unknown", "payment.captured", "order.confirmed"])
    assert till.stock(order) == [(100, 0, 2)]
    assert till.db.execute("SELECT count(*) FROM ledger_entries WHERE order_id = %s", [order]).fetchone() == (2,)


def test_a_web_process_that_is_killed_while_it_waits_loses_nothing(till: Till) -> None:
    order, key = till.order(), fresh_key()
    body = {"method": "pm_card_visa"}
    token = till.customer.headers["Authorization"]
    with till.web() as doomed:
        outcome: list[BaseException | httpx.Response] = []

        def send() -> None:
            try:
                outcome.append(
                    httpx.post(
                        f"{doomed.url}/api/v1/orders/{order}/payments",
                        json=body,
                        headers={**key, "Authorization": token},
                        timeout=30,
                    )
                )
            except httpx.TransportError as error:
                outcome.append(error)

        waiting = threading.Thread(target=send)
        waiting.start()
        wait_until(lambda: till.payments(order))
        for pid in children_of(doomed.process.pid):
            os.kill(pid, signal.SIGKILL)
        doomed.process.kill()
        waiting.join(20)

    assert isinstance(outcome[0], httpx.TransportError)
    assert till.events(order) == ["payment.started"]
    with till.worker():
        answer = till.pay(order, headers=key)
    assert (answer.status_code, answer.json()["status"]) == (201, "captured")
    assert till.events(order) == PAID
    assert len(till.payments(order)) == 1
    assert till.charges(order) == [("captured", 4000)]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("point", ["start.begun", "start.payment_written", "start.attempt_written"])
def test_a_web_process_that_is_killed_before_the_commit_has_begun_nothing(till: Till, point: str) -> None:
    order, key = till.order(), fresh_key()
    before = till.read(order)

    with till.web(COUNTERFOIL_FAILPOINTS=point) as doomed, pytest.raises(httpx.TransportError):
        httpx.post(
            f"{doomed.url}/api/v1/orders/{order}/payments",
            json={"method": "pm_card_visa"},
            headers={**key, "Authorization": till.customer.headers["Authorization"]},
            timeout=30,
        )

    assert till.read(order) == before
    assert till.payments(order) == []
    with till.worker():
        answer = till.pay(order, headers=key)
    assert answer.status_code == 201
    assert till.charges(order) == [("captured", 4000)]


def test_without_a_worker_a_payment_waits_ten_seconds_and_is_not_lost(till: Till) -> None:
    order, key = till.order(), fresh_key()

    pending = till.pay(order, headers=key)

    assert (pending.status_code, pending.json()["result"]) == (202, "payment_pending")
    assert pending.elapsed.total_seconds() == pytest.approx(10, abs=1.5)
    assert "idempotent-replayed" not in pending.headers
    with till.worker():
        answer = till.pay(order, headers=key)
    assert (answer.status_code, answer.json()["id"]) == (201, pending.json()["id"])
    assert till.charges(order) == [("captured", 4000)]


def test_those_who_wait_hold_neither_thread_nor_connection(till: Till) -> None:
    """Sixty wait for a worker that is not there; the pool has eight connections and forty threads serve requests."""
    orders = [till.order() for _ in range(60)]
    threads = [begin_only(till, order) for order in orders]
    wait_until(lambda: till.db.execute("SELECT count(*) FROM payments WHERE status = 'processing'").fetchone() == (60,))

    seconds = []
    for _ in range(20):
        answer = till.customer.get(f"/api/v1/orders/{orders[0]}/payments")
        assert answer.status_code == 200
        seconds.append(answer.elapsed.total_seconds())
    busy = till.db.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
        " AND pid <> pg_backend_pid()"
    ).fetchone()

    assert sorted(seconds)[10] < 0.2
    assert busy is not None
    assert busy[0] <= 2
    with till.worker():
        for thread in threads:
            thread.join()
        wait_until(lambda: all(till.axes(order) == ("confirmed", "paid") for order in orders))
    assert [till.charges(order) for order in orders] == [[("captured", 4000)]] * 60


def begin_only(till: Till, order: int) -> threading.Thread:
    thread = threading.Thread(target=lambda: till.pay(order))
    thread.start()
    return thread
