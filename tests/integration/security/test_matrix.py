"""Every route, asked by everybody: generated from the live route table, so that no endpoint can be forgotten (AZ).

What is expected follows from the table of permissions and from `CASES`: how to make an object of the owner's, and what
somebody is answered who may. A route that is missing there fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
from accounts import AUTH, KEYS, ORDERS, PASSWORD, USERS, bearer, logged, mint_key, register
from litestar import Controller, Litestar, get
from money import take_and_refund

from conftest import Service

Unchanged = Callable[[], AbstractContextManager[None]]
Connection = psycopg.Connection[tuple[Any, ...]]
# Litestar announces a way to write bodies that its next major release wants; a web process only logs it.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.base_exceptions.LitestarDeprecationWarning")
COUPONS = "/api/v1/coupons"
ROLES = ("support", "manager", "admin", "service")
STRANGERS = ("other user", "other's key")
IDENTITIES = ("nobody", "owner", *STRANGERS, "own key", "own key without scope", *ROLES)


@dataclass
class World:
    """The owner with an object of each kind, and everybody else with their credentials."""

    owner_id: int
    program_id: int
    headers: dict[str, dict[str, str]]
    clients: dict[str, httpx.Client]
    make_product: Callable[..., int]
    last_product: int = 0

    def client(self, identity: str, permission: str | None = None) -> httpx.Client:
        """Return somebody's client; a key without the scope has every other scope of its account's role."""
        if identity != "own key without scope":
            return self.clients[identity]
        name = f"own key without {permission}"
        return self.clients.get(name, self.clients["own key without orders:write"])

    def order(self, **values: Any) -> dict[str, Any]:
        self.last_product = self.make_product()
        body = {"items": [{"product_id": self.last_product, "quantity": 1}], **values}
        answer = self.clients["owner"].post(ORDERS, json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def payment(self) -> tuple[int, int]:
        """A payment of the owner's that was taken, and a refund of a part of it."""
        return take_and_refund(self.order()["id"], self.owner_id)

    def account(self) -> int:
        body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}
        answer = self.clients["nobody"].post(USERS, json=body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def coupon(self) -> int:
        answer = self.clients["manager"].post(COUPONS, json=coupon_body(self))
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def key(self) -> int:
        return int(mint_key(self.owner_id, "orders:read")["id"])


@dataclass(frozen=True)
class Case:
    """How one route is asked: its address, its body, and the answer of somebody who may.

    `owned`: the object is the owner's, and others do not find it (`hidden`: the code they hear). `person_only`: no API
    key may, whatever its scopes. `no_key`: anybody may, but not with a customer's API key.
    """

    allowed: int
    address: Callable[[World], str]
    body: Callable[[World], Any] = lambda _: None
    owned: bool = False
    hidden: str = "ORDER_NOT_FOUND"
    person_only: bool = False
    no_key: bool = False
    key: bool = field(default=False)


def at(path: str) -> Callable[[World], str]:
    return lambda _: path


def sending(**body: Any) -> Callable[[World], Any]:
    return lambda _: body


def order_body(world: World) -> dict[str, Any]:
    return {"items": [{"product_id": world.make_product(), "quantity": 1}]}


def reference_body(_: World) -> dict[str, Any]:
    return {"client_reference": f"PO-{secrets.token_hex(6)}"}


def product_body(_: World) -> dict[str, Any]:
    return {"sku": f"M-{secrets.token_hex(6)}", "name": "Tea", "price": "1.00", "currency": "EUR"}


def coupon_body(_: World) -> dict[str, Any]:
    return {"code": f"M-{secrets.token_hex(6)}", "kind": "percent", "value": "10"}


def person_body(_: World) -> dict[str, Any]:
    return {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}


def stranger_body(_: World) -> dict[str, Any]:
    # Another account each time: the sixth wrong password for one from one address is answered 429.
    return {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}


def key_body(world: World) -> dict[str, Any]:
    return {"user_id": world.program_id, "name": "matrix", "scopes": ["orders:read"]}


def order_at(tail: str = "", **values: Any) -> Callable[[World], str]:
    return lambda world: f"{ORDERS}/{world.order(**values)['id']}{tail}"


def payment_at(tail: str = "") -> Callable[[World], str]:
    return lambda world: f"/api/v1/payments/{world.payment()[0]}{tail}"


def paid(allowed: int, tail: str = "", **values: Any) -> Case:
    return Case(allowed, payment_at(tail), owned=True, hidden="PAYMENT_NOT_FOUND", **values)


# No worker asks the gateway here, so nobody waits: what is asked is refused at once, or costs nothing.
PAYMENT_CASES: dict[str, Case] = {
    "GET /api/v1/orders/{order_id}/payments": Case(200, order_at("/payments"), owned=True),
    "POST /api/v1/orders/{order_id}/payments": Case(
        409, order_at("/payments"), sending(method="pm_card_visa", amount="99.00"), owned=True, key=True
    ),
    "GET /api/v1/payments/{payment_id}": paid(200),
    "POST /api/v1/payments/{payment_id}/capture": paid(409, "/capture", body=sending(), key=True),
    "POST /api/v1/payments/{payment_id}/void": paid(409, "/void", key=True),
    "POST /api/v1/payments/{payment_id}/look": paid(200, "/look"),
    "POST /api/v1/payments/{payment_id}/review": paid(200, "/review", body=sending(reason="asked the bank")),
    "GET /api/v1/payments/{payment_id}/refunds": paid(200, "/refunds"),
    "POST /api/v1/payments/{payment_id}/refunds": paid(409, "/refunds", body=sending(amount="99.00"), key=True),
    "GET /api/v1/refunds/{refund_id}": Case(
        200, lambda world: f"/api/v1/refunds/{world.payment()[1]}", owned=True, hidden="REFUND_NOT_FOUND"
    ),
    "POST /payments/callbacks/{provider}": Case(401, at("/payments/callbacks/sandbox"), sending()),
}


def confirmed(world: World) -> int:
    """An order of the owner's that staff has confirmed."""
    order = int(world.order()["id"])
    answer = world.clients["admin"].post(f"{ORDERS}/{order}/confirm", json={})
    assert answer.status_code == 200, answer.text
    return order


def fulfillment(world: World, *steps: str, tail: str = "") -> str:
    """The address of a fulfillment of the owner's that has gone these steps."""
    answer = world.clients["admin"].post(f"{ORDERS}/{confirmed(world)}/fulfillments", json={})
    address = f"/api/v1/fulfillments/{answer.json()['id']}"
    for step in steps:
        assert world.clients["admin"].post(f"{address}/{step}", json={}).status_code == 200
    return address + tail


def taken_back(world: World, *steps: str, tail: str = "") -> str:
    """The address of a return of the owner's that has gone these steps."""
    address = fulfillment(world, "ship")
    order = world.clients["owner"].get(address).json()
    body = {"items": [{"product_id": order["items"][0]["product_id"], "quantity": 1}]}
    made = world.clients["owner"].post(f"{ORDERS}/{order['order_id']}/returns", json=body)
    address = f"/api/v1/returns/{made.json()['id']}"
    for step in steps:
        assert world.clients["admin"].post(f"{address}/{step}", json={}).status_code == 200
    return address + tail


def return_body(world: World) -> dict[str, Any]:
    """Of whatever product: the latest order's."""
    return {"items": [{"product_id": world.last_product, "quantity": 1}]}


def held(world: World) -> str:
    order = confirmed(world)
    made = world.clients["admin"].post(f"{ORDERS}/{order}/holds", json={"reason": "address check"})
    return f"{ORDERS}/{order}/holds/{made.json()['id']}"


def shipped_order(world: World) -> int:
    return int(world.clients["owner"].get(fulfillment(world, "ship")).json()["order_id"])


CASES: dict[str, Case] = {
    **PAYMENT_CASES,
    "GET /api/v1/api-keys": Case(200, at(KEYS)),
    "POST /api/v1/api-keys": Case(201, at(KEYS), key_body, person_only=True),
    "DELETE /api/v1/api-keys/{key_id}": Case(204, lambda world: f"{KEYS}/{world.key()}", person_only=True),
    "POST /api/v1/auth/token": Case(401, at(f"{AUTH}/token"), stranger_body),
    "POST /api/v1/auth/refresh": Case(401, at(f"{AUTH}/refresh"), sending(refresh_token="cfr_unknown")),
    "POST /api/v1/auth/logout": Case(204, at(f"{AUTH}/logout"), sending(refresh_token="cfr_unknown")),
    "POST /api/v1/auth/password-reset": Case(202, at(f"{AUTH}/password-reset"), sending(email="no@example.com")),
    "POST /api/v1/auth/password-reset/confirm": Case(
        400, at(f"{AUTH}/password-reset/confirm"), sending(token="cft_unknown", password=PASSWORD)
    ),
    "POST /api/v1/auth/email-confirmation": Case(400, at(f"{AUTH}/email-confirmation"), sending(token="cft_unknown")),
    "POST /api/v1/auth/email-confirmation/resend": Case(
        202, at(f"{AUTH}/email-confirmation/resend"), sending(email="no@example.com")
    ),
    "GET /api/v1/coupons": Case(200, at(COUPONS)),
    "POST /api/v1/coupons": Case(201, at(COUPONS), coupon_body),
    "PUT /api/v1/coupons/{coupon_id}": Case(200, lambda world: f"{COUPONS}/{world.coupon()}", coupon_body),
    "DELETE /api/v1/coupons/{coupon_id}": Case(204, lambda world: f"{COUPONS}/{world.coupon()}"),
    "GET /api/v1/inventory/{product_id}": Case(200, lambda world: f"/api/v1/inventory/{world.make_product()}"),
    "GET /api/v1/inventory/{product_id}/movements": Case(
        200, lambda world: f"/api/v1/inventory/{world.make_product()}/movements"
    ),
    "POST /api/v1/inventory/{product_id}/movements": Case(
        201,
        lambda world: f"/api/v1/inventory/{world.make_product()}/movements",
        sending(kind="receipt", quantity=1),
        key=True,
    ),
    "GET /api/v1/orders": Case(200, at(ORDERS)),
    "POST /api/v1/orders": Case(201, at(ORDERS), order_body),
    "GET /api/v1/orders/{order_id}": Case(200, order_at(), owned=True),
    "PUT /api/v1/orders/{order_id}": Case(200, order_at(), reference_body, owned=True),
    "DELETE /api/v1/orders/{order_id}": Case(204, order_at(), owned=True),
    "GET /api/v1/orders/{order_id}/timeline": Case(200, order_at("/timeline"), owned=True),
    "POST /api/v1/orders/{order_id}/place": Case(200, order_at("/place", draft=True), owned=True),
    "POST /api/v1/orders/{order_id}/confirm": Case(200, order_at("/confirm"), sending()),
    "POST /api/v1/orders/{order_id}/fulfillments": Case(
        201, lambda world: f"{ORDERS}/{confirmed(world)}/fulfillments", sending()
    ),
    "GET /api/v1/orders/{order_id}/fulfillments": Case(200, order_at("/fulfillments"), owned=True),
    "GET /api/v1/fulfillments/{fulfillment_id}": Case(200, fulfillment, owned=True, hidden="FULFILLMENT_NOT_FOUND"),
    "POST /api/v1/fulfillments/{fulfillment_id}/start": Case(200, lambda world: fulfillment(world, tail="/start")),
    "POST /api/v1/fulfillments/{fulfillment_id}/ship": Case(
        200, lambda world: fulfillment(world, tail="/ship"), sending(carrier="DHL")
    ),
    "POST /api/v1/fulfillments/{fulfillment_id}/deliver": Case(
        200, lambda world: fulfillment(world, "ship", tail="/deliver")
    ),
    "POST /api/v1/fulfillments/{fulfillment_id}/cancel": Case(200, lambda world: fulfillment(world, tail="/cancel")),
    "POST /api/v1/orders/{order_id}/cancel": Case(200, order_at("/cancel"), sending(), owned=True),
    "POST /api/v1/orders/{order_id}/preview": Case(200, order_at("/preview"), reference_body, owned=True),
    # Nobody has paid for it.
    "POST /api/v1/orders/{order_id}/complete": Case(409, lambda world: f"{ORDERS}/{shipped_order(world)}/complete"),
    "POST /api/v1/orders/{order_id}/holds": Case(201, order_at("/holds"), sending(reason="address check")),
    "GET /api/v1/orders/{order_id}/holds": Case(200, order_at("/holds")),
    "DELETE /api/v1/orders/{order_id}/holds/{hold_id}": Case(204, held),
    "POST /api/v1/orders/{order_id}/notes": Case(201, order_at("/notes"), sending(text="Called twice.")),
    "GET /api/v1/orders/{order_id}/notes": Case(200, order_at("/notes")),
    "POST /api/v1/orders/{order_id}/returns": Case(
        201, lambda world: f"{ORDERS}/{shipped_order(world)}/returns", return_body, owned=True
    ),
    "GET /api/v1/orders/{order_id}/returns": Case(200, order_at("/returns"), owned=True),
    "GET /api/v1/returns/{return_id}": Case(200, taken_back, owned=True, hidden="RETURN_NOT_FOUND"),
    "POST /api/v1/returns/{return_id}/approve": Case(
        200, lambda world: taken_back(world, tail="/approve"), sending(note="Send it back.")
    ),
    "POST /api/v1/returns/{return_id}/decline": Case(
        200, lambda world: taken_back(world, tail="/decline"), sending(note="It was used.")
    ),
    "POST /api/v1/returns/{return_id}/receive": Case(
        200,
        lambda world: taken_back(world, "approve", tail="/receive"),
        lambda world: {"items": [{"product_id": world.last_product, "restocked": 1}]},
        key=True,
    ),
    "POST /api/v1/returns/{return_id}/close": Case(
        200, lambda world: taken_back(world, "approve", tail="/close"), sending(), key=True
    ),
    "GET /api/v1/products": Case(200, at("/api/v1/products")),
    "POST /api/v1/products": Case(201, at("/api/v1/products"), product_body),
    "GET /api/v1/products/{product_id}": Case(200, lambda world: f"/api/v1/products/{world.make_product()}"),
    "PUT /api/v1/products/{product_id}": Case(
        200, lambda world: f"/api/v1/products/{world.make_product()}", product_body
    ),
    "DELETE /api/v1/products/{product_id}": Case(204, lambda world: f"/api/v1/products/{world.make_product()}"),
    "GET /api/v1/users": Case(200, at(USERS)),
    "POST /api/v1/users": Case(201, at(USERS), person_body, no_key=True),
    "GET /api/v1/users/me": Case(200, at(f"{USERS}/me")),
    "PUT /api/v1/users/me": Case(200, at(f"{USERS}/me"), sending(name="Ada L.")),
    # Deferred: everybody who is asked has an order that is open, so that they are still there for the next route.
    "DELETE /api/v1/users/me": Case(202, at(f"{USERS}/me"), person_only=True),
    "GET /api/v1/users/me/export": Case(200, at(f"{USERS}/me/export")),
    "GET /api/v1/users/{user_id}": Case(200, lambda world: f"{USERS}/{world.account()}"),
    "PUT /api/v1/users/{user_id}": Case(200, lambda world: f"{USERS}/{world.account()}", sending(name="Ada L.")),
    "GET /livez": Case(200, at("/livez")),
    "GET /readyz": Case(200, at("/readyz")),
    "GET /metrics": Case(200, at("/metrics")),
}


@pytest.fixture(scope="session")
def api(django_ready: None) -> Litestar:
    """The application as a web process assembles it, without its pools."""
    from counterfoil.api.app import make_api

    assert django_ready is None
    return make_api(state={})


@pytest.fixture(scope="session")
def rules(api: Litestar) -> list[Any]:
    """The live route table."""
    from counterfoil.api.route_table import list_routes

    return list_routes(api)


@pytest.fixture
def world(
    service: Service,
    admin: httpx.Client,
    make_token: Callable[..., str],
    make_product: Callable[..., int],
) -> Iterator[World]:
    from counterfoil.users.permissions import Role, permissions_of

    headers = {"nobody": {}, "owner": bearer(make_token("customer")), "other user": bearer(make_token("customer"))}
    headers |= {role: bearer(make_token(role)) for role in ROLES}
    ids = {name: int(admin.get(f"{USERS}/me", headers=headers[name]).json()["id"]) for name in ("owner", "other user")}
    everything = sorted(permissions_of(Role.CUSTOMER))
    # As each header in turn: both ways in must be the same gate.
    headers["other's key"] = {"X-API-Key": mint_key(ids["other user"], *everything)["key"]}
    headers["own key"] = bearer(mint_key(ids["owner"], *everything)["key"])
    for scope in everything:
        others = [other for other in everything if other != scope]
        headers[f"own key without {scope}"] = {"X-API-Key": mint_key(ids["owner"], *others)["key"]}
    clients = {name: httpx.Client(base_url=service.url, headers=given, timeout=30) for name, given in headers.items()}
    yield World(ids["owner"], register(admin, role="service")["id"], headers, clients, make_product)
    for client in clients.values():
        client.close()


def expected(rule: Any, case: Case, identity: str) -> tuple[int, str | None]:
    """Return status and code of the answer: from the table of permissions, and from who owns the object."""
    from counterfoil.users.permissions import GRANTS, Permission, Role

    role = Role(identity) if identity in ROLES else Role.CUSTOMER
    if rule.is_public:
        return (403, "SCOPE_MISSING") if case.no_key and "key" in identity else (case.allowed, None)
    if identity == "nobody":
        return 401, "CREDENTIALS_MISSING"
    if role not in GRANTS[rule.permission]:
        return 403, "ROLE_MISSING"
    if identity == "own key without scope":
        return 403, "SCOPE_MISSING"
    if case.person_only and identity.endswith("key"):
        return 403, "SIGN_IN_REQUIRED"
    hidden = case.owned and identity in (*STRANGERS, *ROLES) and role not in GRANTS[Permission.ORDERS_EVERYBODY]
    return (404, case.hidden) if hidden else (case.allowed, None)


def test_security_AZ_01_matrix_of_every_route_and_everybody(
    rules: list[Any], world: World, nothing_written: Unchanged
) -> None:
    failures: list[str] = []
    asked = 0
    for name in ("owner", "other user", *ROLES):
        order = {"items": [{"product_id": world.make_product(), "quantity": 1}]}
        assert world.clients[name].post(ORDERS, json=order).status_code == 201

    # Last: who asks to be erased can change nothing any more.
    for rule in sorted(rules, key=lambda rule: (rule.method, rule.path) == ("DELETE", "/api/v1/users/me")):
        case = CASES[f"{rule.method} {rule.path}"]  # a new route: say there how it is asked
        for identity in IDENTITIES:
            address, body = case.address(world), case.body(world)
            client = world.client(identity, rule.permission)
            wanted = expected(rule, case, identity)
            headers = {"Idempotency-Key": secrets.token_hex(16)} if case.key else {}
            with nothing_written() if wanted[1] else nullcontext():
                answer = client.request(rule.method, address, json=body, headers=headers)
            found = answer.status_code, answer.json()["error"]["code"] if wanted[1] else None
            asked += 1
            if found != wanted:
                failures.append(f"{rule.method} {rule.path} as {identity}: {found}, not {wanted}: {answer.text[:200]}")

    print(f"matrix: {len(rules)} routes x {len(IDENTITIES)} identities = {asked} requests")
    assert failures == []
    assert asked == len(rules) * len(IDENTITIES)
    assert CASES.keys() == {f"{rule.method} {rule.path}" for rule in rules}


def test_security_AN_01_every_route_that_is_not_public_wants_credentials(
    rules: list[Any], anonymous: httpx.Client, nothing_written: Unchanged
) -> None:
    closed = [rule for rule in rules if not rule.is_public]

    with nothing_written():
        for rule in closed:
            real = "/".join("1" if part.startswith("{") else part for part in rule.path.split("/"))
            # No body and no type: who is not known learns nothing about what is wrong with them.
            answer = anonymous.request(rule.method, real)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "CREDENTIALS_MISSING"), rule.path

    assert len(closed) == len([rule for rule in rules if rule.permission])
    public = {f"{rule.method} {rule.path}" for rule in rules if rule.is_public}
    assert {name for name in public if not name.startswith("POST /api/v1/auth/")} == {
        "POST /api/v1/users",
        "GET /api/v1/products",
        "GET /api/v1/products/{product_id}",
        "GET /livez",
        "GET /readyz",
        "POST /payments/callbacks/{provider}",
    }


def test_the_route_table_is_what_the_description_says(rules: list[Any], anonymous: httpx.Client) -> None:
    document = anonymous.get("/docs/openapi.json").json()
    described = {
        (method.upper(), path): operation["security"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }

    assert {(rule.method, rule.path) for rule in rules} ^ described.keys() == set()
    for rule in rules:
        needed = [rule.permission.value] if rule.permission else []
        either = [{"bearer": needed}, {"apiKey": needed}]
        expected = {"required": either, "optional": [*either, {}], "ignored": []}[rule.credentials]
        assert described[rule.method, rule.path] == expected, rule.path
    assert document["components"]["securitySchemes"].keys() == {"bearer", "apiKey"}


def test_options_tells_anybody_which_methods_there_are_and_nothing_else(
    rules: list[Any], anonymous: httpx.Client
) -> None:
    methods: dict[str, set[str]] = {}
    for rule in rules:
        methods.setdefault("/".join("1" if p.startswith("{") else p for p in rule.path.split("/")), set()).add(
            rule.method
        )

    for path, allowed in methods.items():
        for headers in ({}, bearer("x.y.z")):
            answer = anonymous.options(path, headers=headers)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert set(answer.headers["allow"].split(", ")) <= {*allowed, "OPTIONS"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "declares no permission"),
        ({"permission": "orders:read"}, "declares no permission"),
        ({"permission": "public"}, "a public route, and no other"),
    ],
)
def test_a_service_with_a_route_without_a_rule_is_not_assembled(
    django_ready: None, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], sentence: str
) -> None:
    from counterfoil.api import app
    from counterfoil.api.route_table import RuleMissing

    assert django_ready is None

    class Forgotten(Controller):
        path = "/api/v1/forgotten"

        @get(sync_to_thread=False, **options)
        def read(self) -> None:
            """Answer nothing."""

    monkeypatch.setattr(app, "OperationsController", Forgotten)

    with pytest.raises(RuleMissing, match=sentence):
        app.make_api(state={})


# ---------------------------------------------------------------- ownership
def test_security_AZ_02_what_belongs_to_somebody_elses_order_is_not_found(
    world: World, nothing_written: Unchanged
) -> None:
    theirs = world.order()
    other = world.clients["other user"]

    with nothing_written():
        answers = [
            other.get(f"{ORDERS}/{theirs['id']}/timeline"),
            other.get(f"{ORDERS}/{theirs['id']}/timeline", params={"at": theirs["created_at"]}),
            other.put(f"{ORDERS}/{theirs['id']}", json={"items": [{"product_id": 1, "quantity": 1}]}),
        ]
        missing = other.get(f"{ORDERS}/{2**62}/timeline")

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]) == (404, missing.json()["error"])


def test_security_AZ_04_lists_show_ones_own_only_whatever_the_filter(world: World) -> None:
    theirs = world.order(client_reference=f"PO-{secrets.token_hex(6)}")
    product = theirs["items"][0]
    filters: list[dict[str, Any]] = [
        {},
        {"product_id": product["product_id"]},
        {"q": theirs["client_reference"]},
        {"q": product["sku"]},
        {"status": "created"},
        {"created_after": "2000-01-01T00:00:00Z"},
        {"sort": "created_at"},
    ]

    for wanted in filters:
        assert theirs["id"] in [
            order["id"] for order in world.clients["owner"].get(ORDERS, params=wanted).json()["items"]
        ]
        for stranger in STRANGERS:
            page = world.clients[stranger].get(ORDERS, params=wanted)
            assert (page.status_code, page.json()["items"], page.json()["next"]) == (200, [], None), (stranger, wanted)
    for name in ("user_id", "owner", "user"):
        assert world.clients["other user"].get(ORDERS, params={name: world.owner_id}).status_code == 400


def test_security_AZ_04_a_page_of_somebody_else_cannot_be_followed(world: World, nothing_written: Unchanged) -> None:
    world.order()
    world.order()
    page = world.clients["owner"].get(ORDERS, params={"limit": 1}).json()

    with nothing_written():
        answer = world.clients["other user"].get(page["next"])

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_CURSOR")


def test_security_AZ_05_nobody_acts_on_somebody_elses_order(world: World, nothing_written: Unchanged) -> None:
    placed, draft = world.order(), world.order(draft=True)

    for stranger in STRANGERS:
        client = world.clients[stranger]
        with nothing_written():
            answers = [
                client.delete(f"{ORDERS}/{placed['id']}"),
                client.put(f"{ORDERS}/{placed['id']}", json={"client_reference": "mine"}),
                client.post(f"{ORDERS}/{draft['id']}/place"),
                client.delete(f"{ORDERS}/{draft['id']}"),
            ]
        assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(404, "ORDER_NOT_FOUND")] * 4
    assert world.clients["owner"].delete(f"{ORDERS}/{placed['id']}").status_code == 204


def test_security_AZ_05_nobody_orders_in_somebody_elses_name(
    world: World, nothing_written: Unchanged, service: Service
) -> None:
    product = world.make_product()
    request_id = f"req-{secrets.token_hex(8)}"

    for stranger in STRANGERS:
        with nothing_written():
            for draft in (False, True):
                body = {"user_id": world.owner_id, "items": [{"product_id": product, "quantity": 1}], "draft": draft}
                answer = world.clients[stranger].post(ORDERS, json=body, headers={"X-Request-ID": request_id})
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ROLE_MISSING")
    assert len(logged(service, "security.access_denied", request_id=request_id, code="ROLE_MISSING")) == 4


def test_security_AZ_06_a_customer_does_nothing_that_is_for_staff(
    world: World, nothing_written: Unchanged, service: Service
) -> None:
    product, account = world.make_product(), world.account()
    key = {"Idempotency-Key": secrets.token_hex(16)}
    receipt = {"kind": "receipt", "quantity": 1}
    request_id = f"req-{secrets.token_hex(8)}"

    for identity in ("owner", "own key", "own key without scope"):
        client = world.client(identity)
        client.headers["X-Request-ID"] = request_id
        with nothing_written():
            answers = [
                client.post(f"/api/v1/inventory/{product}/movements", json=receipt, headers=key),
                client.put(f"/api/v1/products/{product}", json=product_body(world)),
                client.delete(f"/api/v1/products/{product}"),
                client.put(f"{USERS}/{account}", json={"role": "admin"}),
                client.post(KEYS, json=key_body(world)),
                client.get("/metrics"),
            ]
        assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "ROLE_MISSING")] * 6
    assert len(logged(service, "security.access_denied", request_id=request_id)) == 18


def test_security_AZ_09_ids_cannot_be_found_by_trying(world: World, nothing_written: Unchanged) -> None:
    theirs = [world.order()["id"] for _ in range(3)]
    randomness = secrets.SystemRandom()
    sequential = list(range(max(1, min(theirs) - 2500), max(theirs) + 2500))
    ids = [*sequential, *(randomness.randrange(1, 2**63) for _ in range(10_000 - len(sequential)))]

    with nothing_written():
        answers = {(answer := world.clients["other user"].get(f"{ORDERS}/{each}")).status_code: answer for each in ids}

    assert len(ids) == 10_000
    assert answers.keys() == {404}
    bodies = [world.clients["other user"].get(f"{ORDERS}/{each}").json()["error"] for each in (theirs[0], 2**62)]
    assert bodies[0] == bodies[1]


# ---------------------------------------------------------------- mass assignment and price
@pytest.mark.parametrize("name", ["price", "unit_price", "total", "discount", "tax", "currency_rate", "currency"])
def test_security_MA_01_a_price_is_not_the_callers_to_set(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged, name: str
) -> None:
    item = {"product_id": make_product(), "quantity": 1}

    with nothing_written():
        answers = [
            customer.post(ORDERS, json={"items": [item], name: "0.01"}),
            customer.post(ORDERS, json={"items": [{**item, name: "0.01"}]}),
        ]

    fields = [[found["field"] for found in answer.json()["error"]["details"]["fields"]] for answer in answers]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert fields == [[name], [f"items[0].{name}"]]


@pytest.mark.parametrize("name", ["status", "paid_at", "is_admin", "version", "created_at", "id", "payment_status"])
def test_security_MA_02_state_is_not_the_callers_to_set(world: World, nothing_written: Unchanged, name: str) -> None:
    order = world.order()
    owner = world.clients["owner"]

    with nothing_written():
        answers = [
            owner.post(ORDERS, json={**order_of(order), name: "paid"}),
            owner.put(f"{ORDERS}/{order['id']}", json={"client_reference": "x", name: "paid"}),
            owner.put(f"{USERS}/me", json={"name": "Eve", name: "paid"}),
        ]

    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] == [name]


def test_security_MA_02_an_order_does_not_change_hands(world: World, nothing_written: Unchanged) -> None:
    order = world.order()
    other = world.clients["other user"].get(f"{USERS}/me").json()["id"]

    with nothing_written():
        answer = world.clients["owner"].put(f"{ORDERS}/{order['id']}", json={"client_reference": "x", "user_id": other})

    assert answer.status_code == 400


def order_of(order: dict[str, Any]) -> dict[str, Any]:
    return {"items": [{"product_id": order["items"][0]["product_id"], "quantity": 1}]}


@pytest.mark.parametrize(
    ("currency", "price"),
    [("usd", "1.00"), ("XXX", "1.00"), ("EURO", "1.00"), ("JPY", "1.50"), ("EUR", "1.005"), ("BHD", "1.0005")],
)
def test_security_MA_04_a_currency_and_its_digits_are_exact(
    admin: httpx.Client, nothing_written: Unchanged, currency: str, price: str
) -> None:
    body = {"sku": f"C-{secrets.token_hex(6)}", "name": "Tea", "price": price, "currency": currency}

    with nothing_written():
        answer = admin.post("/api/v1/products", json=body)

    assert answer.status_code == 400, answer.text
    assert [found["field"] for found in answer.json()["error"]["details"]["fields"]] in (["currency"], ["price"])


def test_security_MA_04_an_order_has_one_currency(
    customer: httpx.Client, make_product: Callable[..., int], nothing_written: Unchanged
) -> None:
    products = [make_product(), make_product(currency="USD")]

    with nothing_written():
        answer = customer.post(ORDERS, json={"items": [{"product_id": each, "quantity": 1} for each in products]})

    assert answer.status_code == 400, answer.text
