"""Notices of gateways: each is written down, and only a genuine new one about our payment has an effect."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from desk import CALLBACK_SECRET, Desk, settle

from counterfoil.infrastructure.database import run_in_thread
from counterfoil.kernel.money import Money
from counterfoil.payments.errors import GatewayNotFound
from counterfoil.payments.gateways.base import Callback, GatewayPayment, GatewayPaymentStatus, GatewayRefund
from counterfoil.payments.gateways.sandbox import SandboxGateway
from counterfoil.payments.notices import UNBELIEVED_MINUTE_MAX, accept_notice
from counterfoil.payments.views import PaymentView


def take(desk: Desk, body: bytes, headers: dict[str, str]) -> str:
    verdict: str = run_in_thread(lambda: accept_notice("sandbox", body, headers, gateways=desk.gateways))
    return verdict


def notice_of(desk: Desk, payment: PaymentView, **values: Any) -> Callback:
    """A notice about a payment; `values` replace what is true."""
    seen = GatewayPayment(
        payment_id=desk.read(payment).gateway_payment_id or "sbx_pay_1",
        reference=payment.reference,
        status=GatewayPaymentStatus.AUTHORIZED,
        amount=payment.amount,
        captured=Money(0, "EUR"),
        created_at=datetime.now(UTC),
    )
    event = f"evt-{desk.order_id}"
    fields = {name: values.pop(name) for name in list(values) if name in GatewayPayment.__dataclass_fields__}
    seen = GatewayPayment(**{**{name: getattr(seen, name) for name in GatewayPayment.__dataclass_fields__}, **fields})
    return Callback(
        **{"event_id": event, "type": "payment.updated", "occurred_at": datetime.now(UTC), **values}, payment=seen
    )


def written(desk: Desk, body: bytes) -> list[tuple[Any, ...]]:
    """(event, verdict, detail, about a payment?) of every notice with this body."""
    return desk.db.execute(
        "SELECT event_id, verdict, detail, payment_id IS NOT NULL FROM gateway_notices"
        " WHERE body_hash = %s ORDER BY id",
        [hashlib.sha256(body).digest()],
    ).fetchall()


def fingerprint(desk: Desk) -> list[tuple[Any, ...]]:
    """Everything about this order's payments but when they are looked at next."""
    return desk.db.execute(
        "SELECT to_jsonb(p), to_jsonb(a) - 'next_at' - 'noticed_at',"
        " (SELECT count(*) FROM ledger_entries l WHERE l.order_id = p.order_id)"
        " FROM payments p JOIN payment_attempts a ON a.payment_id = p.id WHERE p.order_id = %s ORDER BY a.id",
        [desk.order_id],
    ).fetchall()


def schedule(desk: Desk) -> list[tuple[Any, ...]]:
    return desk.db.execute(
        "SELECT next_at, noticed_at FROM payment_attempts a"
        " JOIN payments p ON p.id = a.payment_id WHERE p.order_id = %s",
        [desk.order_id],
    ).fetchall()


@pytest.fixture
def unknown(desk: Desk) -> PaymentView:
    """A payment whose answer was lost."""
    payment = desk.start("pm_sandbox_answer_lost")
    desk.work()
    return desk.read(payment)


def test_a_genuine_notice_makes_an_unknown_payment_be_looked_at_now(desk: Desk, unknown: PaymentView) -> None:
    body, headers = desk.sandbox.make_callback(notice_of(desk, unknown))
    assert desk.claim() == []

    assert take(desk, body, headers) == "accepted"

    assert written(desk, body) == [(f"evt-{desk.order_id}", "accepted", "", True)]
    assert desk.read(unknown).status == "unknown"
    assert desk.work() == ["payment.authorized"]


def test_what_a_notice_says_is_not_believed_but_looked_up(desk: Desk, unknown: PaymentView) -> None:
    captured = notice_of(desk, unknown, status=GatewayPaymentStatus.CAPTURED, captured=unknown.amount)
    body, headers = desk.sandbox.make_callback(captured)

    assert take(desk, body, headers) == "accepted"
    assert desk.work() == ["payment.authorized"]

    assert desk.ledger() == []


def test_a_notice_that_comes_before_the_answer_has_the_payment_looked_at_right_after(desk: Desk) -> None:
    payment = desk.start("pm_sandbox_answer_lost")
    [call] = desk.claim()
    body, headers = desk.sandbox.make_callback(notice_of(desk, payment))

    assert take(desk, body, headers) == "accepted"

    assert desk.claim() == []
    settle(call, desk.execute(call))
    assert desk.work() == ["payment.authorized"]


def test_notices_in_the_wrong_order_end_in_the_truth(desk: Desk) -> None:
    payment = desk.start("pm_card_authenticationRequired")
    desk.work()
    waiting = desk.read(payment)
    desk.sandbox.authenticate(waiting.gateway_payment_id, approved=True)
    later = notice_of(desk, payment, event_id="evt-later", status=GatewayPaymentStatus.AUTHORIZED)
    earlier = notice_of(desk, payment, event_id="evt-earlier", status=GatewayPaymentStatus.REQUIRES_ACTION)

    for notice in (later, earlier):
        assert take(desk, *desk.sandbox.make_callback(notice)) == "accepted"
        desk.work()

    assert desk.read(payment).status == "authorized"


# ---------------------------------------------------------------- what changes nothing
def forged(desk: Desk, payment: PaymentView) -> list[tuple[bytes, dict[str, str]]]:
    body, headers = desk.sandbox.make_callback(notice_of(desk, payment))
    [(name, signature)] = headers.items()
    stranger = SandboxGateway(callback_secrets=["secret-of-a-stranger"])
    return [
        (body, {}),
        (body, {name: ""}),
        (body, {name: signature[:-1]}),
        (body, {name: signature[:-1] + ("0" if signature[-1] != "0" else "1")}),
        (body + b" ", headers),
        (body.replace(b"EUR", b"USD"), headers),
        stranger.make_callback(notice_of(desk, payment)),
    ]


@pytest.mark.parametrize("number", range(7))
def test_security_WH_01_a_notice_without_our_signature_is_recorded_and_changes_nothing(
    desk: Desk, unknown: PaymentView, number: int
) -> None:
    body, headers = forged(desk, unknown)[number]
    before, due = fingerprint(desk), schedule(desk)

    assert take(desk, body, headers) == "forged"

    assert [row[:2] for row in written(desk, body)] == [("", "forged")]
    assert (fingerprint(desk), schedule(desk)) == (before, due)


def test_security_WH_01_either_secret_is_believed_while_one_is_replaced(desk: Desk, unknown: PaymentView) -> None:
    desk.sandbox._secrets = ("a-new-callback-secret", CALLBACK_SECRET)  # noqa: SLF001
    old = SandboxGateway(callback_secrets=[CALLBACK_SECRET])

    assert take(desk, *old.make_callback(notice_of(desk, unknown))) == "accepted"
    assert take(desk, *desk.sandbox.make_callback(notice_of(desk, unknown, event_id="evt-new"))) == "accepted"


@pytest.mark.parametrize("minutes", [-6, 6])
def test_security_WH_06_a_notice_from_another_time_is_recorded_and_changes_nothing(
    desk: Desk, unknown: PaymentView, minutes: int
) -> None:
    then = datetime.now(UTC) + timedelta(minutes=minutes)
    elsewhen = SandboxGateway(callback_secrets=[CALLBACK_SECRET], clock=lambda: then)
    body, headers = elsewhen.make_callback(notice_of(desk, unknown))
    before, due = fingerprint(desk), schedule(desk)

    assert take(desk, body, headers) == "stale"

    assert [row[:2] for row in written(desk, body)] == [("", "stale")]
    assert (fingerprint(desk), schedule(desk)) == (before, due)


def test_security_WH_06_a_replayed_notice_has_no_second_effect(desk: Desk, unknown: PaymentView) -> None:
    body, headers = desk.sandbox.make_callback(notice_of(desk, unknown))
    take(desk, body, headers)
    desk.work()
    before, due = fingerprint(desk), schedule(desk)

    assert [take(desk, body, headers) for _ in range(3)] == ["duplicate"] * 3

    assert [row[1] for row in written(desk, body)] == ["accepted", *["duplicate"] * 3]
    assert (fingerprint(desk), schedule(desk)) == (before, due)


@pytest.mark.parametrize("amount", [Money(3999, "EUR"), Money(4000, "USD"), Money(40, "JPY")])
def test_security_MA_05_a_notice_of_another_amount_is_recorded_and_changes_nothing(
    desk: Desk, unknown: PaymentView, amount: Money
) -> None:
    body, headers = desk.sandbox.make_callback(notice_of(desk, unknown, amount=amount))
    before, due = fingerprint(desk), schedule(desk)

    assert take(desk, body, headers) == "mismatch"

    assert written(desk, body) == [(f"evt-{desk.order_id}", "mismatch", "amount_mismatch", True)]
    assert (fingerprint(desk), schedule(desk)) == (before, due)


def test_security_MA_05_a_notice_of_another_refund_amount_changes_nothing(desk: Desk) -> None:
    payment = desk.start(capture_now=True)
    desk.work()
    refund = desk.refund(payment, Money(1000, "EUR"))
    [call] = desk.claim()
    settle(call, desk.execute(call))
    [seen] = desk.sandbox.refunds_of(desk.read(payment).gateway_payment_id)
    before = fingerprint(desk)
    values = {name: getattr(seen, name) for name in GatewayRefund.__dataclass_fields__}

    for event, change, verdict in (
        ("evt-a", {"amount": Money(999, "EUR")}, "mismatch"),
        ("evt-b", {"reference": "o1-not-ours"}, "unknown_payment"),
        ("evt-c", {"payment_id": "sbx_pay_not_ours"}, "unknown_payment"),
    ):
        told = GatewayRefund(**{**values, **change})
        callback = Callback(f"{event}-{refund.id}", "refund.updated", datetime.now(UTC), refund=told)
        assert take(desk, *desk.sandbox.make_callback(callback)) == verdict

    assert fingerprint(desk) == before


def test_a_notice_of_an_unknown_payment_is_recorded_and_changes_nothing(desk: Desk, unknown: PaymentView) -> None:
    body, headers = desk.sandbox.make_callback(notice_of(desk, unknown, reference="o1-not-ours"))
    before, due = fingerprint(desk), schedule(desk)

    assert take(desk, body, headers) == "unknown_payment"

    assert written(desk, body) == [(f"evt-{desk.order_id}", "unknown_payment", "payment", False)]
    assert (fingerprint(desk), schedule(desk)) == (before, due)


def test_a_signed_notice_that_cannot_be_read_is_recorded_and_changes_nothing(desk: Desk, unknown: PaymentView) -> None:
    from counterfoil.payments.gateways.sandbox import SIGNATURE_HEADER, _signature

    body = b'{"event_id": "evt-%d"' % desk.order_id
    now = int(datetime.now(UTC).timestamp())
    before, due = fingerprint(desk), schedule(desk)

    assert take(desk, body, {SIGNATURE_HEADER: f"t={now},v1={_signature(CALLBACK_SECRET, now, body)}"}) == "malformed"

    assert [row[:2] for row in written(desk, body)] == [("", "malformed")]
    assert (fingerprint(desk), schedule(desk)) == (before, due)
    assert desk.read(unknown).status == "unknown"


def test_a_notice_of_something_we_do_not_follow_is_recorded(desk: Desk) -> None:
    callback = Callback(f"evt-{desk.order_id}", "account.updated", datetime.now(UTC))
    body, headers = desk.sandbox.make_callback(callback)

    assert take(desk, body, headers) == "accepted"

    assert written(desk, body) == [(f"evt-{desk.order_id}", "accepted", "not_followed", False)]


def test_a_gateway_that_is_not_here_has_no_notices(desk: Desk) -> None:
    count = "SELECT count(*) FROM gateway_notices"
    before = desk.db.execute(count).fetchone()

    with pytest.raises(GatewayNotFound):
        run_in_thread(lambda: accept_notice("paypal", b"{}", {}, gateways=desk.gateways))

    assert desk.db.execute(count).fetchone() == before


def test_old_notices_are_deleted_and_younger_ones_kept(desk: Desk) -> None:
    from counterfoil.payments.notices import delete_old_notices

    bodies = [b"%d old" % desk.order_id, b"%d young" % desk.order_id]
    for body in bodies:
        take(desk, body, {})
    desk.db.execute(
        "UPDATE gateway_notices SET received_at = now() - interval '91 days' WHERE body_hash = %s",
        [hashlib.sha256(bodies[0]).digest()],
    )

    assert run_in_thread(lambda: delete_old_notices(limit=100)) == 1

    assert [len(written(desk, body)) for body in bodies] == [0, 1]


def test_what_anybody_can_send_fills_no_table(desk: Desk, unknown: PaymentView) -> None:
    bodies = [b"%d of many for %d" % (number, desk.order_id) for number in range(UNBELIEVED_MINUTE_MAX + 5)]

    verdicts = {take(desk, body, {"sandbox-signature": "t=1,v1=00"}) for body in bodies}

    assert verdicts == {"forged"}
    assert written(desk, bodies[-1]) == []
    # What the gateway has signed is written down all the same.
    body, headers = desk.sandbox.make_callback(notice_of(desk, unknown))
    assert take(desk, body, headers) == "accepted"
    assert [row[1] for row in written(desk, body)] == ["accepted"]
    desk.db.execute("UPDATE gateway_notices SET received_at = received_at - interval '1 hour'")
    assert take(desk, bodies[-1], {"sandbox-signature": "t=1,v1=00"}) == "forged"
    assert [row[1] for row in written(desk, bodies[-1])] == ["forged"]
