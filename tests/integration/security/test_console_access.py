"""The console's sessions: rights are read with every request, and a new password ends the others (AN-05)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from accounts import AUTH, NEW_PASSWORD, ORDERS, USERS, bearer, logged, register, sign_in

from conftest import Service

PAGE = "/console/counterfoil/order/"


@pytest.fixture
def operator(admin: httpx.Client) -> dict[str, Any]:
    return register(admin, role="support")


@pytest.fixture
def browser(service: Service, operator: dict[str, Any]) -> Iterator[httpx.Client]:
    """A browser signed in to the console as the operator."""
    with httpx.Client(base_url=service.url, timeout=30) as opened:
        enter(opened, operator)
        assert opened.get(PAGE).status_code == 200
        yield opened


def enter(browser: httpx.Client, account: dict[str, Any]) -> None:
    """Sign in to the console."""
    page = browser.get("/console/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token is not None
    form = {
        "csrfmiddlewaretoken": token[1],
        "username": account["email"],
        "password": account["password"],
        "next": PAGE,
    }
    signed_in = browser.post("/console/login/", data=form, headers={"Referer": str(page.url)})
    assert (signed_in.status_code, signed_in.headers["location"]) == (302, PAGE)


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


def test_security_AN_07_a_dump_of_the_consoles_sessions_opens_nothing(
    service: Service, browser: httpx.Client, operator: dict[str, Any], db: psycopg.Connection[Any]
) -> None:
    cookie = browser.cookies["counterfoil_session"]
    names = [name for (name,) in db.execute("SELECT session_key FROM django_session").fetchall()]

    def opens(value: str) -> bool:
        with httpx.Client(base_url=service.url, cookies={"counterfoil_session": value}, timeout=30) as thief:
            return thief.get(PAGE).status_code == 200

    newest = db.execute("SELECT session_key FROM django_session ORDER BY expire_date DESC LIMIT 20").fetchall()
    assert opens(cookie)
    assert cookie not in names
    assert [name for (name,) in newest if opens(name)] == []
    assert len(logged(service, "security.console_signed_in", user_id=operator["id"])) == 1
    # Nothing of a session can be planted either: the row of a value that somebody chose is not this value's.
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(PAGE).text)
    assert token is not None
    browser.post("/console/logout/", data={"csrfmiddlewaretoken": token[1]}, headers={"Referer": service.url + PAGE})
    assert not opens(cookie)


def test_the_worker_deletes_sessions_of_the_console_that_are_over(
    django_ready: None, browser: httpx.Client, db: psycopg.Connection[Any]
) -> None:
    from counterfoil.cli.jobs import _database_jobs
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.infrastructure.session_store import name_session

    old = name_session(secrets.token_hex(16))
    db.execute("INSERT INTO django_session VALUES (%s, '', now() - interval '1 second')", [old])
    [job] = [job for job in _database_jobs() if job.name == "delete_console_sessions"]

    while run_in_thread(job.run):
        pass

    assert django_ready is None
    assert db.execute("SELECT count(*) FROM django_session WHERE expire_date <= now()").fetchone() == (0,)
    assert browser.get(PAGE).status_code == 200


# What the API asks for the same; None: the catalogue is public.
PAGES = {
    "order": "orders:everybody",
    "payment": "payments:read",
    "refund": "payments:read",
    "gatewayfinding": "payments:read",
    "gatewayreconciliation": "payments:read",
    "product": None,
    "stocklevel": "inventory:read",
    "stockmovement": "inventory:read",
    "user": "users:read",
    "auditentry": "audit:read",
}


@pytest.mark.parametrize("role", ["support", "manager", "admin"])
def test_security_AZ_01_the_console_shows_each_role_what_the_table_of_permissions_says(
    service: Service,
    admin: httpx.Client,
    anonymous: httpx.Client,
    make_product: Callable[..., int],
    db: psycopg.Connection[Any],
    role: str,
) -> None:
    from counterfoil.users.permissions import GRANTS, Permission, Role

    may = {page: needed is None or Role(role) in GRANTS[Permission(needed)] for page, needed in PAGES.items()}
    customer = register(anonymous, name="Canary Person")
    token = sign_in(anonymous, customer)["access_token"]
    items = [{"product_id": make_product(), "quantity": 1}]
    order = anonymous.post(ORDERS, json={"items": items}, headers=bearer(token)).json()["id"]
    readings = "SELECT count(*) FROM audit_entries WHERE action = 'user.read' AND changes -> 'users' @> %s::jsonb"

    with httpx.Client(base_url=service.url, timeout=30) as browser:
        enter(browser, register(admin, role=role))
        index = browser.get("/console/").text
        lists = {page: browser.get(f"/console/counterfoil/{page}/").status_code for page in PAGES}
        person = browser.get(f"/console/counterfoil/user/{customer['id']}/change/")
        sold = browser.get(f"{PAGE}{order}/change/")
        found = browser.get(PAGE, params={"q": customer["email"]})
        others = [browser.get(f"/console/counterfoil/{page}/").status_code for page in ("apikey", "signin", "profile")]

    assert lists == {page: 200 if allowed else 403 for page, allowed in may.items()}
    assert {page: f'"/console/counterfoil/{page}/"' in index for page in PAGES} == may
    assert (person.status_code, "Canary Person" in person.text) == ((200, True) if may["user"] else (403, False))
    assert (sold.status_code, "Canary Person" in sold.text) == (200, may["user"])
    assert (customer["email"] in sold.text) is may["user"]
    assert f"{PAGE}{order}/change/" in found.text
    assert others == [404] * 3
    assert db.execute(readings, [str(customer["id"])]).fetchone() == (3 if may["user"] else 0,)


def test_who_may_see_what_in_the_console_is_not_everybody() -> None:
    from counterfoil.users.permissions import GRANTS, Permission, Role

    assert GRANTS[Permission.AUDIT_READ] == {Role.MANAGER, Role.ADMIN}
    assert GRANTS[Permission.USERS_READ] == {Role.ADMIN}
