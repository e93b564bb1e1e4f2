"""What stands before the console: limits by address, small bodies and few at a time, and a page for bad moments."""

from __future__ import annotations

import re
import secrets
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import Service

LOGIN = "/console/login/"
Serve = Callable[..., AbstractContextManager[Service]]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def try_to_sign_in(service: Service, together: threading.Barrier) -> httpx.Response:
    with service.client() as client:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get(LOGIN).text)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": f"{secrets.token_hex(6)}@example.com", "password": "wrong"}
        together.wait(60)
        return client.post(LOGIN, data=form)


def test_a_sign_in_that_cannot_be_checked_right_now_is_a_page_with_503(service: Service) -> None:
    before = len(service.log_path.read_text())
    # All arrive at once: two passwords are compared at a time, so the last of the forty that are let in would wait for
    # nineteen others, twice as long as anybody may wait.
    together = threading.Barrier(60)
    with ThreadPoolExecutor(together.parties) as threads:
        answers = list(threads.map(lambda _: try_to_sign_in(service, together), range(together.parties)))

    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["content-type"].startswith("text/html")
            assert int(answer.headers["retry-after"]) >= 1
            assert "right now" in answer.text
    log = service.log_path.read_text()[before:]
    assert "console.unavailable" in log
    assert "Traceback" not in log


@pytest.mark.usefixtures("django_ready")
@pytest.mark.parametrize("kind", ["our own", "the driver's", "a bug"])
def test_a_page_that_needs_what_is_away_is_503_and_a_bug_is_not(kind: str) -> None:
    import psycopg
    from django import db
    from django.test import RequestFactory

    from counterfoil.console.unavailable import AnswerUnavailable
    from counterfoil.infrastructure.database import DatabaseUnavailable

    from_driver = db.OperationalError()
    from_driver.__cause__ = psycopg.OperationalError()
    error = {"our own": DatabaseUnavailable(), "the driver's": from_driver, "a bug": KeyError()}[kind]

    middleware = AnswerUnavailable(lambda _: None)  # type: ignore[arg-type,return-value]
    answer = middleware.process_exception(RequestFactory().get(LOGIN), error)

    assert (None if answer is None else (answer.status_code, answer["Retry-After"])) == (
        None if kind == "a bug" else (503, "2")
    )


def forget_limits(service: Service) -> None:
    import psycopg

    with psycopg.connect(service.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM rate_limits")


def test_security_RL_01_pages_and_sign_ins_of_the_console_are_limited_by_address(serve: Serve) -> None:
    limits = {"COUNTERFOIL_LIMIT_CONSOLE": "3/3600", "COUNTERFOIL_LIMIT_SIGN_IN": "2/3600"}
    with serve(**limits) as service, service.client() as client:
        forget_limits(service)
        pages = [client.get(LOGIN) for _ in range(4)]
        forms = [client.post(LOGIN, data={"username": "a"}) for _ in range(3)]
        smuggled = client.request("GET", LOGIN, content=b"a=b", headers=FORM)
        file = client.get("/console/static/admin/css/base.css")
        token = client.post("/api/v1/auth/token", json={"email": "a@example.com", "password": "x" * 12})

    assert [page.status_code for page in pages] == [200] * 3 + [429]
    assert int(pages[3].headers["retry-after"]) > 3500
    assert pages[0].headers["ratelimit-remaining"] == "2"
    assert [form.status_code for form in forms] == [403, 403, 429]
    # One count for both doors.
    assert (smuggled.status_code, token.status_code, file.status_code) == (429, 429, 200)


@pytest.mark.parametrize("declared", [True, False])
def test_security_IV_07_a_form_of_the_console_has_64_kilobytes_at_most(
    anonymous: httpx.Client,
    declared: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    def send(size: int) -> httpx.Response:
        body = b"a=" + b"x" * (size - 2)
        return anonymous.post(LOGIN, content=body if declared else iter([body[:9_000], body[9_000:]]), headers=FORM)

    too_large, fits = send(64_001), send(64_000)

    assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
    assert fits.status_code == 403  # no token in it


@pytest.fixture
def held(service: Service) -> Iterator[list[socket.socket]]:
    """As many forms as are taken at a time, each of them one byte short, and one more that was refused.

    Until that one is answered nobody may ask anything: a request in between would take the place of one of them.
    """
    parts = urlsplit(service.url)
    head = f"POST {LOGIN} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 10\r\nContent-Type: text/plain\r\n\r\n"
    opened = [socket.create_connection((parts.hostname or "", parts.port or 0)) for _ in range(65)]
    for connection in opened:
        connection.sendall(head.encode() + b"123456789")
    answered, _, _ = select.select(opened, [], [], 20)
    assert [connection.recv(12) for connection in answered] == [b"HTTP/1.1 503"]
    yield [connection for connection in opened if connection not in answered]
    for connection in opened:
        connection.close()


def wait_for_status(send: Callable[[], httpx.Response], status: int) -> httpx.Response:
    deadline = time.monotonic() + 20
    while (answer := send()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return answer


def test_the_console_holds_64_forms_at_a_time_and_refuses_more(
    anonymous: httpx.Client, held: list[socket.socket]
) -> None:
    refused = anonymous.post(LOGIN, data={"a": "b"})
    page, order = anonymous.get(LOGIN), anonymous.post("/api/v1/orders", json={})
    for connection in held:
        connection.sendall(b"0")
    wait_for_status(lambda: anonymous.post(LOGIN, data={"a": "b"}), 403)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "TOO_MANY_FORMS")
    assert refused.headers["retry-after"] == "1"
    assert (page.status_code, order.status_code) == (200, 401)
