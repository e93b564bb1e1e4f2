"""Money in the console: on the order's page, in lists of its own, and what needs a person."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from till import Till

PAGE = "/console/counterfoil"


@pytest.fixture(scope="module")
def browser(till: Till) -> Iterator[httpx.Client]:
    """Somebody of the support, signed in to the console."""
    password = "correct-horse-battery-staple-9"
    body = {"email": "support@example.com", "name": "Sue", "password": password, "role": "support"}
    assert till.admin.post("/api/v1/users", json=body).status_code == 201
    with till.service.client() as client:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/console/login/").text)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": body["email"], "password": password}
        assert client.post("/console/login/?next=/console/", data=form).status_code == 302
        yield client


def test_an_orders_page_tells_of_its_payments_and_refunds(till: Till, browser: httpx.Client) -> None:
    order = till.order()
    till.pay(order, "pm_card_visa_chargeDeclinedInsufficientFunds")
    payment = till.pay(order).json()["id"]
    till.act(payment, "refunds", {"amount": "10.00", "reason": "a broken cup"})

    of_order = browser.get(f"{PAGE}/order/{order}/change/").text
    of_payment = browser.get(f"{PAGE}/payment/{payment}/change/").text
    refunds = browser.get(f"{PAGE}/refund/", params={"q": str(order)}).text

    assert f'href="{PAGE}/payment/{payment}/change/"' in of_order
    assert "insufficient_funds" in of_order
    for page in (of_order, of_payment):
        assert "40.00 EUR" in page
        assert "10.00 EUR" in page
    assert "a broken cup" in of_payment
    assert "Calls to the gateway" in of_payment
    assert 'name="_save"' not in of_payment
    assert "10.00 EUR" in refunds


def test_what_needs_a_person_is_found(till: Till, browser: httpx.Client) -> None:
    order, other = till.order(), till.order()
    till.pay(order, "pm_sandbox_rejected")
    till.pay(other)
    doubtful, plain = (till.payments(each)[0]["id"] for each in (order, other))
    assert till.payments(order)[0]["review_reason"] is not None

    listed = {choice: browser.get(f"{PAGE}/payment/", params={"needs_human": choice}).text for choice in ("yes", "no")}

    found = {choice: set(re.findall(rf"{PAGE}/payment/(\d+)/change/", text)) for choice, text in listed.items()}
    assert str(doubtful) in found["yes"] - found["no"]
    assert str(plain) in found["no"] - found["yes"]
