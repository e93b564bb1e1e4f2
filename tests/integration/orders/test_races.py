"""Many at once: scarce stock, crossing baskets, one key from all sides, processes that die."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from rivals import ORDERS, Barrier, Intent, Ledger, new_key, send

from conftest import Service, run_counterfoil, running_service, wait_until_ready
from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres
from counterfoil.proof.load_client import LoadResult

MakeProduct = Callable[..., int]
MakeToken = Callable[..., str]


def level(admin: httpx.Client, product: int) -> tuple[int, int, int]:
    found = admin.get(f"/api/v1/inventory/{product}").json()
    return found["on_hand"], found["reserved"], found["available"]


@pytest.fixture(scope="module")
def second_service(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Another web process on the database of the session's service."""
    with running_service(service.database_url, tmp_path_factory.mktemp("second")) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(make_token: MakeToken) -> list[str]:
    return [make_token("customer") for _ in range(20)]


# ---------------------------------------------------------------- nothing oversold, nothing undersold
def test_a_flash_sale_sells_exactly_what_there_is(
    service: Service, admin: httpx.Client, make_product: MakeProduct, tokens: list[str]
) -> None:
    product = make_product(stock=100)
    ledger = Ledger()
    intents = [Intent(new_key(), tokens[n % len(tokens)], ((product, 1),)) for n in range(2000)]

    send(service.url, intents, ledger, clients=200)

    assert ledger.outcomes == {(201, ""): 100, (409, "INSUFFICIENT_INVENTORY"): 1900}
    assert len(set(ledger.accepted.values())) == 100
    assert level(admin, product) == (100, 100, 0)


def test_crossing_baskets_are_all_or_nothing_and_never_deadlock(
    service: Service,
    second_service: Service,
    admin: httpx.Client,
    make_product: MakeProduct,
    tokens: list[str],
    db: psycopg.Connection[tuple[Any, ...]],
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    choice = random.Random(seed)
    products = [make_product(stock=90) for _ in range(20)]
    intents = [
        Intent(
            new_key(),
            choice.choice(tokens),
            tuple((p, choice.randint(1, 2)) for p in choice.sample(products, choice.randint(2, 10))),
        )
        for _ in range(500)
    ]
    ledgers = [Ledger(), Ledger()]

    # Two processes, so that two batches are in the database at once and meet at the same rows.
    threads = [
        threading.Thread(target=send, args=(at.url, intents[n::2], ledgers[n]), kwargs={"clients": 50})
        for n, at in enumerate((service, second_service))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)

    ledger = Ledger(ledgers[0].answers | ledgers[1].answers)
    assert sum(ledger.outcomes.values()) == 500
    assert set(ledger.outcomes) == {(201, ""), (409, "INSUFFICIENT_INVENTORY")}
    sold = ledger.units()
    for product in products:
        assert level(admin, product) == (90, sold.get(product, 0), 90 - sold.get(product, 0)), product
    for intent, order_id in ledger.accepted.items():
        rows = db.execute(
            "SELECT product_id, quantity FROM order_items WHERE order_id = %s ORDER BY line_no", [order_id]
        ).fetchall()
        assert tuple(rows) == intent.lines, order_id
    # Every refusal names a product of which fewer were left than were asked for.
    for answer in ledger.answers.values():
        if answer.status == 409:
            details = json.loads(answer.body)["error"]["details"]
            assert details["requested"] > details["available"] >= 0


# ---------------------------------------------------------------- released together
ROUNDS, RIVALS = 64, 50


def test_the_last_unit_has_exactly_one_buyer_in_every_round(
    service: Service, second_service: Service, admin: httpx.Client, make_product: MakeProduct, tokens: list[str]
) -> None:
    product = make_product(stock=0)

    async def race() -> None:
        barrier = Barrier([service.url, second_service.url])
        for number in range(1, ROUNDS + 1):
            await asyncio.to_thread(restock, admin, product, 1)
            intents = [Intent(new_key(), tokens[n % len(tokens)], ((product, 1),)) for n in range(RIVALS)]

            replies = await barrier.release([intent.exchange(service.url).payload for intent in intents])

            losers = [reply.code for reply in replies if reply.status != 201]
            assert losers == ["INSUFFICIENT_INVENTORY"] * (RIVALS - 1), number
        await barrier.close()

    asyncio.run(race())

    assert level(admin, product) == (ROUNDS, ROUNDS, 0)


def test_a_single_use_coupon_has_one_winner_in_every_round(
    service: Service,
    second_service: Service,
    admin: httpx.Client,
    make_product: MakeProduct,
    tokens: list[str],
    db: psycopg.Connection[tuple[Any, ...]],
) -> None:
    product = make_product(stock=10_000)
    codes = [f"RACE-{new_key().upper()}" for _ in range(ROUNDS)]

    async def race() -> None:
        barrier = Barrier([service.url, second_service.url])
        for code in codes:
            body = {"code": code, "kind": "percent", "value": "10", "usage_limit": 1}
            assert (await asyncio.to_thread(admin.post, "/api/v1/coupons", json=body)).status_code == 201
            intents = [Intent(new_key(), tokens[n % len(tokens)], ((product, 1),), coupon=code) for n in range(RIVALS)]

            replies = await barrier.release([intent.exchange(service.url).payload for intent in intents])

            losers = [reply.code for reply in replies if reply.status != 201]
            assert losers == ["COUPON_USED_UP"] * (RIVALS - 1), code
        await barrier.close()

    asyncio.run(race())

    assert level(admin, product) == (10_000, ROUNDS, 10_000 - ROUNDS)
    uses = db.execute("SELECT used, count(*) FROM coupons WHERE code = ANY (%s) GROUP BY used", [codes]).fetchall()
    assert uses == [(1, ROUNDS)]


@pytest.mark.parametrize("processes", [1, 2])
def test_one_key_sent_from_all_sides_is_executed_once(
    processes: int,
    service: Service,
    second_service: Service,
    admin: httpx.Client,
    make_product: MakeProduct,
    tokens: list[str],
) -> None:
    product = make_product(stock=10_000)
    rounds = ROUNDS // 2

    async def race() -> None:
        barrier = Barrier([service.url, second_service.url][:processes])
        for number in range(rounds):
            intent = Intent(new_key(), tokens[number % len(tokens)], ((product, 3),))

            replies = await barrier.release([intent.exchange(service.url).payload] * RIVALS)

            accepted = [reply for reply in replies if reply.status == 201]
            others = {reply.code for reply in replies if reply.status != 201}
            assert others <= {"IDEMPOTENCY_IN_PROGRESS"}, number
            assert len({reply.body for reply in accepted}) == 1, number
            assert sum("idempotent-replayed" not in reply.headers for reply in accepted) == 1, number
        await barrier.close()

    asyncio.run(race())

    assert level(admin, product)[1] == 3 * rounds


def test_one_key_with_two_bodies_executes_one_of_them(
    service: Service, admin: httpx.Client, make_product: MakeProduct, tokens: list[str]
) -> None:
    product = make_product(stock=10_000)

    async def race() -> int:
        barrier = Barrier([service.url])
        units = 0
        for number in range(16):
            key, token = new_key(), tokens[number % len(tokens)]
            rivals = [Intent(key, token, ((product, 1 + n % 2),)) for n in range(RIVALS)]

            replies = await barrier.release([intent.exchange(service.url).payload for intent in rivals])

            accepted = {reply.body for reply in replies if reply.status == 201}
            others = {reply.code for reply in replies if reply.status != 201}
            assert len(accepted) == 1, number
            assert others <= {"IDEMPOTENCY_KEY_REUSED", "IDEMPOTENCY_IN_PROGRESS"}, number
            units += json.loads(accepted.pop())["items"][0]["quantity"]
        await barrier.close()
        return units

    units = asyncio.run(race())

    assert level(admin, product)[1] == units


def restock(admin: httpx.Client, product: int, quantity: int) -> None:
    answer = admin.post(
        f"/api/v1/inventory/{product}/movements",
        json={"kind": "receipt", "quantity": quantity},
        headers={"Idempotency-Key": new_key()},
    )
    assert answer.status_code == 201, answer.text


# ---------------------------------------------------------------- one bad order among many
def test_an_order_that_the_database_refuses_does_not_fail_its_neighbours(
    service: Service, admin: httpx.Client, make_product: MakeProduct, make_token: MakeToken
) -> None:
    product, token = make_product(stock=1000), make_token("customer")
    before = halved(admin)

    async def race() -> None:
        barrier = Barrier([service.url])
        first = Intent(new_key(), token, ((product, 1),), reference="shop-1")
        [reply] = await barrier.release([first.exchange(service.url).payload])
        assert reply.status == 201
        neighbours = [Intent(new_key(), token, ((product, 1),), reference=f"shop-{n + 2}") for n in range(49)]
        poison = Intent(new_key(), token, ((product, 1),), reference="shop-1")
        intents = [*neighbours[:20], poison, *neighbours[20:]]

        replies = await barrier.release([intent.exchange(service.url).payload for intent in intents])

        assert [reply.status for reply in replies] == [201] * 20 + [409] + [201] * 29
        assert replies[20].code == "CLIENT_REFERENCE_TAKEN"
        await barrier.close()

    asyncio.run(race())

    assert level(admin, product) == (1000, 50, 950)
    assert halved(admin) > before, "no batch was refused, so nothing was shown"


def halved(admin: httpx.Client) -> float:
    for line in admin.get("/metrics").text.splitlines():
        if line.startswith("counterfoil_intake_batches_halved_total "):
            return float(line.split()[1])
    raise AssertionError("the metric is gone")


# ---------------------------------------------------------------- processes and databases that die
def test_killing_the_web_process_loses_and_doubles_nothing(
    make_database: Callable[[], str], make_token: MakeToken, tmp_path: Path
) -> None:
    database_url = make_database()
    token = make_token("customer", database_url=database_url)
    products = insert_products(database_url, count=20, stock=100_000)
    choice = random.Random(1)
    intents = [Intent(new_key(), token, tuple((p, 1) for p in choice.sample(products, 3))) for _ in range(2500)]
    ledger = Ledger()

    with running_service(database_url, tmp_path) as first:
        results: list[LoadResult] = []
        load = threading.Thread(target=lambda: results.append(send(first.url, intents, ledger, clients=50)))
        load.start()
        wait_until(lambda: len(ledger.answers) >= 300)
        kill_worker(first)  # the supervisor starts another one
        wait_until(lambda: len(ledger.answers) >= 900)
        first.process.kill()
        first.process.wait(10)
        with running_service(database_url, tmp_path, port=urlsplit(first.url).port) as second:
            load.join(120)
            assert results[0].repeats > 0, "nobody was interrupted, so nothing was shown"
            told = ledger.accepted
            send(second.url, [intent for intent in intents if intent not in told], ledger, clients=20)
            assert told.items() <= ledger.accepted.items()
            again = Ledger()
            send(second.url, intents, again, clients=50)

    assert ledger.outcomes == {(201, ""): len(intents)}
    assert again.accepted == ledger.accepted, "a repetition found another order than its client was told of"
    with psycopg.connect(database_url) as connection:
        stored = {row[0] for row in connection.execute("SELECT id FROM orders")}
    assert stored == set(ledger.accepted.values())
    report = run_counterfoil("reconcile", "--json", "-", check=False, DATABASE_URL=database_url)
    assert json.loads(report.stdout)["differences"] == 0, report.stdout


def test_a_database_that_dies_is_a_503_and_the_service_recovers_by_itself(
    make_token: MakeToken, tmp_path: Path
) -> None:
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        run_counterfoil("migrate", DATABASE_URL=postgres.url)
        token = make_token("customer", database_url=postgres.url)
        [product] = insert_products(postgres.url, count=1, stock=10)
        intent = Intent(new_key(), token, ((product, 1),))
        with running_service(postgres.url, tmp_path) as service, service.client(token) as client:
            order = place(client, intent)
            assert order.status_code == 201
            address = f"{ORDERS}/{order.json()['id']}"
            assert postgres.pid is not None
            servers = child_processes(postgres.pid)
            os.kill(postgres.pid, signal.SIGKILL)
            # A session that is awake may still answer one statement before it learns that its parent is gone.
            wait_until(lambda: not any(map(is_alive, servers)))

            late = {"client_reference": "late"}
            calls: list[Callable[[], httpx.Response]] = [
                lambda: place(client, Intent(new_key(), token, ((product, 1),))),
                lambda: place(client, intent),
                lambda: client.get(address),
                lambda: client.get(ORDERS),
                lambda: client.get(f"{address}/timeline"),
                lambda: client.put(address, json=late),
                lambda: client.delete(address),
                lambda: client.get("/api/v1/products"),
            ]
            with ThreadPoolExecutor(len(calls)) as threads:
                refusals = list(threads.map(lambda call: call(), calls))
            assert [answer.status_code for answer in refusals] == [503] * len(calls)
            assert [answer.headers["retry-after"] for answer in refusals] == ["1"] * len(calls)
            wait_until(lambda: client.get("/readyz").status_code == 503)  # asked once a second
            assert client.get("/livez").status_code == 200

            postgres.start()
            wait_until_ready(service)

            replay = place(client, intent)
            assert (replay.status_code, replay.content) == (201, order.content)
            assert client.get(address).json()["status"] == "created"
            assert place(client, Intent(new_key(), token, ((product, 1),))).status_code == 201
            assert service.process.poll() is None
        report = run_counterfoil("reconcile", "--json", "-", check=False, DATABASE_URL=postgres.url)
        assert (json.loads(report.stdout)["orders"], json.loads(report.stdout)["differences"]) == (2, 0)


def place(client: httpx.Client, intent: Intent) -> httpx.Response:
    headers = {"Idempotency-Key": intent.key, "Content-Type": "application/json"}
    return client.post(ORDERS, content=intent.body, headers=headers)


def insert_products(database_url: str, *, count: int, stock: int) -> list[int]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute(
            """
            WITH made AS (
              INSERT INTO products (sku, name, description, category, price, currency)
              SELECT 'RACE-' || n, 'Tea', '', '', 19.99, 'EUR' FROM generate_series(1, %(count)s::integer) AS n
              RETURNING id
            ), levels AS (
              INSERT INTO stock_levels (product_id, on_hand) SELECT id, %(stock)s FROM made
            ), receipts AS (
              INSERT INTO stock_movements (product_id, kind, on_hand_delta, actor)
              SELECT id, 'receipt', %(stock)s, 'test' FROM made
            )
            SELECT id FROM made
            """,
            {"count": count, "stock": stock},
        ).fetchall()
    return [row[0] for row in rows]


def kill_worker(service: Service) -> None:
    workers = [pid for pid in child_processes(service.process.pid) if "resource_tracker" not in process_name(pid)]
    assert workers, "the supervisor has no web process"
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def child_processes(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def process_name(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that within 60 s"
        time.sleep(0.005)
