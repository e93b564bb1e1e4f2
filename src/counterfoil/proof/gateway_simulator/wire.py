"""HTTP/1.1 on asyncio, small enough to be impolite: it can fall silent, reset, and cut an answer short."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import httptools

BODY_BYTES_MAX: Final = 1024 * 1024
# Closing with this option sends a reset instead of a farewell.
_LINGER_NOT: Final = struct.pack("ii", 1, 0)


class Ending(Enum):
    """How an answer ends on the wire."""

    WHOLE = "the whole answer"
    CUT = "head and half of the body, then a reset"
    SILENT = "no answer at all, the connection is closed"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `gone` is set when the client has hung up. Names in `headers` are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and how it ends."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    ending: Ending = Ending.WHOLE


SILENCE: Final = Reply(0, b"", ending=Ending.SILENT)

Handler = Callable[[Request], Awaitable[Reply]]


async def listen(handler: Handler, *, port: int) -> asyncio.Server:
    """Serve on 127.0.0.1 and nowhere else; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(handler), "127.0.0.1", port)


class _Connection(asyncio.Protocol):
    """One client's connection; requests on it are answered one after the other."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._gone = asyncio.Event()
        self._waiting: asyncio.Queue[Request] = asyncio.Queue()
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._worker = asyncio.get_running_loop().create_task(self._answer_all())

    def connection_lost(self, _error: Exception | None) -> None:
        self._gone.set()
        # A request that is being executed is finished: a gateway does not undo a charge because the client left.
        if self._waiting.empty():
            self._waiting.put_nowait(_END)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.write(_render(Reply(HTTPStatus.BAD_REQUEST, b"{}")))
            self._transport.close()

    # ------------------------------------------------------------ called by the parser
    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_BYTES_MAX:
            self._transport.abort()

    def on_message_complete(self) -> None:
        parts = urlsplit(self._url.decode("latin-1"))
        method = self._parser.get_method().decode()
        request = Request(method, unquote(parts.path), parts.query, self._headers, bytes(self._body), self._gone)
        self._waiting.put_nowait(request)

    # ------------------------------------------------------------ answering
    async def _answer_all(self) -> None:
        while (request := await self._waiting.get()) is not _END:
            reply = await self._handler(request)
            if self._gone.is_set():
                return
            if reply.ending is Ending.SILENT:
                self._transport.close()
                return
            data = _render(reply)
            if reply.ending is Ending.CUT:
                await self._cut(data, len(reply.body))
                return
            self._transport.write(data)
            if request.headers.get("connection", "").lower() == "close":
                self._transport.close()
                return

    async def _cut(self, data: bytes, body_bytes: int) -> None:
        self._transport.write(data[: len(data) - body_bytes // 2])
        # What was sent must arrive before the reset overtakes it.
        await asyncio.sleep(_ARRIVE_SECONDS)
        connection: Any = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()


_ARRIVE_SECONDS: Final = 0.02
_END: Final = Request("", "", "", {}, b"", asyncio.Event())


def _render(reply: Reply) -> bytes:
    head = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", f"Content-Length: {len(reply.body)}"]
    head += [f"{name}: {value}" for name, value in {"Content-Type": "application/json", **reply.headers}.items()]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + reply.body
