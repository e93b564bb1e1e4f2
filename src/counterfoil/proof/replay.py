"""Real baskets as orders over HTTP, in the order in which they were bought."""

from __future__ import annotations

import http.client
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from counterfoil.proof.load_client import Answer, Exchange, LoadLimits, LoadResult, read_code, render_request, run_load

API_PATH: Final = "/api/v1"
# What a shop may say to a right order; any other refusal is a fault of somebody.
DOCUMENTED_REFUSALS: Final = frozenset({"INSUFFICIENT_INVENTORY"})
_PAGE: Final = 200
# Requests are made ready in slices before they are sent: reading baskets then costs no latency, and memory stays flat.
_SLICE: Final = 20_000
_SAMPLE: Final = 200
_PROGRESS_EVERY: Final = 50
_SECONDS_MAX: Final = 86_400.0


class ReplayFailed(Exception):
    """The replay cannot begin; the text is one sentence with the next step."""


class Basket(Protocol):
    """What was bought at once: by whom, and (SKU, units)."""

    @property
    def basket_id(self) -> str:
        """The basket's own id."""

    @property
    def email(self) -> str:
        """The customer's address."""

    @property
    def lines(self) -> tuple[tuple[str, int], ...]:
        """SKU and units, each SKU once."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Ids of the service by what the baskets know: SKU and e-mail address."""

    products: dict[str, int]
    users: dict[str, int]


@dataclass(slots=True)
class ReplayResult:
    """What became of the baskets. `unreadable` are accepted orders of the sample that could not be read back."""

    load: LoadResult = field(default_factory=LoadResult)
    baskets_left_out: int = 0
    lines_left_out: int = 0
    replayed: int = 0
    sample_checked: int = 0
    unreadable: list[int] = field(default_factory=list)

    @property
    def refused(self) -> dict[str, int]:
        """How many orders were refused for each documented reason."""
        return {code: count for (_, code), count in self.load.outcomes.items() if code in DOCUMENTED_REFUSALS}

    @property
    def unexplained(self) -> dict[str, int]:
        """How many answers there were that a right order must not get."""
        return {
            f"{status} {code}".strip(): count
            for (status, code), count in self.load.outcomes.items()
            if status != HTTPStatus.CREATED and code not in DOCUMENTED_REFUSALS
        }


def make_report(result: ReplayResult) -> dict[str, Any]:
    """Turn a result into the report: plain values, ready for JSON."""
    load = result.load
    return {
        "sent": load.answered,
        "accepted": load.count(HTTPStatus.CREATED),
        "refused": result.refused,
        "orders_per_s": round(load.per_second(), 1),
        "p50_ms": round(load.percentile_ms(50), 2),
        "p95_ms": round(load.percentile_ms(95), 2),
        "p99_ms": round(load.percentile_ms(99), 2),
        "unexplained": result.unexplained,
        "already_placed": result.replayed,
        "repeated_requests": load.repeats,
        "baskets_left_out": result.baskets_left_out,
        "lines_left_out": result.lines_left_out,
        "sample_checked": result.sample_checked,
        "sample_unreadable": result.unreadable,
        "seconds": round(load.seconds, 2),
    }


# ---------------------------------------------------------------- finding ids
class _Product(msgspec.Struct):
    id: int
    sku: str


class _User(msgspec.Struct):
    id: int
    email: str


class _ProductPage(msgspec.Struct):
    items: list[_Product]
    next: str | None


class _UserPage(msgspec.Struct):
    items: list[_User]
    next: str | None


def fetch_directory(url: str, token: str, *, on_progress: Callable[[str, int], None]) -> Directory:
    """Read all products and accounts page by page; `on_progress` gets what and how many so far.

    `token` is an administrator's. Raises ReplayFailed when the service cannot be reached or refuses.
    """
    products: dict[str, int] = {}
    for body in _read_pages(url, f"{API_PATH}/products?limit={_PAGE}", token):
        page = msgspec.json.decode(body, type=_ProductPage)
        products.update((item.sku, item.id) for item in page.items)
        on_progress("products", len(products))
    users: dict[str, int] = {}
    for body in _read_pages(url, f"{API_PATH}/users?limit={_PAGE}", token):
        people = msgspec.json.decode(body, type=_UserPage)
        users.update((item.email, item.id) for item in people.items)
        on_progress("customers", len(users))
    return Directory(products, users)


class _Next(msgspec.Struct):
    next: str | None


def _read_pages(url: str, path: str, token: str) -> Iterator[bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=30)
    address: str | None = path
    try:
        while address is not None:
            connection.request("GET", address, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read()
            _require_ok(answer.status, body, url)
            yield body
            address = msgspec.json.decode(body, type=_Next).next
    except (OSError, http.client.HTTPException) as error:
        raise ReplayFailed(f"{url} cannot be reached ({error}); is the service up? Start it with `make up`.") from error
    finally:
        connection.close()


def _require_ok(status: int, body: bytes, url: str) -> None:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise ReplayFailed(
            f"{url} does not take this token ({read_code(body)}); it must be an administrator's and is valid for one"
            " hour: start the service again for a fresh one, or pass --token."
        )
    if status != HTTPStatus.OK:
        raise ReplayFailed(f"{url} answered {status} {read_code(body)} to a list; look into its log.")


# ---------------------------------------------------------------- sending
@dataclass(frozen=True, slots=True)
class _Ordered:
    """What was asked for, to be compared with what is stored."""

    user_id: int
    units: dict[int, int]


class _Item(msgspec.Struct):
    product_id: int
    quantity: int


class _Order(msgspec.Struct):
    id: int
    user_id: int
    items: list[_Item]


_order = msgspec.json.Decoder(_Order)


class Replay:
    """One replay of baskets. The same `run` gives the same Idempotency-Keys: nothing is placed twice."""

    def __init__(self, url: str, token: str, directory: Directory, *, run: str, concurrency: int) -> None:
        self._url = url
        self._token = token
        self._directory = directory
        self._run = run
        self._concurrency = concurrency
        self._result = ReplayResult()
        self._accepted = 0
        self._sample: list[tuple[int, _Ordered]] = []
        self._randomness = random.Random(0)  # noqa: S311 - which orders are read back, not a secret

    def send(self, baskets: Iterable[Basket], *, on_progress: Callable[[int], None]) -> ReplayResult:
        """Send every basket in its order, then read a sample of the accepted orders back.

        `on_progress` gets how many baskets are done. Raises ReplayFailed when no basket can be made into an order.
        """
        result = self._result
        remaining = iter(baskets)
        done = 0

        def answered(answer: Answer) -> None:
            nonlocal done
            done += 1
            self._remember(answer)
            if done % _PROGRESS_EVERY == 0:
                on_progress(done + result.baskets_left_out)

        limits = LoadLimits(self._concurrency, _SECONDS_MAX)
        while baskets_read := list(islice(remaining, _SLICE)):
            exchanges = [exchange for basket in baskets_read if (exchange := self._render(basket)) is not None]
            result.load.add(run_load(self._url, exchanges, limits, on_answer=answered))
        on_progress(done + result.baskets_left_out)
        if done == 0:
            raise ReplayFailed(
                "None of the baskets' products and customers is in this service; load them first with"
                " `counterfoil load-demo --source complete-journey`."
            )
        self._read_back()
        return result

    def _render(self, basket: Basket) -> Exchange | None:
        """Make the order of a basket; None when its customer or all of its products are not in the service."""
        user_id = self._directory.users.get(basket.email)
        known = [
            (self._directory.products[sku], units) for sku, units in basket.lines if sku in self._directory.products
        ]
        if user_id is None or not known:
            self._result.baskets_left_out += 1
            return None
        self._result.lines_left_out += len(basket.lines) - len(known)
        items = [{"product_id": product_id, "quantity": units} for product_id, units in known]
        payload = render_request(
            self._url,
            "POST",
            f"{API_PATH}/orders",
            token=self._token,
            body=msgspec.json.encode({"user_id": user_id, "items": items}),
            idempotency_key=f"replay-{self._run}-basket-{basket.basket_id}",
        )
        return Exchange(payload, _Ordered(user_id, dict(known)))

    def _remember(self, answer: Answer) -> None:
        """Count replays and keep a fair sample of the accepted orders (algorithm R)."""
        if answer.status != HTTPStatus.CREATED:
            return
        self._accepted += 1
        self._result.replayed += answer.replayed
        place = self._accepted - 1 if self._accepted <= _SAMPLE else self._randomness.randrange(self._accepted)
        if place < _SAMPLE:
            kept = (_order.decode(answer.body).id, answer.tag)
            self._sample[place : place + 1] = [kept]

    def _read_back(self) -> None:
        result = self._result

        def compare(answer: Answer) -> None:
            order_id, ordered = answer.tag
            result.sample_checked += 1
            if answer.status != HTTPStatus.OK or not _is_same(_order.decode(answer.body), order_id, ordered):
                result.unreadable.append(order_id)

        reads = [
            Exchange(render_request(self._url, "GET", f"{API_PATH}/orders/{kept[0]}", token=self._token), kept)
            for kept in self._sample
        ]
        run_load(self._url, reads, LoadLimits(min(self._concurrency, 8), _SECONDS_MAX), on_answer=compare)


def _is_same(order: _Order, order_id: int, ordered: _Ordered) -> bool:
    units = Counter[int]()
    for item in order.items:
        units[item.product_id] += item.quantity
    return order.id == order_id and order.user_id == ordered.user_id and units == ordered.units
