"""The simulator's rules without a process: fault plans, forms, signatures, and money that adds up."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.proof.gateway_simulator.faults import Fault, FaultPlan, FaultPlanError, split_words
from counterfoil.proof.gateway_simulator.forms import parse_form
from counterfoil.proof.gateway_simulator.money import Book, Refusal
from counterfoil.proof.gateway_simulator.webhooks import sign

HOSTILE = {
    "charge_then_hang": 0.05,
    "hang_before_charge": 0.05,
    "error_500_half_charged": 0.05,
    "rate_limited": 0.03,
    "in_flight": 0.02,
    "reset_mid_body": 0.02,
    "broken_json": 0.01,
}


# ---------------------------------------------------------------- fault plans
def test_a_plan_is_a_function_of_the_seed_and_the_number() -> None:
    first, again, other = (FaultPlan.parse(HOSTILE, seed=seed) for seed in (7, 7, 8))

    assert [first.fault_of(n) for n in range(1, 1000)] == [again.fault_of(n) for n in range(1, 1000)]
    assert [first.fault_of(n) for n in range(1, 1000)] != [other.fault_of(n) for n in range(1, 1000)]
    assert first.fault_of(500) == [first.fault_of(n) for n in range(1, 1000)][499]


def test_faults_come_as_often_as_their_rates_say() -> None:
    plan = FaultPlan.parse(HOSTILE, seed=1)

    met = Counter(plan.fault_of(n) for n in range(1, 20_001))

    assert met[Fault.CHARGE_THEN_HANG] == pytest.approx(1000, rel=0.15)
    assert met[Fault.BROKEN_JSON] == pytest.approx(200, rel=0.3)
    assert met[Fault.ERROR_500_HALF_CHARGED] == 0
    assert met[Fault.ERROR_500] == pytest.approx(500, rel=0.2)
    assert met[Fault.ERROR_500_CHARGED] == pytest.approx(500, rel=0.2)
    assert met[None] == pytest.approx(15_400, rel=0.02)


def test_a_numbered_request_has_its_own_fault_whatever_the_rates_say() -> None:
    plan = FaultPlan.parse({"slow": 1, "at.3": "broken_json", "next.2": "in_flight"}, seed=0, requests_so_far=40)

    assert plan.fault_of(3) is Fault.BROKEN_JSON
    assert plan.fault_of(42) is Fault.IN_FLIGHT
    assert plan.fault_of(43) is Fault.SLOW


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"nonsense": 1}, "there is no fault or option 'nonsense'"),
        ({"slow": 1.1}, "slow is a share from 0 to 1"),
        ({"slow": -0.1}, "slow must not be negative"),
        ({"slow": "often"}, "slow must be a number"),
        ({"slow": "nan"}, "slow must not be negative"),
        ({"slow": 0.6, "in_flight": 0.6}, "the rates of all faults together exceed 1"),
        ({"at.x": "slow"}, "at.x needs a request number from 1"),
        ({"at.0": "slow"}, "at.0 needs a request number from 1"),
        ({"at.1": "nonsense"}, "at.1 names no fault"),
        ({"hang_seconds": "long"}, "hang_seconds must be a number"),
        ({"webhook_never": 2}, "webhook_never is a share from 0 to 1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_with_a_sentence(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FaultPlanError, match=sentence):
        FaultPlan.parse(words, seed=0)


def test_words_on_the_command_line_are_names_and_values() -> None:
    assert split_words("slow=0.1, at.3=in_flight,") == {"slow": "0.1", "at.3": "in_flight"}
    with pytest.raises(FaultPlanError, match="'slow' is not name=value"):
        split_words("slow")


# ---------------------------------------------------------------- forms and signatures
def test_brackets_make_a_tree() -> None:
    assert parse_form("a=1&m[x]=2&m[y]=3&l[0]=p&e[]=q&e[]=r&created[gte]=5&empty=") == {
        "a": "1",
        "m": {"x": "2", "y": "3"},
        "l": {"0": "p"},
        "e": {"0": "q", "1": "r"},
        "created": {"gte": "5"},
        "empty": "",
    }


@pytest.mark.parametrize("text", ["a[=1", "[x]=1", "a[b=1", "a=1&a[b]=2"])
def test_a_form_that_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"parameter name|value and a branch"):
        parse_form(text)


def test_a_notice_passes_the_official_verifier_and_a_changed_one_does_not() -> None:
    body, header = (
        b'{"id": "evt_1", "object": "event", "amount": 1}',
        sign(b'{"id": "evt_1", "object": "event", "amount": 1}', "s", 1000),
    )

    assert stripe.WebhookSignature.verify_header(body, header, "s", tolerance=None)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body.replace(b"1}", b"2}"), header, "s", tolerance=None)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body, header, "s", tolerance=300)


# ---------------------------------------------------------------- money
CALL = st.tuples(
    st.sampled_from(["create", "confirm", "capture", "cancel", "refund", "authenticate", "decline"]),
    st.integers(1, 6),
    st.integers(1, 130),
    st.sampled_from(["pm_card_visa", "pm_card_visa_chargeDeclined", "pm_card_authenticationRequired"]),
    st.sampled_from(["manual", "automatic"]),
)


@given(st.lists(CALL, max_size=60))
def test_whatever_is_called_money_adds_up(calls: list[tuple[str, int, int, str, str]]) -> None:
    book, moved = Book("t"), defaultdict[str, Counter[str]](Counter)

    for call in calls:
        try:
            outcome = run(book, *call)
        except Refusal:
            continue
        book.apply(outcome.objects, outcome.events)
        for move in outcome.moves:
            assert move["amount"] > 0
            moved[move["payment"]][move["kind"]] += move["amount"]

    for intent_id, intent in book.intents.items():
        kinds = moved[intent_id]
        assert kinds["authorized"] in {0, intent["amount"]}, "held once, in full"
        assert kinds["captured"] + kinds["voided"] <= kinds["authorized"]
        assert kinds["captured"] == intent["amount_received"]
        assert kinds["refunded"] == sum(refund["amount"] for refund in book.refunds_of(intent_id))
        assert kinds["refunded"] <= kinds["captured"]
        assert (intent["status"] == "succeeded") is (kinds["captured"] > 0)
        assert (intent["status"] == "requires_capture") is (intent["amount_capturable"] > 0)
    assert len(book.events) == len({event["id"] for event in book.events.values()})


def run(book: Book, action: str, number: int, amount: int, card: str, capture_method: str) -> Any:
    name = f"pi_t{number:010d}"
    if action == "create":
        form = {"amount": "100", "currency": "eur", "payment_method": card, "capture_method": capture_method}
        return book.create({**form, "confirm": "true" if amount % 2 else "false"}, 1)
    if action == "confirm":
        return book.confirm(name, {"payment_method": card}, 2)
    if action == "capture":
        return book.capture(name, {"amount_to_capture": str(amount)}, 3)
    if action == "cancel":
        return book.cancel(name, {}, 4)
    if action == "refund":
        return book.refund({"payment_intent": name, "amount": str(amount)}, 5)
    return book.authenticate(name, approved=action == "authenticate", now=6)
