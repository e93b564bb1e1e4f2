"""How a request is answered whose outcome somebody else decides: begin, wait a while, and tell what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar

import msgspec
from litestar import Response
from litestar.concurrency import sync_to_thread

from counterfoil.api.answers import AnyRequest, answer_bytes, fingerprint_of, request_id
from counterfoil.api.bodies import header
from counterfoil.api.errors import PROBLEM_TYPE, problem_body, status_of
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import encode_body
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.infrastructure.idempotency import (
    KEY_HOURS_LONG,
    Answer,
    IdempotencyKeyMissing,
    begin_once,
    finish_once,
    read_key,
)
from counterfoil.infrastructure.wakeups import Wakeups
from counterfoil.kernel.errors import DomainError

T = TypeVar("T")

# How long a client waits for a gateway before it is told where to look: most are decided in two seconds, and a proxy's
# patience ends at thirty.
WAIT_SECONDS_MAX: Final = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is answered for what is seen: a value with its status, or a refusal. One that is `final` is stored."""

    status: int = 200
    value: Any = None
    error: DomainError | None = None
    final: bool = True


@dataclass(frozen=True, slots=True)
class Undertaking(Generic[T]):
    """What a request begins. Everything here runs in threads.

    `begin` joins the transaction of the key; it gets the key and, in a repetition before the answer, what was begun
    first. It returns the id of what it began, or an answer when there is nothing to wait for. `look` reads it,
    `is_known` tells whether waiting is over, `judge` turns it into the answer. `authorise` raises when a repetition may
    not have it. `wakes` is the id of the payment that is told of, when that is not what was begun.
    """

    begin: Callable[[str, int | None], Answer | int]
    look: Callable[[int], T]
    is_known: Callable[[T], bool]
    judge: Callable[[T], Verdict]
    authorise: Callable[[], None]
    wakes: int | None = None


class _Located(msgspec.Struct):
    status_url: str | None = None


_located: Final = msgspec.json.Decoder(_Located)


async def answer_when_known(request: AnyRequest, body: Any, undertaking: Undertaking[Any]) -> Response[Any]:
    """Begin something under the request's key, wait for it for WAIT_SECONDS_MAX, and answer with what is known then.

    A repetition gets the stored answer, or waits for the same thing. Raises IdempotencyKeyMissing, and whatever
    `begin` or a verdict that is not final raises.
    """
    key = read_key(header(request, b"idempotency-key"))
    if key is None:
        raise IdempotencyKeyMissing
    owner, fingerprint = current_actor(request).principal, fingerprint_of(request, body)
    begun = await _in_thread(
        lambda: begin_once(
            principal=owner,
            key=key,
            fingerprint=fingerprint,
            hours=KEY_HOURS_LONG,
            begin=lambda known: undertaking.begin(key, known),
            authorise=undertaking.authorise,
        )
    )
    if isinstance(begun, Answer):
        return _send(begun)
    verdict = undertaking.judge(await _wait(request, begun, undertaking))
    if not verdict.final and verdict.error is not None:
        raise verdict.error
    said = _say(request, verdict)
    if not verdict.final:
        return _send(said)
    return _send(await _in_thread(lambda: finish_once(principal=owner, key=key, fingerprint=fingerprint, answer=said)))


async def _wait(request: AnyRequest, begun: int, undertaking: Undertaking[T]) -> T:
    wakeups: Wakeups = request.app.state.wakeups

    async def look() -> T:
        return await _in_thread(lambda: undertaking.look(begun))

    return await wakeups.wait_for(
        str(undertaking.wakes or begun), look=look, is_known=undertaking.is_known, seconds=WAIT_SECONDS_MAX
    )


async def _in_thread(function: Callable[[], T]) -> T:
    return await sync_to_thread(run_in_thread, function)


def _say(request: AnyRequest, verdict: Verdict) -> Answer:
    error = verdict.error
    if error is None:
        return Answer(verdict.status, encode_body(verdict.value), replayed=False)
    status = status_of(type(error))
    body = problem_body(
        status=status, code=error.code, message=error.message, details=error.details, request_id=request_id(request)
    )
    return Answer(status, body, replayed=False)


def _send(said: Answer) -> Response[Any]:
    if said.status >= HTTPStatus.BAD_REQUEST:
        return answer_bytes(said.body, status=said.status, replayed=said.replayed, media_type=PROBLEM_TYPE)
    return answer_bytes(
        said.body, status=said.status, replayed=said.replayed, location=_located.decode(said.body).status_url
    )
