"""Fulfilment through the public door: in parts, once each, and not while a hold is open."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from order_life import FULFILLMENTS, ORDERS, Shop, at_once, items, key, refusal

Database = psycopg.Connection[tuple[Any, ...]]
Unchanged = Callable[[], AbstractContextManager[None]]
MakeProduct = Callable[..., int]


@pytest.fixture
def shop(customer: httpx.Client, admin: httpx.Client) -> Shop:
    return Shop(customer, admin)


def test_an_order_is_shipped_in_parts_and_arrives(shop: Shop, make_product: MakeProduct, db: Database) -> None:
    tea, pot = make_product(stock=10), make_product(stock=5)
    order = shop.confirmed((tea, 3), (pot, 1))

    first = shop.fulfil(order, (tea, 2))
    shop.post(f"{FULFILLMENTS}/{first}/start")
    tracking = {"carrier": "DHL", "tracking_number": "JD0146", "tracking_url": "https://track.example/JD0146"}
    sent = shop.post(f"{FULFILLMENTS}/{first}/ship", tracking)
    partly = shop.order(order)
    stock_partly = shop.stock(tea), shop.stock(pot)
    rest = shop.fulfil(order)
    shop.post(f"{FULFILLMENTS}/{rest}/ship", {})
    shipped = shop.order(order)
    for fulfillment in (first, rest):
        shop.post(f"{FULFILLMENTS}/{fulfillment}/deliver")

    assert {name: sent[name] for name in tracking} == tracking
    assert (sent["status"], sent["version"], sent["allowed_actions"]) == ("shipped", 3, ["deliver"])
    assert (partly["fulfillment_status"], [item["shipped"] for item in partly["items"]]) == (
        "partially_fulfilled",
        [2, 0],
    )
    assert stock_partly == ((8, 0, 1), (5, 0, 1))
    assert (shipped["fulfillment_status"], [item["shipped"] for item in shipped["items"]]) == ("fulfilled", [3, 1])
    assert (shop.stock(tea), shop.stock(pot)) == ((7, 0, 0), (4, 0, 0))
    assert shop.order(order)["fulfillment_status"] == "delivered"
    assert shop.events(order)[2:] == [
        *("fulfillment.created", "fulfillment.started", "fulfillment.shipped"),
        *("fulfillment.created", "fulfillment.shipped", "fulfillment.delivered", "fulfillment.delivered"),
    ]
    assert shop.about(order) == {"fulfillment_id": rest, "units": 2}
    assert db.execute(
        "SELECT product_id, kind, on_hand_delta, allocated_delta FROM stock_movements"
        " WHERE order_id = %s AND kind = 'dispatch' ORDER BY id",
        [order],
    ).fetchall() == [(tea, "dispatch", -2, -2), (tea, "dispatch", -1, -1), (pot, "dispatch", -1, -1)]


def test_the_time_for_returns_begins_when_the_last_unit_leaves(
    shop: Shop, make_product: MakeProduct, db: Database
) -> None:
    product = make_product()
    order = shop.confirmed((product, 2))
    shop.ship(order, (product, 1))
    window = "SELECT return_until - updated_at FROM orders WHERE id = %s"
    assert db.execute(window, [order]).fetchone() == (None,)

    shop.ship(order)

    row = db.execute(window, [order]).fetchone()
    assert row is not None
    assert row[0].days == 14


def test_the_owner_sees_the_way_of_the_goods_and_nobody_else(
    shop: Shop, make_product: MakeProduct, service: Any, make_token: Callable[..., str]
) -> None:
    order = shop.confirmed((make_product(), 1))
    fulfillment = shop.ship(order)

    seen = shop.customer.get(f"{FULFILLMENTS}/{fulfillment}")
    listed = shop.customer.get(f"{ORDERS}/{order}/fulfillments").json()["items"]
    with service.client(make_token("customer")) as other:
        hidden = [other.get(f"{FULFILLMENTS}/{fulfillment}"), other.get(f"{ORDERS}/{order}/fulfillments")]

    assert (seen.status_code, seen.headers["etag"]) == (200, '"2-shipped"')
    assert listed == [seen.json()]
    assert [refusal(answer) for answer in hidden] == [(404, "FULFILLMENT_NOT_FOUND"), (404, "ORDER_NOT_FOUND")]


@pytest.mark.parametrize(
    ("wanted", "code"),
    [("more", "UNITS_EXCEEDED"), ("foreign", "VALIDATION_FAILED"), ("nothing left", "NOTHING_LEFT_TO_FULFILL")],
)
def test_a_fulfillment_holds_only_what_is_left(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, wanted: str, code: str
) -> None:
    product, other = make_product(), make_product()
    order = shop.confirmed((product, 3))
    shop.fulfil(order, (product, 3 if wanted == "nothing left" else 2))
    bodies = {
        "more": {"items": items((product, 2))},
        "foreign": {"items": items((other, 1))},
        "nothing left": {},
    }

    with nothing_written():
        answer = shop.staff.post(f"{ORDERS}/{order}/fulfillments", json=bodies[wanted])

    assert refusal(answer) == (400 if wanted == "foreign" else 409, code)
    if wanted == "more":
        assert answer.json()["error"]["details"] == {"product_id": product, "left": 1, "requested": 2}


def test_a_cancelled_fulfillment_leaves_its_units_to_the_next(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=5)
    order = shop.confirmed((product, 2))
    first = shop.fulfil(order)

    cancelled = shop.post(f"{FULFILLMENTS}/{first}/cancel")
    again = shop.fulfil(order)

    assert (cancelled["status"], cancelled["allowed_actions"]) == ("cancelled", [])
    assert again != first
    assert shop.stock(product) == (5, 0, 2)


@pytest.mark.parametrize("status", ["draft", "created", "cancelled"])
def test_only_a_confirmed_order_is_fulfilled(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, status: str
) -> None:
    body = {"items": items((make_product(), 1)), "draft": status == "draft"}
    order = shop.customer.post(ORDERS, json=body).json()["id"]
    if status == "cancelled":
        shop.customer.delete(f"{ORDERS}/{order}")

    with nothing_written():
        answer = shop.staff.post(f"{ORDERS}/{order}/fulfillments", json={})

    assert refusal(answer) == (409, "ACTION_NOT_ALLOWED")
    assert "fulfill" not in answer.json()["error"]["details"]["allowed_actions"]


# Each state of a fulfillment with the commands that lead there, and what each command then does.
STEPS = {
    "pending": ((), {"start": "in_progress", "ship": "shipped", "deliver": None, "cancel": "cancelled"}),
    "in_progress": (("start",), {"start": "in_progress", "ship": "shipped", "deliver": None, "cancel": "cancelled"}),
    "shipped": (("ship",), {"start": None, "ship": "shipped", "deliver": "delivered", "cancel": None}),
    "delivered": (("ship", "deliver"), {"start": None, "ship": "delivered", "deliver": "delivered", "cancel": None}),
    "cancelled": (("cancel",), {"start": None, "ship": None, "deliver": None, "cancel": "cancelled"}),
}


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize("action", ["start", "ship", "deliver", "cancel"])
def test_every_command_in_every_state(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, state: str, action: str
) -> None:
    way, outcomes = STEPS[state]
    fulfillment = shop.fulfil(shop.confirmed((make_product(), 1)))
    for step in way:
        shop.post(f"{FULFILLMENTS}/{fulfillment}/{step}", {})

    if outcomes[action] in {None, state}:
        with nothing_written():
            answer = shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/{action}", json={})
    else:
        answer = shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/{action}", json={})

    if outcomes[action] is None:
        assert refusal(answer) == (409, "STEP_NOT_ALLOWED")
        assert answer.json()["error"]["details"] == {
            "kind": "fulfillment",
            "status": state,
            "action": action,
            "allowed_actions": sorted(a for a, after in outcomes.items() if after not in {None, state}),
        }
    else:
        assert (answer.status_code, answer.json()["status"]) == (200, outcomes[action])


def test_a_stale_tag_is_refused(shop: Shop, make_product: MakeProduct, nothing_written: Unchanged) -> None:
    order = shop.confirmed((make_product(), 1))
    fulfillment = shop.fulfil(order)

    with nothing_written():
        answers = [
            shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json={}, headers={"If-Match": '"2-pending"'}),
            shop.staff.post(f"{ORDERS}/{order}/fulfillments", json={}, headers={"If-Match": '"1-created"'}),
        ]

    assert [refusal(answer) for answer in answers] == [(412, "FULFILLMENT_CHANGED"), (412, "ORDER_CHANGED")]


def test_what_was_sold_ahead_of_its_delivery_leaves_only_when_it_came(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged
) -> None:
    product = make_product(stock=1, allow_backorder=True)
    fulfillment = shop.fulfil(shop.confirmed((product, 3)))

    with nothing_written():
        answer = shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json={})
    shop.post(f"/api/v1/inventory/{product}/movements", {"kind": "receipt", "quantity": 2}, status=201)
    shop.post(f"{FULFILLMENTS}/{fulfillment}/ship", {})

    assert refusal(answer) == (409, "NOT_ON_HAND")
    assert answer.json()["error"]["details"] == {"product_id": product, "on_hand": 1, "requested": 3}
    assert shop.stock(product) == (0, 0, 0)


def test_a_replay_answers_without_the_tracking(shop: Shop, make_product: MakeProduct) -> None:
    fulfillment = shop.fulfil(shop.confirmed((make_product(), 1)))
    once = key()
    body = {"carrier": "DHL", "tracking_number": "CANARY-77"}

    first = shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json=body, headers=once)
    again = shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json=body, headers=once)

    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {**first.json(), "tracking_number": "", "tracking_url": ""}
    assert again.headers["etag"] == first.headers["etag"]


def test_tracking_is_in_no_audit_entry_and_no_event(shop: Shop, make_product: MakeProduct, db: Database) -> None:
    order = shop.confirmed((make_product(), 1))
    fulfillment = shop.fulfil(order)
    shop.post(f"{FULFILLMENTS}/{fulfillment}/ship", {"tracking_number": f"CANARY-{fulfillment}"})

    for table in ("audit_entries", "outbox_events"):
        sql = f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%%' || %s || '%%'"  # noqa: S608 - two words of ours
        assert db.execute(sql.encode(), [f"CANARY-{fulfillment}"]).fetchone() == (0,)


# ---------------------------------------------------------------- at once
def test_many_ship_the_same_fulfillment_and_it_leaves_once(shop: Shop, make_product: MakeProduct, db: Database) -> None:
    product = make_product(stock=10)
    order = shop.confirmed((product, 4))
    fulfillment = shop.fulfil(order)

    answers = at_once([lambda: shop.staff.post(f"{FULFILLMENTS}/{fulfillment}/ship", json={})] * 8)

    assert [answer.status_code for answer in answers] == [200] * 8
    assert {answer.json()["version"] for answer in answers} == {2}
    assert shop.stock(product) == (6, 0, 0)
    assert db.execute(
        "SELECT count(*) FROM stock_movements WHERE order_id = %s AND kind = 'dispatch'", [order]
    ).fetchone() == (1,)
    assert shop.events(order).count("fulfillment.shipped") == 1


def test_many_make_fulfillments_and_no_unit_is_in_two(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=10)
    order = shop.confirmed((product, 5))
    body = {"items": items((product, 2))}

    answers = at_once([lambda: shop.staff.post(f"{ORDERS}/{order}/fulfillments", json=body)] * 8)

    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 6
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} == {"UNITS_EXCEEDED"}
    listed = shop.staff.get(f"{ORDERS}/{order}/fulfillments").json()["items"]
    assert [each["items"][0]["quantity"] for each in listed] == [2, 2]


def test_of_ship_and_cancel_at_once_one_wins(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=100)
    seen: set[tuple[int, int]] = set()
    for _ in range(12):
        before = shop.stock(product)
        order = shop.confirmed((product, 1))
        fulfillment = shop.fulfil(order)

        ship, cancel = at_once(
            [
                lambda path=f"{FULFILLMENTS}/{fulfillment}/ship": shop.staff.post(path, json={}),
                lambda path=f"{ORDERS}/{order}": shop.customer.delete(path),
            ]
        )

        outcome = (ship.status_code, cancel.status_code)
        seen.add(outcome)
        assert outcome in {(200, 409), (409, 204)}
        left = (before[0] - 1, 0, 0) if outcome == (200, 409) else before
        assert shop.stock(product) == left
        assert shop.order(order)["status"] == ("confirmed" if outcome == (200, 409) else "cancelled")
    assert seen


# ---------------------------------------------------------------- who may
@pytest.mark.parametrize("action", ["start", "ship", "deliver", "cancel"])
def test_a_customer_moves_no_goods(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, action: str
) -> None:
    order = shop.confirmed((make_product(), 1))
    fulfillment = shop.fulfil(order)

    with nothing_written():
        answers: list[httpx.Response] = [
            shop.customer.post(f"{FULFILLMENTS}/{fulfillment}/{action}", json={}),
            shop.customer.post(f"{ORDERS}/{order}/fulfillments", json={}),
        ]

    assert [refusal(answer) for answer in answers] == [(403, "ROLE_MISSING")] * 2
