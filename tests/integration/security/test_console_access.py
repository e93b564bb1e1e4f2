"""The console's sessions: rights are read with every request, and a new password ends the others (AN-05)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from accounts import AUTH, NEW_PASSWORD, USERS, bearer, register, sign_in

from conftest import Service

PAGE = "/console/counterfoil/order/"


@pytest.fixture
def operator(admin: httpx.Client) -> dict[str, Any]:
    return register(admin, role="support")


@pytest.fixture
def browser(service: Service, operator: dict[str, Any]) -> Iterator[httpx.Client]:
    """A browser signed in to the console as the operator."""
    with httpx.Client(base_url=service.url, timeout=30) as opened:
        page = opened.get("/console/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        form = {
            "csrfmiddlewaretoken": token[1],
            "username": operator["email"],
            "password": operator["password"],
            "next": PAGE,
        }
        signed_in = opened.post("/console/login/", data=form, headers={"Referer": str(page.url)})
        assert (signed_in.status_code, signed_in.headers["location"]) == (302, PAGE)
        assert opened.get(PAGE).status_code == 200
        yield opened


def demote(admin: httpx.Client, operator: dict[str, Any]) -> None:
    assert admin.put(f"{USERS}/{operator['id']}", json={"role": "customer"}).status_code == 200


def promote(admin: httpx.Client, operator: dict[str, Any]) -> None:
    assert admin.put(f"{USERS}/{operator['id']}", json={"role": "manager"}).status_code == 200


def deactivate(admin: httpx.Client, operator: dict[str, Any]) -> None:
    assert admin.put(f"{USERS}/{operator['id']}", json={"is_active": False}).status_code == 200


def change_password(admin: httpx.Client, operator: dict[str, Any]) -> None:
    token = sign_in(admin, operator)["access_token"]
    change = {"password": NEW_PASSWORD, "current_password": operator["password"]}
    answer = admin.put(f"{USERS}/me", json=change, headers=bearer(token))
    assert answer.status_code == 200


def log_out_everywhere(admin: httpx.Client, operator: dict[str, Any]) -> None:
    token = sign_in(admin, operator)["access_token"]
    assert admin.post(f"{AUTH}/logout", json={"everywhere": True}, headers=bearer(token)).status_code == 204


@pytest.mark.parametrize("act", [demote, promote, deactivate, change_password, log_out_everywhere])
def test_security_AN_05_a_session_of_the_console_ends_at_once_with(
    admin: httpx.Client, operator: dict[str, Any], browser: httpx.Client, act: Callable[..., None]
) -> None:
    act(admin, operator)

    # The very next request: nothing to wait for.
    answer = browser.get(PAGE)

    assert (answer.status_code, answer.headers["location"]) == (302, f"/console/login/?next={PAGE}")
    assert browser.get("/console/").status_code == 302
