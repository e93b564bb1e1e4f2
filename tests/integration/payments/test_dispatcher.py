from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from desk import Desk, settle

from counterfoil.kernel.money import Money
from counterfoil.payments.dispatcher import Dispatcher


@contextmanager
def dispatching(desk: Desk) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=Dispatcher(desk.gateways, settle).run, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(40)
        assert not thread.is_alive()


def eventually(is_true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_a_dispatcher_makes_what_is_due_and_is_woken_by_what_becomes_due(desk: Desk) -> None:
    before = desk.start()

    with dispatching(desk):
        eventually(lambda: desk.read(before).status == "authorized")
        desk.capture(before)
        eventually(lambda: desk.read(before).status == "captured")

    assert desk.read(before).captured == Money(4000, "EUR")
