"""Stripe's own client against a gateway that goes wrong: what we store in the end is what its journal says."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from desk import Desk
from simulator_process import API_KEY, SECRET, Receiver, Simulator, receiver, simulator

from counterfoil.infrastructure.database import run_in_thread
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.gateways.stripe import StripeGateway
from counterfoil.payments.notices import accept_notice

# Hangs are longer than the patience, which here is short so that nobody waits for half a minute.
PATIENCE_SECONDS = 0.4
FAULTS = (
    "charge_then_hang",
    "hang_before_charge",
    "error_500",
    "error_500_charged",
    "rate_limited",
    "in_flight",
    "reset_mid_body",
    "broken_json",
)
ROUNDS_MAX = 6


@pytest.fixture(scope="module")
def heard() -> Iterator[Receiver]:
    with receiver() as taken:
        yield taken


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, heard: Receiver) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("simulated"), "--webhook-url", heard.url) as started:
        yield started


@pytest.fixture
def simulated(running: Simulator, desk: Desk) -> Simulator:
    """The module's simulator without a plan, as the desk's gateway."""
    running.plan()
    gateway = StripeGateway(
        api_key=API_KEY, callback_secrets=(SECRET,), api_url=running.url, total_seconds_max=PATIENCE_SECONDS
    )
    desk.gateways = Gateways({"stripe": gateway}, primary="stripe")
    return running


def work_until(desk: Desk, kind: str, *, again: Callable[[], object]) -> None:
    """Work, and let the time between looks pass, until something has happened; `again` is the client's repetition."""
    for _ in range(ROUNDS_MAX):
        kinds = desk.work()
        if kind in kinds:
            return
        if "payment.failed" in kinds:
            again()
        desk.make_due()
    pytest.fail(f"no {kind} in {ROUNDS_MAX} rounds: {desk.attempts()}")


@pytest.mark.parametrize("operation", ["authorise", "capture", "refund"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_the_money_moves_once_and_we_know_it(
    desk: Desk, simulated: Simulator, fault: str, operation: str
) -> None:
    key = secrets.token_hex(16)

    def plan(step: str) -> None:
        simulated.plan(**({"next_1": fault, "hang_seconds": 1} if step == operation else {}))

    def start() -> Any:
        return desk.start(gateway="stripe", key=key)

    plan("authorise")
    payment = start()
    work_until(desk, "payment.authorized", again=start)
    plan("capture")
    desk.capture(payment, Money(3000, "EUR"))
    work_until(desk, "payment.captured", again=start)
    plan("refund")
    desk.refund(payment, Money(1000, "EUR"))
    work_until(desk, "refund.succeeded", again=start)

    view, truth = desk.read(payment), simulated.truth()[payment.reference]
    assert (truth.captured, truth.refunded) == (3000, 1000)
    assert (view.status, view.captured, view.refunded, view.review_reason) == (
        "captured",
        Money(3000, "EUR"),
        Money(1000, "EUR"),
        "",
    )
    assert len(desk.ledger()) == 4
    desk.make_due()
    assert desk.claim() == []


def test_a_declined_card_at_stripe_says_why(desk: Desk, simulated: Simulator) -> None:
    payment = desk.start("pm_card_visa_chargeDeclinedInsufficientFunds", gateway="stripe")

    assert desk.work() == ["payment.failed"]

    assert desk.read(payment).decline_code == "insufficient_funds"
    assert payment.reference not in simulated.truth() or simulated.truth()[payment.reference].captured == 0


def test_a_lost_decline_is_found_as_a_decline(desk: Desk, simulated: Simulator) -> None:
    simulated.plan(next_1="reset_mid_body")
    payment = desk.start("pm_card_visa_chargeDeclinedInsufficientFunds", gateway="stripe")
    assert desk.work() == ["payment.unknown"]
    desk.make_due()

    assert desk.work() == ["payment.failed"]

    assert desk.read(payment).decline_code == "insufficient_funds"


def test_a_buyers_authentication_is_heard_of_by_a_notice(desk: Desk, simulated: Simulator, heard: Receiver) -> None:
    payment = desk.start("pm_card_authenticationRequired", gateway="stripe")
    assert desk.work() == ["payment.requires_action"]
    gateway_id = desk.read(payment).gateway_payment_id
    before = len(heard.notices)
    simulated.control("POST", f"authenticate/{gateway_id}", {"approved": True})
    heard.wait_for(before + 1)
    assert desk.claim() == []

    verdicts = [
        run_in_thread(lambda notice=notice: accept_notice("stripe", *notice, gateways=desk.gateways))  # type: ignore[misc]
        for notice in heard.notices[before:]
    ]

    assert set(verdicts) == {"accepted"}
    assert desk.work() == ["payment.authorized"]
    assert desk.read(payment).updated_at <= datetime.now(UTC)
