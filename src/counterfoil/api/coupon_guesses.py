"""Guessing coupons is slow: a request that names some is counted, and stays so if one of them is not valid."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog

from counterfoil.api.answers import AnyRequest, client_address, request_id
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.middleware.limits import RateLimited, RouteClass, find_hits
from counterfoil.infrastructure.metrics import LIMIT_REFUSALS
from counterfoil.infrastructure.rate_limiter import Hit, RateLimiter
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.users.permissions import Permission, may

log = structlog.get_logger(__name__)


@asynccontextmanager
async def counted_guesses(request: AnyRequest, codes: Sequence[str]) -> AsyncIterator[None]:
    """Count a request that names coupons, around what is done with it; without a wrong one it is given back.

    A caller is counted before the look, so that requests at once are no way around it. An address is counted after a
    wrong guess only: many customers of one network may order at once. Staff and services, who order for everybody, are
    not counted. Raises RateLimited.
    """
    actor = current_actor(request)
    if not codes or may(actor, Permission.ORDERS_EVERYBODY):
        yield
        return
    # Given back again, so a spent key must not be remembered until its window ends.
    hits = find_hits(RouteClass.LOOK_UP, actor, client_address(request))
    *own, address = (replace(hit, final=False) for hit in hits)
    limiter: RateLimiter = request.app.state.limiter
    *counts, seen = await limiter.take([*own, replace(address, amount=0)])
    spent = [count for count in counts if not count.passes] + ([] if seen.remaining else [seen])
    if spent:
        _give_back(limiter, own)
        LIMIT_REFUSALS.labels(RouteClass.LOOK_UP.value).inc()
        log.warning("security.limit_exceeded", limit=RouteClass.LOOK_UP.value, request_id=request_id(request))
        seconds_left = max(count.seconds_left for count in spent)
        raise RateLimited(retry_after_seconds=max(math.ceil(seconds_left), 1))
    try:
        yield
    except ValidationFailed as error:
        if _names_coupon(error.details):
            await limiter.take([address])
        else:
            _give_back(limiter, own)
        raise
    except BaseException:
        _give_back(limiter, own)
        raise
    _give_back(limiter, own)


def _give_back(limiter: RateLimiter, hits: Sequence[Hit]) -> None:
    """Give hits back without waiting for it: the count never fails, and ends with its window anyway."""
    limiter.take([replace(hit, amount=-hit.amount) for hit in hits])


def _names_coupon(details: dict[str, Any]) -> bool:
    return any(problem["field"].startswith("coupon_codes[") for problem in details.get("fields", ()))
