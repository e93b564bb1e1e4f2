"""Money of the security tests: taken and given back by a worker in the test's own process, for one order at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def take_and_refund(order_id: int, owner_id: int) -> tuple[int, int]:
    """Pay an order of an account in the sandbox, and give a cent back; returns the payment's id and the refund's."""
    from counterfoil.orders import paying
    from counterfoil.orders.commands import Trace
    from counterfoil.orders.history import OrderView
    from counterfoil.payments.gateways.registry import Gateways
    from counterfoil.payments.gateways.sandbox import SandboxGateway
    from counterfoil.users.permissions import Actor, Role

    gateways = Gateways({"sandbox": SandboxGateway()}, primary="sandbox")
    owner, trace = Actor(owner_id, Role.CUSTOMER), Trace(f"user:{owner_id}", "req-security-test")
    key = secrets.token_hex(16)

    payment = _committed(
        lambda: paying.pay(order_id, paying.PayTerms("pm_card_visa"), client_key=key, actor=owner, trace=trace)
    )
    assert not isinstance(payment, OrderView)
    work(order_id, gateways)
    refund = _committed(
        lambda: paying.refund(payment.id, amount="0.01", reason="", client_key=key, actor=owner, trace=trace)
    )
    work(order_id, gateways)
    return payment.id, refund.id


def work(order_id: int, gateways: object) -> None:
    """Make the calls that are due of one order; what other tests have left is taken too, and left to its lease."""
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.orders.settlement import settle
    from counterfoil.payments import services

    for call in run_in_thread(lambda: services.claim_calls(limit=1000)):
        if call.order_id == order_id:
            outcome = run_in_thread(services.execute, call, gateways)
            run_in_thread(settle, call, outcome)


def _committed(function: Callable[[], T]) -> T:
    from counterfoil.infrastructure.database import run_in_thread, transaction

    def run() -> T:
        with transaction():
            return function()

    return run_in_thread(run)
