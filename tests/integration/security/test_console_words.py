"""What the console says: words of ours, nothing that leads nowhere, and `erased` for whoever is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from accounts import register
from test_console_access import browser

from conftest import Service

__all__ = ["browser"]


@pytest.fixture
def operator(admin: httpx.Client) -> dict[str, Any]:
    """An administrator, who may see accounts and the trail."""
    return register(admin, role="admin")


def test_there_is_nothing_that_leads_nowhere(browser: httpx.Client, operator: dict[str, Any]) -> None:
    index = browser.get("/console/").text
    page = browser.get(f"/console/counterfoil/user/{operator['id']}/change/").text
    history = browser.get(f"/console/counterfoil/user/{operator['id']}/history/")

    assert "Recent actions" not in index
    assert "View site" not in index
    assert ">History<" not in page.replace("<h2>History</h2>", "")
    assert "Audit entries" in page
    assert history.status_code == 302
    entries = browser.get(history.headers["location"])
    assert entries.status_code == 200
    assert f"user {operator['id']}</a>" in entries.text


def test_signing_in_and_out_is_told_in_words_of_ours(service: Service, browser: httpx.Client) -> None:
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get("/console/").text)
    assert token is not None
    out = browser.post("/console/logout/", data={"csrfmiddlewaretoken": token[1]})
    with httpx.Client(base_url=service.url, timeout=30) as stranger:
        form = stranger.get("/console/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token is not None
        wrong = {"csrfmiddlewaretoken": token[1], "username": "nobody@example.com", "password": "wrong"}
        refused = stranger.post("/console/login/", data=wrong)

    assert "You are signed out of the console." in out.text
    assert "quality time" not in out.text
    assert "E-mail address or password is wrong, or the account is not one of the staff." in refused.text


def test_somebody_who_was_erased_is_shown_as_erased(
    service: Service, browser: httpx.Client, admin: httpx.Client
) -> None:
    person = register(admin, role="customer")
    token = admin.post("/api/v1/auth/token", json={"email": person["email"], "password": person["password"]}).json()[
        "access_token"
    ]
    with service.client(token) as own:
        assert own.delete("/api/v1/users/me").status_code in {200, 202, 204}

    page = browser.get(f"/console/counterfoil/user/{person['id']}/change/").text

    assert page.count('<div class="readonly">erased</div>') >= 3


def test_the_page_of_an_order_tells_what_became_of_it(
    browser: httpx.Client, admin: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product()
    order = admin.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 3}]}).json()["id"]
    admin.post(f"/api/v1/orders/{order}/confirm", json={})
    sent = admin.post(f"/api/v1/orders/{order}/fulfillments", json={}).json()["id"]
    admin.post(f"/api/v1/fulfillments/{sent}/ship", json={"carrier": "Pony Express", "tracking_number": "PX-1860"})
    items = [{"product_id": product, "quantity": 2}]
    admin.post(f"/api/v1/orders/{order}/returns", json={"items": items, "reason": "too_late"})
    admin.post(f"/api/v1/orders/{order}/holds", json={"reason": "horse is tired"})
    admin.post(f"/api/v1/orders/{order}/notes", json={"text": "CANARY of a note"})

    page = browser.get(f"/console/counterfoil/order/{order}/change/").text

    rows = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    assert [row[1:5] for row in rows if "Pony" in row] == [["shipped", "3", "Pony", "Express"]]
    assert [row[1:6] for row in rows if "too_late" in row] == [["requested", "too_late", "2", "0", "0"]]
    assert "horse is tired" in page
    assert "PX-1860" in page
    assert "CANARY" not in page
