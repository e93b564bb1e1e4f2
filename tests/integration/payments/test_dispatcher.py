"""The worker's loop: takes what is due, holds nothing while it waits, keeps what it holds, and ends well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from desk import Desk, settle
from gateways_at_fault import Counting

from counterfoil.infrastructure.database import DatabaseBusy, run_in_thread
from counterfoil.kernel.money import Money
from counterfoil.payments import services
from counterfoil.payments.calls import Outcome
from counterfoil.payments.dispatcher import Dispatcher
from counterfoil.payments.gateways.base import GatewayPayment, PaymentRequest
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.views import Call


class Slow(Counting):
    """Waits with every payment until it is let go."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        self.entered.release()
        assert self.go.wait(30)
        return super().authorise(request)


@contextmanager
def dispatching(
    desk: Desk, settle: Callable[[Call, Outcome], object] = settle, threads: int = 8
) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=Dispatcher(desk.gateways, settle, threads).run, args=[stop])
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(40)
        assert not thread.is_alive()


def eventually(is_true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


@pytest.fixture
def slow(desk: Desk) -> Slow:
    """The desk's gateway, which lets nobody go."""
    gateway = Slow()
    desk.sandbox, desk.gateways = gateway, Gateways({"sandbox": gateway}, primary="sandbox")
    # What other tests have left would take the threads.
    desk.db.execute("UPDATE payment_attempts SET next_at = NULL WHERE next_at IS NOT NULL")
    return gateway


def test_a_dispatcher_makes_what_is_due_and_is_woken_by_what_becomes_due(desk: Desk) -> None:
    before = desk.start()

    with dispatching(desk):
        eventually(lambda: desk.read(before).status == "authorized")
        desk.capture(before)
        eventually(lambda: desk.read(before).status == "captured")

    assert desk.read(before).captured == Money(4000, "EUR")


def test_no_connection_lock_or_transaction_is_held_while_a_gateway_is_waited_for(desk: Desk, slow: Slow) -> None:
    from django import db as django_db

    payment = desk.start()
    held: list[bool] = []

    def look(request: PaymentRequest) -> GatewayPayment:
        held.append(django_db.connection.connection is not None)
        return Slow.authorise(slow, request)

    slow.authorise = look  # type: ignore[method-assign]
    with dispatching(desk):
        assert slow.entered.acquire(timeout=15)

        assert held == [False]
        # Whoever wants the rows has them at once.
        with desk.db.transaction():
            desk.db.execute("SET LOCAL lock_timeout = '100ms'")
            desk.db.execute("SELECT 1 FROM orders WHERE id = %s FOR UPDATE", [desk.order_id])
            desk.db.execute("SELECT 1 FROM payments WHERE id = %s FOR UPDATE", [payment.id])
            desk.db.execute("SELECT 1 FROM payment_attempts WHERE payment_id = %s FOR UPDATE", [payment.id])
        slow.go.set()
        eventually(lambda: desk.read(payment).status == "authorized")


def test_a_worker_that_was_only_slow_cannot_record_any_more(desk: Desk) -> None:
    payment = desk.start()
    [slow_call] = desk.claim()
    outcome = desk.execute(slow_call)
    desk.make_due()
    assert desk.work() == ["payment.authorized"]
    recorded = desk.read(payment)

    assert settle(slow_call, outcome) == []

    assert desk.read(payment) == recorded
    assert desk.attempts() == [("authorise", "succeeded", "sandbox", "")]


def test_a_call_is_in_one_workers_hands(desk: Desk) -> None:
    desk.start()

    assert [len(desk.claim()), len(desk.claim())] == [1, 0]


def test_the_call_of_a_killed_worker_is_looked_at_when_its_lease_has_ended(desk: Desk) -> None:
    gateway = Counting()
    desk.sandbox, desk.gateways = gateway, Gateways({"sandbox": gateway}, primary="sandbox")
    desk.start()
    [lost] = desk.claim()
    desk.execute(lost)
    lease = desk.db.execute(
        "SELECT extract(epoch FROM lease_until - now()) FROM payment_attempts WHERE id = %s", [lost.attempt_id]
    ).fetchone()
    assert lease is not None
    assert 40 < lease[0] <= services.LEASE_SECONDS
    desk.make_due()

    assert desk.work() == ["payment.authorized"]

    assert len(gateway.sent) == 1


def test_a_beat_keeps_a_call_and_not_one_that_somebody_else_has(desk: Desk) -> None:
    desk.start()
    [first] = desk.claim()
    desk.make_due()
    [second] = desk.claim()
    lease = "SELECT lease_until FROM payment_attempts WHERE id = %s"
    before = desk.db.execute(lease, [first.attempt_id]).fetchone()

    run_in_thread(services.extend_leases, [first])
    assert desk.db.execute(lease, [first.attempt_id]).fetchone() == before
    run_in_thread(services.extend_leases, [second])

    after = desk.db.execute(lease, [first.attempt_id]).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] > before[0]


def test_a_dispatcher_that_is_told_to_stop_finishes_what_is_under_way_and_takes_nothing_more(
    desk: Desk, slow: Slow
) -> None:
    payment = desk.start()
    with dispatching(desk) as stop:
        assert slow.entered.acquire(timeout=15)
        stop.set()
        slow.go.set()

    assert desk.read(payment).status == "authorized"


def test_a_full_dispatcher_takes_no_more_than_it_has_threads(
    desk: Desk, slow: Slow, payable_order: Callable[[], int]
) -> None:
    desks = [desk, *(Desk(payable_order(), desk.db) for _ in range(3))]
    for each in desks:
        each.start()
    with dispatching(desk, threads=2):
        assert slow.entered.acquire(timeout=15)
        assert slow.entered.acquire(timeout=15)
        running = "SELECT count(*) FROM payment_attempts WHERE state = 'running' AND lease_until > now()"
        assert not slow.entered.acquire(timeout=1.5)
        count = desk.db.execute(f"{running} AND created_by = ANY (%s)".encode(), [[d.trace.principal for d in desks]])
        assert count.fetchone() == (2,)
        slow.go.set()
        eventually(lambda: all(each.attempts()[0][1] == "succeeded" for each in desks))


def test_two_dispatchers_send_each_payment_once(desk: Desk, payable_order: Callable[[], int]) -> None:
    gateway = Counting()
    desk.sandbox, desk.gateways = gateway, Gateways({"sandbox": gateway}, primary="sandbox")
    desks = [desk, *(Desk(payable_order(), desk.db) for _ in range(11))]
    with dispatching(desk, threads=3), dispatching(desk, threads=3):
        payments = [each.start() for each in desks]
        eventually(lambda: all(desk.read(payment).status == "authorized" for payment in payments))

    mine = {
        row[0]
        for each in desks
        for row in each.db.execute(
            "SELECT gateway_key FROM payment_attempts a JOIN payments p ON p.id = a.payment_id WHERE p.order_id = %s",
            [each.order_id],
        )
    }
    sent = [key for _, key in gateway.sent if key in mine]
    assert sorted(sent) == sorted(mine)


def test_an_answer_in_hand_is_recorded_when_the_database_is_busy_for_a_moment(desk: Desk) -> None:
    payment = desk.start()
    tries: list[int] = []

    def settle_at_the_third_try(call: Call, outcome: Outcome) -> object:
        if call.order_id == desk.order_id:
            tries.append(call.attempt_id)
            if len(tries) < 3:
                raise DatabaseBusy
        return settle(call, outcome)

    with dispatching(desk, settle_at_the_third_try):
        eventually(lambda: desk.read(payment).status == "authorized")

    assert len(tries) == 3


def test_a_bug_in_a_gateway_is_unknown_and_not_met_again_at_once(desk: Desk) -> None:
    class Broken(Counting):
        def authorise(self, request: PaymentRequest) -> GatewayPayment:
            self.sent.append(("authorise", request.key))
            raise ZeroDivisionError

    gateway = Broken()
    desk.sandbox, desk.gateways = gateway, Gateways({"sandbox": gateway}, primary="sandbox")
    payment = desk.start()
    with dispatching(desk):
        eventually(lambda: desk.read(payment).status == "unknown")

    assert desk.read(payment).review_reason == "unknown:bug"
    waits = desk.db.execute(
        "SELECT extract(epoch FROM next_at - now()) > 5 FROM payment_attempts WHERE payment_id = %s", [payment.id]
    ).fetchone()
    assert waits == (True,)


def test_a_dispatcher_listens_again_when_its_connection_is_cut(desk: Desk) -> None:
    listening = (
        "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN counterfoil_calls' AND datname = current_database()"
    )

    def pids() -> list[int]:
        return [row[0] for row in desk.db.execute(listening.encode())]

    with dispatching(desk):
        eventually(lambda: len(pids()) == 1)
        [first] = pids()
        desk.db.execute("SELECT pg_terminate_backend(%s)", [first])
        eventually(lambda: len(pids()) == 1 and pids() != [first])
        payment = desk.start()
        eventually(lambda: desk.read(payment).status == "authorized")
