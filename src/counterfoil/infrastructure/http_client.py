"""One HTTP call to somebody else's server, with a deadline that holds, and the truth about whether it was sent.

A connection serves one call. It costs a round trip or two more than a kept one, and in exchange a refused or broken
connection is never mistaken for one that took the request: what fails before `connect` returns was not sent.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

# The answers that we ask for have kilobytes; more than this is not an answer.
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
_READ_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Names in `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class NotSent(Exception):
    """Not one byte of the request has left; `code` says what failed."""

    def __init__(self, code: str) -> None:
        """Keep the reason as one word."""
        super().__init__(code)
        self.code = code


class NoAnswer(Exception):
    """The request was sent, at least in part, and no whole answer came; `code` says what failed."""

    def __init__(self, code: str) -> None:
        """Keep the reason as one word."""
        super().__init__(code)
        self.code = code


class HttpClient:
    """Calls servers; keeps nothing between calls, so any number of threads may share it."""

    def __init__(
        self,
        *,
        connect_seconds_max: float,
        total_seconds_max: float,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the deadlines: to be connected, TLS included, and to have the whole answer. `ca_file`: whom to trust."""
        self._connect_seconds_max = connect_seconds_max
        self._total_seconds_max = total_seconds_max
        self._clock = clock
        self._tls = ssl.create_default_context(cafile=ca_file)

    def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send one request and return the whole answer, whatever its status; follows no redirection.

        Raises NotSent or NoAnswer, within the deadlines. Looking up a name has the operating system's own limit.
        """
        started = self._clock()
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        stream = self._connect(host, port, deadline=started + self._connect_seconds_max)
        try:
            if parts.scheme == "https":
                stream = self._encrypt(stream, host, deadline=started + self._connect_seconds_max)
            connection = http.client.HTTPConnection(host, port)
            connection.sock = _Deadlined(stream, deadline=started + self._total_seconds_max, clock=self._clock)
            return _exchange(connection, method, parts._replace(scheme="", netloc="").geturl() or "/", headers, body)
        finally:
            stream.close()

    def _connect(self, host: str, port: int, *, deadline: float) -> socket.socket:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NotSent("name_unknown") from error
        code = "connect_timeout"
        for family, kind, protocol, _, address in addresses:
            seconds = deadline - self._clock()
            if seconds <= 0:
                break
            stream = socket.socket(family, kind, protocol)
            stream.settimeout(seconds)
            try:
                stream.connect(address)
            except TimeoutError:
                stream.close()
            except OSError:
                stream.close()
                code = "connection_refused"
            else:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return stream
        raise NotSent(code)

    def _encrypt(self, stream: socket.socket, host: str, *, deadline: float) -> ssl.SSLSocket:
        # A timeout of zero would mean not to wait at all, which is another mode.
        stream.settimeout(max(deadline - self._clock(), 0.001))
        try:
            return self._tls.wrap_socket(stream, server_hostname=host)
        except TimeoutError as error:
            raise NotSent("tls_timeout") from error
        except (OSError, ValueError) as error:
            raise NotSent("tls_failed") from error


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> Answer:
    try:
        connection.request(method, target, body=body, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        if answer.length is None and not answer.chunked:
            # It ends when the connection does: nobody could tell the whole of it from a part.
            raise NoAnswer("answer_cut")
        content = bytearray()
        while chunk := answer.read(_READ_BYTES):
            content += chunk
            if len(content) > ANSWER_BYTES_MAX:
                raise NoAnswer("answer_too_long")
        if answer.length:  # closed in an orderly way, but before its end
            raise NoAnswer("answer_cut")
    except TimeoutError as error:
        raise NoAnswer("timeout") from error
    except http.client.IncompleteRead as error:
        raise NoAnswer("answer_cut") from error
    except ConnectionError as error:
        raise NoAnswer("connection_reset") from error
    except http.client.HTTPException as error:
        raise NoAnswer("answer_malformed") from error
    except OSError as error:  # TLS that breaks off, a network that goes away
        raise NoAnswer("connection_broken") from error
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, bytes(content))


class _Deadlined:
    """A connected socket, as far as `http.client` needs one, whose every wait ends at one instant.

    A timeout on a socket bounds the wait for the next packet; a server that drips would hold us for ever.
    """

    def __init__(self, stream: socket.socket, *, deadline: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._deadline = deadline
        self._clock = clock

    def sendall(self, data: bytes) -> None:
        self._arm()
        self._stream.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", "http.client reads answers as bytes"
        return io.BufferedReader(_Reader(self._receive))

    def close(self) -> None:
        """Leave the socket to whoever opened it."""

    def _receive(self, buffer: memoryview) -> int:
        self._arm()
        return self._stream.recv_into(buffer)

    def _arm(self) -> None:
        seconds = self._deadline - self._clock()
        if seconds <= 0:
            raise TimeoutError
        self._stream.settimeout(seconds)


class _Reader(io.RawIOBase):
    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        self._receive = receive

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._receive(buffer)
