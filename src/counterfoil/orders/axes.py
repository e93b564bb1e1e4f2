"""The axes that follow from what belongs to an order: its payments, fulfilments and returns (rule, pure)."""

from __future__ import annotations

from counterfoil.orders.states import FulfillmentStatus, PaymentStatus, ReturnStatus


def derive_payment_status(*, total: int, authorized: int, captured: int, refunded: int) -> PaymentStatus:
    """Return how far an order is paid, from sums in minor units; `authorized` is held and not yet taken."""
    if refunded > 0:
        return PaymentStatus.REFUNDED if refunded >= captured else PaymentStatus.PARTIALLY_REFUNDED
    if captured > total:
        return PaymentStatus.OVERPAID
    if captured == total and (captured > 0 or total == 0):
        return PaymentStatus.PAID
    if captured + authorized >= total:
        return PaymentStatus.AUTHORIZED if captured == 0 else PaymentStatus.PARTIALLY_PAID
    return PaymentStatus.PARTIALLY_PAID if captured > 0 else PaymentStatus.UNPAID


def is_covered(*, total: int, authorized: int, captured: int, refunded: int) -> bool:
    """Tell whether what is held and what was taken and not given back reach the total, in minor units."""
    return authorized + captured - refunded >= total


def derive_fulfillment_status(*, ordered: int, shipped: int, delivered: int) -> FulfillmentStatus:
    """Return how far an order is fulfilled, from units of all of its lines."""
    if shipped == 0:
        return FulfillmentStatus.UNFULFILLED
    if shipped < ordered:
        return FulfillmentStatus.PARTIALLY_FULFILLED
    return FulfillmentStatus.DELIVERED if delivered >= ordered else FulfillmentStatus.FULFILLED


def derive_return_status(*, shipped: int, returned: int, has_open_return: bool) -> ReturnStatus:
    """Return how much of what was shipped came back, in units; an open return counts until something has."""
    if returned > 0:
        return ReturnStatus.RETURNED if returned >= shipped else ReturnStatus.PARTIALLY_RETURNED
    return ReturnStatus.REQUESTED if has_open_return else ReturnStatus.NONE
