"""OU: what comes out: headers, logs, pages and errors tell nothing and can be told nothing."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from wire import exchange

from conftest import Service, running_service

ORDERS = "/api/v1/orders"
PASSWORD = "correct horse battery"
Unchanged = Callable[[], AbstractContextManager[None]]
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}${7*7}\"'`"


# ---------------------------------------------------------------- line ends
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x0b", "\x00"])
def test_security_OU_02_a_name_with_a_line_end_is_refused(
    anonymous: httpx.Client, nothing_written: Unchanged, end: str
) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}

    with nothing_written():
        name = anonymous.post("/api/v1/users", json={**person, "name": f"Ada{end}Bcc: all@example.com"})
        email = anonymous.post(
            "/api/v1/users", json={**person, "email": f"a@example.com{end}Bcc: all@example.com", "name": "Ada"}
        )

    assert (name.status_code, name.json()["error"]["code"]) == (400, "VALIDATION_FAILED")
    assert (email.status_code, email.json()["error"]["code"]) == (400, "VALIDATION_FAILED")


@pytest.mark.parametrize(
    "path",
    [
        "/console/?next=%0d%0aSet-Cookie:%20c4n4ry=1",
        "/console/login/?next=/console/%0d%0aSet-Cookie:%20c4n4ry=1",
        "/console/%0d%0aSet-Cookie:%20c4n4ry=1/",
        "/console/counterfoil/order/?q=%0d%0aSet-Cookie:%20c4n4ry=1",
        "/api/v1/orders?cursor=%0d%0aSet-Cookie:%20c4n4ry=1",
        "/api/v1/products?q=%0d%0aSet-Cookie:%20c4n4ry=1&limit=1",
    ],
)
def test_security_OU_02_no_address_brings_a_second_header(service: Service, path: str) -> None:
    answer = exchange(service.url, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    head = answer.partition(b"\r\n\r\n")[0]
    assert re.match(rb"HTTP/1.1 (200|302|400|401|404) ", head), head
    assert b"\r\nset-cookie: c4n4ry" not in head.lower()


def test_security_OU_02_a_sign_in_does_not_lead_to_another_host(anonymous: httpx.Client) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    anonymous.post("/api/v1/users", json={"email": email, "name": "Ada", "password": PASSWORD})

    for target in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"):
        page = anonymous.get("/console/login/", params={"next": target})
        assert f'value="{target}"' not in page.text or page.status_code == 200
        assert "evil.example" not in page.headers.get("location", "")


# ---------------------------------------------------------------- logs
@pytest.fixture
def logging_service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    with running_service(database_url, tmp_path) as running:
        yield running


def test_security_OU_03_whatever_is_asked_is_one_structured_line_each(logging_service: Service) -> None:
    canary = f"c4n4ry{secrets.token_hex(4)}"
    forged = b'\\"}\n{"event":"http.request","status":200,"actor":"user:1"}'
    attempts = [
        f"GET /api/v1/orders/%0a{canary}%1b[31m HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
        f"GET /{canary} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: \x1b[2J{canary}\r\n\r\n".encode(),
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: " + forged[:2] + b"{}\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: {canary}\x1b[31m\r\n\r\n".encode(),
        f"GET /api/v1/orders?q={canary}%0a%7b%22event%22:1%7d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
        f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {canary}\r\n\r\n".encode(),
    ]

    before = len(log_lines(logging_service))
    answered = sum(exchange(logging_service.url, attempt).startswith(b"HTTP/1.1 ") for attempt in attempts)
    # A request's line is written after its answer has gone out.
    deadline = time.monotonic() + 10
    while len(lines := log_lines(logging_service)[before:]) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)

    assert answered == len(attempts)
    assert all(set(line) >= {"at", "level", "event"} for line in lines)
    requests = [line for line in lines if line["event"] == "http.request"]
    assert len(requests) <= len(attempts)  # what the server itself refuses never reaches us
    assert len(requests) >= 4
    text = logging_service.log_path.read_text()
    assert canary not in text
    assert "\x1b" not in text


def log_lines(service: Service) -> list[dict[str, Any]]:
    lines = service.log_path.read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.startswith(b"{")]


# ---------------------------------------------------------------- nothing about ourselves
@pytest.mark.parametrize(
    "path",
    [
        *("/livez", "/docs", "/docs/assets/docs.js", "/nothing", ORDERS, "/api/v1/products", "/metrics"),
        *("/console/login/", "/console/nothing/", "/console/static/nothing.css", "/console/static/admin/css/base.css"),
    ],
)
def test_security_OU_05_no_header_names_a_version_or_what_we_are_made_of(anonymous: httpx.Client, path: str) -> None:
    answer = anonymous.get(path)

    text = "\n".join(f"{name}: {value}" for name, value in answer.headers.items()).lower()
    assert re.findall(r"python|django|litestar|granian|uvicorn|x-powered-by|x-aspnet|via:", text) == []
    assert answer.headers["server"] == "counterfoil"
    # An ETag of a file holds the time of its last change.
    shown = {n: value for n, value in answer.headers.items() if n != "etag" and re.search(r"\d+\.\d+", value)}
    assert shown == {}


def test_security_OU_05_what_is_for_operators_is_closed_and_no_debug_page_exists(anonymous: httpx.Client) -> None:
    assert anonymous.get("/metrics").status_code == 401
    assert anonymous.get("/console/").status_code == 302
    for path in ("/admin/", "/debug", "/__debug__/", "/.git/config", "/server-status", "/swagger.json", "/schema"):
        assert anonymous.get(path).status_code == 404, path
    missing = anonymous.get("/console/nothing/")
    for word in ("Traceback", "DEBUG", "urlpatterns", "settings", "Exception"):
        assert word not in missing.text
    for path in ("/livez", "/readyz"):
        assert anonymous.get(path).json() == {"status": "ok"}


# ---------------------------------------------------------------- pages
def test_security_OU_06_markup_in_any_field_is_shown_as_text_in_the_console(
    service: Service, admin: httpx.Client, customer: httpx.Client, db: psycopg.Connection[Any]
) -> None:
    product = admin.post(
        "/api/v1/products",
        json={
            "sku": f"T-{secrets.token_hex(6)}",
            "name": SCRIPT,
            "description": SCRIPT,
            "category": SCRIPT,
            "price": "1.00",
            "currency": "EUR",
        },
    ).json()["id"]
    moved = admin.post(
        f"/api/v1/inventory/{product}/movements",
        json={"kind": "receipt", "quantity": 5, "reason": SCRIPT},
        headers={"Idempotency-Key": secrets.token_hex(16)},
    )
    order = customer.post(ORDERS, json={"items": [{"product_id": product, "quantity": 1}]}).json()["id"]
    operator = {"email": f"{secrets.token_hex(6)}@example.com", "name": SCRIPT, "password": PASSWORD, "role": "admin"}
    user = admin.post("/api/v1/users", json=operator).json()["id"]
    assert moved.status_code == 201

    with httpx.Client(base_url=service.url, timeout=30) as browser:
        page = browser.get("/console/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": operator["email"], "password": PASSWORD}
        assert browser.post("/console/login/", data=form).status_code == 302
        row = db.execute("SELECT min(id) FROM stock_movements WHERE product_id = %s", [product]).fetchone()
        assert row is not None
        movement = row[0]
        pages = [
            browser.get(f"/console/counterfoil/{path}")
            for path in (
                *(f"product/{product}/change/", f"order/{order}/change/", f"stockmovement/{movement}/change/"),
                *(f"user/{user}/change/", "product/", "stockmovement/"),
            )
        ]
        searched = browser.get("/console/counterfoil/product/", params={"q": SCRIPT})

    for shown in [*pages, searched]:
        assert shown.status_code == 200, shown.request.url
        assert "<script>alert" not in shown.text
        assert "<img src=x" not in shown.text
        assert "script-src 'self';" in shown.headers["content-security-policy"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages[0].text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages[2].text


# ---------------------------------------------------------------- errors
_OURS = re.compile(
    r"psycopg|SELECT|INSERT|UPDATE|constraint|duplicate key|relation|uq_|ck_|Traceback|File \"|\.py", re.IGNORECASE
)


def test_security_OU_07_a_broken_constraint_is_told_in_our_own_words(
    anonymous: httpx.Client, admin: httpx.Client, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}
    sku = f"T-{secrets.token_hex(6)}"
    ware = {"sku": sku, "name": "Tea", "price": "1.00", "currency": "EUR"}
    line = {"items": [{"product_id": make_product(), "quantity": 1}], "client_reference": secrets.token_hex(6)}
    for client, path, body in (
        (anonymous, "/api/v1/users", person),
        (admin, "/api/v1/products", ware),
        (customer, ORDERS, line),
    ):
        first, second = client.post(path, json=body), client.post(path, json=body)

        assert (first.status_code, second.status_code) == (201, 409)
        assert _OURS.search(second.text) is None, second.text


def test_security_OU_07_a_lock_that_is_not_let_go_is_told_in_our_own_words(
    admin: httpx.Client, make_product: Callable[..., int], database_url: str, nothing_written: Unchanged
) -> None:
    product = make_product()
    ware = {"sku": f"T-{secrets.token_hex(6)}", "name": "Tea", "price": "1.00", "currency": "EUR"}

    with psycopg.connect(database_url) as holder, nothing_written():
        holder.execute("SELECT FROM products WHERE id = %s FOR UPDATE", [product])
        answer = admin.put(f"/api/v1/products/{product}", json=ware)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "DATABASE_BUSY")
    assert answer.headers["retry-after"] == "1"
    assert _OURS.search(answer.text) is None, answer.text
