"""What units of a line were sold for, for giving money back (rule, pure)."""

from __future__ import annotations

from counterfoil.orders.events import ItemFacts


def worth_of(item: ItemFacts, units: int, *, tax_included: bool) -> int:
    """Return what so many units of a line were sold for, its discounts off and its tax on, in minor units.

    A part of a line is rounded down to the smallest unit; the whole line is exact. Shipping is not of a line.
    """
    assert 0 <= units <= item.quantity, units
    line = item.unit_price_minor * item.quantity - item.discount_minor + (0 if tax_included else item.tax_minor)
    return line * units // item.quantity
