"""What a caller asks for: frozen inputs of the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.kernel.errors import ValidationFailed

LINES_MAX: Final = 100
# One million units of one product in one order: beyond that it is a typing error, and sums stay inside 64 bits.
QUANTITY_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One product and how many of it; `item` is the position in the caller's list, for error messages."""

    product_id: int
    quantity: int
    item: int = 0


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """One order to place. `lines` hold each product once; the key and its fingerprint come together or not at all."""

    user_id: int
    lines: tuple[OrderLine, ...]
    principal: str
    request_id: str
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    client_reference: str | None = None
    # In capitals, each once.
    coupon_codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """On whose behalf and because of what a change is made."""

    principal: str
    request_id: str


def merge_lines(items: Sequence[tuple[int, int]]) -> tuple[OrderLine, ...]:
    """Merge (product id, quantity) pairs so that each product appears once, in order of first appearance.

    Raises ValidationFailed when a merged quantity exceeds QUANTITY_MAX.
    """
    merged: dict[int, OrderLine] = {}
    for position, (product_id, quantity) in enumerate(items):
        seen = merged.get(product_id)
        if seen is None:
            merged[product_id] = OrderLine(product_id, quantity, position)
        else:
            merged[product_id] = OrderLine(product_id, seen.quantity + quantity, seen.item)
    problems = [
        {
            "field": f"items[{line.item}].quantity",
            "message": f"The lines of product {line.product_id} add up to more than {QUANTITY_MAX} units.",
        }
        for line in merged.values()
        if line.quantity > QUANTITY_MAX
    ]
    if problems:
        raise ValidationFailed(problems)
    return tuple(merged.values())
