"""What can go wrong with stock."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict


class StockTooLow(Conflict):
    """Product {product_id} has {available} units available; the movement would take {requested}."""

    code = "STOCK_TOO_LOW"


class NotOnHand(Conflict):
    """Of product {product_id} only {on_hand} units are there and {requested} are wanted; receive them first."""

    code = "NOT_ON_HAND"
