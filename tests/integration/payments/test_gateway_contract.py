"""What every registered gateway must do, tried on each of them: a new one joins by a harness of a few lines."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from simulator_process import SECRET, receiver, simulator

from counterfoil.infrastructure.metrics import DependencyMetrics
from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    PAGE_ENTRIES_MAX,
    ActionRefused,
    Callback,
    CallbackRejected,
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefundStatus,
    PaymentDeclined,
    PaymentGateway,
    PaymentRequest,
    RequestRejected,
    TimeSpan,
    each_payment,
    each_refund,
    find_payments,
    find_refunds,
)
from counterfoil.payments.gateways.registry import GATEWAYS, GatewayConfig, make_gateway
from counterfoil.payments.gateways.resilient import ResilientGateway
from counterfoil.payments.gateways.sandbox import SandboxGateway

Notice = tuple[bytes, dict[str, str]]


@dataclass
class Harness:
    """A gateway and what only its other side can do: play the buyer, and send a notice about a payment."""

    gateway: PaymentGateway
    authenticate: Callable[[str, bool], object]
    notice_of: Callable[[str], Notice]


@contextmanager
def sandbox_harness(directory: Path) -> Iterator[Harness]:
    config = GatewayConfig(callback_secrets=("new", SECRET), sandbox_journal=directory / "sandbox.jsonl")
    gateway = make_gateway("sandbox", config)
    # The other side of the same file, which signs with the older of two secrets.
    other_side = SandboxGateway(journal=config.sandbox_journal, callback_secrets=(SECRET,))

    def notice_of(payment_id: str) -> Notice:
        payment = other_side.read_payment(payment_id)
        return other_side.make_callback(Callback("evt_1", "payment.changed", datetime.now(UTC), payment))

    yield Harness(gateway, lambda payment_id, ok: other_side.authenticate(payment_id, approved=ok), notice_of)


@contextmanager
def stripe_harness(directory: Path) -> Iterator[Harness]:
    with receiver() as taken, simulator(directory, "--webhook-url", taken.url) as running:
        config = replace(running.config(), callback_secrets=("whsec_new", SECRET))

        def notice_of(payment_id: str) -> Notice:
            for count in itertools.count(1):
                taken.wait_for(count)
                about = taken.events()[count - 1]
                if about["data"]["object"]["id"] == payment_id and about["type"] != "payment_intent.created":
                    return taken.notices[count - 1]
            raise AssertionError

        yield Harness(
            make_gateway("stripe", config),
            lambda payment_id, ok: running.control("POST", f"authenticate/{payment_id}", {"approved": ok}),
            notice_of,
        )


@contextmanager
def resilient_harness(directory: Path) -> Iterator[Harness]:
    with stripe_harness(directory) as inner:
        yield replace(inner, gateway=ResilientGateway(inner.gateway, observer=DependencyMetrics("contract")))


HARNESSES: Final[dict[str, Callable[[Path], AbstractContextManager[Harness]]]] = {
    "sandbox": sandbox_harness,
    "stripe": stripe_harness,
    "resilient": resilient_harness,
}


def test_every_registered_gateway_is_tried_here() -> None:
    assert set(GATEWAYS) <= set(HARNESSES)


@pytest.fixture(scope="module", params=sorted(HARNESSES))
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with HARNESSES[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def gateway(harness: Harness) -> PaymentGateway:
    return harness.gateway


def request_of(amount: int = 5000, *, currency: str = "EUR", method: str = "pm_card_visa") -> PaymentRequest:
    """A request with a key and a reference that nobody has used."""
    unique = secrets.token_hex(12)
    return PaymentRequest(
        key=f"key-{unique}", reference=f"order-{unique}", amount=Money(amount, currency), method=method
    )


def new_key() -> str:
    return f"key-{secrets.token_hex(12)}"


def today() -> TimeSpan:
    now = datetime.now(UTC)
    return TimeSpan(now - timedelta(hours=1), now + timedelta(hours=1))


def captured(gateway: PaymentGateway, amount: int = 5000) -> GatewayPayment:
    return gateway.authorise(replace(request_of(amount), capture_now=True))


def euros(minor: int) -> Money:
    return Money(minor, "EUR")


# ---------------------------------------------------------------- authorise
def test_an_authorised_payment_is_held_and_carries_our_reference(gateway: PaymentGateway) -> None:
    request = request_of(1999)

    payment = gateway.authorise(request)

    assert payment.status is GatewayPaymentStatus.AUTHORIZED
    assert (payment.amount, payment.captured) == (euros(1999), euros(0))
    assert payment.reference == request.reference
    assert abs(datetime.now(UTC) - payment.created_at) < timedelta(minutes=1)
    assert gateway.read_payment(payment.payment_id) == payment


def test_a_payment_can_be_taken_at_once(gateway: PaymentGateway) -> None:
    payment = captured(gateway, 1999)

    assert payment.status is GatewayPaymentStatus.CAPTURED
    assert payment.captured == euros(1999)


def test_the_same_key_gives_the_same_payment_and_holds_money_once(gateway: PaymentGateway) -> None:
    request = request_of()

    answers = [gateway.authorise(request) for _ in range(3)]

    assert answers == [answers[0]] * 3
    assert len(find_payments(gateway, request.reference, span=today())) == 1


@pytest.mark.parametrize(
    "change", [{"amount": euros(5001)}, {"reference": "another"}, {"method": "pm_card_mastercard"}]
)
def test_a_key_that_comes_back_with_another_request_is_refused(
    gateway: PaymentGateway, change: dict[str, object]
) -> None:
    request = request_of()
    payment = gateway.authorise(request)

    with pytest.raises(RequestRejected):
        gateway.authorise(replace(request, **change))  # type: ignore[arg-type]

    assert find_payments(gateway, request.reference, span=today()) == (payment,)


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_visa_chargeDeclined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error"),
    ],
)
def test_a_declined_payment_tells_why_and_stays_declined(gateway: PaymentGateway, method: str, code: str) -> None:
    request = request_of(method=method)

    for _ in range(2):
        with pytest.raises(PaymentDeclined) as refusal:
            gateway.authorise(request)
        assert refusal.value.code == code

    (found,) = find_payments(gateway, request.reference, span=today())
    assert (found.status, found.decline_code) == (GatewayPaymentStatus.DECLINED, code)
    assert found.payment_id == refusal.value.payment_id
    assert found.captured == euros(0)


def test_a_method_that_does_not_exist_is_declined_and_no_bug_of_ours(gateway: PaymentGateway) -> None:
    with pytest.raises(PaymentDeclined, match="payment_method_unknown"):
        gateway.authorise(request_of(method="pm_nobody_knows"))


@pytest.mark.parametrize("status", [GatewayPaymentStatus.AUTHORIZED, GatewayPaymentStatus.DECLINED])
def test_a_buyer_who_must_authenticate_decides_the_payment(harness: Harness, status: GatewayPaymentStatus) -> None:
    approved = status is GatewayPaymentStatus.AUTHORIZED
    request = replace(request_of(method="pm_card_authenticationRequired"), return_url="https://shop.example/back")
    waiting = harness.gateway.authorise(request)
    assert waiting.status is GatewayPaymentStatus.REQUIRES_ACTION
    assert waiting.action_url != ""
    assert waiting.captured == euros(0)

    harness.authenticate(waiting.payment_id, approved)

    decided = harness.gateway.read_payment(waiting.payment_id)
    assert decided.status is status
    assert (decided.decline_code != "") is not approved
    assert decided.action_url == ""


def test_nothing_is_paid_with_nothing(gateway: PaymentGateway) -> None:
    request = request_of(0)

    with pytest.raises(RequestRejected):
        gateway.authorise(request)

    assert find_payments(gateway, request.reference, span=today()) == ()


@pytest.mark.parametrize("text", ["", "with space", "quote'", "line\n", "x" * 201, "ü"])
def test_a_reference_that_cannot_be_searched_for_is_never_sent(text: str) -> None:
    with pytest.raises(ValueError, match="reference must be"):
        replace(request_of(), reference=text)


@pytest.mark.parametrize(
    ("minor", "currency"), [(500, "JPY"), (1230, "KWD"), (12300, "MGA"), (5, "ISK"), (7, "UGX"), (1, "USD")]
)
def test_amounts_are_exact_in_every_kind_of_currency(gateway: PaymentGateway, minor: int, currency: str) -> None:
    request = replace(request_of(minor, currency=currency), capture_now=True)

    payment = gateway.authorise(request)

    assert payment.amount == payment.captured == Money(minor, currency)
    assert gateway.read_payment(payment.payment_id).amount == Money(minor, currency)


# ---------------------------------------------------------------- capture and void
def test_a_part_is_captured_once_and_the_rest_released(gateway: PaymentGateway) -> None:
    payment, key = gateway.authorise(request_of(5000)), new_key()

    answers = [gateway.capture(payment.payment_id, amount=euros(3000), key=key) for _ in range(2)]

    assert answers[0] == answers[1]
    assert (answers[0].status, answers[0].captured) == (GatewayPaymentStatus.CAPTURED, euros(3000))
    with pytest.raises(ActionRefused):
        gateway.capture(payment.payment_id, amount=euros(2000), key=new_key())
    assert gateway.read_payment(payment.payment_id) == answers[0]


def test_more_than_was_held_is_not_captured(gateway: PaymentGateway) -> None:
    payment = gateway.authorise(request_of(5000))

    with pytest.raises(ActionRefused):
        gateway.capture(payment.payment_id, amount=euros(5001), key=new_key())

    assert gateway.read_payment(payment.payment_id) == payment


def test_a_voided_payment_is_released_for_good(gateway: PaymentGateway) -> None:
    payment, key = gateway.authorise(request_of()), new_key()

    answers = [gateway.void(payment.payment_id, key=key) for _ in range(2)]

    assert [answer.status for answer in answers] == [GatewayPaymentStatus.VOIDED] * 2
    with pytest.raises(ActionRefused):
        gateway.capture(payment.payment_id, amount=euros(5000), key=new_key())
    assert gateway.read_payment(payment.payment_id).captured == euros(0)


def test_a_payment_that_waits_for_the_buyer_can_be_given_up(gateway: PaymentGateway) -> None:
    payment = gateway.authorise(request_of(method="pm_card_authenticationRequired"))

    assert gateway.void(payment.payment_id, key=new_key()).status is GatewayPaymentStatus.VOIDED


def test_a_captured_payment_cannot_be_voided(gateway: PaymentGateway) -> None:
    payment = captured(gateway)

    with pytest.raises(ActionRefused):
        gateway.void(payment.payment_id, key=new_key())

    assert gateway.read_payment(payment.payment_id) == payment


# ---------------------------------------------------------------- refund
def test_refunds_add_up_to_what_was_captured_and_no_further(gateway: PaymentGateway) -> None:
    payment = captured(gateway, 5000)
    first = gateway.refund(payment.payment_id, amount=euros(2000), reference="refund-1", key=new_key())
    with pytest.raises(ActionRefused):
        gateway.refund(payment.payment_id, amount=euros(3001), reference="refund-2", key=new_key())

    second = gateway.refund(payment.payment_id, amount=euros(3000), reference="refund-3", key=new_key())
    with pytest.raises(ActionRefused):
        gateway.refund(payment.payment_id, amount=euros(1), reference="refund-4", key=new_key())

    assert gateway.refunds_of(payment.payment_id) == (second, first)
    assert (first.status, first.amount, first.payment_id) == (
        GatewayRefundStatus.SUCCEEDED,
        euros(2000),
        payment.payment_id,
    )
    assert find_refunds(gateway, payment.payment_id, reference="refund-3") == (second,)
    assert find_refunds(gateway, payment.payment_id, reference="refund-2") == ()


def test_the_same_key_refunds_once(gateway: PaymentGateway) -> None:
    payment, key = captured(gateway, 5000), new_key()

    answers = [gateway.refund(payment.payment_id, amount=euros(2000), reference="r", key=key) for _ in range(3)]

    assert answers == [answers[0]] * 3
    assert gateway.refunds_of(payment.payment_id) == (answers[0],)


def test_money_that_is_only_held_is_not_refunded(gateway: PaymentGateway) -> None:
    payment = gateway.authorise(request_of())

    with pytest.raises(ActionRefused):
        gateway.refund(payment.payment_id, amount=euros(1), reference="r", key=new_key())

    assert gateway.refunds_of(payment.payment_id) == ()


# ---------------------------------------------------------------- looking
def test_a_payment_is_found_by_our_reference_and_nothing_else_is(gateway: PaymentGateway) -> None:
    request = request_of()
    payment = gateway.authorise(request)

    assert gateway.search_payments(request.reference) == (payment,)
    assert find_payments(gateway, f"{request.reference}-other", span=today()) == ()


def test_lists_give_every_entry_of_the_span_once_across_pages(gateway: PaymentGateway) -> None:
    made = [captured(gateway, 100 + n) for n in range(PAGE_ENTRIES_MAX + 3)]
    refunds = [
        gateway.refund(payment.payment_id, amount=euros(1), reference="paged", key=new_key()) for payment in made
    ]

    listed = list(each_payment(gateway, today()))
    listed_refunds = list(each_refund(gateway, today()))

    identifiers = [payment.payment_id for payment in listed]
    assert len(identifiers) == len(set(identifiers))
    assert [payment for payment in listed if payment in made] == made[::-1]
    assert [refund for refund in listed_refunds if refund in refunds] == refunds[::-1]
    assert len(gateway.list_payments(today()).entries) == PAGE_ENTRIES_MAX


def test_lists_leave_out_what_lies_outside_the_span(gateway: PaymentGateway) -> None:
    payment = captured(gateway)
    gateway.refund(payment.payment_id, amount=euros(1), reference="r", key=new_key())
    yesterday = TimeSpan(datetime.now(UTC) - timedelta(days=2), datetime.now(UTC) - timedelta(days=1))

    assert list(each_payment(gateway, yesterday)) == []
    assert list(each_refund(gateway, yesterday)) == []


def test_a_payment_that_nobody_made_cannot_be_read(gateway: PaymentGateway) -> None:
    with pytest.raises(RequestRejected):
        gateway.read_payment("pi_nobody_made_this")


# ---------------------------------------------------------------- notices
@pytest.fixture(scope="module")
def notice(harness: Harness) -> tuple[GatewayPayment, Notice]:
    payment = harness.gateway.authorise(request_of(4711))
    return payment, harness.notice_of(payment.payment_id)


def test_a_signed_notice_is_read_even_if_an_older_secret_signed_it(
    gateway: PaymentGateway, notice: tuple[GatewayPayment, Notice]
) -> None:
    payment, (body, headers) = notice

    told = gateway.parse_callback(body, headers)

    assert told.payment == payment
    assert told.refund is None
    assert told.event_id != ""
    assert gateway.parse_callback(body, headers).event_id == told.event_id


@pytest.mark.parametrize("change", ["body", "signature", "time"])
def test_a_notice_with_a_changed_byte_is_forged(
    gateway: PaymentGateway, notice: tuple[GatewayPayment, Notice], change: str
) -> None:
    _, (body, headers) = notice
    (name,) = [name for name in headers if name.endswith("-signature")]
    signed_at, signature = headers[name].split(",")
    if change == "body":
        body = body.replace(b"4711", b"4712")
    elif change == "signature":
        signature = signature[:-1] + ("0" if signature[-1] != "0" else "1")
    else:
        signed_at = f"t={int(signed_at[2:]) + 1}"

    with pytest.raises(CallbackRejected, match="forged"):
        gateway.parse_callback(body, {**headers, name: f"{signed_at},{signature}"})


@pytest.mark.parametrize("header", [None, "", "nonsense", "t=1", "v1=abc", "t=x,v1=abc", "t=1,v1=\xfc", "t=,v1="])
def test_a_notice_without_a_proper_signature_is_rejected(
    gateway: PaymentGateway, notice: tuple[GatewayPayment, Notice], header: str | None
) -> None:
    _, (body, headers) = notice
    (name,) = [name for name in headers if name.endswith("-signature")]
    others = {key: value for key, value in headers.items() if key != name}

    with pytest.raises(CallbackRejected):
        gateway.parse_callback(body, others if header is None else {**others, name: header})


def test_bytes_that_are_no_text_are_rejected(gateway: PaymentGateway, notice: tuple[GatewayPayment, Notice]) -> None:
    _, (_, headers) = notice

    with pytest.raises(CallbackRejected):
        gateway.parse_callback(b"\xff\xfe", headers)
