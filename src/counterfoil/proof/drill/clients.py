"""The clients of a drill: each places an order, pays it one to three times with one key, and changes their mind."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from counterfoil.proof.drill.comparison import OurPayment
from counterfoil.proof.drill.door import API_PATH, Door, DrillFailed, Reply
from counterfoil.proof.drill.observer import read_payments
from counterfoil.proof.drill.plan import Attempt, Sequel

# How long a client waits for the end of a payment before it goes on without.
_SETTLE_SECONDS_MAX: Final = 90.0
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Shop:
    """What the clients need of a service: who they are, who staff is, and what there is to buy."""

    customers: Callable[[int], tuple[str, int | None]]  # attempt's number → token, and whom the order is for
    staff_token: str
    product_id: int
    run: str  # keeps the keys of different runs apart


@dataclass(slots=True)
class Tally:
    """What the clients did, for the report. `paid` are orders for which a client read that they are paid."""

    orders: list[int] = field(default_factory=list)
    paid: set[int] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, word: str) -> None:
        """Count one thing that happened."""
        with self.lock:
            self.done[word] += 1


class Clients:
    """All clients of one drill, in threads."""

    def __init__(self, door: Door, shop: Shop, *, stop: threading.Event) -> None:
        """Make clients that have done nothing yet; `stop` ends what they do."""
        self.tally = Tally()
        self._door = door
        self._shop = shop
        self._stop = stop

    def run(self, attempts: Iterable[Attempt], *, clients: int, on_done: Callable[[int], None]) -> None:
        """Make every attempt, `clients` at a time; `on_done` hears how many are done. Raises DrillFailed."""
        with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
            futures = {pool.submit(self._attempt, attempt) for attempt in attempts}
            try:
                self._watch(futures, on_done)
            finally:
                self._stop_unless_done(futures)

    def _watch(self, futures: set[Future[None]], on_done: Callable[[int], None]) -> None:
        waiting, done = futures, 0
        while waiting:
            finished, waiting = wait(waiting, timeout=1.0, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            done += len(finished)
            on_done(len(futures) - sum(not future.done() for future in futures))

    def _stop_unless_done(self, futures: set[Future[None]]) -> None:
        if any(not future.done() or future.exception() for future in futures):
            self._stop.set()
            for future in futures:
                future.cancel()

    # ------------------------------------------------------------ one attempt
    def _attempt(self, attempt: Attempt) -> None:
        token, user_id = self._shop.customers(attempt.number)
        order_id = self._place(attempt, token, user_id)
        if attempt.bad_card:
            declined = self._pay(attempt, order_id, token, card=attempt.bad_card, word="declined", submissions=1)
            self.tally.count(f"bad card: {declined.status}")
            self._wait_until_settled(order_id)
        rival = None
        if attempt.sequel is Sequel.CANCEL_WHILE_PAYING:
            rival = threading.Thread(target=self._cancel, args=[order_id])
            rival.start()
        reply = self._pay(attempt, order_id, token, card=attempt.card, word="pay", submissions=attempt.submissions)
        self.tally.count(f"payment: {reply.status} {reply.code}".strip())
        if rival is not None:
            rival.join()
        payments = self._wait_until_settled(order_id)
        self._go_on(attempt, order_id, payments)

    def _place(self, attempt: Attempt, token: str, user_id: int | None) -> int:
        items = [{"product_id": self._shop.product_id, "quantity": attempt.quantity}]
        body = {"items": items, **({"user_id": user_id} if user_id else {})}
        reply = self._door.post(f"{API_PATH}/orders", token, body, key=self._key(attempt, "place"))
        if reply.status != HTTPStatus.CREATED:
            raise DrillFailed(f"An order was answered {reply.status} {reply.code}; the drill needs orders to pay.")
        order_id = int(reply.fields["id"])
        with self.tally.lock:
            self.tally.orders.append(order_id)
        return order_id

    def _pay(self, attempt: Attempt, order_id: int, token: str, *, card: str, word: str, submissions: int) -> Reply:
        """Submit one payment, several times with the same key; returns the first answer."""
        body = {"method": card, "capture": not attempt.hold_first}
        path, key = f"{API_PATH}/orders/{order_id}/payments", self._key(attempt, word)
        return self._submit(path, token, body, key=key, submissions=submissions, at_once=attempt.at_once)

    def _submit(
        self, path: str, token: str, body: dict[str, object], *, key: str, submissions: int, at_once: bool
    ) -> Reply:
        def send() -> Reply:
            return self._door.post(path, token, body, key=key)

        # One after the other is at once with a single hand.
        with ThreadPoolExecutor(submissions if at_once else 1) as pool:
            futures = [pool.submit(send) for _ in range(submissions)]
            replies = [future.result() for future in futures]
        return replies[0]

    def _wait_until_settled(self, order_id: int) -> tuple[OurPayment, ...]:
        deadline = time.monotonic() + _SETTLE_SECONDS_MAX
        while True:
            payments = read_payments(self._door, order_id, self._shop.staff_token)
            if all(payment.is_settled for payment in payments) or time.monotonic() > deadline:
                return payments
            if self._stop.wait(_LOOK_SECONDS):
                raise DrillFailed("The drill was stopped.")

    def _go_on(self, attempt: Attempt, order_id: int, payments: tuple[OurPayment, ...]) -> None:
        """Take what is held, give back what was taken, or call everything off."""
        staff = self._shop.staff_token
        for payment in _with_money(payments):
            if payment.status == "authorized":
                key = self._key(attempt, f"capture-{payment.id}")
                path = f"{API_PATH}/payments/{payment.id}/capture"
                reply = self._submit(path, staff, {}, key=key, submissions=attempt.submissions, at_once=attempt.at_once)
                self.tally.count(f"capture: {reply.status} {reply.code}".strip())
                if reply.status == HTTPStatus.ACCEPTED:
                    self._wait_until_settled(order_id)
            if attempt.sequel is Sequel.REFUND:
                self._refund(attempt, payment)
        if attempt.sequel is Sequel.CANCEL_AFTERWARDS:
            self._cancel(order_id)

    def _refund(self, attempt: Attempt, payment: OurPayment) -> None:
        """Give everything back."""
        key, path = self._key(attempt, f"refund-{payment.id}"), f"{API_PATH}/payments/{payment.id}/refunds"
        body: dict[str, object] = {"reason": "a drill"}
        reply = self._submit(
            path, self._shop.staff_token, body, key=key, submissions=attempt.submissions, at_once=attempt.at_once
        )
        self.tally.count(f"refund: {reply.status} {reply.code}".strip())

    def _cancel(self, order_id: int) -> None:
        reply = self._door.delete(f"{API_PATH}/orders/{order_id}", self._shop.staff_token)
        self.tally.count(f"cancel: {reply.status} {reply.code}".strip())

    def _key(self, attempt: Attempt, word: str) -> str:
        return f"drill-{self._shop.run}-{attempt.number:06d}-{word}"


def _with_money(payments: tuple[OurPayment, ...]) -> Iterator[OurPayment]:
    return (payment for payment in payments if payment.status in {"authorized", "captured"})
