"""For those who run the service: is it alive, is it ready, what does it count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
from litestar import Controller, MediaType, Response, get
from litestar.openapi import ResponseSpec

from counterfoil.api.answers import AnyRequest, problems
from counterfoil.infrastructure.audit import SEAL_STATE
from counterfoil.infrastructure.key_store import keys_are_loaded
from counterfoil.infrastructure.metrics import (
    AUDIT_UNSEALED_ENTRIES,
    AUDIT_UNSEALED_SECONDS,
    GATEWAY_COMPARED_SECONDS,
    GATEWAY_FINDINGS,
    INTAKE_WAITING,
    PAYMENT_CALLS_WAITING,
    PAYMENT_REVIEWS,
    PAYMENT_UNKNOWN,
    PAYMENT_UNKNOWN_SECONDS,
    render_metrics,
)
from counterfoil.payments.reconciliation import RECONCILIATION_STATE
from counterfoil.payments.services import PAYMENT_STATE
from counterfoil.users.permissions import PUBLIC, Permission

# Ready means that PostgreSQL answers within 500 ms.
_READY_SECONDS = 0.5
_PROBE_SECONDS = 1.0
_NOT_READY = {503: ResponseSpec(dict[str, str], description="Not ready", generate_examples=False)}


class Probe:
    """Asks PostgreSQL for everybody who wants to know within a second: the route has no limit and no credentials."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[Any], *, clock: Callable[[], float]) -> None:
        """Take the pool to ask through; `clock` counts seconds."""
        self._pool = pool
        self._clock = clock
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[bool] | None = None

    async def answers(self) -> bool:
        """Tell whether the database answers, or did within the last second."""
        if self._asking is None or self._clock() - self._asked_at >= _PROBE_SECONDS:
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(_database_answers(self._pool))
        return await asyncio.shield(self._asking)


class OperationsController(Controller):
    """Health and metrics, outside of `/api/v1`."""

    tags = ["Operations"]

    @get("/livez", summary="Is the process alive?", permission=PUBLIC, credentials="ignored", sync_to_thread=False)
    def live(self) -> Response[dict[str, str]]:
        """Answer without looking at anything else."""
        return Response({"status": "ok"})

    @get("/readyz", summary="Can it take requests?", permission=PUBLIC, credentials="ignored", responses=_NOT_READY)
    async def ready(self, request: AnyRequest) -> Response[dict[str, str]]:
        """Answer 200 when PostgreSQL answers within 500 ms, keys are loaded and nothing is shutting down, else 503.

        PostgreSQL is asked once a second at most.
        """
        state = request.app.state
        probe: Probe = state.setdefault("probe", Probe(state.hot.pool, clock=time.monotonic))
        ready = not state.draining and keys_are_loaded() and await probe.answers()
        return Response({"status": "ok" if ready else "unavailable"}, status_code=200 if ready else 503)

    @get(
        "/metrics",
        summary="Metrics for Prometheus",
        media_type=MediaType.TEXT,
        responses=problems(401, 403, 503),
        permission=Permission.METRICS_READ,
    )
    async def metrics(self, request: AnyRequest) -> Response[bytes]:
        """Answer this process's metrics, for administrators."""
        INTAKE_WAITING.set(request.app.state.hot.intake.waiting)
        await _measure(request.app.state.hot.pool)
        return Response(render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _measure(pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
    """Set the gauges that the database knows; one that does not answer leaves them as they were."""
    try:
        async with asyncio.timeout(_READY_SECONDS), pool.connection() as connection:
            audit = await (await connection.execute(SEAL_STATE)).fetchone()
            payments = await (await connection.execute(PAYMENT_STATE)).fetchone()
            compared = await (await connection.execute(RECONCILIATION_STATE)).fetchone()
    except (TimeoutError, psycopg.Error, psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
        return
    assert audit is not None
    assert payments is not None
    assert compared is not None
    AUDIT_UNSEALED_ENTRIES.set(audit[0])
    AUDIT_UNSEALED_SECONDS.set(audit[1])
    gauges = (
        *(PAYMENT_CALLS_WAITING, PAYMENT_UNKNOWN, PAYMENT_UNKNOWN_SECONDS, PAYMENT_REVIEWS),
        *(GATEWAY_FINDINGS, GATEWAY_COMPARED_SECONDS),
    )
    for gauge, value in zip(gauges, (*payments, *compared), strict=True):
        gauge.set(value)


async def _database_answers(pool: psycopg_pool.AsyncConnectionPool[Any]) -> bool:
    try:
        async with asyncio.timeout(_READY_SECONDS), pool.connection() as connection:
            await connection.execute("SELECT FROM orders LIMIT 1")
    except (TimeoutError, psycopg.Error, psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
        return False
    return True
