"""Notices of gateways over HTTP, with Stripe's shape and a simulator in a process of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulator_process import API_KEY, SECRET, Simulator, simulator
from till import CALLBACK_SECRET, Till, open_till, wait_until

from conftest import free_port, run_counterfoil

ADDRESS = "/payments/callbacks/sandbox"


def signed(body: bytes, *, key: str = CALLBACK_SECRET, age: int = 0) -> dict[str, str]:
    """Sign a notice as the sandbox does."""
    at = int(time.time()) - age
    signature = hmac.digest(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hex()
    return {"sandbox-signature": f"t={at},v1={signature}", "content-type": "application/json"}


def notices(till: Till) -> list[str]:
    return [row[0] for row in till.db.execute("SELECT verdict FROM gateway_notices ORDER BY id").fetchall()]


def notice_of(payment: dict[str, Any], event_id: str, **values: Any) -> bytes:
    """A notice that a payment was captured, as the sandbox writes it."""
    money = {"amount_minor": 4000, "currency": "EUR"}
    told = {
        "payment_id": "sbx_pay_1",
        "reference": payment["reference"],
        "status": "captured",
        "amount": money,
        "captured": money,
        "created_at": "2026-01-01T00:00:00Z",
        **values,
    }
    event = {"event_id": event_id, "type": "payment.captured", "occurred_at": "2026-01-01T00:00:00Z", "payment": told}
    return json.dumps(event).encode()


def post(till: Till, body: bytes, headers: dict[str, str], address: str = ADDRESS) -> httpx.Response:
    return httpx.post(till.service.url + address, content=body, headers=headers, timeout=30)


@pytest.fixture
def unpaid(till: Till) -> Iterator[dict[str, Any]]:
    """A payment that waits for its buyer, of an order that must not be touched."""
    order = till.order()
    payment: dict[str, Any] = till.pay(order, "pm_card_authenticationRequired").json()
    before = till.read(order)
    yield payment
    assert till.read(order) == before
    till.act(payment["id"], "void")


@pytest.mark.parametrize(
    ("make", "status", "code", "verdict"),
    [
        (lambda _: {"content-type": "application/json"}, 401, "NOTICE_NOT_BELIEVED", "forged"),
        (lambda body: signed(body, key="another-secret-of-16"), 401, "NOTICE_NOT_BELIEVED", "forged"),
        (lambda body: signed(body + b" "), 401, "NOTICE_NOT_BELIEVED", "forged"),
        (lambda body: signed(body, age=301), 401, "NOTICE_NOT_BELIEVED", "stale"),
        (lambda body: signed(body, age=-310), 401, "NOTICE_NOT_BELIEVED", "stale"),
    ],
)
def test_security_WH_01_a_notice_that_is_not_signed_by_the_gateway_is_refused_and_written_down(
    till: Till,
    unpaid: dict[str, Any],
    make: Callable[[bytes], dict[str, str]],
    status: int,
    code: str,
    verdict: str,
) -> None:
    seen = notices(till)
    body = notice_of(unpaid, "evt_1")

    answer = post(till, body, make(body))

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert notices(till) == [*seen, verdict]


def test_security_WH_01_signed_nonsense_is_400(till: Till) -> None:
    seen = notices(till)

    answers = [post(till, body, signed(body)) for body in (b"", b"[]", b"{", b"\xff\x00", b'{"event_id": 1}')]

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(400, "NOTICE_MALFORMED")}
    assert notices(till) == [*seen, *["malformed"] * 5]


def test_security_WH_06_what_a_notice_says_is_never_believed(till: Till, unpaid: dict[str, Any]) -> None:
    """It says that the money was taken; the gateway, which is asked, knows that the buyer has not acted."""
    body = notice_of(unpaid, "evt_says_captured")
    seen = notices(till)

    answers = [post(till, body, signed(body)) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["verdict"] for answer in answers] == ["accepted", "duplicate", "duplicate"]
    assert notices(till) == [*seen, "accepted", "duplicate", "duplicate"]
    time.sleep(0.5)  # the worker has looked by now; that nothing changed is checked at the end
    assert till.customer.get(unpaid["status_url"]).json()["status"] == "requires_payment"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"amount": {"amount_minor": 1, "currency": "EUR"}}, "mismatch"),
        ({"amount": {"amount_minor": 4000, "currency": "USD"}}, "mismatch"),
        ({"reference": "o1-of-somebody-else"}, "unknown_payment"),
    ],
)
def test_security_MA_05_a_notice_about_other_money_changes_nothing(
    till: Till, unpaid: dict[str, Any], values: dict[str, Any], verdict: str
) -> None:
    body = notice_of(unpaid, f"evt_{verdict}_{json.dumps(values)[:20]}", **values)

    answer = post(till, body, signed(body))

    assert (answer.status_code, answer.json()) == (200, {"verdict": verdict})
    assert notices(till)[-1] == verdict


def test_a_gateway_that_is_not_ours_is_not_found(till: Till) -> None:
    seen = notices(till)

    answers = [post(till, b"{}", signed(b"{}"), f"/payments/callbacks/{name}") for name in ("stripe", "nobody")]

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(404, "GATEWAY_NOT_FOUND")}
    assert notices(till) == seen


def test_security_WH_02_a_service_with_stripe_and_without_a_secret_does_not_start(database_url: str) -> None:
    told = run_counterfoil(
        "serve",
        "--port",
        str(free_port()),
        check=False,
        DATABASE_URL=database_url,
        COUNTERFOIL_GATEWAY="stripe",
        COUNTERFOIL_STRIPE_KEY="sk_test_1",
        COUNTERFOIL_CALLBACK_SECRETS="",
    )

    assert told.returncode == 1
    assert "COUNTERFOIL_CALLBACK_SECRETS" in told.stderr


# ---------------------------------------------------------------- Stripe, as the simulator plays it
@pytest.fixture(scope="module")
def stripe(
    make_database: Callable[[], str], make_token: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Till, Simulator]]:
    """A shop at Stripe's, which the simulator plays, and that sends it notices."""
    directory: Path = tmp_path_factory.mktemp("stripe")
    port = free_port()
    address = f"http://127.0.0.1:{port}/payments/callbacks/stripe"
    with simulator(directory, "--webhook-url", address) as gateway:
        settings = {
            "COUNTERFOIL_GATEWAY": "stripe",
            "COUNTERFOIL_STRIPE_KEY": API_KEY,
            "COUNTERFOIL_STRIPE_URL": gateway.url,
            "COUNTERFOIL_CALLBACK_SECRETS": SECRET,
            # Nobody looks by the clock for a day: what is found is found because of a notice.
            "COUNTERFOIL_RESOLVER_SPEED": "1",
        }
        with open_till(make_database(), make_token, directory, port=port, **settings) as till:
            yield till, gateway


def test_stripe_takes_the_money_and_its_notice_is_no_news(stripe: tuple[Till, Simulator]) -> None:
    till, gateway = stripe
    order = till.order()

    answer = till.pay(order)
    refunded = till.act(answer.json()["id"], "refunds", {"amount": "10.00"})

    assert (answer.status_code, answer.json()["gateway"]) == (201, "stripe")
    assert refunded.status_code == 201, refunded.text
    wait_until(lambda: len(notices(till)) >= 2)
    assert set(notices(till)) <= {"accepted", "duplicate"}
    assert till.axes(order) == ("confirmed", "partially_refunded")
    assert till.events(order) == [
        "payment.started",
        "payment.captured",
        "order.confirmed",
        "refund.requested",
        "refund.succeeded",
    ]
    assert gateway.truth()[answer.json()["reference"]].captured == 4000


def test_a_card_that_stripe_declines_is_402(stripe: tuple[Till, Simulator]) -> None:
    till, _ = stripe
    order = till.order()

    answer = till.pay(order, "pm_card_visa_chargeDeclinedInsufficientFunds")

    assert (answer.status_code, answer.json()["error"]["details"]["gateway_code"]) == (402, "insufficient_funds")
    assert till.axes(order) == ("created", "unpaid")


def test_a_notice_that_comes_before_the_answer_does_not_pay_twice(stripe: tuple[Till, Simulator]) -> None:
    till, gateway = stripe
    order = till.order()
    gateway.plan(webhook_early=1.0, webhook_duplicates=1.0)

    answer = till.pay(order)
    gateway.plan()

    assert answer.status_code == 201, answer.text
    assert till.axes(order) == ("confirmed", "paid")
    assert till.events(order) == ["payment.started", "payment.captured", "order.confirmed"]
    assert gateway.truth()[answer.json()["reference"]].captured == 4000


def test_a_notice_ends_the_wait_for_the_buyer(stripe: tuple[Till, Simulator]) -> None:
    till, gateway = stripe
    order = till.order()
    asked = till.pay(order, "pm_card_authenticationRequired", return_url="https://shop.example/thanks").json()
    assert asked["result"] == "requires_action"
    row = till.db.execute("SELECT gateway_payment_id FROM payments WHERE id = %s", [asked["id"]]).fetchone()
    assert row is not None

    gateway.control("POST", f"authenticate/{row[0]}", {"approved": True})

    wait_until(lambda: till.axes(order) == ("confirmed", "paid"), seconds=8)
    assert gateway.truth()[asked["reference"]].captured == 4000
