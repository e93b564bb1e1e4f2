"""What can go wrong with an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from counterfoil.kernel.errors import Conflict, Declined, LimitExceeded, NotFound, Unavailable


class Shortage(TypedDict):
    """One product of which too few are left: units asked for and units that could be had."""

    product_id: int
    requested: int
    available: int


class OrderNotFound(NotFound):
    """There is no such order."""

    code = "ORDER_NOT_FOUND"


class InsufficientInventory(Conflict):
    """Product {product_id} has only {available} units available"""  # noqa: D400 - shown without a full stop, as the interface promises

    code = "INSUFFICIENT_INVENTORY"

    @classmethod
    def of(cls, shortages: Sequence[Shortage]) -> InsufficientInventory:
        """Name the first short product in the message and every one in `details.products`."""
        first = shortages[0]
        return cls(
            product_id=first["product_id"],
            requested=first["requested"],
            available=first["available"],
            products=list(shortages),
        )


class ActionNotAllowed(Conflict):
    """An order that is {status} does not allow {action}; look at its allowed_actions."""

    code = "ACTION_NOT_ALLOWED"


class OrderChanged(Conflict):
    """The order has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "ORDER_CHANGED"


class FulfillmentNotFound(NotFound):
    """There is no such fulfillment."""

    code = "FULFILLMENT_NOT_FOUND"


class ReturnNotFound(NotFound):
    """There is no such return."""

    code = "RETURN_NOT_FOUND"


class HoldNotFound(NotFound):
    """This order has no such hold."""

    code = "HOLD_NOT_FOUND"


class FulfillmentChanged(Conflict):
    """The fulfillment has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "FULFILLMENT_CHANGED"


class ReturnChanged(Conflict):
    """The return has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "RETURN_CHANGED"


class StepNotAllowed(Conflict):
    """A {kind} that is {status} does not allow {action}; look at its allowed_actions."""

    code = "STEP_NOT_ALLOWED"


class HoldOpen(Conflict):
    """Hold {hold_id} stops this order; release it first."""

    code = "HOLD_OPEN"


class UnitsExceeded(Conflict):
    """Of product {product_id} only {left} units are left for this; ask for fewer."""

    code = "UNITS_EXCEEDED"


class NothingLeft(Conflict):
    """Every unit of this order is in a fulfillment already; look at its fulfillments."""

    code = "NOTHING_LEFT_TO_FULFILL"


class OrderFull(Conflict):
    """This order has {limit} {kind} already and takes no more; look at those that are there."""

    code = "ORDER_FULL"


class CustomerErased(Conflict):
    """This order's customer has been erased, and nothing is written about them any more."""

    code = "CUSTOMER_ERASED"


class ClientReferenceTaken(Conflict):
    """Another order of this user has this client_reference already."""

    code = "CLIENT_REFERENCE_TAKEN"


class OpenOrdersExceeded(LimitExceeded):
    """{open_orders} unpaid orders hold stock for this customer already; pay or cancel one, or try again in {retry_after_seconds} seconds."""  # noqa: E501 - the sentence is one line

    code = "OPEN_ORDERS_EXCEEDED"


class QueueFull(Unavailable):
    """Too many orders are waiting to be written; this one was not taken, try again shortly."""

    code = "QUEUE_FULL"


class QueueTimeout(Unavailable):
    """The order waited too long to be written and was not taken; try again shortly."""

    code = "QUEUE_TIMEOUT"


class ShuttingDown(Unavailable):
    """This process is shutting down and takes no more orders; try again, another one will answer."""

    code = "SHUTTING_DOWN"


class AmountExceedsOpen(Conflict):
    """Only {amount_max} of this order is left to pay; ask for that much or less, or leave the amount out."""

    code = "AMOUNT_EXCEEDS_OPEN"


class VoidUncoversOrder(Conflict):
    """This confirmed order is covered by the payment; cancel the order, which releases the money, or capture it."""

    code = "VOID_UNCOVERS_ORDER"


class OrderPaymentDeclined(Declined):
    """The payment was declined ({gateway_code}); the order can still be paid: try again with a fresh key."""

    code = "PAYMENT_DECLINED"


class PaymentGatewayUnavailable(Unavailable):
    """The payment gateway could not be reached and nothing was charged; repeat the request with the same key."""

    code = "GATEWAY_UNAVAILABLE"


class PaymentActionRefused(Conflict):
    """The gateway refused to {action} this payment, which is {status} now; its allowed_actions say what is possible."""

    code = "PAYMENT_ACTION_REFUSED"


class OrderRefundFailed(Conflict):
    """The gateway did not carry the refund out ({gateway_code}); ask for it again with a fresh Idempotency-Key."""

    code = "REFUND_FAILED"
