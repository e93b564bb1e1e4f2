"""Each failpoint of a payment's way once, in the real processes: the worker or the web dies there, and all holds (G9).

That nothing of the payment itself is lost at any point is shown in test_interrupted in a second each. Here the whole
service is asked: order, events, stock and ledger too, which takes longer.
"""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from till import Till, fresh_key, wait_until

from counterfoil.infrastructure.failpoints import EXIT_CODE, NAMES

pytestmark = pytest.mark.long

TILL = {"worker": False}
IN_THE_WEB_PROCESS = tuple(name for name in NAMES if name.startswith(("start.", "refund.", "notice.")))
IN_THE_WORKER = tuple(name for name in NAMES if name not in IN_THE_WEB_PROCESS)
# The first answers of all calls are lost where the point lies on the way of a look.
LOOKED_AT = {"call.before_look", "call.looked"}
ON_THE_WAY_OF_A_REFUND = {"record.refund_written"}
PAID = ["payment.started", "payment.captured", "order.confirmed"]
GIVEN_BACK = ["refund.requested", "refund.succeeded"]


def require_one_charge_and_one_refund(till: Till, order: int) -> None:
    assert till.charges(order) == [("captured", 4000)]
    assert till.given_back(order) == [1000]
    assert till.axes(order) == ("confirmed", "partially_refunded")
    assert [event for event in till.events(order) if event != "payment.unknown"] == [*PAID, *GIVEN_BACK]
    assert till.refunds(order) == [("succeeded", "10.00", False)]
    till.require_identities()


def is_at(till: Till, order: int, *axes: str) -> bool:
    till.look_now()
    return till.axes(order) == axes


def ask(client: httpx.Client, path: str, body: dict[str, str], key: dict[str, str]) -> None:
    """Send a request, whatever becomes of it: nobody may be there to answer."""
    with suppress(httpx.TransportError):
        client.post(f"/api/v1/{path}", json=body, headers=key, timeout=1.5)


def pay_and_refund(till: Till, order: int, keys: tuple[dict[str, str], dict[str, str]]) -> None:
    """Ask for both, again and again with the same keys, until both are done."""
    wait_until(lambda: till.pay(order, headers=keys[0]).status_code == 201 or till.look_now(), seconds=60)
    payment = till.payments(order)[0]["id"]
    path = f"/api/v1/payments/{payment}/refunds"
    wait_until(
        lambda: till.admin.post(path, json={"amount": "10.00"}, headers=keys[1]).status_code == 201 or till.look_now(),
        seconds=60,
    )
    wait_until(lambda: is_at(till, order, "confirmed", "partially_refunded"), seconds=60)


@pytest.mark.parametrize("point", [name for name in IN_THE_WORKER if name not in LOOKED_AT])
def test_a_worker_that_dies_there_is_followed_by_one_that_finishes(till: Till, point: str) -> None:
    order, keys = till.order(), (fresh_key(), fresh_key())
    if point in ON_THE_WAY_OF_A_REFUND:
        with till.worker():
            wait_until(lambda: till.pay(order, headers=keys[0]).status_code == 201)
    with till.worker(COUNTERFOIL_FAILPOINTS=point) as doomed:
        if point in ON_THE_WAY_OF_A_REFUND:
            payment = till.payments(order)[0]["id"]
            ask(till.admin, f"payments/{payment}/refunds", {"amount": "10.00"}, keys[1])
        else:
            ask(till.customer, f"orders/{order}/payments", {"method": "pm_card_visa"}, keys[0])

        assert doomed.wait(30) == EXIT_CODE

    till.look_now()
    with till.worker():
        pay_and_refund(till, order, keys)
    require_one_charge_and_one_refund(till, order)


@pytest.mark.parametrize("point", sorted(LOOKED_AT))
def test_a_worker_that_dies_while_it_looks_is_followed_by_one_that_finds(till: Till, point: str) -> None:
    order, keys = till.order(), (fresh_key(), fresh_key())
    lost = {"method": "pm_sandbox_answer_lost"}
    with till.worker(COUNTERFOIL_FAILPOINTS=point) as doomed:
        ask(till.customer, f"orders/{order}/payments", lost, keys[0])
        wait_until(lambda: till.look_now() or doomed.poll() is not None, seconds=60)

        assert doomed.poll() == EXIT_CODE

    with till.worker():
        wait_until(lambda: is_at(till, order, "confirmed", "paid"), seconds=60)
        path = f"/api/v1/payments/{till.payments(order)[0]['id']}/refunds"
        assert till.admin.post(path, json={"amount": "10.00"}, headers=keys[1]).status_code in {201, 202}
        wait_until(lambda: is_at(till, order, "confirmed", "partially_refunded"), seconds=60)
    require_one_charge_and_one_refund(till, order)


@pytest.mark.parametrize("point", [name for name in IN_THE_WEB_PROCESS if not name.startswith("notice.")])
def test_a_web_process_that_dies_there_has_begun_nothing_or_is_followed_by_one_that_goes_on(
    till: Till, point: str
) -> None:
    order, keys = till.order(), (fresh_key(), fresh_key())
    with till.worker(), till.web(COUNTERFOIL_FAILPOINTS=point) as doomed:
        with httpx.Client(base_url=doomed.url, headers=till.customer.headers) as buyer:
            ask(buyer, f"orders/{order}/payments", {"method": "pm_card_visa"}, keys[0])
        if point.startswith("refund."):
            wait_until(lambda: is_at(till, order, "confirmed", "paid"))
            with httpx.Client(base_url=doomed.url, headers=till.admin.headers) as staff:
                ask(staff, f"payments/{till.payments(order)[0]['id']}/refunds", {"amount": "10.00"}, keys[1])
        pay_and_refund(till, order, keys)
    require_one_charge_and_one_refund(till, order)
