"""Gateways that lie or are away, made of the sandbox by overriding what one call does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from counterfoil.payments.gateways.base import (
    ActionRefused,
    GatewayPayment,
    GatewayRefund,
    OutcomeUnknown,
    PaymentRequest,
    Unreachable,
)
from counterfoil.payments.gateways.sandbox import SandboxGateway


class Counting(SandboxGateway):
    """Remembers every call that could move money, with its key."""

    def __init__(self, name: str = "sandbox", **values: Any) -> None:
        super().__init__(**values)
        self.name = name
        self.sent: list[tuple[str, str]] = []

    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        self.sent.append(("authorise", request.key))
        return super().authorise(request)

    def capture(self, payment_id: str, *, amount: Any, key: str) -> GatewayPayment:
        self.sent.append(("capture", key))
        return super().capture(payment_id, amount=amount, key=key)

    def void(self, payment_id: str, *, key: str) -> GatewayPayment:
        self.sent.append(("void", key))
        return super().void(payment_id, key=key)

    def refund(self, payment_id: str, *, amount: Any, reference: str, key: str) -> GatewayRefund:
        self.sent.append(("refund", key))
        return super().refund(payment_id, amount=amount, reference=reference, key=key)


class Away(Counting):
    """Certainly does nothing while `is_away`."""

    is_away = True

    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        self._be_away("authorise", request.key)
        return super().authorise(request)

    def capture(self, payment_id: str, *, amount: Any, key: str) -> GatewayPayment:
        self._be_away("capture", key)
        return super().capture(payment_id, amount=amount, key=key)

    def refund(self, payment_id: str, *, amount: Any, reference: str, key: str) -> GatewayRefund:
        self._be_away("refund", key)
        return super().refund(payment_id, amount=amount, reference=reference, key=key)

    def _be_away(self, operation: str, key: str) -> None:
        if self.is_away:
            self.sent.append((operation, key))
            raise Unreachable("connection_refused", gateway=self.name)


class Silent(Counting):
    """Does what it is asked and loses the answer; while `does_nothing` it does not even do it."""

    loses = True
    does_nothing = False

    def capture(self, payment_id: str, *, amount: Any, key: str) -> GatewayPayment:
        return self._lose(lambda: super(Silent, self).capture(payment_id, amount=amount, key=key), "capture", key)

    def void(self, payment_id: str, *, key: str) -> GatewayPayment:
        return self._lose(lambda: super(Silent, self).void(payment_id, key=key), "void", key)

    def refund(self, payment_id: str, *, amount: Any, reference: str, key: str) -> GatewayRefund:
        return self._lose(
            lambda: super(Silent, self).refund(payment_id, amount=amount, reference=reference, key=key), "refund", key
        )

    def _lose(self, call: Callable[[], Any], operation: str, key: str) -> Any:
        if self.does_nothing:
            self.sent.append((operation, key))
            raise OutcomeUnknown("timeout", gateway=self.name)
        answer = call()
        if self.loses:
            raise OutcomeUnknown("connection_reset", gateway=self.name)
        return answer


class Lying(Counting):
    """Tells of payments and refunds what `change` makes of them."""

    def __init__(self, change: dict[str, Any], **values: Any) -> None:
        super().__init__(**values)
        self.change = change

    def authorise(self, request: PaymentRequest) -> GatewayPayment:
        return dataclasses.replace(super().authorise(request), **self.change)

    def capture(self, payment_id: str, *, amount: Any, key: str) -> GatewayPayment:
        return dataclasses.replace(super().capture(payment_id, amount=amount, key=key), **self.change)

    def refund(self, payment_id: str, *, amount: Any, reference: str, key: str) -> GatewayRefund:
        refund = super().refund(payment_id, amount=amount, reference=reference, key=key)
        return dataclasses.replace(refund, **self.change)

    def read_payment(self, payment_id: str) -> GatewayPayment:
        return dataclasses.replace(super().read_payment(payment_id), **self.change)

    def refunds_of(self, payment_id: str) -> tuple[GatewayRefund, ...]:
        return tuple(dataclasses.replace(refund, **self.change) for refund in super().refunds_of(payment_id))


class Refusing(Counting):
    """Refuses to capture and to refund, whatever the state."""

    def capture(self, payment_id: str, *, amount: Any, key: str) -> GatewayPayment:  # noqa: ARG002
        raise ActionRefused("charge_expired_for_capture", gateway=self.name)

    def refund(self, payment_id: str, *, amount: Any, reference: str, key: str) -> GatewayRefund:  # noqa: ARG002
        raise ActionRefused("charge_disputed", gateway=self.name)
