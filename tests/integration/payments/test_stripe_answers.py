"""Every kind of answer that Stripe, or something between us, can give: what it says about the money."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
import stripe

from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    ActionRefused,
    Callback,
    CallbackRejected,
    GatewayError,
    GatewayPaymentStatus,
    OutcomeUnknown,
    PaymentDeclined,
    PaymentRequest,
    RateLimited,
    RequestRejected,
    StillRunning,
    TimeSpan,
)
from counterfoil.payments.gateways.registry import GatewayConfig, make_gateway
from counterfoil.payments.gateways.stripe import StripeGateway

REQUEST = PaymentRequest("key-1", "order-1", Money(1999, "EUR"), "pm_card_visa", return_url="https://shop.example/")
INTENT: dict[str, Any] = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "requires_capture",
    "amount": 1999,
    "amount_received": 0,
    "currency": "eur",
    "created": 1_790_000_000,
    "metadata": {"counterfoil_reference": "order-1"},
}
REFUND: dict[str, Any] = {
    "id": "re_1",
    "object": "refund",
    "status": "succeeded",
    "amount": 500,
    "currency": "eur",
    "created": 1_790_000_000,
    "payment_intent": "pi_1",
    "metadata": {"counterfoil_reference": "refund-1"},
}


@dataclass
class Stub:
    """A server that gives one prepared answer, and remembers what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str], dict[str, list[str]]]] = field(default_factory=list)

    def answer(self, status: int, body: object, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    def gateway(self) -> StripeGateway:
        return StripeGateway(api_key="sk_test_1", callback_secrets=("whsec_1",), api_url=self.url)


@pytest.fixture(scope="module")
def running() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers.get("content-length", 0))).decode())
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.asked.append((self.command, self.path, headers, form))
            self.send_response(stub.status)
            for name, value in {"Content-Length": str(len(stub.body)), **stub.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(stub.body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield stub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stub(running: Stub) -> Stub:
    running.asked.clear()
    return running


def failure(**error: Any) -> dict[str, Any]:
    return {"error": {"message": "m", "type": "invalid_request_error", **error}}


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (402, failure(type="card_error", code="card_declined", decline_code="lost_card"), PaymentDeclined, "lost_card"),
        (402, failure(type="card_error", code="expired_card"), PaymentDeclined, "expired_card"),
        (402, failure(type="card_error"), PaymentDeclined, "declined"),
        (400, failure(code="resource_missing", param="payment_method"), PaymentDeclined, "payment_method_unknown"),
        (404, failure(code="resource_missing", param="payment_method"), PaymentDeclined, "payment_method_unknown"),
        (404, failure(code="resource_missing", param="intent"), RequestRejected, "resource_missing"),
        (400, failure(code="parameter_unknown", param="nonsense"), RequestRejected, "parameter_unknown"),
        (400, failure(type="idempotency_error"), RequestRejected, "idempotency_error"),
        (401, failure(), RequestRejected, "invalid_request_error"),
        (403, failure(), RequestRejected, "invalid_request_error"),
        (400, failure(code="payment_intent_unexpected_state"), ActionRefused, "payment_intent_unexpected_state"),
        (400, failure(code="amount_too_large", param="amount_to_capture"), ActionRefused, "amount_too_large"),
        (400, failure(code="charge_already_refunded"), ActionRefused, "charge_already_refunded"),
        (400, failure(param="amount"), ActionRefused, "invalid_request_error"),
        (409, failure(code="idempotency_key_in_use"), StillRunning, "in_flight"),
        (429, failure(code="rate_limit"), RateLimited, "rate_limited"),
        (429, failure(code="lock_timeout"), RateLimited, "rate_limited"),
        (400, failure(code="rate_limit"), RateLimited, "rate_limited"),
        (429, b"<html>busy</html>", RateLimited, "rate_limited"),
        (500, failure(type="api_error"), OutcomeUnknown, "server_error"),
        (502, b"<html>bad gateway</html>", OutcomeUnknown, "server_error"),
        (503, b"", OutcomeUnknown, "server_error"),
        (504, {}, OutcomeUnknown, "server_error"),
        (200, b"", OutcomeUnknown, "answer_malformed"),
        (200, b'{"id": "pi_1", "obj', OutcomeUnknown, "answer_malformed"),
        (200, b"\xff\xfe", OutcomeUnknown, "answer_malformed"),
        (200, [], OutcomeUnknown, "answer_malformed"),
        (200, "text", OutcomeUnknown, "answer_malformed"),
        (200, None, OutcomeUnknown, "answer_malformed"),
        (200, {}, OutcomeUnknown, "answer_malformed"),
        (200, {**INTENT, "status": "from_the_future"}, OutcomeUnknown, "answer_malformed"),
        (200, {**INTENT, "currency": "???"}, OutcomeUnknown, "answer_malformed"),
        (200, {**INTENT, "amount": "1999"}, OutcomeUnknown, "answer_malformed"),
        (200, {**INTENT, "created": 10**30}, OutcomeUnknown, "answer_malformed"),
        (302, {}, OutcomeUnknown, "answer_malformed"),
        (403, b"<html>a proxy says no</html>", OutcomeUnknown, "answer_malformed"),
        (400, {"error": "text"}, OutcomeUnknown, "answer_malformed"),
        (400, {"error": []}, OutcomeUnknown, "answer_malformed"),
    ],
)
def test_an_answer_is_told_as_what_it_says_about_the_money(
    stub: Stub, status: int, body: object, error: type[GatewayError], code: str
) -> None:
    stub.answer(status, body, Request_Id="req_7")

    with pytest.raises(error) as told:
        stub.gateway().authorise(REQUEST)

    assert type(told.value) is error
    assert told.value.code == code
    assert len(stub.asked) == 1, "the library does not repeat by itself"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", None), ("-1", None), ("9" * 9, None)])
def test_a_wish_to_wait_is_understood_or_left_out(stub: Stub, header: str, seconds: float | None) -> None:
    stub.answer(503, failure(), Retry_After=header)

    with pytest.raises(OutcomeUnknown) as told:
        stub.gateway().authorise(REQUEST)

    assert told.value.retry_after_seconds == seconds


@pytest.mark.parametrize(("header", "worth"), [({"Stripe_Should_Retry": "false"}, False), ({}, True)])
def test_stripe_tells_when_a_repetition_is_useless(stub: Stub, header: dict[str, str], worth: bool) -> None:  # noqa: FBT001
    stub.answer(500, failure(), **header)

    with pytest.raises(OutcomeUnknown) as told:
        stub.gateway().authorise(REQUEST)

    assert told.value.is_worth_repeating is worth


def test_a_decline_names_the_payment_it_left_behind(stub: Stub) -> None:
    stub.answer(402, failure(type="card_error", code="card_declined", payment_intent=INTENT), Request_Id="req_9")

    with pytest.raises(PaymentDeclined) as told:
        stub.gateway().authorise(REQUEST)

    assert (told.value.payment_id, told.value.request_id) == ("pi_1", "req_9")


def test_a_payment_is_asked_for_with_key_reference_and_manual_capture_and_without_telemetry(stub: Stub) -> None:
    stub.answer(200, INTENT)

    payment = stub.gateway().authorise(REQUEST)

    (asked,) = stub.asked
    method, path, headers, form = asked
    assert (method, path) == ("POST", "/v1/payment_intents")
    assert form == {
        "amount": ["1999"],
        "currency": ["eur"],
        "payment_method": ["pm_card_visa"],
        "payment_method_types[0]": ["card"],
        "capture_method": ["manual"],
        "confirm": ["true"],
        "metadata[counterfoil_reference]": ["order-1"],
        "return_url": ["https://shop.example/"],
    }
    assert headers["idempotency-key"] == "key-1"
    assert headers["authorization"] == "Bearer sk_test_1"
    assert "x-stripe-client-telemetry" not in headers
    assert "telemetry_id" not in headers["x-stripe-client-user-agent"]
    assert payment.status is GatewayPaymentStatus.AUTHORIZED


CALLS: list[tuple[Callable[[StripeGateway], object], dict[str, Any], str, str, dict[str, list[str]]]] = [
    (
        lambda g: g.capture("pi_1", amount=Money(1000, "EUR"), key="k"),
        INTENT,
        "POST",
        "/v1/payment_intents/pi_1/capture",
        {"amount_to_capture": ["1000"]},
    ),
    (lambda g: g.void("pi_1", key="k"), INTENT, "POST", "/v1/payment_intents/pi_1/cancel", {}),
    (
        lambda g: g.refund("pi_1", amount=Money(500, "EUR"), reference="refund-1", key="k"),
        REFUND,
        "POST",
        "/v1/refunds",
        {"payment_intent": ["pi_1"], "amount": ["500"], "metadata[counterfoil_reference]": ["refund-1"]},
    ),
    (lambda g: g.read_payment("pi_1"), INTENT, "GET", "/v1/payment_intents/pi_1", {}),
]


@pytest.mark.parametrize(("call", "answer", "method", "path", "form"), CALLS)
def test_each_call_goes_to_its_address(
    stub: Stub,
    call: Callable[[StripeGateway], object],
    answer: dict[str, Any],
    method: str,
    path: str,
    form: dict[str, list[str]],
) -> None:
    stub.answer(200, answer)

    call(stub.gateway())

    (asked,) = stub.asked
    assert (asked[0], asked[1], asked[3]) == (method, path, form)
    assert asked[2].get("idempotency-key") == ("k" if method == "POST" else None)


def test_a_list_is_asked_for_by_whole_seconds_around_the_span(stub: Stub) -> None:
    stub.answer(200, {"object": "list", "data": [INTENT], "has_more": True, "url": "/v1/payment_intents"})
    start = datetime(2026, 9, 21, 12, 0, 0, 900_000, UTC)

    page = stub.gateway().list_payments(TimeSpan(start, start + timedelta(seconds=10)), after="pi_0")

    (asked,) = stub.asked
    query = parse_qs(asked[1].partition("?")[2])
    first = int(start.timestamp())
    assert query == {
        "created[gte]": [str(first)],
        "created[lt]": [str(first + 11)],
        "limit": ["100"],
        "starting_after": ["pi_0"],
    }
    assert page.next_after == "pi_1"


@pytest.mark.parametrize(
    "money", [Money(1234, "KWD"), Money(12345, "MGA")], ids=["a third digit", "digits where Stripe has none"]
)
def test_an_amount_that_stripe_cannot_take_exactly_is_not_sent(stub: Stub, money: Money) -> None:
    with pytest.raises(RequestRejected, match="amount_not_representable"):
        stub.gateway().authorise(PaymentRequest("key-1", "order-1", money, "pm_card_visa"))

    assert stub.asked == []


@pytest.mark.parametrize(
    ("money", "sent"), [(Money(5, "ISK"), "500"), (Money(500, "JPY"), "500"), (Money(12300, "MGA"), "123")]
)
def test_an_amount_is_sent_in_stripes_own_unit(stub: Stub, money: Money, sent: str) -> None:
    stub.answer(200, {**INTENT, "currency": money.currency.lower(), "amount": int(sent)})

    payment = stub.gateway().authorise(PaymentRequest("key-1", "order-1", money, "pm_card_visa"))

    assert stub.asked[0][3]["amount"] == [sent]
    assert payment.amount == money


# ---------------------------------------------------------------- notices
SECRET = "whsec_1"


def notice(body: bytes, *, secret: str = SECRET) -> dict[str, str]:
    """Sign as Stripe's own library does."""
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, 1_790_000_000)
    return {"stripe-signature": header}


def event(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps(
        {"id": "evt_1", "object": "event", "type": kind, "created": 1_790_000_000, "data": {"object": thing}}
    ).encode()


def gateway_at(now: float, *secrets: str) -> StripeGateway:
    return StripeGateway(api_key="sk", callback_secrets=secrets or ("whsec_1",), clock=lambda: now)


@pytest.mark.parametrize("age", [-300, -10, 0, 10, 300])
def test_a_notice_is_believed_for_five_minutes(age: int) -> None:
    body = event("payment_intent.succeeded", INTENT)

    told = gateway_at(1_790_000_000 + age).parse_callback(body, notice(body))

    assert told.event_id == "evt_1"


@pytest.mark.parametrize("age", [-301, 301, 86_400])
def test_a_notice_that_is_too_old_or_from_the_future_is_not_believed(age: int) -> None:
    body = event("payment_intent.succeeded", INTENT)

    with pytest.raises(CallbackRejected, match="stale"):
        gateway_at(1_790_000_000 + age).parse_callback(body, notice(body))


def test_an_old_time_cannot_be_hidden_behind_a_second_one() -> None:
    body = event("payment_intent.succeeded", INTENT)
    genuine = notice(body)["stripe-signature"]

    for header in (f"{genuine},t=1790009000", f"t=1790009000,{genuine}"):
        with pytest.raises(CallbackRejected, match=r"stale|forged"):
            gateway_at(1_790_009_000).parse_callback(body, {"stripe-signature": header})


def test_one_of_several_signatures_is_enough_as_when_stripe_rolls_a_secret() -> None:
    body = event("payment_intent.succeeded", INTENT)
    header = (
        notice(body, secret="whsec_other")["stripe-signature"] + "," + notice(body)["stripe-signature"].split(",")[1]
    )

    assert gateway_at(1_790_000_000).parse_callback(body, {"stripe-signature": header}).event_id == "evt_1"


def test_without_a_secret_nothing_is_believed() -> None:
    body = event("payment_intent.succeeded", INTENT)
    gateway = make_gateway("stripe", GatewayConfig(callback_secrets=("",), stripe_key="sk"))

    with pytest.raises(CallbackRejected, match="forged"):
        gateway.parse_callback(body, notice(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"id": 1}',
        event("payment_intent.succeeded", {}),
        event("payment_intent.succeeded", {**INTENT, "status": "from_the_future"}),
        event("refund.created", {**REFUND, "amount": -1.5}),
    ],
)
def test_a_signed_notice_that_makes_no_sense_is_malformed(body: bytes) -> None:
    with pytest.raises(CallbackRejected, match="malformed"):
        gateway_at(1_790_000_000).parse_callback(body, notice(body))


def test_a_notice_of_something_else_is_read_and_says_nothing() -> None:
    body = event("customer.created", {"id": "cus_1"})

    told = gateway_at(1_790_000_000).parse_callback(body, notice(body))

    assert told == Callback("evt_1", "customer.created", datetime.fromtimestamp(1_790_000_000, UTC))


def test_a_name_that_is_not_registered_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'paypal'; known are: sandbox, stripe"):
        make_gateway("paypal", GatewayConfig())
