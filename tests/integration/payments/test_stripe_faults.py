"""Every fault of the simulator, met through the official client: what we say about the money, and what is true."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import stripe
from simulator_process import API_KEY, SECRET, Simulator, simulator

from conftest import free_port
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    GatewayError,
    GatewayPaymentStatus,
    OutcomeUnknown,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    TimeSpan,
    Unreachable,
    find_payments,
)
from counterfoil.payments.gateways.stripe import StripeGateway

HELD = [("authorized", 5000)]
# Hangs are longer than the caller's patience, which here is short so that nobody waits for half a minute.
PATIENCE_SECONDS = 0.4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("faults")) as started:
        yield started


@pytest.fixture
def simulated(running: Simulator) -> Simulator:
    """The module's simulator without a plan."""
    running.plan()
    return running


def new_request() -> PaymentRequest:
    unique = secrets.token_hex(12)
    return PaymentRequest(f"key-{unique}", f"order-{unique}", Money(5000, "EUR"), "pm_card_visa")


def caller_of(simulated: Simulator, fault: str) -> StripeGateway:
    """A caller with little patience where the gateway hangs, and with as much as usual where it answers."""
    if fault not in {"charge_then_hang", "hang_before_charge", "slow"}:
        return simulated.stripe()
    return StripeGateway(
        api_key=API_KEY, callback_secrets=(SECRET,), api_url=simulated.url, total_seconds_max=PATIENCE_SECONDS
    )


def moves_of(simulated: Simulator, reference: str) -> list[tuple[str, int]]:
    """What the journal says about one reference."""
    known = simulated.truth().get(reference)
    if known is None:
        return []
    amounts = {"authorized": known.authorized, "captured": known.captured, "refunded": known.refunded}
    return [(kind, amount) for kind, amount in amounts.items() if amount]


def today() -> TimeSpan:
    now = datetime.now(UTC)
    return TimeSpan(now - timedelta(hours=1), now + timedelta(hours=1))


@pytest.mark.parametrize(
    ("fault", "error", "code", "moves"),
    [
        ("charge_then_hang", OutcomeUnknown, "timeout", HELD),
        ("hang_before_charge", OutcomeUnknown, "timeout", []),
        ("error_500", OutcomeUnknown, "server_error", []),
        ("error_500_charged", OutcomeUnknown, "server_error", HELD),
        ("rate_limited", RateLimited, "rate_limited", []),
        ("in_flight", StillRunning, "in_flight", HELD),
        ("reset_mid_body", OutcomeUnknown, "connection_reset", HELD),
        ("broken_json", OutcomeUnknown, "answer_malformed", HELD),
        ("slow", OutcomeUnknown, "timeout", []),
    ],
)
def test_a_fault_is_told_as_what_is_known_about_the_money(
    simulated: Simulator, fault: str, error: type[GatewayError], code: str, moves: list[tuple[str, int]]
) -> None:
    request = new_request()
    simulated.plan(next_1=fault, hang_seconds=20, slow_seconds=20)

    with pytest.raises(error) as told:
        caller_of(simulated, fault).authorise(request)

    assert type(told.value) is error
    assert told.value.code == code
    assert moves_of(simulated, request.reference) == moves
    # Whatever was charged, "certainly nothing was done" was not said about it.
    assert told.value.may_have_executed or moves == []


@pytest.mark.parametrize("fault", ["charge_then_hang", "in_flight", "reset_mid_body", "broken_json"])
def test_the_same_key_learns_the_lost_answer_and_charges_once(simulated: Simulator, fault: str) -> None:
    request = new_request()
    simulated.plan(next_1=fault, hang_seconds=20)
    with pytest.raises(OutcomeUnknown):
        caller_of(simulated, fault).authorise(request)

    payment = simulated.stripe().authorise(request)

    assert payment.status is GatewayPaymentStatus.AUTHORIZED
    assert moves_of(simulated, request.reference) == HELD


@pytest.mark.parametrize("fault", ["hang_before_charge", "error_500", "rate_limited"])
def test_the_same_key_charges_when_the_first_call_did_nothing(simulated: Simulator, fault: str) -> None:
    request = new_request()
    simulated.plan(next_1=fault, hang_seconds=20)
    with pytest.raises(GatewayError):
        caller_of(simulated, fault).authorise(request)
    assert moves_of(simulated, request.reference) == []

    assert simulated.stripe().authorise(request).status is GatewayPaymentStatus.AUTHORIZED

    assert moves_of(simulated, request.reference) == HELD


def test_a_stored_server_error_is_final_for_its_key_and_only_a_look_finds_the_money(simulated: Simulator) -> None:
    request = new_request()
    simulated.plan(next_1="error_500_charged")

    for _ in range(2):
        with pytest.raises(OutcomeUnknown) as told:
            simulated.stripe().authorise(request)
        assert not told.value.is_worth_repeating

    (found,) = find_payments(simulated.stripe(), request.reference, span=today())
    assert found.status is GatewayPaymentStatus.AUTHORIZED
    assert moves_of(simulated, request.reference) == HELD


def test_a_call_under_way_is_still_running_for_its_twin_and_then_the_answer_of_both(simulated: Simulator) -> None:
    request, answers = new_request(), []
    simulated.plan(next_1="hang_then_charge", hang_seconds=1)
    first = threading.Thread(target=lambda: answers.append(simulated.stripe().authorise(request)))
    before = simulated.control("GET", "state")["requests"]
    first.start()
    deadline = time.monotonic() + 5
    while simulated.control("GET", "state")["requests"] == before:
        assert time.monotonic() < deadline

    with pytest.raises(StillRunning):
        simulated.stripe().authorise(request)
    first.join()

    assert [simulated.stripe().authorise(request)] == answers
    assert moves_of(simulated, request.reference) == HELD


def test_a_rate_limit_carries_the_wish_of_the_gateway(simulated: Simulator) -> None:
    simulated.plan(next_1="rate_limited", retry_after_seconds=7)

    with pytest.raises(RateLimited) as told:
        simulated.stripe().authorise(new_request())

    assert told.value.retry_after_seconds == 7.0
    assert told.value.request_id.startswith("req_")


def test_a_gateway_that_is_not_there_is_unreachable_and_nothing_was_done() -> None:
    gateway = StripeGateway(api_key=API_KEY, callback_secrets=(), api_url=f"http://127.0.0.1:{free_port()}")

    with pytest.raises(Unreachable, match="connection_refused") as told:
        gateway.authorise(new_request())

    assert told.value.may_have_executed is False


def test_a_wrong_api_key_is_our_mistake_and_permanent(simulated: Simulator) -> None:
    gateway = StripeGateway(api_key="sk_wrong", callback_secrets=(), api_url=simulated.url)
    request = new_request()

    with pytest.raises(RequestRejected) as told:
        gateway.authorise(request)

    assert told.value.is_permanent
    assert moves_of(simulated, request.reference) == []


def test_a_search_that_lags_is_made_up_for_by_the_list(simulated: Simulator) -> None:
    request = new_request()
    simulated.plan(search_lag_seconds=60)
    payment = simulated.stripe().authorise(request)

    assert simulated.stripe().search_payments(request.reference) == ()
    assert find_payments(simulated.stripe(), request.reference, span=today()) == (payment,)


def test_faults_meet_captures_voids_and_refunds_too(simulated: Simulator) -> None:
    gateway, request = simulated.stripe(), new_request()
    payment = gateway.authorise(request)

    simulated.plan(next_1="reset_mid_body", next_3="broken_json")
    with pytest.raises(OutcomeUnknown):
        gateway.capture(payment.payment_id, amount=Money(3000, "EUR"), key="capture-1")
    gateway.capture(payment.payment_id, amount=Money(3000, "EUR"), key="capture-1")
    with pytest.raises(OutcomeUnknown):
        gateway.refund(payment.payment_id, amount=Money(1000, "EUR"), reference="r", key="refund-1")
    gateway.refund(payment.payment_id, amount=Money(1000, "EUR"), reference="r", key="refund-1")

    assert moves_of(simulated, request.reference) == [("authorized", 5000), ("captured", 3000), ("refunded", 1000)]


def test_the_plain_official_client_works_against_it(simulated: Simulator) -> None:
    client = stripe.StripeClient(API_KEY, base_addresses={"api": simulated.url}, max_network_retries=0).v1
    intent = client.payment_intents.create({"amount": 700, "currency": "eur", "metadata": {"order": "7"}})
    assert intent.status == "requires_payment_method"

    intent = client.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"})
    refund = client.refunds.create({"payment_intent": intent.id, "amount": 200})

    assert (intent.status, intent.amount_received) == ("succeeded", 700)
    assert client.refunds.retrieve(refund.id).amount == 200
    assert [refund.amount for refund in client.refunds.list({"payment_intent": intent.id}).auto_paging_iter()] == [200]
    assert client.events.list({"limit": 1}).data[0].type == "refund.created"
    with pytest.raises(stripe.InvalidRequestError) as told:
        client.refunds.create({"payment_intent": intent.id, "amount": 501})
    assert told.value.param == "amount"
    with pytest.raises(stripe.CardError) as declined:
        client.payment_intents.create(
            {
                "amount": 700,
                "currency": "eur",
                "confirm": True,
                "payment_method": "pm_card_visa_chargeDeclinedInsufficientFunds",
            }
        )
    assert (declined.value.code, declined.value.http_status) == ("card_declined", 402)
