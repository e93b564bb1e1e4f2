"""How much stock a customer may hold in unpaid orders (rule, pure)."""

from __future__ import annotations

from dataclasses import dataclass

from counterfoil.kernel.errors import ValidationFailed
from counterfoil.orders.errors import OpenOrdersExceeded


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """How long an unpaid order keeps its stock, and how many such orders and units a customer may have; 0: no cap."""

    seconds: int
    orders_max: int = 0
    units_max: int = 0

    @property
    def capped(self) -> bool:
        """Whether what a customer has open matters at all."""
        return self.orders_max > 0 or self.units_max > 0


@dataclass(slots=True)
class OpenHolds:
    """What a customer has open: orders, their units (counted only under a cap on units), seconds until the first ends.

    `seconds_left` means nothing while `orders` is 0.
    """

    orders: int = 0
    units: int = 0
    seconds_left: int = 0

    def add(self, units: int, *, seconds: int) -> None:
        """Count one more order, which keeps its stock for `seconds`."""
        self.seconds_left = min(self.seconds_left, seconds) if self.orders else seconds
        self.orders += 1
        self.units += units


def check_holds(held: OpenHolds, terms: HoldTerms, *, orders: int, units: int) -> None:
    """Raise OpenOrdersExceeded unless the customer may hold `orders` more with `units` in them.

    `orders` is 0 for an order that is open already and not among `held`. An order that is too large by itself is a
    ValidationFailed: waiting would not help it.
    """
    if terms.units_max and units > terms.units_max:
        raise too_many_units(terms.units_max)
    too_many_orders = terms.orders_max and held.orders + orders > terms.orders_max and orders
    if too_many_orders or (terms.units_max and held.units + units > terms.units_max):
        raise OpenOrdersExceeded(
            open_orders=held.orders,
            open_orders_max=terms.orders_max,
            open_units=held.units if terms.units_max else None,
            open_units_max=terms.units_max,
            retry_after_seconds=held.seconds_left,
        )


def too_many_units(units_max: int) -> ValidationFailed:
    """Say that one order alone would hold more units than a customer may."""
    message = f"An unpaid order can hold at most {units_max} units; order fewer."
    return ValidationFailed([{"field": "items", "message": message}])
