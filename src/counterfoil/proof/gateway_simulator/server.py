"""The simulator as a process: one port for the API and the controls, one journal, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from counterfoil.proof.gateway_simulator.faults import FaultPlan
from counterfoil.proof.gateway_simulator.gateway import Gateway
from counterfoil.proof.gateway_simulator.journal import Journal, read_moves
from counterfoil.proof.gateway_simulator.money import Refusal
from counterfoil.proof.gateway_simulator.webhooks import Webhooks
from counterfoil.proof.gateway_simulator.wire import Handler, Reply, Request, listen

_CONTROL: Final = "/control/"


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """How to run. `faults` is a flat mapping as `FaultPlan.parse` reads it; port 0 takes a free one."""

    port: int
    journal: Path
    faults: dict[str, Any]
    webhook_url: str
    webhook_secret: str
    api_key: str
    seed: int


def run_simulator(config: SimulatorConfig, *, on_ready: Callable[[str, int], None]) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready` gets the address and how many payments the journal has.

    Raises JournalError, FaultPlanError, or OSError when the port is taken.
    """
    asyncio.run(_serve(config, on_ready))


async def _serve(config: SimulatorConfig, on_ready: Callable[[str, int], None]) -> None:
    plan = FaultPlan.parse(config.faults, seed=config.seed)
    journal = Journal(config.journal)
    webhooks = Webhooks(journal, url=config.webhook_url, secret=config.webhook_secret, seed=config.seed)
    gateway = Gateway(journal, api_key=config.api_key, plan=plan, webhooks=webhooks)
    server = await listen(_with_controls(gateway, webhooks), port=config.port)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gateway.book.base_url = url
    webhooks.resume(plan)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    on_ready(url, len(gateway.book.intents))
    await stop.wait()
    server.close()
    journal.close()


def _with_controls(gateway: Gateway, webhooks: Webhooks) -> Handler:
    async def answer(request: Request) -> Reply:
        if not request.path.startswith(_CONTROL):
            return await gateway.answer(request)
        try:
            return _answer(200, _control(gateway, webhooks, request))
        except ValueError as error:  # a fault plan's own sentence, or JSON that is none
            return _answer(400, {"error": str(error)})
        except Refusal as refusal:
            return _answer(refusal.status, {"error": refusal.error})

    return answer


def _control(gateway: Gateway, webhooks: Webhooks, request: Request) -> Any:
    action, _, argument = request.path.removeprefix(_CONTROL).partition("/")
    if (request.method, action) == ("GET", "state"):
        return _state(gateway, webhooks)
    if (request.method, action) == ("GET", "moves"):
        return {"moves": list(read_moves(gateway.journal_path))}
    if (request.method, action) == ("PUT", "faults"):
        words = _json_object(request)
        gateway.plan = FaultPlan.parse(words, seed=gateway.plan.seed, requests_so_far=gateway.requests)
        return _state(gateway, webhooks)
    if (request.method, action) == ("POST", "authenticate"):
        return gateway.authenticate_buyer(argument, approved=_json_object(request).get("approved") is True)
    if (request.method, action) == ("POST", "forget-keys"):
        gateway.forget_keys()
        return _state(gateway, webhooks)
    raise Refusal(
        404, "invalid_request_error", "Controls: GET state, GET moves, PUT faults, POST authenticate/ID, forget-keys."
    )


def _state(gateway: Gateway, webhooks: Webhooks) -> dict[str, Any]:
    return {
        "requests": gateway.requests,
        "faults_met": gateway.faults_met,
        "payments": len(gateway.book.intents),
        "refunds": len(gateway.book.refunds),
        "webhooks": {
            "accepted": webhooks.accepted,
            "attempts": webhooks.attempts,
            "waiting": webhooks.waiting,
        },
        "plan": asdict(gateway.plan),
    }


def _json_object(request: Request) -> dict[str, Any]:
    found = json.loads(request.body or b"{}")
    if not isinstance(found, dict):
        raise ValueError("send a JSON object")  # noqa: TRY004 - the input's fault, not a type's
    return found


def _answer(status: int, body: Any) -> Reply:
    return Reply(status, json.dumps(body).encode())
