"""What racing clients send, what they remember, and how they start together."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from counterfoil.proof.load_client import Answer, Exchange, LoadLimits, LoadResult, render_request, run_load

ORDERS = "/api/v1/orders"


@dataclass(frozen=True)
class Intent:
    """One order as its client means it, written down before it is sent."""

    key: str
    token: str
    lines: tuple[tuple[int, int], ...]
    reference: str | None = None
    coupon: str | None = None

    @property
    def body(self) -> bytes:
        items = [{"product_id": product, "quantity": quantity} for product, quantity in self.lines]
        reference = {"client_reference": self.reference} if self.reference else {}
        coupons = {"coupon_codes": [self.coupon]} if self.coupon else {}
        return json.dumps({"items": items} | reference | coupons).encode()

    def exchange(self, url: str) -> Exchange:
        payload = render_request(url, "POST", ORDERS, token=self.token, body=self.body, idempotency_key=self.key)
        return Exchange(payload, self)


@dataclass
class Ledger:
    """The clients' memory: every answer to every intent."""

    answers: dict[Intent, Answer] = field(default_factory=dict)

    def note(self, answer: Answer) -> None:
        self.answers[answer.tag] = answer

    @property
    def accepted(self) -> dict[Intent, int]:
        return {i: int(json.loads(a.body)["id"]) for i, a in self.answers.items() if a.status == 201}

    @property
    def outcomes(self) -> Counter[tuple[int, str]]:
        return Counter((answer.status, answer.code) for answer in self.answers.values())

    def units(self) -> dict[int, int]:
        sold: defaultdict[int, int] = defaultdict(int)
        for intent in self.accepted:
            for product, quantity in intent.lines:
                sold[product] += quantity
        return dict(sold)


def new_key() -> str:
    return secrets.token_hex(16)


def send(url: str, intents: Sequence[Intent], ledger: Ledger, *, clients: int) -> LoadResult:
    exchanges = (intent.exchange(url) for intent in intents)
    return run_load(url, exchanges, LoadLimits(clients, seconds_max=60), on_answer=ledger.note)


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


class Barrier:
    """Kept connections whose requests are completed together: each holds back its last byte until all are there."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = [urlsplit(address) for address in addresses]
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def release(self, payloads: Sequence[bytes]) -> list[Reply]:
        """Send payload n to address n modulo their number; returns the replies in the order of the payloads."""
        while len(self._streams) < len(payloads):
            address = self._addresses[len(self._streams) % len(self._addresses)]
            self._streams.append(await asyncio.open_connection(address.hostname, address.port))
        streams = self._streams[: len(payloads)]
        for (_, writer), payload in zip(streams, payloads, strict=True):
            writer.write(payload[:-1])
        await asyncio.gather(*(writer.drain() for _, writer in streams))
        for (_, writer), payload in zip(streams, payloads, strict=True):
            writer.write(payload[-1:])
        async with asyncio.timeout(30):
            return await asyncio.gather(*(_read_reply(reader) for reader, _ in streams))

    async def close(self) -> None:
        for _, writer in self._streams:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in self._streams))


class _Message:
    """Collects one response (the parser calls these by name)."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


async def _read_reply(reader: asyncio.StreamReader) -> Reply:
    message = _Message()
    parser = httptools.HttpResponseParser(message)
    while not message.complete:
        data = await reader.read(65_536)
        assert data, "the connection ended before the answer did"
        parser.feed_data(data)
    return Reply(parser.get_status_code(), message.headers, message.body)
