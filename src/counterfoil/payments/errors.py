"""What can be wrong with a request about money."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict, Invalid, NotFound


class PaymentNotFound(NotFound):
    """There is no such payment."""

    code = "PAYMENT_NOT_FOUND"


class RefundNotFound(NotFound):
    """There is no such refund."""

    code = "REFUND_NOT_FOUND"


class PaymentInFlight(Conflict):
    """Another payment of this order is under way; wait until it is decided, or cancel it if it waits for the buyer."""

    code = "PAYMENT_IN_FLIGHT"


class PaymentActionNotAllowed(Conflict):
    """A payment that is {status} does not allow {action}; the allowed actions are in allowed_actions."""

    code = "PAYMENT_ACTION_NOT_ALLOWED"

    def __init__(self, *, action: str, status: str, allowed_actions: tuple[str, ...]) -> None:
        """Take what was wanted, where the payment is, and what it allows."""
        super().__init__(action=action, status=status, allowed_actions=list(allowed_actions))


class AmountTooLarge(Conflict):
    """At most {amount_max} can be captured of this payment; ask for that much or less."""

    code = "AMOUNT_TOO_LARGE"


class RefundExceedsCaptured(Conflict):
    """Only {amount_max} of this payment can still be refunded; ask for that much or less."""

    code = "REFUND_EXCEEDS_CAPTURED"


class AmountNotPositive(Invalid):
    """The amount must be more than nothing and in the payment's currency."""

    code = "AMOUNT_NOT_POSITIVE"


class PaymentKeyReused(Invalid):
    """This Idempotency-Key was used for another payment; use a fresh key for a new one."""

    code = "PAYMENT_KEY_REUSED"


class GatewayNotFound(NotFound):
    """There is no such payment gateway here."""

    code = "GATEWAY_NOT_FOUND"
