"""BR-01 to BR-03: a coupon gives what it promises, as often as it may, to whom it may, and never more than there is."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Service, running_service
from counterfoil.orders.commands import Trace

ORDERS = "/api/v1/orders"
COUPONS = "/api/v1/coupons"
MakeProduct = Callable[..., int]
MakeToken = Callable[..., str]
Unchanged = Callable[[], AbstractContextManager[None]]
Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def make_coupon(admin: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Make a coupon through the API; 50 % off unless the test says otherwise."""

    def make(**values: Any) -> dict[str, Any]:
        body = {"code": f"c-{secrets.token_hex(6)}", "kind": "percent", "value": "50", **values}
        answer = admin.post(COUPONS, json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return make


MakeCoupon = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def second_service(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Another web process on the database of the session's service."""
    with running_service(service.database_url, tmp_path_factory.mktemp("second")) as running:
        yield running


def body_of(product: int, *codes: str, quantity: int = 1, **values: Any) -> dict[str, Any]:
    return {"items": [{"product_id": product, "quantity": quantity}], "coupon_codes": list(codes), **values}


def place(client: httpx.Client, product: int, *codes: str, **values: Any) -> httpx.Response:
    key = values.pop("key", None) or secrets.token_hex(16)
    return client.post(ORDERS, json=body_of(product, *codes, **values), headers={"Idempotency-Key": key})


def place_draft(client: httpx.Client, order_id: int) -> httpx.Response:
    return client.post(f"{ORDERS}/{order_id}/place", headers={"Idempotency-Key": secrets.token_hex(16)})


def uses_of(db: Connection, coupon: dict[str, Any]) -> tuple[int, int, int]:
    """Return the counter, the uses that are not given back, and those that are."""
    row = db.execute(
        "SELECT c.used, count(u.id) FILTER (WHERE u.released_at IS NULL), count(u.released_at)"
        " FROM coupons c LEFT JOIN coupon_uses u ON u.coupon_id = c.id WHERE c.id = %s GROUP BY c.used",
        [coupon["id"]],
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, None if answer.is_success else answer.json()["error"]["code"]


def at_once(tasks: Sequence[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    """Run every task in a thread of its own, all of them starting together."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], httpx.Response]) -> httpx.Response:
        barrier.wait(60)
        return task()

    with ThreadPoolExecutor(len(tasks)) as threads:
        return list(threads.map(run, tasks))


# ---------------------------------------------------------------- BR-01: as often as it may
def test_security_BR_01_a_single_use_coupon_in_fifty_orders_at_once_gives_one_discount(
    service: Service,
    second_service: Service,
    make_token: MakeToken,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    db: Connection,
) -> None:
    product, coupon = make_product(stock=1000, price="20.00"), make_coupon(usage_limit=1)
    clients = [(service, second_service)[n % 2].client(make_token()) for n in range(50)]
    drafts: dict[int, int] = {}
    for n, client in enumerate(clients):
        client.get(ORDERS)  # the connection is there before all of them order
        if n % 5 == 0:  # both ways to an order: at once, and from a draft
            drafts[n] = client.post(ORDERS, json=body_of(product, coupon["code"], draft=True)).json()["id"]
    code = coupon["code"].lower()

    def order(n: int) -> httpx.Response:
        return place_draft(clients[n], drafts[n]) if n in drafts else place(clients[n], product, code)

    answers = at_once([lambda n=n: order(n) for n in range(50)])  # type: ignore[misc]

    for client in clients:
        client.close()
    assert Counter(told(answer)[1] for answer in answers) == {None: 1, "COUPON_USED_UP": 49}
    [winner] = [answer.json() for answer in answers if answer.is_success]
    assert (winner["subtotal"], winner["discount"], winner["total"]) == (20, 10, 10)
    assert winner["coupon_codes"] == [coupon["code"]]
    assert uses_of(db, coupon) == (1, 1, 0)
    assert db.execute(
        "SELECT count(*) FROM adjustments a JOIN orders o ON o.id = a.order_id"
        " WHERE a.label = %s AND o.status = 'created'",
        [coupon["code"]],
    ).fetchone() == (1,)


def test_security_BR_01_an_order_with_a_used_up_coupon_writes_nothing_and_names_it(
    customer: httpx.Client,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    nothing_written: Unchanged,
) -> None:
    product, coupon = make_product(), make_coupon(usage_limit=1)
    assert place(customer, product, coupon["code"]).status_code == 201
    key = secrets.token_hex(16)

    with nothing_written():
        refused = place(customer, product, coupon["code"], key=key)
        draft = customer.post(ORDERS, json=body_of(product, coupon["code"], draft=True))

    assert told(refused) == told(draft) == (409, "COUPON_USED_UP")
    assert refused.json()["error"]["details"] == {"coupon_code": coupon["code"]}
    # The key is free: the same client orders without it.
    again = place(customer, product, key=key)
    assert (again.status_code, again.json()["discount"]) == (201, 0)


def test_security_BR_01_two_in_one_order_change_and_leave_nothing_of_a_refused_change(
    customer: httpx.Client,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    nothing_written: Unchanged,
    db: Connection,
) -> None:
    product, spent, free = make_product(), make_coupon(usage_limit=1), make_coupon(usage_limit=1)
    assert place(customer, product, spent["code"]).status_code == 201
    order = place(customer, product).json()["id"]

    with nothing_written():
        refused = customer.put(f"{ORDERS}/{order}", json={"coupon_codes": [free["code"], spent["code"]]})

    assert told(refused) == (409, "COUPON_USED_UP")
    assert (uses_of(db, spent), uses_of(db, free)) == ((1, 1, 0), (0, 0, 0))


def test_security_BR_01_crossing_coupons_and_cancels_end_with_every_use_counted(
    service: Service,
    second_service: Service,
    make_token: MakeToken,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    db: Connection,
) -> None:
    product = make_product(stock=10_000)
    coupons = [make_coupon(value="1", usage_limit=7) for _ in range(3)]

    def customer_of(n: int) -> list[tuple[int, str | None]]:
        codes = [coupons[(n + place) % 3]["code"] for place in range(1 + n % 3)]
        with (service, second_service)[n % 2].client(make_token()) as client:
            seen = []
            for round_ in range(6):
                answer = place(client, product, *codes)
                seen.append(told(answer))
                if answer.status_code != 201:
                    continue
                address = f"{ORDERS}/{answer.json()['id']}"
                if round_ % 3 == 0:
                    changed = client.put(address, json={"coupon_codes": codes[1:]})
                    seen.append(told(changed))
                if round_ % 3 < 2:
                    seen.append(told(client.delete(address)))
            return seen

    with ThreadPoolExecutor(16) as threads:
        outcomes = Counter(outcome for seen in threads.map(customer_of, range(16)) for outcome in seen)

    assert outcomes.keys() <= {(200, None), (201, None), (204, None), (409, "COUPON_USED_UP")}
    assert outcomes[201, None] > 16
    for coupon in coupons:
        used, live, _ = uses_of(db, coupon)
        held = db.execute(
            "SELECT count(*) FROM adjustments a JOIN orders o ON o.id = a.order_id"
            " WHERE a.label = %s AND o.status = 'created'",
            [coupon["code"]],
        ).fetchone()
        assert used == live <= 7
        assert held == (used,)


# ---------------------------------------------------------------- BR-02: by whom it may
def test_security_BR_02_a_customers_limit_holds_across_orders_at_once(
    service: Service,
    second_service: Service,
    make_token: MakeToken,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    db: Connection,
) -> None:
    product, coupon = make_product(stock=1000), make_coupon(per_customer_limit=2)
    token = make_token()
    clients = [(service, second_service)[n % 2].client(token) for n in range(30)]
    for client in clients:
        client.get(ORDERS)

    answers = at_once([lambda client=client: place(client, product, coupon["code"]) for client in clients])  # type: ignore[misc]

    assert Counter(map(told, answers)) == {(201, None): 2, (409, "COUPON_LIMIT_REACHED"): 28}
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["error"]["details"] == {"coupon_code": coupon["code"], "limit": 2}
    assert uses_of(db, coupon) == (2, 2, 0)
    with service.client(make_token()) as somebody_else:
        assert place(somebody_else, product, coupon["code"]).status_code == 201
    for client in clients:
        client.close()


def test_security_BR_02_an_order_cancelled_from_all_sides_gives_its_use_back_once(
    service: Service,
    second_service: Service,
    make_token: MakeToken,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    db: Connection,
) -> None:
    product, coupon = make_product(), make_coupon(per_customer_limit=1, usage_limit=2)
    token = make_token()
    clients = [(service, second_service)[n % 2].client(token) for n in range(10)]
    order = place(clients[0], product, coupon["code"]).json()["id"]
    with service.client(make_token()) as somebody_else:
        assert place(somebody_else, product, coupon["code"]).status_code == 201
    assert uses_of(db, coupon) == (2, 2, 0)

    answers = at_once([lambda client=client: client.delete(f"{ORDERS}/{order}") for client in clients])  # type: ignore[misc]

    assert {answer.status_code for answer in answers} == {204}
    assert uses_of(db, coupon) == (1, 1, 1)
    assert [told(place(clients[0], product, coupon["code"])) for _ in range(2)] == [
        (201, None),
        (409, "COUPON_USED_UP"),
    ]
    assert uses_of(db, coupon) == (2, 2, 1)
    for client in clients:
        client.close()


def test_security_BR_02_expiry_gives_a_use_back_once_and_a_draft_never_took_one(
    customer: httpx.Client, make_product: MakeProduct, make_coupon: MakeCoupon, db: Connection, django_ready: None
) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.orders.services import expire_orders

    assert django_ready is None
    product, coupon = make_product(), make_coupon(usage_limit=1)
    draft = customer.post(ORDERS, json=body_of(product, coupon["code"], draft=True)).json()
    assert (draft["discount"], uses_of(db, coupon)) == (10, (0, 0, 0))
    assert customer.delete(f"{ORDERS}/{draft['id']}").status_code == 204
    assert uses_of(db, coupon) == (0, 0, 0)
    order = place(customer, product, coupon["code"]).json()["id"]
    db.execute("UPDATE orders SET reserved_until = now() WHERE id = %s", [order])

    def sweep(_: int) -> int:
        trace = Trace("job:expire-orders", f"test-{secrets.token_hex(4)}")
        return run_in_thread(expire_orders, limit=100, trace=trace)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(sweep, range(4)))

    assert customer.get(f"{ORDERS}/{order}").json()["status"] == "expired"
    assert uses_of(db, coupon) == (0, 0, 1)
    assert place(customer, product, coupon["code"]).status_code == 201


def test_security_BR_02_a_coupon_that_is_edited_away_comes_back_and_can_be_named_again(
    customer: httpx.Client, make_product: MakeProduct, make_coupon: MakeCoupon, db: Connection
) -> None:
    product, coupon = make_product(price="20.00"), make_coupon(usage_limit=1, per_customer_limit=1)
    order = place(customer, product, coupon["code"]).json()["id"]

    without = customer.put(f"{ORDERS}/{order}", json={"coupon_codes": []}).json()
    between = uses_of(db, coupon)
    again = customer.put(f"{ORDERS}/{order}", json={"coupon_codes": [coupon["code"].lower()]}).json()
    kept = customer.put(f"{ORDERS}/{order}", json={"items": [{"product_id": product, "quantity": 3}]}).json()

    assert (without["total"], without["coupon_codes"], without["adjustments"]) == (20, [], [])
    assert between == (0, 0, 1)
    assert (again["total"], again["coupon_codes"]) == (10, [coupon["code"]])
    assert (kept["subtotal"], kept["discount"], kept["total"]) == (60, 30, 30)
    assert uses_of(db, coupon) == (1, 1, 0)


def test_security_BR_02_a_late_payment_takes_the_uses_again_or_finds_them_gone(
    customer: httpx.Client,
    service: Service,
    make_token: MakeToken,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    db: Connection,
) -> None:
    from counterfoil.coupons.services import retake_uses
    from counterfoil.infrastructure.audit import declare_change
    from counterfoil.infrastructure.database import run_in_thread, transaction

    product, coupon = make_product(), make_coupon(usage_limit=1)
    order = place(customer, product, coupon["code"]).json()
    customer.delete(f"{ORDERS}/{order['id']}")

    def retake() -> bool:
        with transaction():
            declare_change(actor="job:test", action="order.reinstate", request_id="test")
            return retake_uses([coupon["code"]], order_id=order["id"], user_id=order["user_id"])

    with service.client(make_token()) as somebody_else:
        taken = place(somebody_else, product, coupon["code"]).json()["id"]
        assert run_in_thread(retake) is False
        assert uses_of(db, coupon) == (1, 1, 1)
        somebody_else.delete(f"{ORDERS}/{taken}")
    assert [run_in_thread(retake) for _ in range(2)] == [True, True]
    assert uses_of(db, coupon) == (1, 1, 1)
    db.execute("UPDATE coupon_uses SET released_at = now() WHERE order_id = %s", [order["id"]])
    db.execute("UPDATE coupons SET used = 0 WHERE id = %s", [coupon["id"]])


# ---------------------------------------------------------------- BR-03: never more than there is
def test_security_BR_03_coupons_of_more_than_everything_leave_zero_and_not_less(
    customer: httpx.Client, make_product: MakeProduct, make_coupon: MakeCoupon
) -> None:
    product = make_product(price="19.99")
    large = make_coupon(value="70")
    larger = make_coupon(value="80")
    amount = make_coupon(kind="fixed", value="500.00", currency="EUR")

    both = place(customer, product, larger["code"], large["code"]).json()
    all_three = place(customer, product, amount["code"], large["code"], larger["code"]).json()

    # 70 % of 19.99 is 13.993, so 13.99; 80 % of the 6.00 left is 4.80.
    assert [(a["label"], a["amount"]) for a in both["adjustments"]] == [
        (large["code"], -13.99),
        (larger["code"], -4.80),
    ]
    assert both["total"] == 1.20
    assert [a["amount"] for a in all_three["adjustments"]] == [-13.99, -4.80, -1.20]
    assert (all_three["total"], all_three["discount"]) == (0, 19.99)


def test_security_BR_03_a_removed_line_is_priced_anew_and_the_minimum_asked_again(
    customer: httpx.Client, make_product: MakeProduct, make_coupon: MakeCoupon, nothing_written: Unchanged
) -> None:
    tea, pot = make_product(price="30.00"), make_product(price="15.00")
    coupon = make_coupon(kind="fixed", value="20.00", currency="EUR", minimum_total="40.00")
    lines = [{"product_id": tea, "quantity": 1}, {"product_id": pot, "quantity": 1}]
    order = customer.post(ORDERS, json={"items": lines, "coupon_codes": [coupon["code"]]}).json()
    assert (order["total"], [item["discount"] for item in order["items"]]) == (25, [13.33, 6.67])

    with nothing_written():
        refused = customer.put(f"{ORDERS}/{order['id']}", json={"items": lines[:1]})
    given_up = customer.put(f"{ORDERS}/{order['id']}", json={"items": lines[1:], "coupon_codes": []}).json()

    assert told(refused) == (400, "VALIDATION_FAILED")
    assert refused.json()["error"]["details"]["fields"] == [
        {"field": "coupon_codes[0]", "message": f"Coupon {coupon['code']} needs goods worth 40.00 EUR or more."}
    ]
    assert (given_up["total"], given_up["discount"], given_up["items"][0]["discount"]) == (15, 0, 0)


def test_security_BR_03_a_coupon_ends_at_its_instant_by_the_databases_clock(
    service: Service, make_token: MakeToken, make_product: MakeProduct, make_coupon: MakeCoupon, db: Connection
) -> None:
    product = make_product(stock=100_000)
    row = db.execute("SELECT now() + interval '1.5 seconds'").fetchone()
    assert row is not None
    ends_at: datetime = row[0]
    coupon = make_coupon(ends_at=ends_at.isoformat())
    stop = time.monotonic() + 3

    def order(_: int) -> list[httpx.Response]:
        with service.client(make_token()) as client:
            answers = []
            while time.monotonic() < stop:
                answers.append(place(client, product, coupon["code"]))
            return answers

    with ThreadPoolExecutor(4) as threads:
        answers = [answer for answers in threads.map(order, range(4)) for answer in answers]

    placed = [answer.json() for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert {told(answer) for answer in refused} == {(400, "VALIDATION_FAILED")}
    assert refused[0].json()["error"]["details"]["fields"] == [
        {"field": "coupon_codes[0]", "message": f"Coupon {coupon['code']} is not valid."}
    ]
    assert placed
    assert max(datetime.fromisoformat(order["created_at"]) for order in placed) < ends_at
    assert uses_of(db, coupon) == (len(placed), len(placed), 0)


def test_security_BR_03_what_an_order_uses_already_stays_when_the_coupon_has_ended(
    customer: httpx.Client, admin: httpx.Client, make_product: MakeProduct, make_coupon: MakeCoupon
) -> None:
    product, coupon = make_product(price="20.00"), make_coupon(usage_limit=1)
    order = place(customer, product, coupon["code"]).json()["id"]
    ended = {**{k: coupon[k] for k in ("code", "kind", "value")}, "usage_limit": 1, "active": False}
    assert admin.put(f"{COUPONS}/{coupon['id']}", json=ended).status_code == 200

    changed = customer.put(f"{ORDERS}/{order}", json={"items": [{"product_id": product, "quantity": 2}]}).json()
    anew = place(customer, product, coupon["code"])

    assert (changed["total"], changed["coupon_codes"]) == (20, [coupon["code"]])
    assert told(anew) == (400, "VALIDATION_FAILED")
    assert anew.json()["error"]["details"]["fields"][0]["message"] == (f"Coupon {coupon['code']} is not valid.")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (None, "Coupon {} is not valid."),
        ({"starts_at": "2999-01-01T00:00:00Z"}, "Coupon {} is not valid."),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "Coupon {} is not valid."),
        ({"active": False}, "Coupon {} is not valid."),
        ({"kind": "fixed", "value": "5", "currency": "JPY"}, "Coupon {} is for orders in JPY."),
        ({"currency": "EUR", "minimum_total": "20.00"}, "Coupon {} needs goods worth 20.00 EUR or more."),
    ],
)
@pytest.mark.parametrize("draft", [False, True])
def test_security_BR_03_a_coupon_that_does_not_count_is_named_and_nothing_is_written(
    values: dict[str, Any] | None,
    sentence: str,
    draft: bool,  # noqa: FBT001 - pytest passes it by name
    customer: httpx.Client,
    make_product: MakeProduct,
    make_coupon: MakeCoupon,
    nothing_written: Unchanged,
) -> None:
    product, good = make_product(price="19.99"), make_coupon()
    code = "NO-SUCH-COUPON" if values is None else make_coupon(**values)["code"]

    with nothing_written():
        answer = place(customer, product, good["code"], code, draft=draft)

    assert told(answer) == (400, "VALIDATION_FAILED")
    assert answer.json()["error"]["details"]["fields"] == [
        {"field": "coupon_codes[1]", "message": sentence.format(code)}
    ]


def test_security_BR_01_the_database_itself_refuses_one_use_too_many(
    make_coupon: MakeCoupon, database_url: str
) -> None:
    coupon = make_coupon(usage_limit=1)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE coupons SET used = used + 1 WHERE id = %s", [coupon["id"]])
        with pytest.raises(psycopg.errors.CheckViolation, match="ck_coupons_used"):
            connection.execute("UPDATE coupons SET used = used + 1 WHERE id = %s", [coupon["id"]])
        connection.rollback()


# ---------------------------------------------------------------- RL-03: guessing is slow
Serve = Callable[..., AbstractContextManager[Service]]


def code_of(answer: httpx.Response) -> tuple[int, str | None]:
    if answer.status_code == 429:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    return told(answer)


def test_security_RL_03_a_customer_guesses_ten_coupons_a_minute_at_the_most(
    serve: Serve, make_token: MakeToken, make_product: MakeProduct, make_coupon: MakeCoupon, admin: httpx.Client
) -> None:
    product, coupon, token = make_product(stock=1000), make_coupon(), make_token()
    # An address of its own: what other tests guess from 127.0.0.1 is counted in the same table.
    settings = {"COUNTERFOIL_LIMIT_LOOK_UP": "10/60", "COUNTERFOIL_TRUSTED_PROXIES": "127.0.0.0/8"}
    away = {"X-Forwarded-For": f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.1", "X-Forwarded-Proto": "https"}
    with serve(**settings) as shop, shop.client(token) as client:
        client.headers.update(away)
        right = [code_of(place(client, product, coupon["code"])) for _ in range(15)]
        order = place(client, product).json()["id"]
        wrong = at_once(
            [
                *(lambda n=n: place(client, product, f"GUESS-{n}") for n in range(30)),
                *(lambda n=n: place(client, product, f"GUESS-{n}", draft=True) for n in range(5)),
                *(lambda n=n: client.put(f"{ORDERS}/{order}", json={"coupon_codes": [f"GUESS-{n}"]}) for n in range(5)),
            ]  # type: ignore[misc]
        )
        with shop.client(make_token()) as neighbour:
            neighbour.headers.update(away)
            same_address = code_of(place(neighbour, product, coupon["code"]))
        with shop.client(make_token("support")) as clerk:
            clerk.headers.update(away)
            staff = [code_of(place(clerk, product, "NO-SUCH-CODE")) for _ in range(12)]
        without = code_of(place(client, product))

    assert right == [(201, None)] * 15
    assert Counter(map(code_of, wrong)) == {(400, "VALIDATION_FAILED"): 10, (429, "RATE_LIMITED"): 30}
    # Ten wrong ones from this address: nobody there is told of another one, right or wrong.
    assert same_address == (429, "RATE_LIMITED")
    assert staff == [(400, "VALIDATION_FAILED")] * 12
    assert without == (201, None)
    assert admin
