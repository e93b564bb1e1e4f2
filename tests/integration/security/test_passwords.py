"""Passwords: what is refused, with what advice, and that a sign-in tells nothing (issue 3, item 1; AN-03, AU-04)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any

import httpx
import psycopg
import pytest
from accounts import AUTH, PASSWORD, USERS, logged, register, sign_in

from conftest import Service

Unchanged = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("x" * 11, "at least 12 characters"),
        ("password1234", "This is a very common password."),
        ("1q2w3e4r5t6y", "This password is too common."),
        ("aB3$aB3$aB3$aB3$", "Avoid repeated words and characters."),
        ("analytical@example.com", "too similar to the email"),
        ("Ada Lovelace", "too similar to the name"),
        ("qwertyqwerty12", "This password is easy to guess."),
        ("abcdefghijklmnop", "This password is easy to guess."),
        ("x" * 1024, "This password is easy to guess."),
    ],
)
def test_a_password_that_is_guessed_first_is_refused_with_advice(
    anonymous: httpx.Client, nothing_written: Unchanged, password: str, sentence: str
) -> None:
    body = {"email": "analytical@example.com", "name": "Ada Lovelace", "password": password}

    with nothing_written():
        answer = anonymous.post(USERS, json=body)

    assert answer.status_code == 400, answer.text
    [found] = answer.json()["error"]["details"]["fields"]
    assert found["field"] == "password"
    assert sentence in found["message"]
    assert found["message"].endswith(".")


def test_a_password_is_compared_with_the_name_and_address_of_its_account(
    anonymous: httpx.Client, admin: httpx.Client, nothing_written: Unchanged
) -> None:
    account = register(anonymous, name="Marguerite Yourcenar")

    with nothing_written():
        answer = admin.put(f"{USERS}/{account['id']}", json={"password": "MargueriteYourcenar1"})

    assert answer.status_code == 400
    assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == ["password"]


@pytest.mark.parametrize(
    "password", [PASSWORD, "Zürich-Ölfleck-Nähkasten", "x9$Lq2!vB7#r", "horse " * 3 + "ausgezeichnet"]
)
def test_a_good_password_is_taken(anonymous: httpx.Client, password: str) -> None:
    assert register(anonymous, password=password)["role"] == "customer"


def test_many_who_hash_at_once_are_refused_and_take_no_thread_from_others(
    anonymous: httpx.Client, service: Service, customer: httpx.Client
) -> None:
    account = register(anonymous)
    line = threading.Barrier(41)

    def sign_in_at_once(number: int) -> httpx.Response:
        # Another account each time, so that only the threads refuse.
        with service.client() as client:
            client.get("/livez")
            line.wait(20)
            return client.post(f"{AUTH}/token", json={"email": f"nobody-{number}@example.com", "password": PASSWORD})

    with ThreadPoolExecutor(40) as pool:
        answers = pool.map(sign_in_at_once, range(40))
        line.wait(20)
        others = [customer.get(f"{USERS}/me").status_code for _ in range(20)]
        found = list(answers)

    refused = [answer for answer in found if answer.status_code == 503]
    assert {answer.status_code for answer in found} == {401, 503}
    # Eight threads, of which two hash: forty at once were all taken in before.
    assert len(refused) >= 20
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert others == [200] * 20
    assert sign_in(anonymous, account)["token_type"] == "Bearer"


def test_a_password_is_hashed_before_a_transaction_and_not_for_an_unknown_link(
    django_ready: None, monkeypatch: pytest.MonkeyPatch, anonymous: httpx.Client
) -> None:
    from django.db import connection

    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.users import recovery, services
    from counterfoil.users.errors import OneTimeTokenInvalid

    assert django_ready is None
    hashed: list[bool] = []

    def note(_password: str, **_: str) -> str:
        hashed.append(connection.in_atomic_block)
        return "!"

    monkeypatch.setattr(services, "hash_password", note)
    monkeypatch.setattr(recovery, "hash_password", note)
    account = register(anonymous)

    run_in_thread(services.prepare_password, PASSWORD, user_id=account["id"], name=None)
    with pytest.raises(OneTimeTokenInvalid):
        run_in_thread(
            recovery.reset_password, "cft_unknown", password=PASSWORD, address="192.0.2.1", request_id="req-1"
        )

    assert hashed == [False]


def test_rating_a_password_is_quick_however_it_is_made() -> None:
    from django.core.exceptions import ValidationError

    from counterfoil.users.passwords import StrengthValidator

    letters = "4@8({[<3691!|1|0$5+7%2" * 10  # each may stand for a letter: the rater tries all readings
    hard = ["a4@" * 400, "1234567890" * 100, "qazwsxedc" * 100, letters, "".join(map(chr, range(33, 127))) * 10]
    validator = StrengthValidator()
    for password in hard:
        started = time.thread_time()
        with suppress(ValidationError):
            validator.validate(password)
        assert time.thread_time() - started < 1


def test_the_words_of_one_caller_are_not_kept_for_the_next() -> None:
    from zxcvbn import matching

    from counterfoil.users.passwords import StrengthValidator

    class Somebody:
        email = "canary-word@example.com"
        name = "Canary Word"

    StrengthValidator().validate("correct horse battery staple", Somebody())

    assert "user_inputs" not in matching.RANKED_DICTIONARIES


def test_security_AN_03_a_failed_sign_in_tells_nothing_and_is_a_line_in_the_security_log(
    anonymous: httpx.Client, nothing_written: Unchanged, service: Service, db: psycopg.Connection[Any]
) -> None:
    account = register(anonymous)
    before = len(logged(service, "security.login_failed"))

    with nothing_written():
        answers = [
            anonymous.post(f"{AUTH}/token", json={"email": email, "password": "wrong horse battery"})
            for email in (account["email"], "nobody@example.com")
        ]

    assert {(a.status_code, a.json()["error"]["code"], a.json()["error"]["message"]) for a in answers} == {
        (401, "LOGIN_FAILED", "E-mail address and password do not match an active account.")
    }
    lines = logged(service, "security.login_failed")[before:]
    assert [line["user_id"] for line in lines] == [account["id"], None]
    assert db.execute("SELECT count(*) FROM sign_ins WHERE user_id = %s", [account["id"]]).fetchone() == (0,)
    for personal in (account["email"], "nobody@example.com", "wrong horse battery"):
        assert personal not in service.log_path.read_text()
