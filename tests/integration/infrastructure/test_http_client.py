"""The HTTP client against servers that misbehave: was it sent, did an answer come, and is the deadline kept."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conftest import free_port
from counterfoil.infrastructure import http_client
from counterfoil.infrastructure.http_client import Answer, HttpClient, NoAnswer, NotSent

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: value\r\n\r\nok"
# Far longer than any deadline below: a server that would hold the client for ever, as seen from here.
EVER_SECONDS = 30


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Take one connection, read its request, and let `serve` answer it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(EVER_SECONDS)

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(EVER_SECONDS)
            try:
                serve(connection)
            except OSError:  # the client has hung up, which is what some of these wait for
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/path?query=1"
    finally:
        thread.join()
        listener.close()


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"body"):
        data += connection.recv(65_536)
    return data


def client(*, connect: float = 5.0, total: float = 5.0, ca_file: str | None = None) -> HttpClient:
    return HttpClient(connect_seconds_max=connect, total_seconds_max=total, ca_file=ca_file)


def call(url: str, *, caller: HttpClient | None = None) -> Answer:
    return (caller or client()).call("POST", url, {"X-Ours": "1"}, b"body")


def test_a_whole_answer_comes_back_with_names_in_lower_case() -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(WHOLE)

    with server(serve) as url:
        answer = call(url)

    assert (answer.status, answer.body, answer.headers["x-name"]) == (200, b"ok", "value")
    assert seen[0].startswith(b"POST /path?query=1 HTTP/1.1\r\n")
    assert b"X-Ours: 1\r\n" in seen[0]
    assert b"Content-Length: 4\r\n" in seen[0]


def test_a_redirection_is_an_answer_and_is_not_followed() -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    with server(serve) as url:
        assert call(url).status == 302


# ---------------------------------------------------------------- nothing was sent
def test_a_name_that_nobody_has_was_not_sent_to() -> None:
    with pytest.raises(NotSent, match="name_unknown"):
        call("http://no-such-host.invalid/")


def test_a_refused_connection_was_not_sent() -> None:
    with pytest.raises(NotSent, match="connection_refused"):
        call(f"http://127.0.0.1:{free_port()}/")


def test_a_connection_that_nobody_takes_was_not_sent_and_waits_no_longer_than_it_may() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        # The kernel takes as many as the queue holds; from then on nobody answers.
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        started = time.monotonic()

        with pytest.raises(NotSent, match="connect_timeout"):
            call(url, caller=client(connect=0.3))

        assert 0.25 < time.monotonic() - started < 3
        for filler in fillers:
            filler.close()


def test_a_server_without_tls_was_not_sent_to() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(WHOLE)

    with server(serve) as url, pytest.raises(NotSent, match="tls_failed"):
        call(url.replace("http://", "https://"))


def test_a_handshake_that_hangs_was_not_sent_and_ends_in_time() -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(65_536):  # until the client hangs up
            pass

    started = time.monotonic()
    with server(serve) as url, pytest.raises(NotSent, match="tls_timeout"):
        call(url.replace("http://", "https://"), caller=client(connect=0.3))

    assert time.monotonic() - started < 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody trusts unless told to, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def serve_tls(certificate: tuple[Path, Path]) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            read_request(encrypted)
            encrypted.sendall(WHOLE)

    return serve


def test_a_certificate_that_is_not_trusted_was_not_sent_to(certificate: tuple[Path, Path]) -> None:
    with server(serve_tls(certificate)) as url, pytest.raises(NotSent, match="tls_failed"):
        call(url.replace("http://", "https://"))


def test_a_trusted_certificate_for_another_name_was_not_sent_to(certificate: tuple[Path, Path]) -> None:
    with server(serve_tls(certificate)) as url, pytest.raises(NotSent, match="tls_failed"):
        call(url.replace("http://127.0.0.1", "https://localhost"), caller=client(ca_file=str(certificate[0])))


def test_a_trusted_server_is_spoken_to_encrypted(certificate: tuple[Path, Path]) -> None:
    with server(serve_tls(certificate)) as url:
        answer = call(url.replace("http://", "https://"), caller=client(ca_file=str(certificate[0])))

    assert answer.body == b"ok"


# ---------------------------------------------------------------- sent, and no whole answer
def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    ("sent", "ending", "code"),
    [
        (b"", "close", "connection_reset"),
        (b"", "reset", "connection_reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close", "answer_cut"),
        (b"HTTP/1.1 200 OK\r\n\r\nno length", "close", "answer_cut"),
        (WHOLE[:-1], "close", "answer_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "close", "answer_cut"),
        (b"this is not HTTP\r\n\r\n", "close", "answer_malformed"),
    ],
)
def test_what_breaks_off_after_it_was_sent_is_no_answer(sent: bytes, ending: str, code: str) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(sent)
        if ending == "reset":
            reset(connection)

    with server(serve) as url, pytest.raises(NoAnswer, match=code):
        call(url)


def test_silence_ends_at_the_deadline() -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(65_536):
            pass

    started = time.monotonic()
    with server(serve) as url, pytest.raises(NoAnswer, match="timeout"):
        call(url, caller=client(total=0.3))

    assert 0.25 < time.monotonic() - started < 3


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
def test_a_server_that_drips_does_not_get_more_time_with_every_drop(start: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(start)
        deadline = time.monotonic() + EVER_SECONDS
        while time.monotonic() < deadline:
            connection.sendall(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    with server(serve) as url, pytest.raises(NoAnswer, match="timeout"):
        call(url, caller=client(total=0.5))

    assert time.monotonic() - started < 5


def test_a_deadline_that_passed_between_two_steps_is_a_timeout_like_any_other() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)

    # The start, and the time left to connect; whoever looks again finds the deadline long gone.
    times = iter([0.0, 0.0])
    late = HttpClient(connect_seconds_max=5, total_seconds_max=5, clock=lambda: next(times, 1000.0))
    with server(serve) as url, pytest.raises(NoAnswer, match="timeout"):
        call(url, caller=late)


def test_a_server_that_does_not_read_is_left_at_the_deadline() -> None:
    seen = threading.Event()

    def serve(_: socket.socket) -> None:
        assert seen.wait(EVER_SECONDS)

    with server(serve) as url:
        with pytest.raises(NoAnswer, match="timeout"):
            client(total=0.3).call("POST", url, {}, b"x" * 50_000_000)
        seen.set()


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "ANSWER_BYTES_MAX", 100_000)

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    with server(serve) as url, pytest.raises(NoAnswer, match="answer_too_long"):
        call(url)
