"""Holds that stop an order, and notes that only staff can read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from order_life import FULFILLMENTS, ORDERS, Shop, at_once, key, refusal

Database = psycopg.Connection[tuple[Any, ...]]
Unchanged = Callable[[], AbstractContextManager[None]]
MakeProduct = Callable[..., int]


@pytest.fixture
def shop(customer: httpx.Client, admin: httpx.Client) -> Shop:
    return Shop(customer, admin)


def hold(shop: Shop, order: int, reason: str = "address check") -> int:
    return int(shop.post(f"{ORDERS}/{order}/holds", {"reason": reason}, status=201)["id"])


# ---------------------------------------------------------------- holds
def test_nothing_leaves_while_a_hold_is_open(shop: Shop, make_product: MakeProduct, nothing_written: Unchanged) -> None:
    product = make_product(stock=5)
    order = shop.confirmed((product, 2))
    fulfillment = shop.fulfil(order, (product, 1))
    first, second = hold(shop, order), hold(shop, order, "fraud check")

    with nothing_written():
        answers = [
            shop.staff.post(f"{ORDERS}/{order}/fulfillments", json={}),
            shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/start", json={}),
            shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json={}),
        ]
    assert shop.staff.delete(f"{ORDERS}/{order}/holds/{first}").status_code == 204
    still = shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json={})
    assert shop.staff.delete(f"{ORDERS}/{order}/holds/{second}").status_code == 204
    shop.post(f"{FULFILLMENTS}/{fulfillment}/ship", {})

    assert [refusal(answer) for answer in answers] == [(409, "HOLD_OPEN")] * 3
    assert [answer.json()["error"]["details"] for answer in answers] == [{"hold_id": first}] * 3
    assert still.json()["error"]["details"] == {"hold_id": second}
    assert shop.stock(product) == (4, 0, 1)


def test_a_hold_is_seen_by_all_and_released_once(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged
) -> None:
    order, other = shop.place((make_product(), 1)), shop.place((make_product(), 1))
    one = hold(shop, order)
    held = shop.staff.get(f"{ORDERS}/{order}").json()
    assert shop.staff.delete(f"{ORDERS}/{order}/holds/{one}").status_code == 204

    with nothing_written():
        again = shop.staff.delete(f"{ORDERS}/{order}/holds/{one}")
        foreign = shop.staff.delete(f"{ORDERS}/{other}/holds/{one}")
        unknown = shop.staff.delete(f"{ORDERS}/{order}/holds/{2**62}")

    assert (held["is_held"], "release_hold" in held["allowed_actions"]) == (True, True)
    assert shop.order(order)["is_held"] is False
    assert (again.status_code, foreign.status_code) == (204, 404)
    assert refusal(unknown) == (404, "HOLD_NOT_FOUND")
    [listed] = shop.staff.get(f"{ORDERS}/{order}/holds").json()["items"]
    assert (listed["reason"], listed["released_at"] is None, listed["released_by"]) == (
        "address check",
        False,
        listed["placed_by"],
    )
    assert shop.events(order) == ["order.created", "order.held", "order.hold_released"]
    assert shop.about(order) == {"hold_id": one}


@pytest.mark.parametrize("status", ["draft", "cancelled"])
def test_what_does_not_move_is_not_stopped(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, status: str
) -> None:
    body = {"items": [{"product_id": make_product(), "quantity": 1}], "draft": status == "draft"}
    order = shop.customer.post(ORDERS, json=body).json()["id"]
    if status == "cancelled":
        shop.customer.delete(f"{ORDERS}/{order}")

    with nothing_written():
        answer = shop.staff.post(f"{ORDERS}/{order}/holds", json={"reason": "address check"})

    assert refusal(answer) == (409, "ACTION_NOT_ALLOWED")


def test_of_a_hold_and_a_shipment_at_once_either_comes_first(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=100)
    for _ in range(8):
        order = shop.confirmed((product, 1))
        fulfillment = shop.fulfil(order)

        ship, held = at_once(
            [
                lambda path=f"{FULFILLMENTS}/{fulfillment}/ship": shop.staff.post(path, json={}),
                lambda path=f"{ORDERS}/{order}/holds": shop.staff.post(path, json={"reason": "fraud check"}),
            ]
        )

        assert held.status_code == 201
        events = shop.events(order)
        if ship.status_code == 200:
            assert events.index("fulfillment.shipped") < events.index("order.held")
        else:
            assert refusal(ship) == (409, "HOLD_OPEN")
            assert "fulfillment.shipped" not in events


# ---------------------------------------------------------------- notes
def test_a_note_is_for_staff_and_sealed(shop: Shop, make_product: MakeProduct, db: Database) -> None:
    order = shop.place((make_product(), 1))
    once = key()

    note = shop.staff.post(f"{ORDERS}/{order}/notes", json={"text": "CANARY: rings twice"}, headers=once)
    again = shop.staff.post(f"{ORDERS}/{order}/notes", json={"text": "CANARY: rings twice"}, headers=once)

    assert note.status_code == 201, note.text
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == note.json()
    assert shop.staff.get(f"{ORDERS}/{order}/notes").json()["items"] == [note.json()]
    hidden = [
        shop.customer.get(f"{ORDERS}/{order}/notes"),
        shop.customer.post(f"{ORDERS}/{order}/notes", json={"text": "me too"}),
    ]
    assert [refusal(answer) for answer in hidden] == [(403, "ROLE_MISSING")] * 2
    assert (shop.events(order), shop.about(order)) == (
        ["order.created", "order.noted"],
        {"note_id": note.json()["id"]},
    )
    for table in ("order_notes", "audit_entries", "outbox_events", "idempotency_keys"):
        sql = f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%%CANARY%%rings%%'"  # noqa: S608 - words of ours
        assert db.execute(sql.encode()).fetchone() == (0,), table
    row = db.execute("SELECT body FROM order_notes WHERE order_id = %s", [order]).fetchone()
    assert row is not None
    assert b"CANARY" not in bytes(row[0])


@pytest.mark.parametrize("text", ["", "   ", "4111 1111 1111 1111", "x" * 2001])
def test_a_note_that_must_not_be_is_refused(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, text: str
) -> None:
    order = shop.place((make_product(), 1))

    with nothing_written():
        answer = shop.staff.post(f"{ORDERS}/{order}/notes", json={"text": text})

    assert refusal(answer)[0] == 400


# One below what an order may have: the next is the last.
PLANT = {
    "notes": "INSERT INTO order_notes (order_id, author) SELECT %(order)s, 'test' FROM generate_series(1, 499)",
    "holds": "INSERT INTO holds (order_id, reason, placed_by, released_at, released_by)"
    " SELECT %(order)s, 'test', 'test', now(), 'test' FROM generate_series(1, 499)",
    "fulfillments": "INSERT INTO fulfillments (order_id, status, created_by)"
    " SELECT %(order)s, 'cancelled', 'test' FROM generate_series(1, 499)",
    "returns": "INSERT INTO returns (order_id, status, reason, requested_by)"
    " SELECT %(order)s, 'declined', 'other', 'test' FROM generate_series(1, 499)",
}


@pytest.mark.parametrize("kind", PLANT)
def test_an_order_takes_no_more_than_can_be_listed(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, db: Database, kind: str
) -> None:
    product = make_product()
    order = shop.confirmed((product, 3))
    if kind == "returns":
        shop.ship(order, (product, 2))
    db.execute(PLANT[kind], {"order": order})
    one = {"items": [{"product_id": product, "quantity": 1}]}
    body = {"notes": {"text": "last"}, "holds": {"reason": "last"}}.get(kind, one)
    shop.post(f"{ORDERS}/{order}/{kind}", body, status=201)

    with nothing_written():
        answer = shop.staff.post(f"{ORDERS}/{order}/{kind}", json=body)

    assert refusal(answer) == (409, "ORDER_FULL")
    assert answer.json()["error"]["details"] == {"limit": 500, "kind": kind}
    assert len(shop.staff.get(f"{ORDERS}/{order}/{kind}").json()["items"]) == 500


def test_notes_and_tracking_end_with_their_customer(
    shop: Shop, make_product: MakeProduct, anonymous: Any, db: Database, service: Any
) -> None:
    account = {"email": f"{key()['Idempotency-Key']}@example.com", "name": "Ada", "password": "correct horse battery"}
    user_id = anonymous.post("/api/v1/users", json=account).json()["id"]
    signed_in = anonymous.post(
        "/api/v1/auth/token", json={"email": account["email"], "password": account["password"]}
    ).json()
    with service.client(signed_in["access_token"]) as customer:
        theirs = Shop(customer, shop.staff)
        order = theirs.confirmed((make_product(), 1))
        fulfillment = theirs.fulfil(order)
        theirs.post(f"{FULFILLMENTS}/{fulfillment}/ship", {"carrier": "DHL", "tracking_number": "CANARY-9"})
        theirs.post(f"{ORDERS}/{order}/notes", {"text": "lives at the back"}, status=201)
    finish(user_id)

    note = shop.staff.get(f"{ORDERS}/{order}/notes").json()["items"]
    sent = shop.staff.get(f"{FULFILLMENTS}/{fulfillment}").json()
    late = shop.staff.post(f"{ORDERS}/{order}/notes", json={"text": "one more"})

    assert [each["text"] for each in note] == [None]
    assert (sent["carrier"], sent["tracking_number"]) == ("DHL", "")
    assert db.execute("SELECT body FROM order_notes WHERE order_id = %s", [order]).fetchall() == [(None,)]
    assert refusal(late) == (409, "CUSTOMER_ERASED")


def finish(user_id: int) -> None:
    """Erase somebody though an order of theirs is open, as after a restore."""
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.privacy.services import erase_person

    erasure = run_in_thread(erase_person, user_id, actor="job:reapply-tombstones", request_id="test-erase")
    assert erasure.completed_at is not None
