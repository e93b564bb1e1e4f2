"""Health, metrics, the API's description and the console."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jsonschema_rs
import psycopg
import pytest

ORDERS = "/api/v1/orders"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_healthy_process_says_so_to_anybody_in_few_words(anonymous: httpx.Client, path: str) -> None:
    answers = [anonymous.get(path), anonymous.get(path, headers={"Authorization": "Bearer nonsense"})]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"status": "ok"})] * 2


def test_metrics_are_for_administrators(
    admin: httpx.Client, customer: httpx.Client, anonymous: httpx.Client, make_product: Callable[..., int]
) -> None:
    order = {"items": [{"product_id": make_product(), "quantity": 1}]}
    assert customer.post(ORDERS, json=order).status_code == 201

    shown = admin.get("/metrics")

    assert (anonymous.get("/metrics").status_code, customer.get("/metrics").status_code) == (401, 403)
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'counterfoil_http_requests_total{method="POST",route="/api/v1/orders",status="201"}' in shown.text
    assert "counterfoil_intake_batch_orders_count" in shown.text


# ---------------------------------------------------------------- description
@pytest.fixture(scope="module")
def document(service: Any) -> dict[str, Any]:
    answer = httpx.get(f"{service.url}/docs/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_the_description_is_openapi_3_1_with_every_endpoint_explained(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    shown = {f"{method} {path}" for method, path, _ in operations(document)}
    assert {"POST /api/v1/orders", "GET /api/v1/orders/{order_id}", "POST /api/v1/auth/token"} <= shown
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert "security" in operation, (method, path)


def test_every_body_and_the_main_answers_have_examples_that_fit(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for _, _, operation in operations(document)
        if "requestBody" in operation
    }

    for name in bodies | {"OrderOut", "Problem"}:
        [example] = schemas[name]["examples"]
        jsonschema_rs.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        ).validate(example)


def test_headers_that_change_what_happens_are_described(document: dict[str, Any]) -> None:
    def parameters(path: str, method: str) -> dict[str, bool]:
        return {p["name"]: p["required"] for p in document["paths"][path][method].get("parameters", [])}

    assert parameters("/api/v1/orders", "post") == {"Idempotency-Key": False}
    assert parameters("/api/v1/orders/{order_id}", "put") == {"order_id": True, "If-Match": False}
    assert parameters("/api/v1/inventory/{product_id}/movements", "post")["Idempotency-Key"] is True
    created = document["paths"]["/api/v1/orders"]["post"]["responses"]["201"]["headers"]
    assert set(created) == {"ETag", "Idempotent-Replayed"}
    bounds = document["paths"]["/api/v1/orders/{order_id}"]["get"]["parameters"][0]["schema"]
    assert (bounds["minimum"], bounds["maximum"]) == (1, 2**63 - 1)


def test_every_route_that_is_not_public_asks_for_credentials(anonymous: httpx.Client, document: dict[str, Any]) -> None:
    public = set()
    for method, path, operation in operations(document):
        if operation["security"] == [] or {} in operation["security"]:
            public.add(f"{method} {path}")
            continue
        answer = anonymous.request(
            method, re.sub(r"\{\w+\}", "1", path), json={} if "requestBody" in operation else None
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "CREDENTIALS_MISSING"), (method, path)
        assert answer.headers["www-authenticate"] == 'Bearer realm="counterfoil"'

    assert public == {
        "POST /api/v1/auth/email-confirmation",
        "POST /api/v1/auth/email-confirmation/resend",
        "POST /api/v1/auth/logout",
        "POST /api/v1/auth/password-reset",
        "POST /api/v1/auth/password-reset/confirm",
        "POST /api/v1/auth/refresh",
        "POST /api/v1/auth/token",
        "POST /api/v1/users",
        # Signed instead: see payments/notices.py.
        "POST /payments/callbacks/{provider}",
        "GET /api/v1/products",
        "GET /api/v1/products/{product_id}",
        "GET /livez",
        "GET /readyz",
    }


def local_references(page: str) -> list[str]:
    """Return what a page loads; nothing of it may come from another host."""
    found = re.findall(r"""<(?:script|link|img|iframe|source)[^>]*?\s(?:src|href)=["']([^"']+)["']""", page)
    assert found
    assert [reference for reference in found if "//" in reference] == []
    return found


def test_the_page_for_people_loads_nothing_from_elsewhere(anonymous: httpx.Client) -> None:
    page = anonymous.get("/docs")

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for reference in local_references(page.text):
        assert anonymous.get(reference).status_code == 200, reference
    # Version 4 answers 200 just as well and then shows that it cannot read OpenAPI 3.1.
    assert 'PACKAGE_VERSION:"5.' in anonymous.get("/docs/assets/swagger-ui-bundle.js").text
    style_and_script = anonymous.get("/docs/assets/swagger-ui.css").text
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style_and_script) == []


@pytest.mark.usefixtures("django_ready")
def test_the_probe_asks_the_database_once_a_second_for_everybody() -> None:
    from counterfoil.api.controllers.operations import Probe

    class Pool:
        asked = 0

        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Any]:
            self.asked += 1
            await asyncio.sleep(0)
            if self.asked == 2:
                raise TimeoutError
            yield self

        async def execute(self, _: str) -> None:
            """Answer."""

    async def scenario() -> None:
        now, pool = 100.0, Pool()
        probe = Probe(pool, clock=lambda: now)  # type: ignore[arg-type]
        first = await asyncio.gather(*(probe.answers() for _ in range(50)))
        now += 0.9
        first.append(await probe.answers())
        now += 0.1
        second = await asyncio.gather(*(probe.answers() for _ in range(50)))

        assert (set(first), set(second), pool.asked) == ({True}, {False}, 2)

    asyncio.run(scenario())


# ---------------------------------------------------------------- console
@pytest.fixture
def console(service: Any, admin: httpx.Client) -> Iterator[httpx.Client]:
    """A browser signed in as an administrator, who sees every page (security/test_console_access.py: others)."""
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Op", "password": "correct horse battery"}
    assert admin.post("/api/v1/users", json={**person, "role": "admin"}).status_code == 201
    with httpx.Client(base_url=service.url, timeout=30) as browser:
        signed_in = sign_in(browser, person["email"], person["password"])
        assert (signed_in.status_code, signed_in.headers["location"]) == (302, "/console/")
        yield browser


def sign_in(browser: httpx.Client, email: str, password: str) -> httpx.Response:
    page = browser.get("/console/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token is not None
    form = {"csrfmiddlewaretoken": token[1], "username": email, "password": password, "next": "/console/"}
    return browser.post("/console/login/", data=form, headers={"Referer": str(page.url)})


def test_the_console_asks_to_sign_in_on_a_page_with_its_own_style(anonymous: httpx.Client) -> None:
    sent = anonymous.get("/console/")
    page = anonymous.get(sent.headers["location"])

    assert (sent.status_code, sent.headers["location"]) == (302, "/console/login/?next=/console/")
    assert page.status_code == 200
    assert page.headers["x-frame-options"] == "DENY"
    for reference in local_references(page.text):
        asset = anonymous.get(reference)
        assert asset.status_code == 200, reference
        assert asset.headers["content-type"].startswith(("text/css", "text/javascript", "application/javascript"))


def test_a_customer_does_not_get_into_the_console(anonymous: httpx.Client) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Eve", "password": "correct horse battery"}
    anonymous.post("/api/v1/users", json=person)

    refused = sign_in(anonymous, person["email"], person["password"])

    assert refused.status_code == 200
    assert anonymous.get("/console/").status_code == 302


def test_an_operator_finds_an_order_with_its_lines_stock_and_history(
    console: httpx.Client, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(name="<b>Canary</b> tea")
    order = customer.post(ORDERS, json={"items": [{"product_id": product, "quantity": 3}]}).json()
    customer.delete(f"{ORDERS}/{order['id']}")

    listed = console.get("/console/counterfoil/order/", params={"q": str(order["id"])})
    shown = console.get(f"/console/counterfoil/order/{order['id']}/change/")

    assert listed.status_code == 200, listed.text
    assert f"/console/counterfoil/order/{order['id']}/change/" in listed.text
    assert shown.status_code == 200
    for expected in ("&lt;b&gt;Canary&lt;/b&gt; tea", "order.created", "order.cancelled", "release"):
        assert expected in shown.text, expected
    assert "<b>Canary" not in shown.text
    assert 'name="_save"' not in shown.text


@pytest.mark.parametrize("page", ["order", "product", "stocklevel", "stockmovement", "user", "auditentry"])
def test_every_page_of_the_console_can_be_viewed_and_searched_and_changes_nothing(
    console: httpx.Client,
    customer: httpx.Client,
    make_product: Callable[..., int],
    page: str,
    db: psycopg.Connection[Any],
) -> None:
    customer.post(ORDERS, json={"items": [{"product_id": make_product(), "quantity": 1}]})
    address = f"/console/counterfoil/{page}/"
    index, listed = console.get("/console/"), console.get(address)
    first = re.search(rf"{address}(\d+)/change/", listed.text)
    assert first is not None
    # Reading somebody's data leaves an entry of its own.
    changes = "SELECT count(*) FROM audit_entries WHERE action <> 'user.read'"
    before = db.execute(changes).fetchone()

    shown = console.get(first[0])
    token = console.cookies.get("csrftoken")
    form = {"csrfmiddlewaretoken": token, "name": "changed", "status": "confirmed"}
    referer = {"Referer": str(shown.url)}
    refused = [
        console.get(f"{address}add/"),
        console.post(f"{address}add/", data=form, headers=referer),
        console.post(first[0], data=form, headers=referer),
        console.post(first[0].replace("change", "delete"), data={**form, "post": "yes"}, headers=referer),
    ]

    assert address in index.text
    assert shown.status_code == 200
    assert "argon2" not in shown.text
    assert [answer.status_code for answer in refused] == [403] * 4
    assert db.execute(changes).fetchone() == before
    for text in ("1", "nobody", "' OR 1=1 --", "9" * 30, "\x00"):
        assert console.get(address, params={"q": text}).status_code == 200, text


def test_an_operator_finds_a_person_by_address_and_every_reading_is_recorded(
    console: httpx.Client, anonymous: httpx.Client, make_product: Callable[..., int], db: psycopg.Connection[Any]
) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "<i>Eve</i>", "password": "correct horse battery"}
    user = anonymous.post("/api/v1/users", json=person).json()["id"]
    signed_in = anonymous.post("/api/v1/auth/token", json={"email": person["email"], "password": person["password"]})
    token = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    items = [{"product_id": make_product(), "quantity": 1}]
    order = anonymous.post(ORDERS, json={"items": items}, headers=token).json()["id"]
    readings = "SELECT count(*) FROM audit_entries WHERE action = 'user.read' AND changes -> 'users' @> %s::jsonb"
    anonymous.delete(f"{ORDERS}/{order}", headers=token)

    people = console.get("/console/counterfoil/user/", params={"q": person["email"].upper()})
    page = console.get(f"/console/counterfoil/user/{user}/change/")
    orders = console.get("/console/counterfoil/order/", params={"q": person["email"]})
    sold = console.get(f"/console/counterfoil/order/{order}/change/")
    nobody = console.get("/console/counterfoil/user/", params={"q": f"x{person['email']}"})

    for shown in (people, page, sold):
        assert (person["email"] in shown.text, "&lt;i&gt;Eve&lt;/i&gt;" in shown.text) == (True, True), shown.url
    assert f"/console/counterfoil/order/{order}/change/" in orders.text
    assert "&lt;i&gt;Eve" not in orders.text
    assert "0 accounts" in nobody.text or "0 users" in nobody.text
    assert db.execute(readings, [str(user)]).fetchone() == (3,)


def test_the_console_writes_amounts_instants_and_names_as_people_do(
    console: httpx.Client, customer: httpx.Client, make_product: Callable[..., int]
) -> None:
    product = make_product(price="14.90", sku=f"CANARY-{secrets.token_hex(4)}")
    order = customer.post(ORDERS, json={"items": [{"product_id": product, "quantity": 2}]}).json()
    actor = f"/console/counterfoil/user/{order['user_id']}/change/"

    index = console.get("/console/").text
    listed = console.get("/console/counterfoil/order/", params={"q": str(order["id"])}).text
    shown = console.get(f"/console/counterfoil/order/{order['id']}/change/").text
    moved = console.get("/console/counterfoil/stockmovement/", params={"q": str(order["id"])}).text

    assert "Counterfoil console</title>" in index
    assert "View site" not in index
    assert "Audit entries" in index
    assert "29.80 EUR" in listed
    for expected in (
        f"Order {order['id']}",
        "29.80 EUR",
        "14.90 EUR",
        f'<a href="{actor}">user:{order["user_id"]}</a>',
    ):
        assert expected in shown, expected
    assert f"/console/counterfoil/product/{product}/change/" in shown
    assert f"/console/counterfoil/product/{product}/change/" in moved
    assert f"/console/counterfoil/order/{order['id']}/change/" in moved
    for page in (listed, shown, moved):
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", page)
        for unwanted in (" object (", ".8000", "nav-sidebar", " a.m.", " p.m."):
            assert unwanted not in page, unwanted


def test_the_console_shows_what_changed_and_whether_the_entry_is_chained(
    console: httpx.Client, admin: httpx.Client, make_product: Callable[..., int], db: psycopg.Connection[Any]
) -> None:
    product = make_product(price="14.90", stock=0)
    body = {"sku": secrets.token_hex(8), "name": "<b>Canary</b> pot", "price": "15.50", "currency": "EUR"}
    admin.put(f"/api/v1/products/{product}", json=body)
    row = db.execute(
        "SELECT id, encode(after_hash, 'hex') FROM audit_entries WHERE target_id = %s AND action = 'product.update'",
        [product],
    ).fetchone()
    assert row is not None
    address = f"/console/counterfoil/auditentry/{row[0]}/change/"

    waiting = console.get(address).text
    db.execute("SELECT seal_audit_entries_v1(100000)")
    sealed = console.get(address).text

    assert "<tr><th>price</th><td>14.9</td><td>15.5</td></tr>" in waiting
    assert "<td>&lt;b&gt;Canary&lt;/b&gt; pot</td>" in waiting
    assert f'<a href="/console/counterfoil/product/{product}/change/">product {product}</a>' in waiting
    assert row[1] in waiting
    assert "waits for the sealer" in waiting
    assert re.search(r"sealed at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, in seal \d+", sealed)


def test_the_metrics_tell_how_much_of_the_audit_trail_is_not_chained_yet(
    admin: httpx.Client, make_product: Callable[..., int], db: psycopg.Connection[Any]
) -> None:
    while db.execute("SELECT seal_audit_entries_v1(100000)").fetchone() != (0,):
        pass
    sealed = audit_gauges(admin)
    make_product(stock=0)
    waiting = audit_gauges(admin)

    assert sealed == {"entries": 0.0, "seconds": 0.0}
    assert waiting["entries"] == 2.0  # the product and its level
    assert 0 < waiting["seconds"] < 30


def audit_gauges(admin: httpx.Client) -> dict[str, float]:
    text = admin.get("/metrics").text
    return {
        name: float(value)
        for name, value in re.findall(r"^counterfoil_audit_unsealed_(\w+) (\S+)$", text, re.MULTILINE)
    }
