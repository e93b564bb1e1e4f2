"""AU-01: whoever changes a row, by whatever way, leaves exactly one entry for it in the same transaction."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
from accounts import AUTH, KEYS, mint_key, register, sign_in
from audit_rows import Connection, Entry, changed_rows, entries_after, last_entry_id, snapshot

from conftest import run_counterfoil

MakeProduct = Callable[..., int]
PASSWORD = "correct-horse-battery-staple-9"


@dataclass(frozen=True)
class Call:
    """One request, who sends it, and the action that its entries must name.

    `actor`: whom they name, when that is not who sends it.
    """

    path: str
    action: str
    body: dict[str, Any] | None = None
    by: str = "admin"
    actor: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def order_of(client: httpx.Client, product: int, *, draft: bool = False) -> int:
    answer = client.post("/api/v1/orders", json={"items": [{"product_id": product, "quantity": 2}], "draft": draft})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def person() -> dict[str, Any]:
    return {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}


def user_of(client: httpx.Client) -> int:
    answer = client.post("/api/v1/users", json=person())
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def signed_in(client: httpx.Client) -> tuple[str, dict[str, Any]]:
    """Somebody new: as an actor, and their tokens."""
    account = register(client)
    return f"user:{account['id']}", sign_in(client, account)


def key_body(client: httpx.Client) -> dict[str, Any]:
    return {"user_id": register(client, role="service")["id"], "name": "till", "scopes": ["orders:read"]}


def token_call(path: str, action: str) -> Callable[[httpx.Client, MakeProduct], Call]:
    def make(admin: httpx.Client, _make: MakeProduct) -> Call:
        actor, tokens = signed_in(admin)
        return Call(f"{AUTH}/{path}", action, {"refresh_token": tokens["refresh_token"]}, actor=actor)

    return make


def sign_in_call(admin: httpx.Client, _make: MakeProduct) -> Call:
    account = register(admin)
    body = {"email": account["email"], "password": account["password"]}
    return Call(f"{AUTH}/token", "session.begin", body, actor=f"user:{account['id']}")


def wish_call(path: str, action: str) -> Callable[[httpx.Client, MakeProduct], Call]:
    return lambda admin, _make: Call(f"{AUTH}/{path}", action, {"email": register(admin)["email"]}, actor="anonymous")


def product_body() -> dict[str, Any]:
    return {"sku": f"A-{secrets.token_hex(6)}", "name": "Cup", "price": "3.50", "currency": "EUR"}


def confirmed(admin: httpx.Client, make: MakeProduct) -> int:
    order = order_of(admin, make())
    assert admin.post(f"/api/v1/orders/{order}/confirm", json={}).status_code == 200
    return order


def fulfillment(admin: httpx.Client, make: MakeProduct, *steps: str) -> str:
    made = admin.post(f"/api/v1/orders/{confirmed(admin, make)}/fulfillments", json={})
    address = f"/api/v1/fulfillments/{made.json()['id']}"
    for step in steps:
        assert admin.post(f"{address}/{step}", json={}).status_code == 200
    return address


def item(order: dict[str, Any], **values: int) -> dict[str, Any]:
    return {"items": [{"product_id": order["items"][0]["product_id"], **values}]}


def taken_back(admin: httpx.Client, make: MakeProduct, *steps: str) -> str:
    sent = admin.get(fulfillment(admin, make, "ship")).json()
    made = admin.post(f"/api/v1/orders/{sent['order_id']}/returns", json=item(sent, quantity=1))
    address = f"/api/v1/returns/{made.json()['id']}"
    for step in steps:
        assert admin.post(f"{address}/{step}", json={}).status_code == 200
    return address


def return_call(admin: httpx.Client, make: MakeProduct) -> Call:
    sent = admin.get(fulfillment(admin, make, "ship")).json()
    return Call(f"/api/v1/orders/{sent['order_id']}/returns", "return.request", item(sent, quantity=1))


def receive_call(admin: httpx.Client, make: MakeProduct) -> Call:
    address = taken_back(admin, make, "approve")
    body = item(admin.get(address).json(), restocked=1)
    return Call(f"{address}/receive", "return.receive", body, headers=_key())


def release_call(admin: httpx.Client, make: MakeProduct) -> Call:
    order = confirmed(admin, make)
    hold = admin.post(f"/api/v1/orders/{order}/holds", json={"reason": "address check"}).json()["id"]
    return Call(f"/api/v1/orders/{order}/holds/{hold}", "order.release_hold")


COUPONS = "/api/v1/coupons"


def coupon_body() -> dict[str, Any]:
    return {"code": f"A-{secrets.token_hex(6)}", "kind": "percent", "value": "10"}


def coupon_of(admin: httpx.Client) -> int:
    return int(admin.post(COUPONS, json=coupon_body()).json()["id"])


# One example of every route that changes something; a route that is missing here fails the test below.
def _key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


CALLS: dict[str, Callable[[httpx.Client, MakeProduct], Call]] = {
    "POST /api/v1/auth/token": sign_in_call,
    "POST /api/v1/auth/refresh": token_call("refresh", "session.refresh"),
    "POST /api/v1/auth/logout": token_call("logout", "session.end"),
    "POST /api/v1/auth/password-reset": wish_call("password-reset", "user.request_password_reset"),
    "POST /api/v1/auth/email-confirmation/resend": wish_call("email-confirmation/resend", "user.request_confirmation"),
    "POST /api/v1/api-keys": lambda admin, _make: Call(KEYS, "api_key.create", key_body(admin)),
    "DELETE /api/v1/api-keys/{key_id}": lambda admin, _make: Call(
        f"{KEYS}/{mint_key(user_of(admin), 'orders:read')['id']}", "api_key.revoke"
    ),
    "POST /api/v1/coupons": lambda _admin, _make: Call(COUPONS, "coupon.create", coupon_body()),
    "PUT /api/v1/coupons/{coupon_id}": lambda admin, _make: Call(
        f"{COUPONS}/{coupon_of(admin)}", "coupon.update", coupon_body()
    ),
    "DELETE /api/v1/coupons/{coupon_id}": lambda admin, _make: Call(f"{COUPONS}/{coupon_of(admin)}", "coupon.delete"),
    "POST /api/v1/inventory/{product_id}/movements": lambda _admin, make: Call(
        f"/api/v1/inventory/{make()}/movements", "stock.receipt", {"kind": "receipt", "quantity": 3}, headers=_key()
    ),
    "POST /api/v1/orders": lambda _admin, make: Call(
        "/api/v1/orders", "order.place", {"items": [{"product_id": make(), "quantity": 1}]}, by="customer"
    ),
    "PUT /api/v1/orders/{order_id}": lambda admin, make: Call(
        f"/api/v1/orders/{order_of(admin, product := make())}",
        "order.update",
        {"items": [{"product_id": product, "quantity": 5}]},
    ),
    "DELETE /api/v1/orders/{order_id}": lambda admin, make: Call(
        f"/api/v1/orders/{order_of(admin, make())}", "order.cancel"
    ),
    "POST /api/v1/orders/{order_id}/place": lambda admin, make: Call(
        f"/api/v1/orders/{order_of(admin, make(), draft=True)}/place", "order.place"
    ),
    "POST /api/v1/orders/{order_id}/confirm": lambda admin, make: Call(
        f"/api/v1/orders/{order_of(admin, make())}/confirm", "order.confirm", {"reason": "known for years"}
    ),
    "POST /api/v1/orders/{order_id}/fulfillments": lambda admin, make: Call(
        f"/api/v1/orders/{confirmed(admin, make)}/fulfillments", "fulfillment.create", {}
    ),
    "POST /api/v1/fulfillments/{fulfillment_id}/start": lambda admin, make: Call(
        f"{fulfillment(admin, make)}/start", "fulfillment.start"
    ),
    "POST /api/v1/fulfillments/{fulfillment_id}/ship": lambda admin, make: Call(
        f"{fulfillment(admin, make)}/ship", "fulfillment.ship", {"carrier": "DHL", "tracking_number": "JD0146"}
    ),
    "POST /api/v1/fulfillments/{fulfillment_id}/deliver": lambda admin, make: Call(
        f"{fulfillment(admin, make, 'ship')}/deliver", "fulfillment.deliver"
    ),
    "POST /api/v1/fulfillments/{fulfillment_id}/cancel": lambda admin, make: Call(
        f"{fulfillment(admin, make)}/cancel", "fulfillment.cancel"
    ),
    # Confirmed, and partly in a fulfillment: every kind of row that a cancellation changes.
    "POST /api/v1/orders/{order_id}/cancel": lambda admin, make: Call(
        f"/api/v1/orders/{admin.get(fulfillment(admin, make)).json()['order_id']}/cancel",
        "order.cancel",
        {"reason": "out_of_stock", "restock": False},
    ),
    "POST /api/v1/orders/{order_id}/holds": lambda admin, make: Call(
        f"/api/v1/orders/{confirmed(admin, make)}/holds", "order.hold", {"reason": "address check"}
    ),
    "DELETE /api/v1/orders/{order_id}/holds/{hold_id}": release_call,
    "POST /api/v1/orders/{order_id}/notes": lambda admin, make: Call(
        f"/api/v1/orders/{order_of(admin, make())}/notes", "order.note", {"text": "Called twice."}
    ),
    "POST /api/v1/orders/{order_id}/returns": return_call,
    "POST /api/v1/returns/{return_id}/approve": lambda admin, make: Call(
        f"{taken_back(admin, make)}/approve", "return.approve", {"note": "Send it back."}
    ),
    "POST /api/v1/returns/{return_id}/decline": lambda admin, make: Call(
        f"{taken_back(admin, make)}/decline", "return.decline", {"note": "It was used."}
    ),
    "POST /api/v1/returns/{return_id}/receive": receive_call,
    "POST /api/v1/returns/{return_id}/close": lambda admin, make: Call(
        f"{taken_back(admin, make, 'approve')}/close", "return.close", {}, headers=_key()
    ),
    "POST /api/v1/products": lambda _admin, _make: Call("/api/v1/products", "product.create", product_body()),
    "PUT /api/v1/products/{product_id}": lambda _admin, make: Call(
        f"/api/v1/products/{make()}", "product.update", {**product_body(), "allow_backorder": True}
    ),
    "DELETE /api/v1/products/{product_id}": lambda _admin, make: Call(f"/api/v1/products/{make()}", "product.delete"),
    "POST /api/v1/users": lambda _admin, _make: Call("/api/v1/users", "user.create", person()),
    "PUT /api/v1/users/me": lambda _admin, _make: Call(
        "/api/v1/users/me", "user.update", {"name": "Eve", "profile": {"city": "Bern"}}, by="customer"
    ),
    "PUT /api/v1/users/{user_id}": lambda admin, _make: Call(
        f"/api/v1/users/{user_of(admin)}", "user.update", {"role": "support"}
    ),
}
# Routes that need a mail, or more than one transaction: test_recovery.py, test_privacy.py and settlement/ look at their
# entries. A preview changes nothing; only a paid order is completed: test_completion.py.
ELSEWHERE = {
    "POST /api/v1/orders/{order_id}/payments",
    "POST /api/v1/payments/{payment_id}/capture",
    "POST /api/v1/payments/{payment_id}/void",
    "POST /api/v1/payments/{payment_id}/refunds",
    "POST /api/v1/payments/{payment_id}/look",
    "POST /api/v1/payments/{payment_id}/review",
    "POST /payments/callbacks/{provider}",
    "POST /api/v1/orders/{order_id}/preview",
    "POST /api/v1/orders/{order_id}/complete",
    "POST /api/v1/auth/email-confirmation",
    "POST /api/v1/auth/password-reset/confirm",
    "DELETE /api/v1/users/me",
}


def modifying_routes(client: httpx.Client) -> set[str]:
    """Every unsafe route, from the service's own description of itself."""
    described = client.get("/docs/openapi.json").json()["paths"]
    return {
        f"{method.upper()} {path}"
        for path, methods in described.items()
        for method in methods
        if method in {"post", "put", "patch", "delete"}
    }


def test_security_AU_01_every_modifying_route_has_an_example_here(admin: httpx.Client) -> None:
    assert modifying_routes(admin) == CALLS.keys() | ELSEWHERE


@pytest.mark.parametrize("route", CALLS)
def test_security_AU_01_every_modifying_route_leaves_one_entry_for_every_row_it_changes(
    route: str, admin: httpx.Client, customer: httpx.Client, make_product: MakeProduct, db: Connection
) -> None:
    call = CALLS[route](admin, make_product)
    client = {"admin": admin, "customer": customer}[call.by]
    me = client.get("/api/v1/users/me").json()["id"]
    request_id = f"audit-{secrets.token_hex(8)}"
    before, last_id = snapshot(db), last_entry_id(db)

    answer = client.request(
        route.split(maxsplit=1)[0], call.path, json=call.body, headers={**call.headers, "X-Request-ID": request_id}
    )

    assert answer.is_success, answer.text
    changed = changed_rows(before, snapshot(db))
    entries = entries_after(db, last_id)
    assert {(e.actor, e.action, e.request_id) for e in entries} == {
        (call.actor or f"user:{me}", call.action, request_id)
    }
    if route == "POST /api/v1/orders":
        # The hot path: one entry for the whole order; its hash is that of the event, which holds every row.
        assert [(e.target, e.target_id, e.before_hash) for e in entries] == [("order", answer.json()["id"], None)]
        payload = db.execute(
            "SELECT payload::text FROM outbox_events WHERE aggregate_id = %s", [answer.json()["id"]]
        ).fetchone()
        assert payload is not None
        assert entries[0].after_hash == hashlib.sha256(payload[0].encode()).digest()
    else:
        assert changed == {(e.target, e.target_id) for e in entries}
        assert all(e.before_hash or e.after_hash for e in entries)


@pytest.mark.parametrize("route", [route for route in CALLS if "{" in route])
def test_security_AU_01_a_refused_change_leaves_no_entry(
    route: str, customer: httpx.Client, db: Connection, nothing_written: Callable[[], Any]
) -> None:
    path = route.split()[1]
    for name in ("product_id", "order_id", "user_id", "key_id", "coupon_id", "fulfillment_id", "return_id", "hold_id"):
        path = path.replace(f"{{{name}}}", "999999999")
    last_id = last_entry_id(db)

    with nothing_written():
        answer = customer.request(route.split(maxsplit=1)[0], path, json={"items": []}, headers=_key())

    assert 400 <= answer.status_code < 500, answer.text
    assert entries_after(db, last_id) == []


def test_security_AU_01_an_entry_shows_values_and_hides_what_is_personal_or_secret(
    admin: httpx.Client, db: Connection
) -> None:
    last_id = last_entry_id(db)
    canary = person()

    created = admin.post("/api/v1/users", json=canary)
    admin.put(f"/api/v1/users/{created.json()['id']}", json={"role": "support", "profile": {"city": "Canary-Town"}})

    user, profile, _mail, *updates = entries_after(db, last_id)
    assert (user.target, profile.target, user.before_hash) == ("user", "profile", None)
    assert user.changes is not None
    assert user.changes["role"] == [None, "customer"]
    assert user.changes["password"][1].startswith("sha256:")
    [role] = [e for e in updates if e.target == "user"]
    assert role.changes is not None
    assert role.changes["role"] == ["customer", "support"]
    assert role.changes["version"] == [1, 2]
    assert role.before_hash == user.after_hash
    text = repr([user, profile, *updates])
    assert not [word for word in (canary["email"], canary["password"], "Canary-Town", "'Ada'") if word in text]


def test_security_AU_01_psql_is_named_and_each_row_of_each_statement_has_one_entry(
    database_url: str, db: Connection, make_product: MakeProduct
) -> None:
    products = [make_product(stock=0) for _ in range(3)]
    last_id = last_entry_id(db)
    with psycopg.connect(database_url) as psql:
        psql.execute("UPDATE products SET price = price + 1 WHERE id = ANY (%s)", [products])
        psql.execute("SET LOCAL counterfoil.reason = 'ticket 12'")
        psql.execute("DELETE FROM stock_levels WHERE product_id = %s", [products[0]])
        psql.execute("UPDATE products SET price = 1 WHERE false")
        assert entries_after(db, last_id) == []
        row = psql.execute("SELECT session_user, pg_current_xact_id()::text").fetchone()
    assert row is not None
    login, xact = row

    entries = entries_after(db, last_id)

    # In which order one statement meets its rows is the server's business.
    assert sorted((e.action, e.target, e.target_id) for e in entries) == [
        *(("product.update", "product", product) for product in products),
        ("stock_level.delete", "stock_level", products[0]),
    ]
    assert entries[-1].target == "stock_level"
    assert {(e.actor, e.request_id) for e in entries} == {(f"db:{login}", f"xact:{xact}")}
    assert [e.reason for e in entries] == ["", "", "", "ticket 12"]
    assert entries[0].changes == {"price": [19.99, 20.99]}
    assert [(e.before_hash is None, e.after_hash is None) for e in entries] == [(False, False)] * 3 + [(False, True)]


def test_security_AU_01_the_hash_is_of_the_row_as_it_is(db: Connection, make_product: MakeProduct) -> None:
    product = make_product(stock=0)

    db.execute("SET timezone = 'UTC'")
    row = db.execute("SELECT to_jsonb(p)::text FROM products p WHERE id = %s", [product]).fetchone()
    stored = db.execute(
        "SELECT after_hash FROM audit_entries WHERE target = 'product' AND target_id = %s", [product]
    ).fetchone()

    assert row is not None
    assert stored == (hashlib.sha256(row[0].encode()).digest(),)


def test_security_AU_01_a_rolled_back_change_has_no_entry(database_url: str, make_product: MakeProduct) -> None:
    product = make_product(stock=0)
    with psycopg.connect(database_url, autocommit=True) as psql:
        last_id = last_entry_id(psql)

        with psql.transaction(force_rollback=True):
            psql.execute("UPDATE products SET price = 2 WHERE id = %s", [product])
            assert len(entries_after(psql, last_id)) == 1

        assert entries_after(psql, last_id) == []


def test_security_AU_01_truncating_a_table_leaves_an_entry_with_the_number_of_rows(
    make_database: Callable[[], str],
) -> None:
    with psycopg.connect(make_database(), autocommit=True) as psql:
        psql.execute(
            "INSERT INTO products (sku, name, price, currency) VALUES ('a', 'A', 1, 'EUR'), ('b', 'B', 1, 'EUR')"
        )
        psql.execute("INSERT INTO stock_levels (product_id, on_hand) SELECT id, 4 FROM products")
        last_id = last_entry_id(psql)

        psql.execute("TRUNCATE products CASCADE")

        found = [(e.action, e.target_id, e.changes) for e in entries_after(psql, last_id)]
    assert ("product.truncate", 0, {"rows": [2, 0]}) in found
    assert ("stock_level.truncate", 0, {"rows": [2, 0]}) in found


def test_security_AU_01_the_worker_and_the_commands_are_named(
    customer: httpx.Client, make_product: MakeProduct, database_url: str, db: Connection
) -> None:
    order = order_of(customer, product := make_product())
    db.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [order])
    last_id = last_entry_id(db)

    with subprocess.Popen(
        [sys.executable, "-m", "counterfoil", "work"], env={**os.environ, "DATABASE_URL": database_url}
    ) as worker:
        deadline = time.monotonic() + 30
        while not (found := of_worker(db, last_id, order, product)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)

    assert {(e.action, e.target) for e in found} == {
        ("order.expire", target) for target in ("order", "stock_level", "stock_movement")
    }
    assert [(e.target_id, e.changes) for e in found if e.target == "order"] == [
        (order, {"status": ["created", "expired"], "version": [1, 2], "updated_at": changed_time(found, "order")})
    ]
    assert [e.target_id for e in found if e.target == "stock_level"] == [product]


def of_worker(db: Connection, last_id: int, order: int, product: int) -> list[Entry]:
    """The worker's entries about this order; orders of other tests may end in the same round."""
    rows = {("order", order), ("stock_level", product)}
    return [
        e
        for e in entries_after(db, last_id)
        if e.actor == "job:expire-orders"
        and ((e.target, e.target_id) in rows or (e.changes or {}).get("order_id") == [None, order])
    ]


def changed_time(entries: list[Entry], target: str) -> Any:
    [entry] = [e for e in entries if e.target == target]
    assert entry.changes is not None
    return entry.changes["updated_at"]


def test_security_AU_01_loading_and_migrating_leave_entries(make_database: Callable[[], str]) -> None:
    url = make_database()
    run_counterfoil("load-demo", DATABASE_URL=url)
    with psycopg.connect(url, autocommit=True) as db:
        assert db.execute(
            "SELECT target, action, count(*) FROM audit_entries WHERE actor = 'cli:load-demo'"
            " GROUP BY target, action ORDER BY target, action"
        ).fetchall() == [
            ("product", "product.create", 61),
            ("profile", "user.create", 7),
            ("stock_level", "product.create", 61),
            ("stock_level", "stock.receipt", 59),
            ("stock_movement", "stock.receipt", 59),
            ("user", "user.create", 7),
        ]
        last_id = last_entry_id(db)
        # As a data migration does it: Django's connection, and nobody declares anything.
        migrate = (
            "import django; django.setup(); from django.db import connection, transaction;"
            "atomic = transaction.atomic(); atomic.__enter__(); connection.cursor().execute("
            "\"UPDATE products SET description = description || '.' WHERE active\"); atomic.__exit__(None, None, None)"
        )
        environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "counterfoil.config.settings"}
        subprocess.run([sys.executable, "-c", migrate], env=environment, check=True)

        entries = entries_after(db, last_id)
    assert {(e.actor.partition(":")[0], e.action) for e in entries} == {("db", "product.update")}
    assert len(entries) == 60


PLACE_ONE = """
SELECT outcome, order_id FROM place_orders(
  ARRAY[%s]::bigint[], ARRAY['user:1'], ARRAY[NULL]::text[], ARRAY[NULL]::bytea[], ARRAY['req'], ARRAY[NULL]::text[],
  ARRAY[gen_random_uuid()], ARRAY[1], ARRAY[%s]::bigint[], ARRAY[2], 1800, 72, 1000000)
"""


def test_security_AU_01_the_function_of_the_release_before_leaves_one_entry_too(
    database_url: str, db: Connection, make_product: MakeProduct, customer: httpx.Client
) -> None:
    product, user = make_product(), customer.get("/api/v1/users/me").json()["id"]
    for version in ("place_orders_v1", "place_orders_v2", "place_orders_v3"):
        last_id = last_entry_id(db)
        with psycopg.connect(database_url) as psql:
            row = psql.execute(PLACE_ONE.replace("place_orders", version).encode(), [user, product]).fetchone()
        assert row is not None
        assert row[0] == "placed"

        assert [(e.actor, e.action, e.target, e.target_id) for e in entries_after(db, last_id)] == [
            ("user:1", "order.place", "order", row[1])
        ]


APPEND = """
import django; django.setup()
from counterfoil.infrastructure.audit import append_entry, declare_change
from counterfoil.infrastructure.database import transaction
with transaction():
    append_entry(actor="user:7", action="user.read", target="user", target_id=9, request_id="append-1", reason="call 5")
    append_entry(actor="user:7", action="order.read", target="order", target_id="0190f5fe", request_id="append-1",
                 changes={"fields": ["email"]})
for refused in (lambda: append_entry(actor="a", action="b", target="c", target_id=1, request_id="append-1"),
                lambda: declare_change(actor="user:1", action="b", request_id="append-1")):
    try:
        refused()
    except AssertionError as error:
        print(error)
with transaction():
    for actor in ("db:owner", ""):
        try:
            declare_change(actor=actor, action="b", request_id="append-1")
        except AssertionError as error:
            print(error)
"""


def test_security_AU_04_a_fact_that_changes_no_row_is_an_entry_of_the_open_transaction(
    database_url: str, db: Connection
) -> None:
    last_id = last_entry_id(db)
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": "counterfoil.config.settings",
        "COUNTERFOIL_DATABASE_ROLE": "counterfoil_app",
    }

    done = subprocess.run([sys.executable, "-c", APPEND], env=environment, capture_output=True, text=True, check=True)

    rows = db.execute(
        "SELECT actor, action, target, target_id, target_key, request_id, reason, changes, xact <> '0'"
        " FROM audit_entries WHERE id > %s ORDER BY id",
        [last_id],
    ).fetchall()
    assert rows == [
        ("user:7", "user.read", "user", 9, None, "append-1", "call 5", None, True),
        ("user:7", "order.read", "order", 0, "0190f5fe", "append-1", "", {"fields": ["email"]}, True),
    ]
    assert done.stdout.splitlines() == [
        "append_entry joins a transaction and none is open",
        "declare_change joins a transaction and none is open",
        "this is what an undeclared change is called",
        "somebody changes something",
    ]
