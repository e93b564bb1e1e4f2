"""The sandbox's own promises: a method for every outcome, one truth for several processes, nothing lost by a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from counterfoil.infrastructure.metrics import DependencyMetrics
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    Callback,
    CallbackRejected,
    GatewayError,
    GatewayPayment,
    GatewayPaymentStatus,
    OutcomeUnknown,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    Unreachable,
)
from counterfoil.payments.gateways.resilient import ResilientGateway
from counterfoil.payments.gateways.sandbox import SandboxGateway

EUROS = Money(5000, "EUR")


def request_of(method: str, number: int = 1) -> PaymentRequest:
    return PaymentRequest(f"key-{number}", f"order-{number}", EUROS, method)


@pytest.mark.parametrize(
    ("method", "error", "held"),
    [
        ("pm_sandbox_answer_lost", OutcomeUnknown, True),
        ("pm_sandbox_hanging", OutcomeUnknown, False),
        ("pm_sandbox_unreachable", Unreachable, False),
        ("pm_sandbox_rejected", RequestRejected, False),
    ],
)
def test_a_method_for_a_failure_fails_every_time(method: str, error: type[GatewayError], held: bool) -> None:  # noqa: FBT001
    gateway = SandboxGateway()

    for _ in range(3):
        with pytest.raises(error) as told:
            gateway.authorise(request_of(method))
        assert type(told.value) is error

    assert [payment.status for payment in gateway.search_payments("order-1")] == (
        [GatewayPaymentStatus.AUTHORIZED] if held else []
    )


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("pm_sandbox_answer_lost_once", OutcomeUnknown),
        ("pm_sandbox_rate_limited_once", RateLimited),
        ("pm_sandbox_running_once", StillRunning),
    ],
)
def test_a_method_that_fails_once_is_answered_when_the_key_comes_again(method: str, error: type[GatewayError]) -> None:
    gateway = SandboxGateway()
    with pytest.raises(error) as told:
        gateway.authorise(request_of(method))
    assert type(told.value) is error

    payment = gateway.authorise(request_of(method))

    assert payment.status is GatewayPaymentStatus.AUTHORIZED
    assert gateway.search_payments("order-1") == (payment,)


def test_the_resilient_gateway_pays_through_a_lost_answer_once() -> None:
    sandbox = SandboxGateway()
    gateway = ResilientGateway(sandbox, observer=DependencyMetrics("sandbox-test"), sleep=lambda _: None)

    payment = gateway.authorise(request_of("pm_sandbox_answer_lost_once"))

    assert sandbox.search_payments("order-1") == (payment,)


def test_several_processes_see_one_truth(tmp_path: Path) -> None:
    journal = tmp_path / "sandbox.jsonl"
    web, worker = SandboxGateway(journal=journal), SandboxGateway(journal=journal)

    payment = web.authorise(request_of("pm_card_visa"))
    captured = worker.capture(payment.payment_id, amount=EUROS, key="capture-1")

    assert web.read_payment(payment.payment_id) == captured
    assert worker.authorise(request_of("pm_card_visa")) == payment


def test_one_key_from_many_threads_and_objects_holds_money_once(tmp_path: Path) -> None:
    journal = tmp_path / "sandbox.jsonl"
    gateways = [SandboxGateway(journal=journal) for _ in range(4)]
    together = threading.Barrier(4)

    def pay_all(gateway: SandboxGateway) -> list[GatewayPayment]:
        answers = []
        for number in range(100):
            together.wait(20)
            answers.append(gateway.authorise(request_of("pm_card_visa", number)))
        return answers

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(pay_all, gateways))

    assert answers == [answers[0]] * 4
    assert len(journal.read_bytes().splitlines()) == 100


def test_many_refunds_at_once_never_exceed_what_was_captured(tmp_path: Path) -> None:
    journal = tmp_path / "sandbox.jsonl"
    gateways = [SandboxGateway(journal=journal) for _ in range(4)]
    payment = gateways[0].authorise(PaymentRequest("key-1", "order-1", EUROS, "pm_card_visa", capture_now=True))

    def refund(number: int) -> bool:
        try:
            gateways[number % 4].refund(
                payment.payment_id, amount=Money(700, "EUR"), reference=f"r-{number}", key=f"refund-{number}"
            )
        except RequestRejected:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(refund, range(20)))

    assert granted == 7
    assert sum(each.amount.amount_minor for each in gateways[3].refunds_of(payment.payment_id)) == 4900


def test_what_was_answered_survives_a_kill_and_a_torn_line(tmp_path: Path) -> None:
    journal = tmp_path / "sandbox.jsonl"
    program = f"""
import itertools
from pathlib import Path
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import PaymentRequest
from counterfoil.payments.gateways.sandbox import SandboxGateway
gateway = SandboxGateway(journal=Path({str(journal)!r}))
for number in itertools.count(1):
    request = PaymentRequest(f"key-{{number}}", f"order-{{number}}", Money(5000, "EUR"), "pm_card_visa")
    print(gateway.authorise(request).payment_id, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    answered = [process.stdout.readline().decode().strip() for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    answered += [
        line.decode().strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    process.wait()
    process.stdout.close()
    with journal.open("ab") as file:
        file.write(b'{"key":"key-torn","payment":{"payment_id"')

    again = SandboxGateway(journal=journal)

    assert [again.authorise(request_of("pm_card_visa", n + 1)).payment_id for n in range(len(answered))] == answered
    assert again.authorise(request_of("pm_card_visa", 10**6)).status is GatewayPaymentStatus.AUTHORIZED
    assert SandboxGateway(journal=journal).search_payments("order-1000000") != ()


@pytest.mark.parametrize("age", [-300, 0, 300])
def test_a_notice_is_believed_for_five_minutes(age: int) -> None:
    body, headers = notice_at(1_790_000_000)

    told = gateway_at(1_790_000_000 + age).parse_callback(body, headers)

    assert told.event_id == "evt_1"


@pytest.mark.parametrize("age", [-301, 301])
def test_a_notice_that_is_too_old_or_from_the_future_is_not_believed(age: int) -> None:
    body, headers = notice_at(1_790_000_000)

    with pytest.raises(CallbackRejected, match="stale"):
        gateway_at(1_790_000_000 + age).parse_callback(body, headers)


def gateway_at(seconds: int) -> SandboxGateway:
    return SandboxGateway(callback_secrets=("s",), clock=lambda: datetime.fromtimestamp(seconds, UTC))


def notice_at(seconds: int) -> tuple[bytes, dict[str, str]]:
    return gateway_at(seconds).make_callback(Callback("evt_1", "test", datetime.fromtimestamp(seconds, UTC)))
