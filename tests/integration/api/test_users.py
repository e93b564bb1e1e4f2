"""Accounts and profiles over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest

USERS = "/api/v1/users"
TOKEN = "/api/v1/auth/token"
PASSWORD = "correct horse battery"
Unchanged = Callable[[], AbstractContextManager[None]]


def person(**values: Any) -> dict[str, Any]:
    return {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD, **values}


def test_somebody_registers_signs_in_and_orders(
    anonymous: httpx.Client, make_product: Callable[..., int], db: psycopg.Connection[Any]
) -> None:
    body = person()

    registered = anonymous.post(USERS, json=body)
    signed_in = anonymous.post(TOKEN, json={"email": body["email"].upper(), "password": PASSWORD})

    assert registered.status_code == 201, registered.text
    account = registered.json()
    assert (account["email"], account["name"], account["role"], account["is_active"]) == (
        body["email"],
        "Ada",
        "customer",
        True,
    )
    assert "password" not in account
    assert signed_in.status_code == 200, signed_in.text
    assert (signed_in.json()["token_type"], signed_in.json()["expires_in"]) == ("Bearer", 3600)
    token = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    assert anonymous.get(f"{USERS}/me", headers=token).json() == account
    order = {"items": [{"product_id": make_product(), "quantity": 1}]}
    assert anonymous.post("/api/v1/orders", json=order, headers=token).json()["user_id"] == account["id"]
    stored = db.execute("SELECT password FROM users WHERE id = %s", [account["id"]]).fetchone()
    assert stored is not None
    assert stored[0].startswith("argon2")


def test_one_address_is_one_account_whatever_its_capitals(anonymous: httpx.Client, nothing_written: Unchanged) -> None:
    body = person()
    assert anonymous.post(USERS, json=body).status_code == 201

    with nothing_written():
        answers = [
            anonymous.post(USERS, json={**body, "email": email}) for email in (body["email"], body["email"].upper())
        ]

    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(409, "EMAIL_TAKEN")] * 2


@pytest.mark.parametrize(
    "email",
    [
        *("a@b", "@example.com", "a@", "a b@example.com", "a@exa mple.com", "a@@example.com", "a@b@example.com"),
        *("a@.com", "a@example..com", "a@example.com\r\nBcc: b@example.com", "a\x00@example.com", ""),
        *("\u0131da@example.com", "\u212aate@example.com", "a@exämple.com", "x" * 250 + "@example.com", 7, None),
    ],
)
def test_what_is_no_address_is_refused(anonymous: httpx.Client, nothing_written: Unchanged, email: Any) -> None:
    with nothing_written():
        answer = anonymous.post(USERS, json=person(email=email))

    assert answer.status_code == 400, answer.text
    assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == ["email"]


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "1q2w3e4r5t6y", "x" * 1025, None])
def test_a_weak_or_endless_password_is_refused(
    anonymous: httpx.Client, admin: httpx.Client, nothing_written: Unchanged, password: Any
) -> None:
    account = f"{USERS}/{anonymous.post(USERS, json=person()).json()['id']}"

    with nothing_written():
        answers = [
            anonymous.post(USERS, json=person(password=password)),
            admin.put(account, json={"password": password, "name": "Ada"}) if password is not None else None,
        ]

    for answer in filter(None, answers):
        assert answer.status_code == 400, answer.text
        assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == ["password"]


def test_a_wrong_password_and_an_unknown_address_look_alike(
    anonymous: httpx.Client, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    body = person()
    account = anonymous.post(USERS, json=body).json()["id"]
    attempts = [(body["email"], "wrong horse battery"), ("nobody@example.com", PASSWORD), ("no.address@x", PASSWORD)]

    with nothing_written():
        answers = [anonymous.post(TOKEN, json={"email": e, "password": p}) for e, p in attempts]
    admin.put(f"{USERS}/{account}", json={"is_active": False})
    answers.append(anonymous.post(TOKEN, json={"email": body["email"], "password": PASSWORD}))

    assert [(a.status_code, a.json()["error"]) for a in answers] == [
        (
            401,
            {
                "code": "LOGIN_FAILED",
                "message": "E-mail address and password do not match an active account.",
                "details": {},
            },
        )
    ] * 4
    assert all("www-authenticate" in answer.headers for answer in answers)


def test_signing_in_works_with_an_expired_token_at_hand(anonymous: httpx.Client) -> None:
    body = person()
    anonymous.post(USERS, json=body)

    answer = anonymous.post(
        TOKEN, json={"email": body["email"], "password": PASSWORD}, headers={"Authorization": "Bearer expired"}
    )

    assert answer.status_code == 200


def test_ones_own_account_is_changed_under_its_etag(anonymous: httpx.Client, service: Any) -> None:
    body = person()
    anonymous.post(USERS, json=body)
    token = anonymous.post(TOKEN, json={"email": body["email"], "password": PASSWORD}).json()["access_token"]
    profile = {
        "phone": "+49 30 123",
        "address_line1": "Unter den Linden 1",
        "address_line2": "",
        "postal_code": "10117",
        "city": "Berlin",
        "country_code": "DE",
    }

    with service.client(token) as client:
        changed = client.put(f"{USERS}/me", json={"name": "Ada L.", "profile": profile}, headers={"If-Match": '"1"'})
        stale = client.put(f"{USERS}/me", json={"name": "Eve"}, headers={"If-Match": '"1"'})
        renewed = client.put(f"{USERS}/me", json={"password": "another horse battery", "current_password": PASSWORD})

    assert changed.status_code == 200, changed.text
    assert (changed.json()["name"], changed.json()["profile"], changed.json()["version"]) == ("Ada L.", profile, 2)
    assert changed.headers["etag"] == '"2"'
    assert (stale.status_code, stale.json()["error"]["code"]) == (412, "USER_CHANGED")
    assert renewed.json()["version"] == 3
    statuses = [
        anonymous.post(TOKEN, json={"email": body["email"], "password": password}).status_code
        for password in (PASSWORD, "another horse battery")
    ]
    assert statuses == [401, 200]


@pytest.mark.parametrize("name", ["role", "is_active", "email", "id", "is_staff", "is_superuser", "version"])
def test_nobody_gives_himself_more_rights(customer: httpx.Client, nothing_written: Unchanged, name: str) -> None:
    with nothing_written():
        answer = customer.put(f"{USERS}/me", json={"name": "Eve", name: "admin"})

    assert answer.status_code == 400
    assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == [name]


def test_a_role_is_given_by_administrators_only(
    anonymous: httpx.Client, customer: httpx.Client, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    with nothing_written():
        by_stranger = anonymous.post(USERS, json=person(role="admin"))
        by_customer = customer.post(USERS, json=person(role="support"))
    by_admin = admin.post(USERS, json=person(role="support"))

    assert by_stranger.status_code == 400
    assert by_customer.status_code == 403
    assert (by_admin.status_code, by_admin.json()["role"]) == (201, "support")


def test_accounts_are_listed_read_and_changed_by_administrators_only(
    admin: httpx.Client, service: Any, make_token: Callable[..., str], nothing_written: Unchanged
) -> None:
    account = admin.post(USERS, json=person()).json()["id"]

    for role in ("customer", "support", "manager", "service"):
        with service.client(make_token(role)) as client, nothing_written():
            answers = [
                client.get(USERS),
                client.get(f"{USERS}/{account}"),
                client.get(f"{USERS}/{2**62}"),
                client.put(f"{USERS}/{account}", json={"role": "admin"}),
            ]
        assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "ROLE_MISSING")] * 4

    promoted = admin.put(f"{USERS}/{account}", json={"role": "manager"}, headers={"If-Match": '"1"'})
    assert (promoted.status_code, promoted.json()["role"]) == (200, "manager")
    assert admin.get(f"{USERS}/{account}").json() == promoted.json()
    assert admin.put(f"{USERS}/{account}", json={"name": "x"}, headers={"If-Match": '"1"'}).status_code == 412
    for answer in (admin.get(f"{USERS}/{2**62}"), admin.put(f"{USERS}/{2**62}", json={"name": "x"})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "USER_NOT_FOUND")


def test_accounts_are_walked_page_by_page(admin: httpx.Client, db: psycopg.Connection[Any]) -> None:
    expected = [row[0] for row in db.execute("SELECT id FROM users ORDER BY id").fetchall()]

    seen: list[int] = []
    page = admin.get(USERS, params={"limit": 7}).json()
    while True:
        seen += [account["id"] for account in page["items"]]
        if page["next"] is None:
            break
        page = admin.get(page["next"]).json()

    assert seen == expected
