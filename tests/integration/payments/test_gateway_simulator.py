"""The gateway simulator as a program: its journal survives anything, its notices come, its command line explains."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from simulator_process import API_KEY, SECRET, Simulator, receiver, simulator

from conftest import free_port
from counterfoil.infrastructure.metrics import DependencyMetrics
from counterfoil.kernel.backoff import Backoff
from counterfoil.kernel.breaker import BreakerPolicy, BreakerState
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    Callback,
    CircuitOpen,
    GatewayError,
    GatewayPaymentStatus,
    NotExecuted,
    OutcomeUnknown,
    PaymentDeclined,
    PaymentRequest,
    RequestRejected,
)
from counterfoil.payments.gateways.resilient import ResiliencePolicy, ResilientGateway
from counterfoil.payments.gateways.stripe import StripeGateway


def post(running: Simulator, path: str, key: str = "", **form: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {API_KEY}"} | ({"Idempotency-Key": key} if key else {})
    return httpx.post(f"{running.url}/v1/{path}", data=form, headers=headers, timeout=10)


CHARGE = {"amount": "500", "currency": "eur", "payment_method": "pm_card_visa", "confirm": "true"}


# ---------------------------------------------------------------- keys
def test_a_key_repeats_its_answer_byte_by_byte_and_says_so(tmp_path: Path) -> None:
    with simulator(tmp_path) as running:
        first = post(running, "payment_intents", "key-1", **CHARGE)
        again = post(running, "payment_intents", "key-1", **CHARGE)
        other = post(running, "payment_intents", "key-1", **{**CHARGE, "amount": "501"})

        assert first.content == again.content
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
        assert running.moves() == [("authorized", 500), ("captured", 500)]


def test_of_many_calls_with_one_key_at_once_one_charges_and_the_others_wait(tmp_path: Path) -> None:
    with simulator(tmp_path, "--faults", "latency_seconds=1.5") as running:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(running, "payment_intents", "key-1", **CHARGE), range(8)))

        # Whoever came while the first was under way was told so; whoever came later got its answer.
        waiting = [answer for answer in answers if answer.status_code == 409]
        first = [answer for answer in answers if answer.is_success and "Idempotent-Replayed" not in answer.headers]
        assert len(first) == 1
        assert len(waiting) >= 1
        assert {answer.json()["error"]["code"] for answer in waiting} == {"idempotency_key_in_use"}
        assert {answer.content for answer in answers if answer.is_success} == {first[0].content}
        assert running.moves() == [("authorized", 500), ("captured", 500)]


def test_a_decline_is_stored_and_a_wrong_call_is_not(tmp_path: Path) -> None:
    with simulator(tmp_path) as running:
        declined = {**CHARGE, "payment_method": "pm_card_visa_chargeDeclined"}
        assert post(running, "payment_intents", "key-1", **declined).status_code == 402
        assert post(running, "payment_intents", "key-1", **declined).headers["Idempotent-Replayed"] == "true"
        assert post(running, "payment_intents", "key-2", **{**CHARGE, "nonsense": "1"}).status_code == 400

        assert post(running, "payment_intents", "key-2", **CHARGE).status_code == 200


# ---------------------------------------------------------------- the journal
def test_money_and_keys_survive_a_kill_and_a_torn_line(tmp_path: Path) -> None:
    request = PaymentRequest("key-1", "order-1", Money(500, "EUR"), "pm_card_visa")
    with simulator(tmp_path) as running:
        payment = running.stripe().authorise(request)
        refused = PaymentRequest("key-2", "order-2", Money(500, "EUR"), "pm_card_visa_chargeDeclined")
        with pytest.raises(PaymentDeclined):
            running.stripe().authorise(refused)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(10)
    with running.journal.open("ab") as journal:
        journal.write(b'{"at":1,"money":[{"kind":"authorized","pay')

    with simulator(tmp_path) as again:
        assert again.stripe().authorise(request) == payment
        with pytest.raises(PaymentDeclined):
            again.stripe().authorise(refused)
        assert again.stripe().read_payment(payment.payment_id) == payment
        second = again.stripe().authorise(PaymentRequest("key-3", "order-3", Money(700, "EUR"), "pm_card_visa"))

        assert second.payment_id != payment.payment_id
        assert {name: truth.authorized for name, truth in again.truth().items()} == {"order-1": 500, "order-3": 700}


def test_no_answer_is_lost_and_no_charge_doubled_when_it_is_killed_again_and_again(tmp_path: Path) -> None:
    """Clients repeat their key until they have an answer; the simulator dies six times meanwhile."""
    port, stop, answers = free_port(), threading.Event(), dict[str, str]()

    def client(number: int) -> None:
        gateway = StripeGateway(
            api_key=API_KEY, callback_secrets=(), api_url=f"http://127.0.0.1:{port}", total_seconds_max=5
        )
        count = 0
        while not stop.is_set():
            reference = f"order-{number}-{count}"
            request = PaymentRequest(f"key-{reference}", reference, Money(100 + count, "EUR"), "pm_card_visa")
            try:
                answers[reference] = gateway.authorise(request).payment_id
            except GatewayError:
                continue  # the same key again
            count += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for life in range(6):
        with simulator(tmp_path, port=port) as running:
            if life == 0:
                for thread in threads:
                    thread.start()
            wanted = len(answers) + 25
            deadline = time.monotonic() + 30
            while len(answers) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            if life == 5:
                stop.set()
                for thread in threads:
                    thread.join()
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait(10)

    truth = running.truth()
    assert {name: truth[name].payment_id for name in answers} == answers
    # What is in the journal and was never answered: at most the call of each client that a kill cut off.
    assert set(truth) - set(answers) == set()


def refused_start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a simulator that should not come up."""
    return subprocess.run(
        [sys.executable, "-m", "counterfoil", "gateway-simulator", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_two_simulators_cannot_keep_one_journal(tmp_path: Path) -> None:
    with simulator(tmp_path) as running:
        second = refused_start("--port", "0", "--journal", str(running.journal))

    assert second.returncode == 1
    assert "another simulator writes" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--faults", "nonsense=1"], "there is no fault or option 'nonsense'"),
        (["--faults", "missing.json"], "missing.json cannot be read as JSON"),
        (["--webhook-url", "http://example.com/"], "must be an http:// address on this machine"),
        (["--webhook-url", "http://127.0.0.1:99999/"], "must be an http:// address on this machine"),
        (["--journal", "no/such/place"], "cannot be written"),
    ],
)
def test_a_start_that_cannot_work_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)

    ended = refused_start("--port", "0", *arguments)

    assert ended.returncode == 1
    assert sentence in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text('{"mine": true}\n')

    ended = refused_start("--port", "0", "--journal", str(path))

    assert ended.returncode == 1
    assert "is not a journal of the simulator" in ended.stderr.replace("\n", " ")
    assert path.read_text() == '{"mine": true}\n'


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    program = f"""
import os, subprocess, sys, time
command = [sys.executable, "-m", "counterfoil", "gateway-simulator", "--port", "0", "--journal", "{tmp_path}/j.jsonl"]
child = subprocess.Popen([*command, "--json", "{tmp_path}/info.json", "--parent", str(os.getpid())])
print(child.pid, flush=True)
time.sleep(600)
"""
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    wait_until((tmp_path / "info.json").exists)

    starter.kill()
    starter.wait()
    starter.stdout.close()

    wait_until(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        return b"gateway-simulator" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------- notices
def test_notices_pass_the_official_verifier_and_name_what_happened(tmp_path: Path) -> None:
    with receiver() as taken, simulator(tmp_path, "--webhook-url", taken.url) as running:
        gateway = running.stripe()
        payment = gateway.authorise(PaymentRequest("k-1", "order-1", Money(500, "EUR"), "pm_card_visa"))
        gateway.capture(payment.payment_id, amount=Money(300, "EUR"), key="k-2")
        refund = gateway.refund(payment.payment_id, amount=Money(100, "EUR"), reference="r", key="k-3")
        taken.wait_for(4)

        assert {event["type"] for event in taken.events()} == {
            "payment_intent.created",
            "payment_intent.amount_capturable_updated",
            "payment_intent.succeeded",
            "refund.created",
        }
        told: dict[str, Callback] = {}
        for body, headers in taken.notices:
            event = stripe.Webhook.construct_event(body, headers["stripe-signature"], SECRET)
            told[event.type] = gateway.parse_callback(body, headers)
        assert told["payment_intent.succeeded"].payment == gateway.read_payment(payment.payment_id)
        assert told["refund.created"].refund == refund
        assert told["refund.created"].payment is None


def test_a_notice_is_repeated_until_it_is_accepted(tmp_path: Path) -> None:
    with receiver() as taken, simulator(tmp_path, "--webhook-url", taken.url) as running:
        running.plan(webhook_retry_seconds=0.05)
        taken.answers = [500, 503, 400]
        post(running, "payment_intents", amount="500", currency="eur")
        taken.wait_for(4)
        wait_until(lambda: running.control("GET", "state")["webhooks"]["waiting"] == 0)

        assert [event["type"] for event in taken.events()] == ["payment_intent.created"] * 4
        assert len({event["id"] for event in taken.events()}) == 1
        assert running.control("GET", "state")["webhooks"] == {"accepted": 1, "attempts": 4, "waiting": 0}


def test_notices_come_twice_and_out_of_order_when_asked_to(tmp_path: Path) -> None:
    with receiver() as taken, simulator(tmp_path, "--webhook-url", taken.url, "--seed", "3") as running:
        running.plan(webhook_duplicates=1, webhook_delay_seconds=0.3)
        for _ in range(10):
            post(running, "payment_intents", **CHARGE)
        taken.wait_for(40)

        names = [event["id"] for event in taken.events()]
        assert Counter(Counter(names).values()) == {2: 20}
        assert names != sorted(names)


def test_notices_are_lost_when_asked_to_and_the_list_of_events_still_has_them(tmp_path: Path) -> None:
    with receiver() as taken, simulator(tmp_path, "--webhook-url", taken.url) as running:
        running.plan(webhook_never=1)
        post(running, "payment_intents", **CHARGE)

        answer = httpx.get(f"{running.url}/v1/events", headers={"Authorization": f"Bearer {API_KEY}"})

        assert [event["type"] for event in answer.json()["data"]] == [
            "payment_intent.succeeded",
            "payment_intent.created",
        ]
        assert taken.notices == []


def test_a_notice_comes_before_the_answer_when_asked_to(tmp_path: Path) -> None:
    with receiver() as taken, simulator(tmp_path, "--webhook-url", taken.url) as running:
        running.plan(webhook_early=1)

        post(running, "payment_intents", **CHARGE)

        assert "payment_intent.succeeded" in [event["type"] for event in taken.events()]


def test_what_was_not_delivered_is_delivered_in_the_next_life(tmp_path: Path) -> None:
    with receiver() as taken:
        taken.answers = [503] * 2
        with simulator(tmp_path, "--webhook-url", taken.url) as running:
            running.plan(webhook_retry_seconds=600)
            post(running, "payment_intents", **CHARGE)
            taken.wait_for(2)
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait(10)
        refused = {event["id"] for event in taken.events()}

        with simulator(tmp_path, "--webhook-url", taken.url):
            taken.wait_for(4)

        assert {event["id"] for event in taken.events()[2:]} == refused


def test_what_was_accepted_is_not_delivered_again_in_the_next_life(tmp_path: Path) -> None:
    with receiver() as taken:
        for life in (1, 2):
            with simulator(tmp_path, "--webhook-url", taken.url) as running:
                post(running, "payment_intents", **CHARGE)
                taken.wait_for(2 * life)
                wait_until(lambda at=running: at.control("GET", "state")["webhooks"]["waiting"] == 0)

        names = [event["id"] for event in taken.events()]
        assert len(names) == len(set(names)) == 4


# ---------------------------------------------------------------- all together
def test_hostile_weather_never_makes_us_say_what_is_not_true(tmp_path: Path) -> None:
    """Payments through the resilient gateway while one call in four goes wrong; the journal is the judge."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    weather = (
        "charge_then_hang=0.05,hang_before_charge=0.05,error_500_half_charged=0.05,rate_limited=0.03,in_flight=0.02,"
        "reset_mid_body=0.03,broken_json=0.02,hang_seconds=20,retry_after_seconds=0"
    )
    policy = ResiliencePolicy(
        backoff=Backoff(base_seconds=0.001, cap_seconds=0.01),
        budget_retries=10_000,
        breaker=BreakerPolicy(failures_min=1_000),
    )
    told: dict[str, object] = {}
    with simulator(tmp_path, "--faults", weather, "--seed", str(seed)) as running:
        inner = StripeGateway(api_key=API_KEY, callback_secrets=(), api_url=running.url, total_seconds_max=0.6)
        gateway = ResilientGateway(inner, observer=DependencyMetrics("hostile"), policy=policy)

        def pay(number: int) -> None:
            request = PaymentRequest(f"key-{number}", f"order-{number}", Money(100 + number, "EUR"), "pm_card_visa")
            try:
                told[request.reference] = gateway.authorise(request)
            except GatewayError as error:
                told[request.reference] = error

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(pay, range(240)))
        truth = running.truth()
        met = running.control("GET", "state")["faults_met"]

    assert sum(met.values()) >= 30, "the weather was hostile"
    for number in range(240):
        reference = f"order-{number}"
        answer, held = told[reference], truth.get(reference)
        if isinstance(answer, GatewayError):
            assert not isinstance(answer, RequestRejected | PaymentDeclined), answer
            assert held is None or isinstance(answer, OutcomeUnknown), answer
            assert held is None or not isinstance(answer, NotExecuted), answer
        else:
            assert held is not None
            assert (held.authorized, held.payment_id) == (100 + number, answer.payment_id)  # type: ignore[attr-defined]
            assert answer.status is GatewayPaymentStatus.AUTHORIZED  # type: ignore[attr-defined]
    answered = [answer for answer in told.values() if not isinstance(answer, GatewayError)]
    assert len(answered) >= 220, "most attempts end well, because the same key is tried again"


def test_a_gateway_that_hangs_is_left_alone_after_five_calls_and_found_well_again(tmp_path: Path) -> None:
    later = 0.0

    def request_of(number: int) -> PaymentRequest:
        return PaymentRequest(f"key-{number}", f"order-{number}", Money(500, "EUR"), "pm_card_visa")

    with simulator(tmp_path) as running:
        running.plan(charge_then_hang=1, hang_seconds=20)
        inner = StripeGateway(api_key=API_KEY, callback_secrets=(), api_url=running.url, total_seconds_max=0.7)
        gateway = ResilientGateway(
            inner,
            observer=DependencyMetrics("hanging"),
            clock=lambda: time.monotonic() + later,
            sleep=lambda _: None,
        )
        # Four attempts, then one more that opens the circuit: what was sent stays unknown.
        for number in (1, 2):
            with pytest.raises(OutcomeUnknown):
                gateway.authorise(request_of(number))
        for number in range(3, 30):
            with pytest.raises(CircuitOpen):
                gateway.authorise(request_of(number))
        wait_until(lambda: running.control("GET", "state")["requests"] >= 5)
        assert running.control("GET", "state")["requests"] == 5
        assert set(running.truth()) == {"order-1", "order-2"}

        running.plan()
        later = 10.0
        payments = [gateway.authorise(request_of(number)) for number in (1, 2, 3)]

        assert gateway.breaker_state is BreakerState.CLOSED
        assert [payment.payment_id for payment in payments] == [
            running.truth()[f"order-{number}"].payment_id for number in (1, 2, 3)
        ]


def test_the_journal_holds_what_was_answered_line_by_line(tmp_path: Path) -> None:
    with simulator(tmp_path) as running:
        answers = [post(running, "payment_intents", f"key-{n}", **CHARGE).json() for n in range(5)]

    lines = [json.loads(text) for text in running.journal.read_text().splitlines()]
    assert [line["answer"] for line in lines if line.get("request") == "POST /v1/payment_intents"] == answers
