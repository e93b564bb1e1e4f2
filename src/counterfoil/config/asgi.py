"""How a web process is assembled: the API, the console under it, and the life of the intake engine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import structlog
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from litestar import Litestar, asgi
from litestar.types import ASGIApp, Receive, Scope, Send

from counterfoil.api.app import make_api
from counterfoil.api.bodies import limit_forms
from counterfoil.api.hashing import HashingThreads
from counterfoil.api.middleware.limits import limit_console
from counterfoil.api.middleware.request_context import RequestContext
from counterfoil.api.middleware.transport import Transport, TransportRules
from counterfoil.config.settings import Settings
from counterfoil.infrastructure.database import connection_string, make_hot_pool, run_in_thread
from counterfoil.infrastructure.key_store import load_named_keys
from counterfoil.infrastructure.limit_stores import PostgresStore, RedisStore
from counterfoil.infrastructure.logging import configure_logging
from counterfoil.infrastructure.metrics import IntakeMetrics, LimiterMetrics
from counterfoil.infrastructure.rate_limiter import RateLimiter, use_limiter
from counterfoil.infrastructure.wakeups import Wakeups
from counterfoil.kernel.errors import Unavailable
from counterfoil.orders.holds import HoldTerms
from counterfoil.orders.intake import Intake, IntakeLimits
from counterfoil.orders.placement import place_batch
from counterfoil.orders.services import HotPath
from counterfoil.payments.recording import PAYMENTS_CHANNEL
from counterfoil.users.access import AccessControl

log = structlog.get_logger(__name__)

# What a busy disk takes now and then.
LIMIT_TABLE_SECONDS_MAX: Final = 0.5
_KEYS_RETRY_SECONDS: Final = 1.0


@asynccontextmanager
async def _run_hot_path(app: Litestar) -> AsyncIterator[None]:
    """Open the pool, the intake and the memory of access; at the end take no more orders and answer those taken."""
    values = settings.COUNTERFOIL
    pool = make_hot_pool(size=values.counterfoil_pool_size)
    await pool.open()
    intake = Intake(
        partial(place_batch, pool, terms=_hold_terms(values), prices=values.price_terms),
        limits=IntakeLimits(
            batch_orders_max=values.counterfoil_batch_orders_max,
            queue_orders_max=values.counterfoil_queue_orders_max,
            submit_timeout_ms=values.counterfoil_submit_timeout_ms,
        ),
        observer=IntakeMetrics(),
        clock=time.monotonic,
    )
    app.state.hot = HotPath(pool, intake)
    app.state.limiter = await _start_limiter()
    app.state.hashing = HashingThreads()
    loading = asyncio.create_task(_load_named_keys())
    app.state.access = AccessControl(pool, accepted=(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))
    app.state.wakeups = Wakeups(PAYMENTS_CHANNEL, connection_string=connection_string(values.database_url))
    watching = [asyncio.create_task(app.state.access.watch()), asyncio.create_task(app.state.wakeups.listen())]
    log.info("web.started", pid=os.getpid())
    try:
        yield
    finally:
        app.state.draining = True
        loading.cancel()
        await intake.drain()
        use_limiter(None)
        await app.state.limiter.close()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        with suppress(Unavailable):
            await app.state.access.write_key_uses()
        await pool.close()
        log.info("web.stopped", pid=os.getpid())


async def _start_limiter() -> RateLimiter:
    """Make the rate limiter: on Redis when REDIS_URL names one, with PostgreSQL behind it, else on PostgreSQL."""
    values = settings.COUNTERFOIL
    redis_url = values.redis_url
    # A pool of its own, of one connection: one batch is counted at a time, and no slow read stands before it.
    pool = make_hot_pool(size=1)
    await pool.open()
    table = PostgresStore(pool)
    limiter = RateLimiter(
        primary=RedisStore(redis_url) if redis_url else table,
        strict=table if redis_url else None,
        seconds_max=values.counterfoil_redis_timeout_ms / 1000 if redis_url else LIMIT_TABLE_SECONDS_MAX,
        observer=LimiterMetrics(),
        clock=time.monotonic,
    )
    await limiter.warm_up()
    use_limiter(limiter)
    return limiter


async def _load_named_keys() -> None:
    """Load what the hot path must not wait for; a store that is away is asked again until it is there.

    Until then requests that need the keys are answered 503.
    """
    while True:
        try:
            await asyncio.to_thread(run_in_thread, load_named_keys)
        except Unavailable as error:
            log.warning("web.keys_away", code=error.code)
        except Exception:
            log.exception("web.keys_failed")
        else:
            return
        await asyncio.sleep(_KEYS_RETRY_SECONDS)


def _hold_terms(values: Settings) -> HoldTerms:
    return HoldTerms(
        values.counterfoil_hold_seconds,
        orders_max=values.counterfoil_open_orders_max,
        units_max=values.counterfoil_open_units_max,
    )


def make_application() -> ASGIApp:
    """Assemble the application of one web process."""
    values = settings.COUNTERFOIL
    configure_logging(values.counterfoil_log_level)
    django: Any = ASGIStaticFilesHandler(get_asgi_application())
    console = limit_console(limit_forms(django))

    @asgi("/console", is_mount=True, copy_scope=True)
    async def mount_console(scope: Scope, receive: Receive, send: Send) -> None:
        # Django wants the whole path: its own urls.py says where the console is.
        inside: Any = {**scope, "path": "/console" + scope["path"].removeprefix("/console")}
        await console(inside, receive, send)

    api = make_api(
        state={"draining": False, "hold_terms": _hold_terms(values), "price_terms": values.price_terms},
        lifespan=[_run_hot_path],
        mounts=[mount_console],
    )
    rules = TransportRules(
        allowed_hosts=values.allowed_hosts,
        trusted_proxies=values.trusted_proxies,
        cors_origins=values.cors_origins,
        public_url=values.counterfoil_public_url,
        https_only=not values.counterfoil_demo,
        body_seconds_max=values.counterfoil_body_seconds_max,
    )
    return RequestContext(Transport(api, rules))
