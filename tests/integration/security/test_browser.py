"""WB: the console in a browser: tokens in forms, cookies, framing, policies on every answer."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.cookies import Morsel, SimpleCookie

import httpx
import pytest

from conftest import PROXIED, Service

PASSWORD = "correct horse battery"
Unchanged = Callable[[], AbstractContextManager[None]]
ADDRESSES = ["/console/counterfoil/order/add/", "/console/counterfoil/product/1/change/", "/console/logout/"]


def make_operator(admin: httpx.Client) -> str:
    email = f"{secrets.token_hex(6)}@example.com"
    person = {"email": email, "name": "Op", "password": PASSWORD, "role": "admin"}
    assert admin.post("/api/v1/users", json=person).status_code == 201
    return email


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert found is not None
    return found[1]


def sign_in(browser: httpx.Client, email: str) -> None:
    page = browser.get("/console/login/")
    form = {"csrfmiddlewaretoken": token_of(page), "username": email, "password": PASSWORD}
    assert browser.post("/console/login/", data=form).status_code == 302


@pytest.fixture
def browser(service: Service, admin: httpx.Client) -> Iterator[httpx.Client]:
    """A browser that is signed in to the console."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        sign_in(client, make_operator(admin))
        yield client


@pytest.mark.parametrize("address", ["/console/login/", *ADDRESSES])
@pytest.mark.parametrize("token", [None, "", "a" * 64, "another"])
def test_security_WB_01_a_form_without_its_own_token_is_refused(
    browser: httpx.Client, service: Service, nothing_written: Unchanged, address: str, token: str | None
) -> None:
    if token == "another":
        with service.client() as stranger:
            token = token_of(stranger.get("/console/login/"))
    form = {"username": "a@example.com", "password": PASSWORD, "name": "changed"}

    with nothing_written():
        answer = browser.post(address, data=form if token is None else {**form, "csrfmiddlewaretoken": token})

    assert answer.status_code == 403
    assert browser.get("/console/").status_code == 200  # still signed in


def test_security_WB_01_no_get_changes_anything(browser: httpx.Client, nothing_written: Unchanged) -> None:
    with nothing_written():
        answers = [
            browser.get("/console/logout/"),
            browser.get("/console/counterfoil/product/1/delete/", params={"post": "yes"}),
            browser.get("/console/counterfoil/product/", params={"action": "delete_selected", "_selected_action": "1"}),
        ]

    assert answers[0].status_code == 405
    assert all(answer.status_code in {200, 302, 403, 405} for answer in answers)
    assert browser.get("/console/").status_code == 200


# ---------------------------------------------------------------- cookies
class SecureBrowser:
    """Keeps `Secure` cookies although the test itself speaks plain HTTP: the proxy in front would not."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.jar: dict[str, str] = {}
        self.seen: dict[str, Morsel[str]] = {}

    def send(self, method: str, path: str, **values: object) -> httpx.Response:
        headers = {**PROXIED, "Referer": "https://shop.example/console/", "Cookie": self._cookies()}
        answer = self.client.request(method, path, headers=headers, **values)  # type: ignore[arg-type]
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.seen[name] = morsel
                self.jar[name] = morsel.value
                if not morsel.value:
                    del self.jar[name]
        return answer

    def _cookies(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.jar.items())


def test_security_WB_02_cookies_are_bound_to_the_host_and_change_at_sign_in_and_out(
    production: Service, admin: httpx.Client
) -> None:
    email = make_operator(admin)
    with production.client() as client:
        browser = SecureBrowser(client)
        first = token_of(browser.send("GET", "/console/login/"))
        csrf_before = browser.jar["__Host-csrftoken"]
        form = {"csrfmiddlewaretoken": first, "username": email, "password": PASSWORD}
        signed_in = browser.send("POST", "/console/login/", data=form)
        session, csrf = browser.jar["__Host-counterfoil_session"], browser.jar["__Host-csrftoken"]
        inside = browser.send("GET", "/console/")
        again = browser.send(
            "POST", "/console/login/", data={**form, "csrfmiddlewaretoken": token_of(browser.send("GET", "/console/"))}
        )
        second_session = browser.jar["__Host-counterfoil_session"]
        browser.send(
            "POST", "/console/logout/", data={"csrfmiddlewaretoken": token_of(browser.send("GET", "/console/"))}
        )
        replayed = client.get(
            "/console/", headers={**PROXIED, "Cookie": f"__Host-counterfoil_session={second_session}"}
        )
        stale = client.get("/console/", headers={**PROXIED, "Cookie": f"__Host-counterfoil_session={session}"})

    assert (signed_in.status_code, inside.status_code, again.status_code) == (302, 200, 302)
    assert set(browser.seen) == {"__Host-counterfoil_session", "__Host-csrftoken"}
    for morsel in browser.seen.values():
        assert morsel["secure"] is True
        assert morsel["path"] == "/"
        assert morsel["domain"] == ""
        assert morsel["samesite"] == "Lax"
    assert csrf != csrf_before
    assert len({session, second_session}) == 2
    assert "__Host-counterfoil_session" not in browser.jar
    assert (replayed.status_code, stale.status_code) == (302, 302)


def test_security_WB_02_no_script_reads_a_cookie(production: Service, admin: httpx.Client) -> None:
    email = make_operator(admin)
    with production.client() as client:
        browser = SecureBrowser(client)
        token = token_of(browser.send("GET", "/console/login/"))
        answer = browser.send(
            "POST", "/console/login/", data={"csrfmiddlewaretoken": token, "username": email, "password": PASSWORD}
        )

    lines = answer.headers.get_list("set-cookie")
    assert len(lines) == 2
    assert [line for line in lines if "httponly" not in line.lower()] == []


def test_security_WB_02_a_session_that_was_planted_before_is_not_signed_in(
    service: Service, admin: httpx.Client
) -> None:
    email = make_operator(admin)
    with httpx.Client(base_url=service.url, timeout=30) as browser:
        browser.cookies.set("counterfoil_session", "a" * 32)
        sign_in(browser, email)
        given = [cookie.value for cookie in browser.cookies.jar if cookie.name == "counterfoil_session"]
    with httpx.Client(base_url=service.url, cookies={"counterfoil_session": "a" * 32}) as attacker:
        planted = attacker.get("/console/")

    assert "a" * 32 not in given[-1:]
    assert planted.status_code == 302


# ---------------------------------------------------------------- policies
def directives(answer: httpx.Response) -> dict[str, str]:
    [policy] = answer.headers.get_list("content-security-policy")
    return {name: value for name, _, value in (part.strip().partition(" ") for part in policy.split(";"))}


EVERY_KIND = [
    *(
        "/docs",
        "/docs/openapi.json",
        "/docs/assets/docs.js",
        "/api/v1/products",
        "/api/v1/orders",
        "/nothing",
        "/livez",
    ),
    *("/console/", "/console/login/", "/console/nothing/", "/console/static/admin/css/base.css", "/metrics"),
]


@pytest.mark.parametrize("path", EVERY_KIND)
def test_security_WB_04_no_answer_may_be_framed(anonymous: httpx.Client, path: str) -> None:
    answer = anonymous.get(path)

    assert directives(answer)["frame-ancestors"] == "'none'"
    assert answer.headers.get_list("x-frame-options") == ["DENY"]


@pytest.mark.parametrize("path", EVERY_KIND)
def test_security_WB_05_every_answer_has_a_policy_without_inline_script(anonymous: httpx.Client, path: str) -> None:
    answer = anonymous.get(path)
    policy = directives(answer)

    assert policy["default-src"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("cross-origin-opener-policy") == ["same-origin"]
    assert answer.headers.get_list("cross-origin-resource-policy") == ["same-origin"]
    assert answer.headers["referrer-policy"] in {"no-referrer", "same-origin"}
    assert "geolocation=()" in answer.headers["permissions-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    if answer.headers["content-type"].startswith("text/html"):
        assert (policy["script-src"], policy["style-src"]) == ("'self'", "'self'")
        assert policy["form-action"] == "'self'"
    else:
        assert "script-src" not in policy


@pytest.mark.parametrize("page", ["", "order/", "product/", "stocklevel/", "stockmovement/", "user/", "auditentry/"])
def test_security_WB_05_no_page_of_the_console_needs_inline_script_or_style(browser: httpx.Client, page: str) -> None:
    address = f"/console/counterfoil/{page}" if page else "/console/"
    listed = browser.get(address)
    first = re.search(rf"{address}(\d+)/change/", listed.text) if page else None
    pages = [listed, *([browser.get(first[0])] if first else [])]

    for shown in pages:
        assert shown.status_code == 200
        assert_nothing_inline(shown.text)


def test_security_WB_05_the_page_of_the_api_needs_no_inline_script_or_style(anonymous: httpx.Client) -> None:
    assert_nothing_inline(anonymous.get("/docs").text)


def assert_nothing_inline(page: str) -> None:
    scripts = re.findall(r"<script\b[^>]*>", page)
    assert [tag for tag in scripts if "src=" not in tag and "application/json" not in tag] == []
    assert re.findall(r"<style\b", page) == []
    assert re.findall(r"<[^>]+\son\w+\s*=", page) == []
    assert re.findall(r"<[^>]+\sstyle\s*=", page) == []
    assert "javascript:" not in page
