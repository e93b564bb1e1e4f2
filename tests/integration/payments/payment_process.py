"""The whole life of one payment in one process, repeatable with the same keys: what test_interrupted kills."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import django
from django.conf import settings

django.setup()

from desk import CALLBACK_SECRET, Trace, committed, settle  # noqa: E402 - Django first

from counterfoil.infrastructure.database import run_in_thread  # noqa: E402
from counterfoil.kernel.money import Money  # noqa: E402
from counterfoil.payments import services  # noqa: E402
from counterfoil.payments.dispatcher import Dispatcher  # noqa: E402
from counterfoil.payments.gateways.base import Callback  # noqa: E402
from counterfoil.payments.gateways.registry import Gateways  # noqa: E402
from counterfoil.payments.gateways.sandbox import SandboxGateway  # noqa: E402
from counterfoil.payments.notices import accept_notice  # noqa: E402
from counterfoil.payments.states import PaymentState  # noqa: E402

# A client of its own for each order: keys belong to one.
TRACE = Trace(f"user:{sys.argv[1]}", "req-interrupted")


def main(order_id: int) -> None:
    """Authorise 40.00 with a lost answer, capture 30.00, hear of it, refund 10.00."""
    # Without retries around it: a lost answer stays lost, and is looked for.
    sandbox = SandboxGateway(journal=settings.COUNTERFOIL.sandbox_journal, callback_secrets=[CALLBACK_SECRET])
    gateways = Gateways({"sandbox": sandbox}, primary="sandbox")
    stop = threading.Event()
    worker = threading.Thread(target=Dispatcher(gateways, settle).run, args=[stop])
    worker.start()
    try:
        payment_id = _start(order_id)
        _until(lambda: _state(payment_id) in {PaymentState.AUTHORIZED, PaymentState.CAPTURED})
        _notice(sandbox, gateways, payment_id)
        committed(lambda: services.start_capture(payment_id, amount=Money(3000, "EUR"), client_key="k-2", trace=TRACE))
        _until(lambda: _state(payment_id) is PaymentState.CAPTURED)
        refund_id = committed(
            lambda: services.start_refund(
                payment_id,
                amount=Money(1000, "EUR"),
                reason="test",
                client_key="k-3",
                automatic=False,
                trace=TRACE,
            )
        ).id
        _until(lambda: run_in_thread(services.find_refund, refund_id).status == "succeeded")  # type: ignore[union-attr]
    finally:
        stop.set()
        worker.join()
    print("finished")


def _start(order_id: int) -> int:
    return committed(
        lambda: services.start_payment(
            order_id=order_id,
            amount=Money(4000, "EUR"),
            method="pm_sandbox_answer_lost",
            capture_now=False,
            gateway="sandbox",
            return_url="",
            client_key="k-1",
            trace=TRACE,
        )
    ).id


def _state(payment_id: int) -> PaymentState:
    view = run_in_thread(services.find_payment, payment_id)
    assert view is not None
    return view.status


def _notice(sandbox: SandboxGateway, gateways: Gateways, payment_id: int) -> None:
    view = run_in_thread(services.find_payment, payment_id)
    assert view is not None
    seen = sandbox.read_payment(view.gateway_payment_id)
    callback = Callback(f"evt-{view.order_id}", "payment.updated", datetime.now(UTC), payment=seen)
    verdict = run_in_thread(lambda: accept_notice("sandbox", *sandbox.make_callback(callback), gateways=gateways))
    assert verdict in {"accepted", "duplicate"}, verdict


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]))
