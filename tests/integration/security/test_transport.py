"""HT: hosts, HTTPS, the proxy's hop, methods, paths, heads and bodies."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from wire import exchange

from conftest import PRODUCTION, PROXIED, Service, run_counterfoil

ORDERS = "/api/v1/orders"
HSTS = "max-age=63072000; includeSubDomains"
Unchanged = Callable[[], AbstractContextManager[None]]


def status_and_code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# ---------------------------------------------------------------- hosts
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /api/v1/products HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: shop.example.evil.example\r\n", 421),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: evilshop.example\r\n", 421),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: shop.example\r\nHost: evil.example\r\n", 400),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: evil.example\r\nHost: shop.example\r\n", 400),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: shop.example@evil.example\r\n", 400),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: shop.example/evil\r\n", 400),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: shop.example, evil.example\r\n", 400),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: \r\n", 400),
        (b"GET /api/v1/products HTTP/1.1\r\n", 400),
        (b"GET http://shop.example/api/v1/products HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (b"GET /console/login/ HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (b"GET /api/v1/products HTTP/1.1\r\nHost: SHOP.example:443\r\n", 200),
    ],
)
def test_security_HT_01_only_the_configured_host_is_answered_for(production: Service, head: bytes, status: int) -> None:
    answer = exchange(production.url, head + b"X-Forwarded-Proto: https\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"evil" not in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://evil.example/api/v1/products HTTP/1.1\r\nHost: shop.example\r\n",
        b"GET /console/ HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Host: evil.example\r\n",
        b"GET /api/v1/products HTTP/1.1\r\nHost: shop.example\r\nForwarded: host=evil.example\r\n",
    ],
)
def test_security_HT_01_no_other_place_of_a_host_is_read(production: Service, head: bytes) -> None:
    answer = exchange(production.url, head + b"X-Forwarded-Proto: https\r\n\r\n")

    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 302 ")), answer[:300]
    assert b"evil" not in answer


# ---------------------------------------------------------------- HTTPS
@pytest.mark.parametrize("proto", [None, "http", "https, http", "HTTPS2", ""])
def test_security_HT_02_the_api_refuses_plain_http_and_does_nothing(
    production: Service,
    make_token: Callable[..., str],
    make_product: Callable[..., int],
    nothing_written: Unchanged,
    proto: str | None,
) -> None:
    body = {"items": [{"product_id": make_product(), "quantity": 1}]}
    headers = {"Host": "shop.example", **({} if proto is None else {"X-Forwarded-Proto": proto})}

    with production.client(make_token()) as client, nothing_written():
        answers = [
            client.post(ORDERS, json=body, headers=headers),
            client.get(ORDERS, headers=headers),
            client.get("/metrics", headers=headers),
        ]

    for answer in answers:
        assert status_and_code(answer) == (403, "HTTPS_REQUIRED")
        assert "location" not in answer.headers
        assert "strict-transport-security" not in answer.headers


def test_security_HT_02_behind_the_proxy_everything_works_with_hsts(
    production: Service, make_token: Callable[..., str], make_product: Callable[..., int]
) -> None:
    body = {"items": [{"product_id": make_product(), "quantity": 1}]}

    with production.client(make_token()) as client:
        answers = {
            "order": client.post(ORDERS, json=body, headers=PROXIED),
            "missing": client.get("/nothing", headers=PROXIED),
            "page": client.get("/docs", headers=PROXIED),
            "asset": client.get("/docs/assets/docs.js", headers=PROXIED),
            "console": client.get("/console/login/", headers=PROXIED),
        }

    assert {name: answer.status_code for name, answer in answers.items()} == {
        "order": 201,
        "missing": 404,
        "page": 200,
        "asset": 200,
        "console": 200,
    }
    assert {answer.headers["strict-transport-security"] for answer in answers.values()} == {HSTS}


def test_security_HT_02_a_page_over_plain_http_is_sent_to_the_public_address(production: Service) -> None:
    with production.client() as client:
        answers = [
            client.get(path, headers={"Host": "shop.example"})
            for path in ("/console/login/?next=/console/a%0d%0ab", "/docs")
        ]
        posted = client.post("/console/login/", data={"password": "x"}, headers={"Host": "shop.example"})

    assert [answer.status_code for answer in answers] == [308, 308]
    assert answers[0].headers["location"] == "https://shop.example/console/login/?next=/console/a%0d%0ab"
    assert answers[1].headers["location"] == "https://shop.example/docs"
    assert posted.headers["location"] == "https://shop.example/console/login/"
    assert "set-cookie" not in answers[0].headers
    elsewhere = exchange(production.url, b"GET //evil.example/console HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    assert elsewhere.startswith(b"HTTP/1.1 403 ")
    assert b"evil" not in elsewhere


def test_probes_are_answered_by_address_and_without_https(production: Service) -> None:
    with production.client() as client:
        assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
        assert client.get("/startupz").status_code == 421  # no route of ours: no exemption


def test_security_HT_07_a_forwarding_header_from_anybody_but_the_proxy_is_not_believed(
    serve: Callable[..., AbstractContextManager[Service]], make_token: Callable[..., str], nothing_written: Unchanged
) -> None:
    elsewhere = {**PRODUCTION, "COUNTERFOIL_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"}

    with serve(**elsewhere) as service, service.client(make_token()) as client, nothing_written():
        answers = [
            client.get(ORDERS, headers={**PROXIED, **forged})
            for forged in (
                {},
                {"X-Forwarded-Proto": "https,https"},
                {"Forwarded": "proto=https"},
                {"X-Scheme": "https"},
            )
        ]

    assert [status_and_code(answer) for answer in answers] == [(403, "HTTPS_REQUIRED")] * 4


@pytest.mark.parametrize(
    ("missing", "name"),
    [
        ({"COUNTERFOIL_PUBLIC_URL": ""}, "COUNTERFOIL_PUBLIC_URL"),
        ({"COUNTERFOIL_ALLOWED_HOSTS": ""}, "COUNTERFOIL_ALLOWED_HOSTS"),
        ({"COUNTERFOIL_TRUSTED_PROXIES": ""}, "COUNTERFOIL_TRUSTED_PROXIES"),
        ({"COUNTERFOIL_PUBLIC_URL": "http://shop.example"}, "COUNTERFOIL_PUBLIC_URL"),
        ({"COUNTERFOIL_ALLOWED_HOSTS": "*"}, "counterfoil_allowed_hosts"),
        ({"COUNTERFOIL_CORS_ORIGINS": "*"}, "counterfoil_cors_origins"),
        ({"COUNTERFOIL_TRUSTED_PROXIES": "proxy"}, "counterfoil_trusted_proxies"),
        ({"COUNTERFOIL_LIMIT_WRITE": "0/60"}, "counterfoil_limit_write"),
        ({"REDIS_URL": "http://127.0.0.1"}, "redis_url"),
    ],
)
def test_serve_refuses_to_start_without_knowing_who_may_come_in(
    database_url: str, missing: dict[str, str], name: str
) -> None:
    ended = run_counterfoil("serve", check=False, DATABASE_URL=database_url, **{**PRODUCTION, **missing})

    assert ended.returncode == 1
    assert name.lower() in ended.stderr.lower()
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "shop.example"])  # noqa: S104 - what is refused
@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_demo_listens_on_this_machine_only(database_url: str, way: str, address: str) -> None:
    arguments = ["--host", address] if way == "option" else []
    environment = {"COUNTERFOIL_HOST": address} if way == "variable" else {}

    refused = run_counterfoil("serve", *arguments, check=False, DATABASE_URL=database_url, **environment)

    sentence = " ".join((refused.stdout + refused.stderr).split())
    assert refused.returncode == 1
    assert f"Demo mode listens on this machine only, and {address} is open to others" in sentence
    assert "Traceback" not in sentence


# ---------------------------------------------------------------- methods, paths, heads, bodies
@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "TRACK", "DEBUG", "PROPFIND", "BREW", "get", "X" * 40])
@pytest.mark.parametrize("path", [ORDERS, "/docs", "/console/login/", "/docs/assets/docs.js"])
def test_security_HT_04_an_unknown_method_is_refused_with_the_known_ones(
    service: Service, method: str, path: str
) -> None:
    answer = exchange(service.url, f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Canary: c4n4ry\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 405 "), answer[:200]
    assert b"\r\nallow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n" in answer
    assert b"c4n4ry" not in answer


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/auth/token", {"POST", "OPTIONS"}),
        ("PATCH", "/api/v1/orders/1", {"GET", "PUT", "DELETE", "OPTIONS"}),
        ("DELETE", "/api/v1/orders", {"GET", "POST", "OPTIONS"}),
        ("POST", "/livez", {"GET", "OPTIONS"}),
    ],
)
def test_security_HT_04_a_method_that_the_address_does_not_take_is_refused_with_those_it_takes(
    customer: httpx.Client, nothing_written: Unchanged, method: str, path: str, allowed: set[str]
) -> None:
    with nothing_written():
        answer = customer.request(method, path, json={})

    assert status_and_code(answer) == (405, "METHOD_NOT_ALLOWED")
    assert {name.strip() for name in answer.headers["allow"].split(",")} - {"HEAD"} == allowed


@pytest.mark.parametrize("root", ["/docs/assets/", "/console/static/", "/console/static/admin/css/", "/"])
@pytest.mark.parametrize(
    "path",
    [
        *("..%2f..%2f__init__.py", "%2e%2e/%2e%2e/__init__.py", "%252e%252e%252fsettings.py", "..\\..\\settings.py"),
        *("..%5c..%5csettings.py", "%00", "docs.js%00.html", ".git/config", ".env", "docs.js~", "docs.js.bak"),
        *(
            "....//....//settings.py",
            "%c0%ae%c0%ae/settings.py",
            "..;/settings.py",
            "/etc/passwd",
            "swagger-ui.css.old",
        ),
    ],
)
def test_security_HT_05_no_path_leads_out_of_the_assets(service: Service, root: str, path: str) -> None:
    answer = exchange(service.url, f"GET {root}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer[:200]
    assert b"import" not in answer
    assert b"root:" not in answer


def test_security_HT_05_a_folder_is_not_listed(anonymous: httpx.Client) -> None:
    answers = [anonymous.get(path) for path in ("/docs/assets", "/docs/assets/", "/console/static/", "/console/static")]

    assert [answer.status_code for answer in answers] == [404] * 4


@pytest.mark.parametrize(
    "headers", [b"X-Long: " + b"a" * 40_000 + b"\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(70))]
)
def test_a_head_that_is_too_large_is_refused(service: Service, headers: bytes) -> None:
    answer = exchange(service.url, b"GET /api/v1/products HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 431 "), answer[:200]
    assert b"HEADERS_TOO_LARGE" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/v1/products HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /api/v1/products HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: a\r\n" * 5_000 + b"\r\n",
        b"GET /api/v1/products HTTP/1.1\r\nHost: 127.0.0.1\r\nBad Name: a\r\n\r\n",
        b"GET /api/v1/products HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Nul: a\x00b\r\n\r\n",
        b"GET /api/v1/products HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_by_the_server_and_the_next_one_is_answered(
    service: Service, anonymous: httpx.Client, data: bytes
) -> None:
    try:
        answer = exchange(service.url, data)
    except OSError:  # it closes while we are still sending
        answer = b""

    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"HTTP/1.0 400 ")), answer[:200]
    assert anonymous.get("/livez").status_code == 200


@pytest.mark.parametrize("path", [ORDERS, "/console/login/"])
def test_security_IV_07_a_body_that_drips_is_cut_at_the_deadline(
    serve: Callable[..., AbstractContextManager[Service]],
    make_token: Callable[..., str],
    nothing_written: Unchanged,
    path: str,
) -> None:
    token = make_token()
    with serve(COUNTERFOIL_BODY_SECONDS_MAX="1", COUNTERFOIL_LIMIT_SIGN_IN="100000/60") as service, nothing_written():
        host, _, port = service.url.removeprefix("http://").partition(":")
        media_type = "application/json" if path == ORDERS else "application/x-www-form-urlencoded"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: {media_type}\r\nContent-Length: 1000\r\n\r\n"
        )
        started = time.monotonic()
        with socket.create_connection((host, int(port)), 20) as connection:
            connection.sendall(head.encode())
            connection.settimeout(0.3)
            answer = b""
            while not answer and time.monotonic() - started < 15:
                try:
                    answer = connection.recv(65_536)
                except TimeoutError:
                    connection.sendall(b" ")
        seconds = time.monotonic() - started

    assert answer.startswith(b"HTTP/1.1 408 "), answer[:200]
    assert b"\r\nconnection: close\r\n" in answer
    assert 0.9 < seconds < 10


# ---------------------------------------------------------------- other origins
@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "https://app.example.evil.example", "https://evilapp.example", "*"),
        *("http://app.example", "https://sub.app.example", "https://app.example:8443", "https://APP.example"),
    ],
)
def test_security_WB_03_only_an_origin_on_the_list_may_read(
    cors: Service, make_token: Callable[..., str], origin: str
) -> None:
    with cors.client(make_token()) as client:
        answers = [
            client.get(ORDERS, headers={"Origin": origin}),
            client.options(ORDERS, headers={"Origin": origin, "Access-Control-Request-Method": "POST"}),
            client.get("/console/login/", headers={"Origin": origin}),
        ]

    for answer in answers:
        assert [name for name in answer.headers if name.startswith("access-control")] == []
    assert answers[0].headers["vary"] == "origin"


def test_security_WB_03_an_origin_on_the_list_may_read_without_cookies(
    cors: Service, make_token: Callable[..., str]
) -> None:
    origin = {"Origin": "https://app.example"}
    with cors.client(make_token()) as client:
        read = client.get(ORDERS, headers=origin)
        refused = client.get("/api/v1/orders/1", headers=origin)
        asked = client.options(ORDERS, headers={**origin, "Access-Control-Request-Method": "POST"})
        console = client.get("/console/login/", headers=origin)

    for answer in (read, refused, asked):
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"] == "origin"
    assert (read.status_code, refused.status_code, asked.status_code) == (200, 404, 204)
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert "retry-after" in read.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in console.headers


@pytest.fixture(scope="module")
def cors(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from conftest import running_service

    settings = {"COUNTERFOIL_CORS_ORIGINS": "https://app.example"}
    with running_service(database_url, tmp_path_factory.mktemp("cors"), **settings) as running:
        yield running


def test_a_client_address_is_the_proxys_last_word(production: Service, db: psycopg.Connection[Any]) -> None:
    """What the client claims stands before what the proxy writes."""
    from counterfoil.infrastructure.rate_limiter import hash_address

    forwarded = {**PROXIED, "X-Forwarded-For": "203.0.113.5, 198.51.100.99"}
    with production.client() as client:
        assert client.get("/api/v1/products", headers=forwarded).status_code == 200

    keys = {
        bytes(row[0]).decode() for row in db.execute("SELECT key FROM rate_limits WHERE key LIKE 'read:addr%'::bytea")
    }
    assert f"read:address:{hash_address('198.51.100.99')}" in keys
    assert f"read:address:{hash_address('203.0.113.5')}" not in keys
