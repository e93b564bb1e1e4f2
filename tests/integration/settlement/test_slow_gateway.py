"""A gateway that hangs takes eight threads of a worker and nothing else (G18)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from simulator_process import API_KEY, SECRET, Simulator, simulator
from till import Till, fresh_key, open_till, wait_until

WINDOWS = 3
WINDOW_SECONDS = 3.0
BUYERS = 20
# What a machine with other work adds to a single request now and then; below it a ratio says nothing.
NOISE_SECONDS = 0.025


@pytest.fixture
def shop(
    make_database: Callable[[], str], make_token: Callable[..., str], tmp_path: Path
) -> Iterator[tuple[Till, Simulator]]:
    """A shop whose gateway is the simulator, with a breaker that nobody has opened yet."""
    with simulator(tmp_path) as gateway:
        settings = {
            "COUNTERFOIL_GATEWAY": "stripe",
            "COUNTERFOIL_STRIPE_KEY": API_KEY,
            "COUNTERFOIL_STRIPE_URL": gateway.url,
            "COUNTERFOIL_CALLBACK_SECRETS": SECRET,
            # What is unknown is looked at in ten seconds: no looks among the calls that are counted.
            "COUNTERFOIL_RESOLVER_SPEED": "1",
        }
        with open_till(make_database(), make_token, tmp_path, worker=False, **settings) as till:
            yield till, gateway


def p99_of_other_requests(till: Till, product: int) -> float:
    """Place, read and list orders for a while, four at a time; the best of a few windows, in seconds."""
    return min(_p99(till, product) for _ in range(WINDOWS))


def _p99(till: Till, product: int) -> float:
    seconds: list[float] = []
    end = time.monotonic() + WINDOW_SECONDS

    def shop_around() -> None:
        while time.monotonic() < end:
            body = {"items": [{"product_id": product, "quantity": 1}]}
            place = partial(till.customer.post, "/api/v1/orders", json=body, headers=fresh_key())
            order = _timed(seconds, place)
            for path in (f"/api/v1/orders/{order.json()['id']}", "/api/v1/orders?limit=10"):
                _timed(seconds, partial(till.customer.get, path))

    threads = [threading.Thread(target=shop_around) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seconds) > 100
    return sorted(seconds)[int(len(seconds) * 0.99)]


def _timed(seconds: list[float], call: Callable[[], httpx.Response]) -> httpx.Response:
    started = time.monotonic()
    answer = call()
    seconds.append(time.monotonic() - started)
    assert answer.is_success, answer.text
    return answer


def test_a_gateway_that_answers_after_29_seconds_does_not_slow_the_others_down(shop: tuple[Till, Simulator]) -> None:
    till, gateway = shop
    product = till.product(stock=1_000_000)
    orders = [till.order(product=product) for _ in range(BUYERS)]

    def buy(order: int) -> None:
        with suppress(httpx.TransportError):
            till.pay(order)

    with till.worker() as worker:
        baseline = p99_of_other_requests(till, product)
        gateway.plan(slow=1.0, slow_seconds=29)
        buyers = [threading.Thread(target=buy, args=[order]) for order in orders]
        for buyer in buyers:
            buyer.start()
        # As many calls as the bulkhead lets pass hang there.
        wait_until(lambda: gateway.control("GET", "state")["requests"] >= 8)

        slowed = p99_of_other_requests(till, product)

        hanging = gateway.control("GET", "state")
        # It would finish its calls first, which take half a minute: a kill is as good here.
        worker.kill()
    for buyer in buyers:
        buyer.join()

    print(f"p99 of other requests: {1000 * baseline:.1f} ms, and {1000 * slowed:.1f} ms while the gateway hangs")
    assert (hanging["requests"], hanging["payments"]) == (8, 0)
    assert slowed <= 2 * max(baseline, NOISE_SECONDS)


def test_the_breaker_opens_within_five_failures_fails_fast_and_closes_after_healing(
    shop: tuple[Till, Simulator],
) -> None:
    till, gateway = shop
    product = till.product()
    hang_seconds = 1.0

    def pay_one() -> tuple[httpx.Response, float, int]:
        """Pay a new order; returns the answer, how long it took, and how many calls reached the gateway."""
        before, started = gateway.control("GET", "state")["requests"], time.monotonic()
        answer = till.pay(till.order(product=product, quantity=1))
        return answer, time.monotonic() - started, gateway.control("GET", "state")["requests"] - before

    with till.worker():
        assert pay_one()[0].status_code == 201
        gateway.plan(hang_before_charge=1.0, hang_seconds=hang_seconds)
        first, _, first_calls = pay_one()
        second, _, second_calls = pay_one()
        shed = [pay_one() for _ in range(3)]

        # One attempt and three repetitions for each payment, and five failures in all.
        assert (first.status_code, second.status_code) == (202, 202)
        assert first_calls == 4
        assert second_calls == 1
        for answer, seconds, calls in shed:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "GATEWAY_UNAVAILABLE")
            assert answer.headers["retry-after"].isdecimal()
            assert calls == 0
            assert seconds < hang_seconds

        gateway.plan()
        # One order, asked for again and again: new ones would have used the stock up before the breaker closes.
        healed_at, order = time.monotonic(), till.order(product=product, quantity=1)
        wait_until(lambda: till.pay(order).status_code == 201, seconds=60)

        assert time.monotonic() - healed_at <= 30
