"""The statement that places a batch of orders, and its arrays as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from counterfoil.infrastructure.idempotency import KEY_HOURS
from counterfoil.kernel.ids import new_uuid7
from counterfoil.kernel.money import AMOUNT_MAX, Money
from counterfoil.orders.commands import PlaceOrder
from counterfoil.orders.holds import HoldTerms
from counterfoil.orders.price_terms import PriceTerms
from counterfoil.orders.repositories import QUERIES, HotConnection


async def run_place_orders(
    connection: HotConnection, commands: Sequence[PlaceOrder], *, terms: HoldTerms, prices: PriceTerms
) -> list[tuple[Any, ...]]:
    """Run one batch in one statement, which is its own transaction. Returns (n, outcome, order id, facts) per order."""
    lines = [(n, line) for n, command in enumerate(commands, start=1) for line in command.lines]
    named = [(n, code) for n, command in enumerate(commands, start=1) for code in command.coupon_codes]
    rates = prices.shipping.values()
    cursor = await connection.execute(
        QUERIES["place_orders"],
        {
            "users": _integers(command.user_id for command in commands),
            "actors": _words(command.principal for command in commands),
            "keys": _words(command.idempotency_key for command in commands),
            "fingerprints": _bytes(command.fingerprint for command in commands),
            "requests": _words(command.request_id for command in commands),
            "references": _words(command.client_reference for command in commands),
            "events": _words(str(new_uuid7()) for _ in commands),
            "line_orders": _integers(n for n, _ in lines),
            "line_products": _integers(line.product_id for _, line in lines),
            "line_quantities": _integers(line.quantity for _, line in lines),
            "hold_seconds": terms.seconds,
            "key_hours": KEY_HOURS,
            "total_max": AMOUNT_MAX,
            "open_orders_max": terms.orders_max,
            "open_units_max": terms.units_max,
            "coupon_orders": _integers(n for n, _ in named),
            "coupon_codes": _words(code for _, code in named),
            "tax_included": prices.tax_included,
            "ship_currencies": _words(prices.shipping),
            "ship_fees": _amounts(rate.fee for rate in rates),
            "ship_free_from": _amounts(rate.free_from for rate in rates),
            "ship_rate": prices.shipping_tax.to_decimal(),
        },
        prepare=True,
    )
    return await cursor.fetchall()


# Array literals: joining beats the driver's element by element adaptation of lists about tenfold.
def _integers(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _amounts(values: Iterable[Money | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else f"{value.to_decimal():f}" for value in values]) + "}"


def _words(values: Iterable[str | None]) -> str:
    """Quote words of which every one has passed a pattern without quotes and backslashes (keys, ids, references)."""
    literal = "{" + ",".join(["NULL" if value is None else f'"{value}"' for value in values]) + "}"
    assert "\\" not in literal, "a word with a backslash would mean something else to PostgreSQL"
    return literal


def _bytes(values: Iterable[bytes | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"
