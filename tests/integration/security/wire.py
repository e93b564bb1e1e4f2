"""Requests that no client library would send."""

from __future__ import annotations

import socket
from collections.abc import Iterator


def exchange(url: str, data: bytes, *, seconds: float = 10) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        connection.settimeout(seconds)
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
            head, end, body = answer.partition(b"\r\n\r\n")
            length = next((int(v) for n, v in _fields(head) if n == b"content-length"), 0)
            if end and len(body) >= length:
                break
        return answer


def _fields(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name.strip().lower(), value.strip()
