"""What happens to one batch of orders: one statement, one transaction, one commit for all of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import psycopg

from counterfoil.coupons.errors import CouponLimitReached, CouponUsedUp
from counterfoil.coupons.terms import CouponProblem, coupon_problem
from counterfoil.infrastructure.database import DatabaseBusy, hot_connection
from counterfoil.infrastructure.idempotency import IdempotencyInProgress, IdempotencyKeyReused
from counterfoil.kernel.errors import DomainError, ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.orders import pricing
from counterfoil.orders.batch_statement import run_place_orders
from counterfoil.orders.commands import PlaceOrder
from counterfoil.orders.errors import ClientReferenceTaken, InsufficientInventory, OpenOrdersExceeded, Shortage
from counterfoil.orders.events import OrderFacts
from counterfoil.orders.holds import HoldTerms, too_many_units
from counterfoil.orders.price_terms import PLAIN_TERMS, PriceTerms
from counterfoil.orders.repositories import HotPool

# Deadlocks and serialization failures are retried here and nowhere else: full jitter, 10 to 250 ms.
_RETRIES_MAX: Final = 5
_BACKOFF_SECONDS: Final = (0.010, 0.250)
_RETRYABLE: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class PlacedOrder(msgspec.Struct, frozen=True):
    """An order as it was first answered; `replayed` when the key had been used for it before."""

    facts: OrderFacts
    replayed: bool


Outcome: TypeAlias = PlacedOrder | Exception
_LEAVES_NO_KEY: Final = ValidationFailed | OpenOrdersExceeded | CouponUsedUp | CouponLimitReached


class _Refusal(msgspec.Struct, frozen=True):
    request_id: str
    shortages: list[Shortage]


class _LineProblem(msgspec.Struct, frozen=True):
    product_id: int
    reason: str


class _CouponProblem(msgspec.Struct, frozen=True):
    code: str
    reason: CouponProblem
    currency: str | None
    minimum_minor: int | None


_facts = msgspec.json.Decoder(OrderFacts)
_refusal = msgspec.json.Decoder(_Refusal)
_line_problems = msgspec.json.Decoder(list[_LineProblem])
_coupon_problems = msgspec.json.Decoder(list[_CouponProblem])
_strings = msgspec.json.Decoder(list[str])
_details = msgspec.json.Decoder(dict[str, Any])

# Refusals that another request may lift: nothing of them is kept.
_LIMITS: Final[dict[str, Callable[[dict[str, Any]], DomainError]]] = {
    "too_many_open": lambda details: OpenOrdersExceeded(**details),
    "coupon_used_up": lambda details: CouponUsedUp(coupon_code=details["code"]),
    "coupon_limit": lambda details: CouponLimitReached(coupon_code=details["code"], limit=details["limit"]),
}


async def place_batch(
    pool: HotPool, commands: Sequence[PlaceOrder], *, terms: HoldTerms, prices: PriceTerms = PLAIN_TERMS
) -> list[Outcome]:
    """Place the orders of one batch in arrival order and commit once; returns one outcome per command.

    A second use of a key inside the batch is not sent: it gets the first one's outcome. Raises what the database
    raises when it refuses the whole batch, after which nothing of it is written.
    """
    leaders, follows = _split_duplicates(commands)
    outcomes = await _place_with_retries(pool, [commands[i] for i in leaders], terms=terms, prices=prices)
    by_index = dict(zip(leaders, outcomes, strict=True))
    return [by_index[i] if i in by_index else _follow(commands, i, follows[i], by_index) for i in range(len(commands))]


def _split_duplicates(commands: Sequence[PlaceOrder]) -> tuple[list[int], dict[int, int]]:
    """Return the indexes to send and, for every other one, the index of the first use of its key."""
    first_use: dict[tuple[str, str], int] = {}
    leaders: list[int] = []
    follows: dict[int, int] = {}
    for index, command in enumerate(commands):
        if command.idempotency_key is None:
            leaders.append(index)
            continue
        first = first_use.setdefault((command.principal, command.idempotency_key), index)
        if first == index:
            leaders.append(index)
        else:
            follows[index] = first
    return leaders, follows


def _follow(commands: Sequence[PlaceOrder], index: int, first: int, outcomes: dict[int, Outcome]) -> Outcome:
    outcome = outcomes[first]
    if commands[index].fingerprint != commands[first].fingerprint:
        # The first use settled nothing: an invalid request, a limit and a used up coupon leave the key free, and a
        # misuse may stand beside the rightful repetition. The other request is to ask again.
        settled = not isinstance(outcome, _LEAVES_NO_KEY | IdempotencyKeyReused)
        return IdempotencyKeyReused() if settled else IdempotencyInProgress()
    if isinstance(outcome, InsufficientInventory):
        again = InsufficientInventory(**outcome.details)
        again.replay_of = outcome.replay_of or commands[first].request_id
        return again
    return PlacedOrder(outcome.facts, replayed=True) if isinstance(outcome, PlacedOrder) else outcome


async def _place_with_retries(
    pool: HotPool, commands: Sequence[PlaceOrder], *, terms: HoldTerms, prices: PriceTerms
) -> list[Outcome]:
    for attempt in range(_RETRIES_MAX + 1):
        try:
            async with hot_connection(pool) as connection:
                rows = await run_place_orders(connection, commands, terms=terms, prices=prices)
            return [_read_outcome(command, row) for command, row in zip(commands, rows, strict=True)]
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name == "uq_orders_client_reference" and len(commands) == 1:
                return [ClientReferenceTaken()]
            raise
        except DatabaseBusy as error:
            if not isinstance(error.__cause__, _RETRYABLE) or attempt == _RETRIES_MAX:
                raise
        low, high = _BACKOFF_SECONDS
        await asyncio.sleep(random.uniform(0, min(high, low * 2**attempt)))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable: the last attempt returns or raises")


def _read_outcome(command: PlaceOrder, row: tuple[Any, ...]) -> Outcome:
    """Return one order's outcome; an answer that cannot be read is that order's exception and nobody else's.

    The batch is committed by now: anything raised from here would make the intake place its orders once more.
    """
    try:
        return _outcome(command, row)
    except Exception as error:  # noqa: BLE001 - see above: nothing may leave this function
        return error


def _outcome(command: PlaceOrder, row: tuple[Any, ...]) -> PlacedOrder | DomainError:
    _, outcome, _, facts = row
    if outcome in {"placed", "replayed"}:
        return PlacedOrder(_facts.decode(facts), replayed=outcome == "replayed")
    if outcome in {"out_of_stock", "replayed_refusal"}:
        return _insufficient(_refusal.decode(facts), replayed=outcome == "replayed_refusal")
    if outcome in _LIMITS:
        return _LIMITS[outcome](_details.decode(facts))
    if outcome == "key_reused":
        return IdempotencyKeyReused()
    if outcome == "seen":  # and gone: its row was cleaned away between two statements of the batch
        return IdempotencyInProgress()
    return _invalid(command, outcome, facts)


def _invalid(command: PlaceOrder, outcome: str, facts: str) -> ValidationFailed:
    if outcome == "invalid_lines":
        items = {line.product_id: line for line in command.lines}
        found = _line_problems.decode(facts)
        return ValidationFailed(
            [pricing.line_problem(items[p.product_id], known=p.reason == "inactive") for p in found]
        )
    if outcome == "invalid_coupons":
        return ValidationFailed(_find_coupon_problems(command, facts))
    if outcome == "currency_mixed":
        return pricing.currency_mixed(*_strings.decode(facts))
    if outcome == "total_too_large":
        return pricing.total_too_large()
    if outcome == "too_many_units":
        return too_many_units(int(facts))
    assert outcome == "unknown_user", outcome
    message = f"There is no active user {command.user_id}."
    return ValidationFailed([{"field": "user_id", "message": message}])


def _find_coupon_problems(command: PlaceOrder, facts: str) -> list[dict[str, str]]:
    place = {code: n for n, code in enumerate(command.coupon_codes)}
    found = sorted(_coupon_problems.decode(facts), key=lambda problem: place[problem.code])
    return [
        coupon_problem(
            each.code,
            place[each.code],
            each.reason,
            currency=each.currency,
            minimum=None
            if each.minimum_minor is None or each.currency is None
            else Money(each.minimum_minor, each.currency),
        )
        for each in found
    ]


def _insufficient(refusal: _Refusal, *, replayed: bool) -> InsufficientInventory:
    error = InsufficientInventory.of(refusal.shortages)
    error.replay_of = refusal.request_id if replayed else None
    return error
