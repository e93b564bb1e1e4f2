"""What the tests of payments have in their hands: orders, a pretended gateway, and a worker that can be stopped."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg

from counterfoil.infrastructure.database import fetch_all, run_in_thread, transaction
from counterfoil.kernel.money import Money
from counterfoil.payments import services
from counterfoil.payments.calls import Outcome
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.gateways.sandbox import SandboxGateway
from counterfoil.payments.views import Call, Change, PaymentView, RefundView

T = TypeVar("T")
PRICE = Money(4000, "EUR")
CALLBACK_SECRET = "callback-secret-of-the-tests"


@dataclass(frozen=True)
class Trace:
    principal: str = "user:7"
    request_id: str = "req-payments-test"


def committed(function: Callable[[], T]) -> T:
    """Run a service in a transaction of its own, as a door does."""

    def run() -> T:
        with transaction():
            return function()

    return run_in_thread(run)


def settle(call: Call, outcome: Outcome) -> list[Change]:
    """Record an outcome as the orders above do: order first."""

    def run() -> list[Change]:
        fetch_all("SELECT 1 FROM orders WHERE id = %(id)s FOR UPDATE", {"id": call.order_id})
        return services.record(call, outcome, Trace("job:payments", call.request_id))

    return committed(run)


@dataclass
class Desk:
    """One order of 40.00 EUR, a sandbox of its own, and the steps of a worker."""

    order_id: int
    db: psycopg.Connection[tuple[Any, ...]]
    sandbox: SandboxGateway = field(default_factory=lambda: SandboxGateway(callback_secrets=[CALLBACK_SECRET]))
    gateways: Gateways = field(init=False)
    trace: Trace = field(init=False)

    def __post_init__(self) -> None:
        # A client of its own: keys belong to one.
        self.trace = Trace(f"user:{self.order_id}")
        self.gateways = Gateways({"sandbox": self.sandbox}, primary="sandbox")

    # -------------------------------------------------------- asking
    def start(
        self, method: str = "pm_card_visa", *, amount: Money = PRICE, key: str = "", **values: Any
    ) -> PaymentView:
        arguments = {"capture_now": False, "gateway": "sandbox", "return_url": "", "trace": self.trace, **values}
        return committed(
            lambda: services.start_payment(
                order_id=self.order_id,
                amount=amount,
                method=method,
                client_key=key or secrets.token_hex(16),
                **arguments,
            )
        )

    def capture(self, payment: PaymentView, amount: Money | None = None, *, key: str = "") -> PaymentView:
        key = key or secrets.token_hex(16)
        return committed(lambda: services.start_capture(payment.id, amount=amount, client_key=key, trace=self.trace))

    def void(self, payment: PaymentView, *, key: str = "") -> PaymentView:
        key = key or secrets.token_hex(16)
        return committed(lambda: services.start_void(payment.id, client_key=key, trace=self.trace))

    def refund(
        self, payment: PaymentView, amount: Money | None = None, *, key: str = "", automatic: bool = False
    ) -> RefundView:
        key = key or secrets.token_hex(16)
        return committed(
            lambda: services.start_refund(
                payment.id,
                amount=amount,
                reason="broken cup",
                client_key=key,
                automatic=automatic,
                trace=self.trace,
            )
        )

    # -------------------------------------------------------- working
    def claim(self) -> list[Call]:
        """Take what is due of this order; what other tests have left is taken too, and left to its lease."""
        return [
            call for call in run_in_thread(lambda: services.claim_calls(limit=1000)) if call.order_id == self.order_id
        ]

    def execute(self, call: Call) -> Outcome:
        return run_in_thread(lambda: services.execute(call, self.gateways))

    def work(self) -> list[str]:
        """Do one round of a worker's; returns the kinds of what changed."""
        changes = [change for call in self.claim() for change in settle(call, self.execute(call))]
        return [change.kind for change in changes]

    def make_due(self) -> None:
        """Let the time until the next look pass."""
        self.db.execute(
            "UPDATE payment_attempts SET next_at = now() WHERE next_at IS NOT NULL AND payment_id IN"
            " (SELECT id FROM payments WHERE order_id = %s)",
            [self.order_id],
        )

    def age(self, hours: float) -> None:
        """Let everything of this order have begun so many hours ago."""
        self.db.execute(
            "UPDATE payment_attempts SET first_sent_at = first_sent_at - make_interval(mins => %s),"
            " created_at = created_at - make_interval(mins => %s)"
            " WHERE payment_id IN (SELECT id FROM payments WHERE order_id = %s)",
            [int(hours * 60), int(hours * 60), self.order_id],
        )

    # -------------------------------------------------------- looking
    def read(self, payment: PaymentView) -> PaymentView:
        view = run_in_thread(lambda: services.find_payment(payment.id))
        assert view is not None
        return view

    def read_refund(self, refund: RefundView) -> RefundView:
        view = run_in_thread(lambda: services.find_refund(refund.id))
        assert view is not None
        return view

    def attempts(self) -> list[tuple[Any, ...]]:
        """(operation, state, gateway, method) of every call of this order."""
        return self.db.execute(
            "SELECT a.operation, a.state, a.gateway, a.method FROM payment_attempts a"
            " JOIN payments p ON p.id = a.payment_id WHERE p.order_id = %s ORDER BY a.id",
            [self.order_id],
        ).fetchall()

    def ledger(self) -> list[tuple[Any, ...]]:
        """(kind, account, amount) of the order's ledger."""
        return self.db.execute(
            "SELECT kind, account, amount::text FROM ledger_entries WHERE order_id = %s ORDER BY id", [self.order_id]
        ).fetchall()
