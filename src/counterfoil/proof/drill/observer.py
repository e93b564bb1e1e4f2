"""Reads what the API says about orders and their money, in the smallest unit of their currency."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final

from counterfoil.kernel.money import CURRENCY_DIGITS
from counterfoil.proof.drill.comparison import OurOrder, OurPayment, OurRefund
from counterfoil.proof.drill.door import API_PATH, Door

_READERS: Final = 8
_LOOK_SECONDS: Final = 1.0


def read_order(door: Door, order_id: int, token: str) -> OurOrder:
    """Read an order with its payments and their refunds."""
    order = door.get(f"{API_PATH}/orders/{order_id}", token)
    return OurOrder(
        id=order["id"],
        status=order["status"],
        currency=order["currency"],
        total=_minor(order["total"], order["currency"]),
        payment_unknown=order["payment_unknown"],
        fulfillment_status=order["fulfillment_status"],
        payments=read_payments(door, order_id, token),
    )


def read_payments(door: Door, order_id: int, token: str) -> tuple[OurPayment, ...]:
    """Read the payments of an order, with their refunds."""
    found = door.get(f"{API_PATH}/orders/{order_id}/payments", token)["items"]
    return tuple(_payment(door, payment, token) for payment in found)


def _payment(door: Door, payment: dict[str, Any], token: str) -> OurPayment:
    currency, captured = payment["currency"], _minor(payment["captured"], payment["currency"])
    # Without captured money there is nothing to give back.
    refunds = door.get(f"{API_PATH}/payments/{payment['id']}/refunds", token)["items"] if captured else []
    return OurPayment(
        id=payment["id"],
        reference=payment["reference"],
        status=payment["status"],
        amount=_minor(payment["amount"], currency),
        captured=captured,
        refunded=_minor(payment["refunded"], currency),
        refunds=tuple(OurRefund(each["id"], each["status"], _minor(each["amount"], currency)) for each in refunds),
    )


def _minor(amount: object, currency: str) -> int:
    minor = Decimal(str(amount)).scaleb(CURRENCY_DIGITS[currency])
    assert minor == int(minor), amount
    return int(minor)


def wait_for_rest(
    door: Door,
    orders: Iterable[int],
    token: str,
    *,
    seconds: float,
    stop: threading.Event,
    on_progress: Callable[[str], None],
) -> list[OurOrder]:
    """Read all orders, and those with money under way again and again until there are none or time is up.

    Then everything is read once more, since what was at rest may have moved while the others came to it.
    """
    ids, deadline = list(orders), time.monotonic() + seconds
    with ThreadPoolExecutor(_READERS) as pool:

        def read(wanted: list[int]) -> list[OurOrder]:
            return list(pool.map(lambda order_id: read_order(door, order_id, token), wanted))

        waiting = ids
        while True:
            waiting = [order.id for order in read(waiting) if not order.is_settled]
            if not waiting or time.monotonic() > deadline or stop.is_set():
                return read(ids)
            on_progress(f"Waiting until every payment has ended: {len(waiting):,} have not")
            stop.wait(_LOOK_SECONDS)
