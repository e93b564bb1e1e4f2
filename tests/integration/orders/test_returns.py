"""Returns through the public door: asked for, decided, received in parts, closed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import psycopg
import pytest
from order_life import ORDERS, RETURNS, Shop, at_once, items, key, refusal

Database = psycopg.Connection[tuple[Any, ...]]
Unchanged = Callable[[], AbstractContextManager[None]]
MakeProduct = Callable[..., int]


@pytest.fixture
def shop(customer: httpx.Client, admin: httpx.Client) -> Shop:
    return Shop(customer, admin)


def ask(shop: Shop, order: int, *lines: tuple[int, int], reason: str = "damaged") -> int:
    body = {"items": items(*lines), "reason": reason}
    return int(shop.post(f"{ORDERS}/{order}/returns", body, by=shop.customer, status=201)["id"])


def arrived(*lines: tuple[int, int, int]) -> dict[str, Any]:
    return {"items": [{"product_id": p, "restocked": restocked, "damaged": damaged} for p, restocked, damaged in lines]}


def test_a_return_comes_in_two_parcels(shop: Shop, make_product: MakeProduct, db: Database) -> None:
    tea, pot = make_product(stock=10), make_product(stock=5)
    order = shop.shipped((tea, 4), (pot, 1))
    returned = ask(shop, order, (tea, 3), (pot, 1))
    asked = shop.order(order)

    approved = shop.post(f"{RETURNS}/{returned}/approve", {"note": "Use the label."})
    first = shop.post(f"{RETURNS}/{returned}/receive", arrived((tea, 2, 0)))
    between = shop.order(order)
    second = shop.post(f"{RETURNS}/{returned}/receive", arrived((tea, 0, 1), (pot, 1, 0)))
    closed = shop.post(f"{RETURNS}/{returned}/close", {})

    assert (asked["return_status"], asked["has_open_return"]) == ("requested", True)
    assert (approved["status"], approved["note"], approved["allowed_actions"]) == (
        "approved",
        "Use the label.",
        ["close", "receive"],
    )
    assert [first["items"][0][name] for name in ("quantity", "received", "restocked", "damaged")] == [3, 2, 2, 0]
    assert (between["return_status"], [i["returned"] for i in between["items"]]) == ("partially_returned", [2, 0])
    assert [second["items"][0][name] for name in ("received", "restocked", "damaged")] == [3, 2, 1]
    assert (closed["status"], closed["version"]) == ("closed", 5)
    after = shop.order(order)
    assert (after["return_status"], after["has_open_return"], [i["returned"] for i in after["items"]]) == (
        "partially_returned",
        False,
        [3, 1],
    )
    # What is damaged does not come back to the shelf.
    assert (shop.stock(tea), shop.stock(pot)) == ((8, 0, 0), (5, 0, 0))
    assert shop.events(order)[-5:] == [
        *("return.requested", "return.approved", "return.received", "return.received", "return.closed"),
    ]
    assert db.execute(
        "SELECT product_id, on_hand_delta, reason FROM stock_movements WHERE order_id = %s AND kind = 'return'"
        " ORDER BY id",
        [order],
    ).fetchall() == [(tea, 2, f"return {returned}"), (pot, 1, f"return {returned}")]


def test_an_order_of_which_everything_came_back_is_returned(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product()
    order = shop.shipped((product, 2))
    returned = ask(shop, order, (product, 2))
    shop.post(f"{RETURNS}/{returned}/approve", {})

    shop.post(f"{RETURNS}/{returned}/receive", arrived((product, 2, 0)))

    assert shop.order(order)["return_status"] == "returned"


def test_a_declined_return_leaves_its_units_to_another(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product()
    order = shop.shipped((product, 1))
    first = ask(shop, order, (product, 1))

    declined = shop.post(f"{RETURNS}/{first}/decline", {"note": "It was used."})
    after = shop.order(order)
    second = ask(shop, order, (product, 1))

    assert (declined["status"], declined["allowed_actions"], declined["note"]) == ("declined", [], "It was used.")
    assert (after["return_status"], after["has_open_return"]) == ("none", False)
    assert second != first


def test_what_never_came_can_be_asked_for_again_once_its_return_is_closed(
    shop: Shop, make_product: MakeProduct
) -> None:
    product = make_product()
    order = shop.shipped((product, 3))
    first = ask(shop, order, (product, 3))
    shop.post(f"{RETURNS}/{first}/approve", {})
    shop.post(f"{RETURNS}/{first}/receive", arrived((product, 1, 0)))
    shop.post(f"{RETURNS}/{first}/close", {})

    second = ask(shop, order, (product, 2))
    more = shop.customer.post(f"{ORDERS}/{order}/returns", json={"items": items((product, 1))})

    assert second != first
    assert refusal(more) == (409, "UNITS_EXCEEDED")


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("more than shipped", (409, "UNITS_EXCEEDED")),
        ("foreign product", (400, "VALIDATION_FAILED")),
        ("unknown reason", (400, "VALIDATION_FAILED")),
        ("too late", (409, "ACTION_NOT_ALLOWED")),
        ("nothing shipped", (409, "ACTION_NOT_ALLOWED")),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    shop: Shop,
    make_product: MakeProduct,
    nothing_written: Unchanged,
    db: Database,
    case: str,
    expected: tuple[int, str],
) -> None:
    product, other = make_product(), make_product()
    order = shop.confirmed((product, 3))
    if case != "nothing shipped":
        shop.ship(order, (product, 2))
    if case == "too late":
        shop.ship(order)
        db.execute("UPDATE orders SET return_until = now() WHERE id = %s", [order])
    body: dict[str, Any] = {"items": items((other if case == "foreign product" else product, 1))}
    if case == "more than shipped":
        body["items"][0]["quantity"] = 3
    if case == "unknown reason":
        body["reason"] = "my cat did not like it"

    with nothing_written():
        answer = shop.customer.post(f"{ORDERS}/{order}/returns", json=body)

    assert refusal(answer) == expected
    if case == "too late":
        assert ask_as_staff(shop, order, product) == 201


def ask_as_staff(shop: Shop, order: int, product: int) -> int:
    return shop.staff.post(f"{ORDERS}/{order}/returns", json={"items": items((product, 1))}).status_code


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("more", (409, "UNITS_EXCEEDED")),
        ("nothing", (400, "VALIDATION_FAILED")),
        ("twice", (400, "VALIDATION_FAILED")),
        ("foreign", (400, "VALIDATION_FAILED")),
        ("no key", (400, "IDEMPOTENCY_KEY_MISSING")),
    ],
)
def test_only_what_was_announced_is_received(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, body: str, expected: tuple[int, str]
) -> None:
    product = make_product()
    order = shop.shipped((product, 2), (other := make_product(), 1))
    returned = ask(shop, order, (product, 2))
    shop.post(f"{RETURNS}/{returned}/approve", {})
    bodies = {
        "more": arrived((product, 2, 1)),
        "nothing": arrived((product, 0, 0)),
        "twice": arrived((product, 1, 0), (product, 1, 0)),
        "foreign": arrived((other, 1, 0)),
        "no key": arrived((product, 1, 0)),
    }
    headers = {} if body == "no key" else key()

    with nothing_written():
        answer = shop.staff.post(f"{RETURNS}/{returned}/receive", json=bodies[body], headers=headers)

    assert refusal(answer) == expected


# Each state of a return with the commands that lead there, and what each command then does.
STEPS = {
    "requested": ((), {"approve": "approved", "decline": "declined", "receive": None, "close": None}),
    "approved": (("approve",), {"approve": "approved", "decline": None, "receive": "received", "close": "closed"}),
    "declined": (("decline",), {"approve": None, "decline": "declined", "receive": None, "close": None}),
    "received": (
        ("approve", "receive"),
        {"approve": None, "decline": None, "receive": "received again", "close": "closed"},
    ),
    "closed": (("approve", "close"), {"approve": None, "decline": None, "receive": None, "close": "closed"}),
}


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize("action", ["approve", "decline", "receive", "close"])
def test_every_command_in_every_state(
    shop: Shop, make_product: MakeProduct, nothing_written: Unchanged, state: str, action: str
) -> None:
    way, outcomes = STEPS[state]
    product = make_product()
    returned = ask(shop, shop.shipped((product, 2)), (product, 2))
    bodies = {"receive": arrived((product, 1, 0))}
    for step in way:
        shop.post(f"{RETURNS}/{returned}/{step}", bodies.get(step, {}))
    # A key is written with every answer, so the repetitions that change nothing are sent without.
    headers = key() if action in {"receive", "close"} else {}

    if outcomes[action] is None:
        with nothing_written():
            answer = shop.staff.post(f"{RETURNS}/{returned}/{action}", json=bodies.get(action, {}), headers=headers)
        assert refusal(answer) == (409, "STEP_NOT_ALLOWED")
        assert answer.json()["error"]["details"]["status"] == state
        return
    before = shop.staff.get(f"{RETURNS}/{returned}").json()
    answer = shop.staff.post(f"{RETURNS}/{returned}/{action}", json=bodies.get(action, {}), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == str(outcomes[action]).split()[0]
    assert (answer.json() == before) == (outcomes[action] == state)


def test_a_stale_tag_is_refused(shop: Shop, make_product: MakeProduct, nothing_written: Unchanged) -> None:
    product = make_product()
    returned = ask(shop, shop.shipped((product, 1)), (product, 1))

    with nothing_written():
        answer = shop.staff.post(f"{RETURNS}/{returned}/approve", json={}, headers={"If-Match": '"2-requested"'})

    assert refusal(answer) == (412, "RETURN_CHANGED")


def test_a_return_is_its_owners_and_decided_by_staff(
    shop: Shop,
    make_product: MakeProduct,
    service: Any,
    make_token: Callable[..., str],
    nothing_written: Unchanged,
) -> None:
    product = make_product()
    order = shop.shipped((product, 1))
    returned = ask(shop, order, (product, 1))

    with service.client(make_token("customer")) as other, nothing_written():
        hidden = [
            other.get(f"{RETURNS}/{returned}"),
            other.get(f"{ORDERS}/{order}/returns"),
            other.post(f"{ORDERS}/{order}/returns", json={"items": items((product, 1))}),
        ]
        own = [shop.customer.post(f"{RETURNS}/{returned}/{step}", json={}) for step in ("approve", "close")]

    assert [refusal(answer) for answer in hidden] == [
        (404, "RETURN_NOT_FOUND"),
        (404, "ORDER_NOT_FOUND"),
        (404, "ORDER_NOT_FOUND"),
    ]
    assert [refusal(answer) for answer in own] == [(403, "ROLE_MISSING")] * 2
    assert shop.customer.get(f"{ORDERS}/{order}/returns").json()["items"] == [
        shop.customer.get(f"{RETURNS}/{returned}").json()
    ]


# ---------------------------------------------------------------- at once
def test_many_ask_for_the_same_units_and_no_unit_is_in_two_returns(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product()
    order = shop.shipped((product, 5))
    body = {"items": items((product, 2))}

    answers = at_once([lambda: shop.customer.post(f"{ORDERS}/{order}/returns", json=body)] * 8)

    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 6
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} == {"UNITS_EXCEEDED"}


def test_many_receive_and_no_more_is_counted_than_was_announced(shop: Shop, make_product: MakeProduct) -> None:
    product = make_product(stock=10)
    order = shop.shipped((product, 5))
    returned = ask(shop, order, (product, 5))
    shop.post(f"{RETURNS}/{returned}/approve", {})
    body = arrived((product, 2, 0))

    answers = at_once([lambda: shop.staff.post(f"{RETURNS}/{returned}/receive", json=body, headers=key())] * 8)

    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [409] * 6
    assert shop.stock(product) == (9, 0, 0)
    assert shop.staff.get(f"{RETURNS}/{returned}").json()["items"][0]["received"] == 4
