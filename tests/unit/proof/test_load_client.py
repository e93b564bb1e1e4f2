"""The load client against a real socket server that answers byte by byte what a test wants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from counterfoil.proof.load_client import (
    NO_ANSWER,
    REPEATS_MAX,
    Answer,
    Exchange,
    LoadLimits,
    LoadResult,
    percentile,
    read_code,
    render_request,
    run_load,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers the n-th request (from 0) with what `script` returns for it; b"" closes the connection instead."""

    def __init__(self, script: Callable[[int, bytes], bytes], *, piece: int, delay: float) -> None:
        self.requests: list[bytes] = []
        self.url = ""
        self._script = script
        self._piece = piece
        self._delay = delay

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self._script(len(self.requests) - 1, self.requests[-1])
                if self._delay:
                    await asyncio.sleep(self._delay)
                for start in range(0, len(answer), self._piece):
                    writer.write(answer[start : start + self._piece])
                    await writer.drain()
                if not answer or b"Connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextmanager
def serving(script: Callable[[int, bytes], bytes], *, piece: int = 1 << 16, delay: float = 0.0) -> Iterator[Server]:
    server = Server(script, piece=piece, delay=delay)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        listener.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(5)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


def gets(url: str, count: int) -> list[Exchange]:
    return [Exchange(render_request(url, "GET", f"/{number}"), number) for number in range(count)]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, 0.0),
        ([7.0], 99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 75, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 100, 4.0),
        ([float(n) for n in range(1, 1001)], 99, 990.0),
        ([float(n) for n in range(1, 1001)], 99.9, 999.0),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_a_request_is_rendered_with_its_headers_and_body() -> None:
    request = render_request(
        "http://127.0.0.1:8000", "POST", "/api/v1/orders", token="t", body=b'{"a":1}', idempotency_key="k" * 16
    )

    assert request == (
        b"POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAuthorization: Bearer t\r\n"
        b"Idempotency-Key: kkkkkkkkkkkkkkkk\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        b'{"a":1}'
    )


def test_every_request_is_sent_once_and_its_answer_comes_back_with_its_tag() -> None:
    answers: list[Answer] = []
    with serving(lambda _, request: OK.replace(b"{}", request.split(b" ")[1][1:].rjust(2))) as server:
        result = run_load(server.url, gets(server.url, 50), LoadLimits(8, 10.0), on_answer=answers.append)

    assert sorted(answer.tag for answer in answers) == list(range(50))
    assert all(int(answer.body) == answer.tag for answer in answers)
    assert result.outcomes == {(200, ""): 50}
    assert (result.answered, result.count(200), result.repeats) == (50, 50, 0)
    assert len(server.requests) == 50


def test_an_answer_may_come_in_pieces_of_one_byte_and_in_chunks() -> None:
    chunked = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    answers: list[Answer] = []
    with serving(lambda *_: chunked, piece=1) as server:
        run_load(server.url, gets(server.url, 3), LoadLimits(1, 10.0), on_answer=answers.append)

    assert [(answer.status, answer.body) for answer in answers] == [(201, b"abcdefg")] * 3


def test_the_code_of_a_problem_and_a_replay_are_told() -> None:
    body = b'{"status":409,"error":{"code":"INSUFFICIENT_INVENTORY","message":"","details":{}},"request_id":"r"}'
    head = b"HTTP/1.1 409 Conflict\r\nIdempotent-Replayed: true\r\nContent-Length: %d\r\n\r\n" % len(body)
    answers: list[Answer] = []
    with serving(lambda *_: head + body) as server:
        result = run_load(server.url, gets(server.url, 1), LoadLimits(1, 10.0), on_answer=answers.append)

    assert result.outcomes == {(409, "INSUFFICIENT_INVENTORY"): 1}
    assert [answer.replayed for answer in answers] == [True]
    assert read_code(b"<html>") == ""


def test_a_request_whose_connection_dies_is_repeated_with_the_same_bytes() -> None:
    with serving(lambda number, _: b"" if number < 2 else OK) as server:
        result = run_load(server.url, gets(server.url, 1), LoadLimits(1, 10.0))

    assert len(server.requests) == 3
    assert len(set(server.requests)) == 1
    assert result.outcomes == {(200, ""): 1}
    assert result.repeats == 2


def test_a_repeated_request_waits_for_the_answer_to_its_first_attempt() -> None:
    body = b'{"error":{"code":"IDEMPOTENCY_IN_PROGRESS"}}'
    running = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with serving(lambda number, _: (b"", running, OK)[number]) as server:
        result = run_load(server.url, gets(server.url, 1), LoadLimits(1, 10.0))

    assert result.outcomes == {(200, ""): 1}


def test_a_first_request_that_is_told_to_wait_is_not_repeated() -> None:
    body = b'{"error":{"code":"IDEMPOTENCY_IN_PROGRESS"}}'
    running = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with serving(lambda *_: running) as server:
        result = run_load(server.url, gets(server.url, 1), LoadLimits(1, 10.0))

    assert result.outcomes == {(409, "IDEMPOTENCY_IN_PROGRESS"): 1}


def test_repeats_are_bounded_and_an_unanswered_request_is_counted() -> None:
    with serving(lambda *_: b"") as server:
        result = run_load(server.url, gets(server.url, 1), LoadLimits(1, 60.0))

    assert len(server.requests) == REPEATS_MAX + 1
    assert result.outcomes == {(0, NO_ANSWER): 1}


def test_what_is_not_http_ends_the_connection_and_counts_as_no_answer() -> None:
    with serving(lambda *_: b"garbage\r\n\r\n") as server:
        result = run_load(server.url, gets(server.url, 1), LoadLimits(1, 60.0))

    assert result.outcomes == {(0, NO_ANSWER): 1}


def test_a_connection_that_the_server_closes_after_its_answer_is_replaced() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serving(lambda *_: closing) as server:
        result = run_load(server.url, gets(server.url, 3), LoadLimits(1, 10.0))

    assert result.outcomes == {(200, ""): 3}
    assert len(server.requests) == 3


def test_the_closed_loop_ends_at_the_number_of_requests() -> None:
    with serving(lambda *_: OK) as server:
        result = run_load(server.url, gets(server.url, 50), LoadLimits(4, 10.0, requests_max=10))

    assert result.answered == len(server.requests) == 10


def test_the_closed_loop_ends_in_time_and_finishes_what_is_under_way() -> None:
    with serving(lambda *_: OK, delay=0.05) as server:
        started = time.perf_counter()
        result = run_load(server.url, gets(server.url, 10_000), LoadLimits(2, 0.2))

    assert time.perf_counter() - started < 2
    assert result.outcomes == {(200, ""): len(server.requests)}


def test_the_open_loop_keeps_its_rate_of_arrival() -> None:
    with serving(lambda *_: OK) as server:
        result = run_load(server.url, gets(server.url, 1000), LoadLimits(4, 0.5, rate_per_s=100))

    assert result.answered == 50
    assert 0.45 < result.seconds < 1


def test_an_open_loop_latency_counts_from_when_the_request_was_due() -> None:
    # One connection, 20 ms per answer, one request due every 10 ms: the n-th answer is 20 + 10 * n ms late.
    with serving(lambda *_: OK, delay=0.02) as server:
        result = run_load(server.url, gets(server.url, 10), LoadLimits(1, 0.1, rate_per_s=100))

    assert result.answered == 10
    assert result.latencies_ms[-1] > 105
    assert result.latencies_ms[0] < result.latencies_ms[-1]


def test_results_of_two_runs_add_up() -> None:
    first, later = LoadResult(seconds=1.0, repeats=1), LoadResult(seconds=2.0, repeats=2)
    first.latencies_ms.extend([1.0, 2.0])
    first.outcomes[201, ""] = 2
    later.latencies_ms.append(9.0)
    later.outcomes[201, ""] = 1

    first.add(later)

    assert (first.answered, first.count(201), first.seconds, first.repeats) == (3, 3, 3.0, 3)
    assert first.per_second(201) == 1.0
    assert first.percentile_ms(99) == 9.0
