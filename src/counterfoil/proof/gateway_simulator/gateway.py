"""The simulated gateway: idempotency keys, faults, the journal, and one call after the other through the book."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from counterfoil.proof.gateway_simulator.faults import Fault, FaultPlan
from counterfoil.proof.gateway_simulator.forms import parse_form
from counterfoil.proof.gateway_simulator.journal import Journal
from counterfoil.proof.gateway_simulator.money import Book, Outcome, Refusal, Thing, invalid
from counterfoil.proof.gateway_simulator.routes import (
    MoneyRoute,
    check_parameters,
    find_money_route,
    find_read_route,
)
from counterfoil.proof.gateway_simulator.webhooks import Webhooks
from counterfoil.proof.gateway_simulator.wire import SILENCE, Ending, Reply, Request

_KEY_CHARS_MAX: Final = 255
# A stored server error is stored for good: its key repeats it, and the client is told so.
_SERVER_ERROR: Final = {"error": {"type": "api_error", "message": "An error occurred on the gateway's side."}}
_FINAL: Final = {"Stripe-Should-Retry": "false"}


class Gateway:
    """Answers the API. Faults meet only calls that move money; `requests` counts those."""

    def __init__(self, journal: Journal, *, api_key: str, plan: FaultPlan, webhooks: Webhooks) -> None:
        """Take up where the journal ends."""
        self.plan = plan
        self.requests = 0
        self.faults_met: dict[str, int] = {}
        self.book = Book(journal.name)
        self.journal_path = journal.path
        self._journal = journal
        self._api_key = api_key
        self._webhooks = webhooks
        self._answers: dict[str, Thing] = {}
        self._in_flight: set[str] = set()
        for line in journal.lines:
            self._take_in(line)
            self._webhooks.remember(line)

    # ------------------------------------------------------------ doors
    async def answer(self, request: Request) -> Reply:
        """Answer one call of the API; what is not a GET is taken for a POST, there are no others."""
        try:
            self._authenticate(request)
            if request.method == "GET":
                return _reply(200, self._read(request))
            return await self._move_money(request)
        except Refusal as refusal:
            return _reply(refusal.status, {"error": refusal.error})

    def authenticate_buyer(self, intent_id: str, *, approved: bool) -> Thing:
        """Play the buyer; raises Refusal."""
        outcome = self.book.authenticate(intent_id, approved=approved, now=int(time.time()))
        self._record(outcome, request="authentication", key="", fingerprint="", status=200, answer=outcome.answer)
        return outcome.answer

    def forget_keys(self) -> None:
        """Forget every idempotency key, as a gateway may do after a day."""
        self._answers.clear()
        self._journal.append({"keys_forgotten": True}, durable=True)

    # ------------------------------------------------------------ reading
    def _read(self, request: Request) -> Thing:
        route, name = find_read_route(request.path)
        form = _form(request.query)
        check_parameters(form, route.parameters)
        return route.view(self.book, name, form, time.time() - self.plan.options.search_lag_seconds)

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._api_key.encode()):
            raise Refusal(401, "invalid_request_error", "Invalid API Key provided.")

    # ------------------------------------------------------------ money
    async def _move_money(self, request: Request) -> Reply:
        route, name = find_money_route(request.path)
        form = _form(request.body.decode("utf-8", errors="replace"))
        self.requests += 1
        fault = self.plan.fault_of(self.requests)
        if fault is not None:
            self.faults_met[fault] = self.faults_met.get(fault, 0) + 1
        options = self.plan.options
        if fault is Fault.RATE_LIMITED:
            body = {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many requests."}}
            return _reply(429, body, {"Retry-After": f"{options.retry_after_seconds:.0f}"})
        if fault is Fault.HANG_BEFORE_CHARGE:
            await _hang(request, options.hang_seconds)
            return SILENCE
        if fault is Fault.ERROR_500:
            return _reply(500, _SERVER_ERROR)
        before = {Fault.HANG_THEN_CHARGE: options.hang_seconds, Fault.SLOW: options.slow_seconds}
        delay = before.get(fault, options.latency_seconds) if fault else options.latency_seconds
        key = request.headers.get("idempotency-key", "")
        run = lambda: self._execute(route, name, form, request, fault)  # noqa: E731 - one expression, used twice below
        reply = await self._run_with_key(key, run, delay)
        return await self._spoil(reply, request, fault)

    async def _run_with_key(self, key: str, run: Callable[[], Reply], delay: float) -> Reply:
        """Execute while nobody else with the same key does."""
        if len(key) > _KEY_CHARS_MAX:
            raise invalid("The idempotency key is too long.")
        if key and key in self._in_flight:
            return _in_flight()
        self._in_flight.add(key)
        try:
            if delay:
                await asyncio.sleep(delay)
            return run()
        finally:
            self._in_flight.discard(key)

    def _execute(self, route: MoneyRoute, name: str, form: Thing, request: Request, fault: Fault | None) -> Reply:
        """Answer from the key, or do it and write it down. Nothing is awaited: this is one step."""
        key = request.headers.get("idempotency-key", "")
        fingerprint = hashlib.sha256(f"{request.path}\n".encode() + json.dumps(form).encode()).hexdigest()
        if stored := self._answers.get(key):
            if stored["fingerprint"] != fingerprint:
                message = "Keys for idempotent requests can only be used with the parameters they were first used with."
                raise Refusal(400, "idempotency_error", message)
            return _reply(stored["status"], stored["answer"], {"Idempotent-Replayed": "true", **_final(stored)})
        check_parameters(form, route.parameters)
        outcome = route.act(self.book, name, form, int(time.time()))
        status, answer = outcome.status, outcome.answer
        if fault is Fault.ERROR_500_CHARGED:
            status, answer = 500, _SERVER_ERROR
        stored = self._record(
            outcome, request=f"POST {request.path}", key=key, fingerprint=fingerprint, status=status, answer=answer
        )
        return _reply(status, answer, _final(stored))

    def _record(
        self, outcome: Outcome, *, request: str, key: str, fingerprint: str, status: int, answer: Thing
    ) -> Thing:
        line = {
            "at": time.time(),
            "request": request,
            "key": key,
            "money": outcome.moves,
            "status": status,
            "answer": answer,
            "objects": outcome.objects,
            "events": outcome.events,
            "fingerprint": fingerprint,
        }
        self._journal.append(line, durable=True)
        self._take_in(line)
        self._webhooks.send(outcome.events, self.plan)
        return line

    def _take_in(self, line: Thing) -> None:
        """Take one line of the journal into memory."""
        if line.get("keys_forgotten"):
            self._answers.clear()
        self.book.apply(line.get("objects", []), line.get("events", []))
        if line.get("key"):
            self._answers[line["key"]] = line

    async def _spoil(self, reply: Reply, request: Request, fault: Fault | None) -> Reply:
        """Do to an answer what the fault says, after everything is written down."""
        if fault is Fault.CHARGE_THEN_HANG:
            await _hang(request, self.plan.options.hang_seconds)
            return SILENCE
        if fault is Fault.IN_FLIGHT:
            return _in_flight()
        if fault is Fault.RESET_MID_BODY:
            return replace(reply, ending=Ending.CUT)
        if fault is Fault.BROKEN_JSON:
            return replace(reply, body=reply.body[: len(reply.body) // 2])
        if self._webhooks.is_early(self.plan):
            await self._webhooks.wait_for_first()
        return reply


async def _hang(request: Request, seconds: float) -> None:
    """Say nothing for a while, or until the client has had enough."""
    try:
        await asyncio.wait_for(request.gone.wait(), seconds)
    except TimeoutError:
        return


def _form(text: str) -> Thing:
    try:
        return parse_form(text)
    except ValueError as error:
        raise invalid(str(error)) from error


def _in_flight() -> Reply:
    message = "There is currently another in-progress request using this idempotency key."
    error = {"type": "invalid_request_error", "code": "idempotency_key_in_use", "message": message}
    return _reply(409, {"error": error})


def _final(stored: Thing) -> dict[str, str]:
    return _FINAL if stored["status"] >= 500 else {}  # noqa: PLR2004 - HTTP's border


def _reply(status: int, body: Any, headers: dict[str, str] | None = None) -> Reply:
    named = {"Request-Id": f"req_{time.monotonic_ns():x}", **(headers or {})}
    return Reply(status, json.dumps(body).encode(), named)
