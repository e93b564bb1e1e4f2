"""What the console says: words of ours, nothing that leads nowhere, and `erased` for whoever is."""

from __future__ import annotations

import re
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
