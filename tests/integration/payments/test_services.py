"""What a payment becomes, by every answer that a gateway can give."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from desk import PRICE, Desk, Trace, settle
from gateways_at_fault import Away, Counting, Refusing, Silent

from counterfoil.kernel.money import Money
from counterfoil.payments.errors import (
    AmountNotPositive,
    AmountTooLarge,
    PaymentActionNotAllowed,
    PaymentInFlight,
    PaymentKeyReused,
    PaymentNotFound,
)
from counterfoil.payments.gateways.base import OutcomeUnknown
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.gateways.sandbox import SandboxGateway
from counterfoil.payments.services import allowed_payment_actions, list_payments, read_balance, totals_of

NothingWritten = Callable[[], AbstractContextManager[None]]
KEY = "client-key-of-a-test"


def use(desk: Desk, gateway: SandboxGateway, fallback: SandboxGateway | None = None) -> None:
    by_name = {"sandbox": gateway, **({"other": fallback} if fallback else {})}
    desk.sandbox = gateway
    desk.gateways = Gateways(by_name, primary="sandbox", fallback="other" if fallback else "")


def totals(desk: Desk) -> tuple[int, int, int, bool, bool]:
    from counterfoil.infrastructure.database import run_in_thread

    found = run_in_thread(totals_of, desk.order_id, "EUR")
    sums = (found.authorized.amount_minor, found.captured.amount_minor, found.refunded.amount_minor)
    return (*sums, found.in_flight, found.unknown)


# ---------------------------------------------------------------- the straight way
def test_an_authorised_payment_is_captured_in_part_and_refunded_twice(desk: Desk) -> None:
    from counterfoil.infrastructure.database import run_in_thread

    payment = desk.start()
    assert totals(desk) == (0, 0, 0, True, False)
    assert desk.work() == ["payment.authorized"]
    assert totals(desk) == (4000, 0, 0, False, False)
    desk.capture(payment, Money(3000, "EUR"))
    assert desk.work() == ["payment.captured"]
    desk.refund(payment, Money(1000, "EUR"))
    assert desk.work() == ["refund.succeeded"]
    assert desk.read(payment).refundable == Money(2000, "EUR")
    desk.refund(payment)
    assert desk.work() == ["refund.succeeded"]

    view = desk.read(payment)

    assert (view.status, view.captured, view.refunded) == ("captured", Money(3000, "EUR"), Money(3000, "EUR"))
    assert allowed_payment_actions(view) == ()
    assert totals(desk) == (0, 3000, 3000, False, False)
    assert run_in_thread(read_balance, desk.order_id, "EUR") == Money(0, "EUR")
    assert desk.ledger() == [
        ("capture", "gateway:sandbox", "30.0000"),
        ("capture", "order", "-30.0000"),
        ("refund", "gateway:sandbox", "-10.0000"),
        ("refund", "order", "10.0000"),
        ("refund", "gateway:sandbox", "-20.0000"),
        ("refund", "order", "20.0000"),
    ]


def test_a_payment_that_captures_at_once_is_posted_once(desk: Desk) -> None:
    payment = desk.start(capture_now=True)

    assert desk.work() == ["payment.captured"]

    assert desk.read(payment).captured == PRICE
    assert desk.ledger() == [("capture", "gateway:sandbox", "40.0000"), ("capture", "order", "-40.0000")]
    assert desk.attempts() == [("authorise", "succeeded", "sandbox", "")]


def test_a_void_releases_what_was_held(desk: Desk) -> None:
    payment = desk.start()
    desk.work()
    desk.void(payment)

    assert desk.work() == ["payment.voided"]

    assert (desk.read(payment).status, desk.ledger()) == ("cancelled", [])
    assert totals(desk) == (0, 0, 0, False, False)
    with pytest.raises(PaymentActionNotAllowed) as refusal:
        desk.capture(payment)
    assert refusal.value.details == {"action": "capture", "status": "cancelled", "allowed_actions": []}


# ---------------------------------------------------------------- every method of the sandbox
@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_visa_chargeDeclined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error"),
        ("pm_nobody_knows", "payment_method_unknown"),
    ],
)
def test_a_declined_card_says_why_and_the_next_one_pays(desk: Desk, method: str, code: str) -> None:
    payment = desk.start(method)

    assert desk.work() == ["payment.failed"]
    assert (desk.read(payment).status, desk.read(payment).decline_code) == ("failed", code)
    assert desk.attempts() == [("authorise", "declined", "sandbox", "")]
    desk.start()

    assert desk.work() == ["payment.authorized"]


def test_a_buyer_who_authenticates_finishes_the_payment(desk: Desk) -> None:
    payment = desk.start("pm_card_authenticationRequired")
    assert desk.work() == ["payment.requires_action"]
    waiting = desk.read(payment)
    assert (waiting.status, waiting.action_url.partition("/")[0]) == ("requires_payment", "sandbox:authenticate")
    assert (allowed_payment_actions(waiting), totals(desk)) == (("void",), (0, 0, 0, True, False))
    desk.make_due()
    assert desk.work() == []
    desk.sandbox.authenticate(waiting.gateway_payment_id, approved=True)
    desk.make_due()

    assert desk.work() == ["payment.authorized"]

    assert (desk.read(payment).status, desk.read(payment).action_url) == ("authorized", "")
    assert desk.attempts() == [("authorise", "succeeded", "sandbox", "")]
    desk.make_due()
    assert desk.claim() == []


def test_a_buyer_who_fails_to_authenticate_may_try_another_card(desk: Desk) -> None:
    payment = desk.start("pm_card_authenticationRequired")
    desk.work()
    desk.sandbox.authenticate(desk.read(payment).gateway_payment_id, approved=False)
    desk.make_due()

    assert desk.work() == ["payment.failed"]

    assert desk.read(payment).decline_code == "authentication_failed"
    desk.start()


def test_a_buyer_who_has_left_for_an_hour_is_given_up(desk: Desk) -> None:
    payment = desk.start("pm_card_authenticationRequired")
    desk.work()
    desk.age(hours=1)
    desk.make_due()

    assert desk.work() == []
    assert desk.work() == ["payment.voided"]

    assert desk.read(payment).status == "cancelled"
    assert [row[:2] for row in desk.attempts()] == [("authorise", "succeeded"), ("void", "succeeded")]


def test_a_void_takes_the_payment_out_of_the_hands_of_whoever_looks_at_it(desk: Desk) -> None:
    payment = desk.start("pm_card_authenticationRequired")
    desk.work()
    desk.make_due()
    [look] = desk.claim()
    seen = desk.execute(look)

    desk.void(payment)

    assert settle(look, seen) == []
    assert desk.work() == ["payment.voided"]
    assert desk.read(payment).status == "cancelled"


@pytest.mark.parametrize("method", ["pm_sandbox_answer_lost", "pm_sandbox_answer_lost_once"])
def test_a_lost_answer_is_unknown_and_found_by_its_reference(desk: Desk, method: str) -> None:
    use(desk, Counting())
    payment = desk.start(method)
    assert desk.work() == ["payment.unknown"]
    assert (desk.read(payment).status, desk.read(payment).is_unknown) == ("unknown", True)
    assert (allowed_payment_actions(desk.read(payment)), totals(desk)) == ((), (0, 0, 0, True, True))
    with pytest.raises(PaymentInFlight):
        desk.start()
    assert desk.claim() == []
    desk.make_due()

    assert desk.work() == ["payment.authorized"]

    assert totals(desk) == (4000, 0, 0, False, False)
    assert [operation for operation, _ in desk.sandbox.sent] == ["authorise"]  # type: ignore[attr-defined]


def test_what_is_not_there_is_sent_again_with_the_same_key_for_23_hours_and_then_never(desk: Desk) -> None:
    use(desk, Counting())
    payment = desk.start("pm_sandbox_hanging")
    assert desk.work() == ["payment.unknown"]
    desk.make_due()
    assert desk.work() == []
    sent = desk.sandbox.sent  # type: ignore[attr-defined]
    assert (len(sent), len(set(sent))) == (2, 1)
    desk.age(hours=22.9)
    desk.make_due()
    desk.work()
    assert (len(sent), len(set(sent))) == (3, 1)
    desk.age(hours=0.2)
    desk.make_due()

    assert desk.work() == []

    assert len(sent) == 3
    assert (desk.read(payment).status, desk.read(payment).review_reason) == ("unknown", "")


def test_after_a_day_a_person_must_look_and_after_three_nobody_else_does(desk: Desk) -> None:
    payment = desk.start("pm_sandbox_hanging")
    desk.work()
    desk.age(hours=24.1)
    desk.make_due()
    desk.work()
    assert (desk.read(payment).status, desk.read(payment).review_reason) == ("unknown", "unknown_for_a_day")
    desk.age(hours=48)
    desk.make_due()

    desk.work()

    desk.make_due()
    assert desk.claim() == []
    assert (desk.read(payment).status, totals(desk)) == ("unknown", (0, 0, 0, True, True))
    assert [row[:2] for row in desk.attempts()] == [("authorise", "unknown")]


def test_a_person_can_have_the_gateway_asked_once_more(desk: Desk) -> None:
    from desk import committed

    from counterfoil.payments import services

    payment = desk.start("pm_sandbox_answer_lost")
    desk.work()
    desk.db.execute("UPDATE payment_attempts SET next_at = NULL WHERE payment_id = %s", [payment.id])

    assert committed(lambda: services.look_now(payment.id, trace=Trace())) == 1

    assert desk.work() == ["payment.authorized"]


def test_a_call_that_the_gateway_does_not_understand_fails_and_is_told_to_a_person(desk: Desk) -> None:
    payment = desk.start("pm_sandbox_rejected")

    assert desk.work() == ["payment.failed"]

    view = desk.read(payment)
    assert (view.status, view.decline_code) == ("failed", "gateway_rejected")
    assert view.review_reason == "rejected:parameter_invalid"
    assert desk.attempts() == [("authorise", "rejected", "sandbox", "")]


def test_a_call_that_is_running_at_the_gateway_is_unknown_until_it_answers(desk: Desk) -> None:
    desk.start("pm_sandbox_running_once")
    assert desk.work() == ["payment.unknown"]
    desk.make_due()

    assert desk.work() == ["payment.authorized"]


# ---------------------------------------------------------------- certainly not executed
def test_a_gateway_that_is_away_is_told_at_once_and_the_same_request_asks_again_with_the_same_key(desk: Desk) -> None:
    gateway = Away()
    use(desk, gateway)
    payment = desk.start(key=KEY)
    assert desk.work() == ["payment.failed"]
    assert desk.read(payment).decline_code == "gateway_unavailable"
    assert desk.attempts() == [("authorise", "not_executed", "sandbox", "")]
    gateway.is_away = False

    again = desk.start(key=KEY)

    assert (again.id, again.status) == (payment.id, "processing")
    assert desk.work() == ["payment.authorized"]
    assert (len(gateway.sent), len(set(gateway.sent))) == (2, 1)
    assert desk.attempts() == [("authorise", "succeeded", "sandbox", "")]


def test_another_gateway_is_asked_only_when_the_first_one_has_certainly_done_nothing(desk: Desk) -> None:
    first, second = Away(), Counting("other")
    use(desk, first, second)
    payment = desk.start()
    assert desk.work() == []
    assert (desk.read(payment).status, desk.read(payment).gateway) == ("processing", "other")

    assert desk.work() == ["payment.authorized"]

    assert [row[:3] for row in desk.attempts()] == [
        ("authorise", "not_executed", "sandbox"),
        ("authorise", "succeeded", "other"),
    ]
    assert first.sent[0][1] != second.sent[0][1]
    desk.capture(payment)
    assert desk.work() == ["payment.captured"]
    assert [account for _, account, _ in desk.ledger()] == ["gateway:other", "order"]


def test_an_unknown_outcome_is_never_taken_to_another_gateway(desk: Desk) -> None:
    second = Counting("other")
    use(desk, Counting(), second)
    desk.start("pm_sandbox_hanging")
    for _ in range(3):
        desk.work()
        desk.make_due()

    assert second.sent == []


def test_both_gateways_away_leave_the_order_payable_and_the_first_one_comes_first_again(desk: Desk) -> None:
    first, second = Away(), Away("other")
    use(desk, first, second)
    payment = desk.start(key=KEY)
    assert [desk.work(), desk.work()] == [[], ["payment.failed"]]
    first.is_away = False

    desk.start(key=KEY)

    assert desk.work() == ["payment.authorized"]
    assert desk.read(payment).gateway == "sandbox"
    assert len(set(first.sent)) == 1


def test_a_capture_and_a_refund_wait_for_a_gateway_that_is_away(desk: Desk) -> None:
    gateway = Away()
    gateway.is_away = False
    use(desk, gateway)
    payment = desk.start()
    desk.work()
    gateway.is_away = True
    desk.capture(payment)
    assert desk.work() == []
    assert [row[:2] for row in desk.attempts()][1:] == [("capture", "due")]
    assert totals(desk) == (4000, 0, 0, True, False)
    gateway.is_away = False
    desk.make_due()
    assert desk.work() == ["payment.captured"]
    gateway.is_away = True
    refund = desk.refund(payment)
    assert desk.work() == []
    assert desk.read_refund(refund).status == "requested"
    gateway.is_away = False
    desk.make_due()

    assert desk.work() == ["refund.succeeded"]

    keys = [sent for sent in gateway.sent if sent[0] != "authorise"]
    assert (len(keys), len(set(keys))) == (4, 2)


def test_what_has_waited_for_a_gateway_for_a_day_is_told_to_a_person_until_it_is_done(desk: Desk) -> None:
    gateway = Away()
    gateway.is_away = False
    use(desk, gateway)
    payment = desk.start()
    desk.work()
    gateway.is_away = True
    desk.capture(payment)
    desk.work()
    assert desk.read(payment).review_reason == ""
    desk.age(hours=25)
    desk.make_due()
    desk.work()
    assert desk.read(payment).review_reason == "waiting_for_a_day"
    gateway.is_away = False
    desk.make_due()

    assert desk.work() == ["payment.captured"]

    assert desk.read(payment).review_reason == ""


def test_a_rejected_call_stays_with_a_person_until_they_have_looked(desk: Desk) -> None:
    from desk import committed

    from counterfoil.payments import services

    use(desk, Refusing())
    payment = desk.start()
    desk.work()
    desk.capture(payment)
    desk.work()
    desk.void(payment)
    assert desk.work() == ["payment.voided"]
    assert desk.read(payment).review_reason == "rejected:charge_expired_for_capture"

    view = committed(lambda: services.finish_review(payment.id, reason="hold had ended", trace=Trace()))

    assert view.review_reason == ""


# ---------------------------------------------------------------- lost answers of the other operations
@pytest.mark.parametrize("does_nothing", [False, True])
@pytest.mark.parametrize("operation", ["capture", "void", "refund"])
def test_a_lost_answer_to_what_follows_is_found_out_and_nothing_is_done_twice(
    desk: Desk, operation: str, *, does_nothing: bool
) -> None:
    gateway = Silent()
    use(desk, gateway)
    payment = desk.start(capture_now=operation == "refund")
    desk.work()
    gateway.does_nothing = does_nothing
    subject: Any = {"capture": desk.capture, "void": desk.void, "refund": desk.refund}[operation](payment)
    assert desk.work() == ["refund.unknown" if operation == "refund" else "payment.unknown"]
    assert totals(desk)[3:] == (True, True)
    assert desk.read(payment).status == ("captured" if operation == "refund" else "authorized")
    gateway.does_nothing, gateway.loses = False, False
    desk.make_due()

    kind = {"capture": "payment.captured", "void": "payment.voided", "refund": "refund.succeeded"}[operation]
    assert desk.work() == [kind]

    sent = [each for each in gateway.sent if each[0] == operation]
    assert (len(sent), len(set(sent))) == (2 if does_nothing else 1, 1)
    assert totals(desk)[3:] == (False, False)
    assert subject.id
    assert len(desk.ledger()) == {"capture": 2, "void": 0, "refund": 4}[operation]


def test_a_refused_capture_leaves_the_payment_as_it_is_and_tells_a_person(desk: Desk) -> None:
    use(desk, Refusing())
    payment = desk.start()
    desk.work()
    desk.capture(payment, key=KEY)

    assert desk.work() == []

    view = desk.read(payment)
    assert (view.status, view.pending) == ("authorized", "")
    assert view.review_reason == "rejected:charge_expired_for_capture"
    assert desk.attempts()[1][:2] == ("capture", "rejected")
    desk.gateways = Gateways({"sandbox": desk.sandbox}, primary="sandbox")
    assert allowed_payment_actions(view) == ("capture", "void")


def test_a_refused_refund_has_failed_and_leaves_the_money_refundable(desk: Desk) -> None:
    use(desk, Refusing())
    payment = desk.start(capture_now=True)
    desk.work()
    refund = desk.refund(payment)

    assert desk.work() == ["refund.failed"]

    failed = desk.read_refund(refund)
    assert (failed.status, failed.failure_code) == ("failed", "charge_disputed")
    assert desk.read(payment).refundable == PRICE
    assert len(desk.ledger()) == 2


def test_a_refund_that_is_refused_after_a_lost_answer_is_not_called_failed(desk: Desk) -> None:
    class Slow(Refusing):
        is_lost = True

        def refund(self, payment_id: str, *, amount: Money, reference: str, key: str) -> Any:
            if self.is_lost:
                raise OutcomeUnknown("timeout", gateway=self.name)
            return super().refund(payment_id, amount=amount, reference=reference, key=key)

    gateway = Slow()
    use(desk, gateway)
    payment = desk.start(capture_now=True)
    desk.work()
    refund = desk.refund(payment)
    assert desk.work() == ["refund.unknown"]
    gateway.is_lost = False
    desk.make_due()

    assert desk.work() == []

    assert desk.read_refund(refund).status == "unknown"
    assert desk.read(payment).review_reason == "unknown:charge_disputed"
    assert desk.read(payment).refundable == Money(0, "EUR")


def test_a_void_that_comes_too_late_finds_the_money_taken(desk: Desk) -> None:
    payment = desk.start()
    desk.work()
    desk.void(payment)
    desk.sandbox.capture(desk.read(payment).gateway_payment_id, amount=PRICE, key="somebody-else")

    assert desk.work() == ["payment.captured"]

    assert (desk.read(payment).captured, len(desk.ledger())) == (PRICE, 2)


# ---------------------------------------------------------------- keys of the client
def test_the_same_key_is_the_same_payment_and_another_amount_is_refused(desk: Desk) -> None:
    first = desk.start(key=KEY)

    assert desk.start(key=KEY).id == first.id
    desk.work()
    assert desk.start(key=KEY).status == "authorized"
    with pytest.raises(PaymentKeyReused):
        desk.start(key=KEY, amount=Money(100, "EUR"))

    assert len(desk.attempts()) == 1


def test_a_new_generation_comes_only_after_a_definite_decline(desk: Desk) -> None:
    gateway = Counting()
    use(desk, gateway)
    first = desk.start("pm_card_visa_chargeDeclined", key=KEY)
    desk.work()

    second = desk.start(key=KEY)

    assert second.id != first.id
    assert desk.work() == ["payment.authorized"]
    assert len({key for _, key in gateway.sent}) == 2
    assert desk.start(key=KEY).id == second.id


def test_a_second_payment_of_an_order_is_refused_while_the_first_is_undecided(
    desk: Desk, nothing_written: NothingWritten
) -> None:
    from counterfoil.infrastructure.database import run_in_thread

    first = desk.start()

    with nothing_written(), pytest.raises(PaymentInFlight):
        desk.start()

    assert [payment.id for payment in run_in_thread(list_payments, desk.order_id)] == [first.id]
    desk.work()
    assert desk.start(amount=Money(100, "EUR")).id != first.id


def test_a_repeated_capture_and_void_change_nothing(desk: Desk) -> None:
    payment = desk.start()
    desk.work()
    desk.capture(payment, key=KEY)
    desk.capture(payment, key=KEY)
    with pytest.raises(PaymentKeyReused):
        desk.capture(payment, Money(1, "EUR"), key=KEY)
    assert desk.work() == ["payment.captured"]

    assert desk.capture(payment, key=KEY).status == "captured"

    assert len(desk.attempts()) == 2


def test_what_a_payment_does_not_allow_is_refused_with_what_it_does(
    desk: Desk, nothing_written: NothingWritten
) -> None:
    payment = desk.start()
    with nothing_written(), pytest.raises(PaymentActionNotAllowed) as early:
        desk.capture(payment)
    assert early.value.details == {"action": "capture", "status": "processing", "allowed_actions": []}
    with nothing_written(), pytest.raises(PaymentActionNotAllowed):
        desk.refund(payment)
    desk.work()
    desk.capture(payment)
    with nothing_written(), pytest.raises(PaymentActionNotAllowed):
        desk.void(payment)
    desk.work()

    with nothing_written(), pytest.raises(PaymentActionNotAllowed) as late:
        desk.void(payment)

    assert late.value.details == {"action": "void", "status": "captured", "allowed_actions": ["refund"]}


def test_amounts_that_cannot_be_are_refused(desk: Desk, nothing_written: NothingWritten) -> None:
    with nothing_written(), pytest.raises(AmountNotPositive):
        desk.start(amount=Money(0, "EUR"))
    payment = desk.start()
    desk.work()
    with nothing_written():
        with pytest.raises(AmountTooLarge) as refusal:
            desk.capture(payment, Money(4001, "EUR"))
        with pytest.raises(AmountNotPositive):
            desk.capture(payment, Money(0, "EUR"))
        with pytest.raises(AmountNotPositive):
            desk.capture(payment, Money(100, "USD"))

    assert refusal.value.details == {"amount_max": "40.00 EUR"}


def test_a_payment_that_is_not_there_is_not_found(desk: Desk) -> None:
    from desk import committed

    from counterfoil.payments import services

    for start in (services.start_capture, services.start_refund):
        values = {"reason": "", "automatic": False} if start is services.start_refund else {}
        with pytest.raises(PaymentNotFound):
            committed(
                lambda start=start, values=values: start(2**40, amount=None, client_key=KEY, trace=Trace(), **values)  # type: ignore[misc]
            )
    assert desk.order_id


# ---------------------------------------------------------------- the trail
def test_every_change_says_who_and_why_and_nothing_of_the_buyers_means_of_payment(desk: Desk) -> None:
    first = desk.db.execute("SELECT coalesce(max(id), 0) FROM audit_entries").fetchone()
    assert first is not None
    payment = desk.start("pm_card_visa", return_url="https://shop.example/back?basket=17", capture_now=True)
    desk.work()
    refund = desk.refund(payment, Money(1000, "EUR"))
    desk.work()
    ids = [row[0] for row in desk.db.execute("SELECT id FROM payment_attempts WHERE payment_id = %s", [payment.id])]

    entries = desk.db.execute(
        "SELECT actor, action, target, changes::text FROM audit_entries WHERE id > %s"
        " AND ((target = 'payment' AND target_id = %s) OR (target = 'refund' AND target_id = %s)"
        "      OR (target = 'payment_attempt' AND target_id = ANY (%s))) ORDER BY id",
        [first[0], payment.id, refund.id, ids],
    ).fetchall()

    who, worker = desk.trace.principal, "job:payments"
    assert [row[:3] for row in entries] == [
        (who, "payment.start", "payment"),
        (who, "payment.start", "payment_attempt"),
        (worker, "payment.claim", "payment_attempt"),
        (worker, "payment.authorise", "payment_attempt"),
        (worker, "payment.authorise", "payment"),
        (who, "refund.start", "refund"),
        (who, "refund.start", "payment_attempt"),
        (worker, "payment.claim", "payment_attempt"),
        (worker, "payment.refund", "payment_attempt"),
        (worker, "payment.refund", "refund"),
        (worker, "payment.refund", "payment"),
    ]
    text = "".join(row[3] for row in entries)
    assert "pm_card_visa" not in text
    assert "shop.example" not in text
    stored = desk.db.execute("SELECT method, return_url FROM payment_attempts WHERE id = ANY (%s)", [ids]).fetchall()
    assert stored == [("", ""), ("", "")]
