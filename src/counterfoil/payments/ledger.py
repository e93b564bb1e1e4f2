"""The ledger of money: two entries for each capture and each refund, never changed."""

from __future__ import annotations

from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.ids import new_uuid7
from counterfoil.kernel.money import Money
from counterfoil.payments import repositories
from counterfoil.payments.views import PaymentView, RefundView

ORDER_ACCOUNT = "order"


def gateway_account(gateway: str) -> str:
    """Return the account of the money that a gateway holds for us."""
    return f"gateway:{gateway}"


@transaction_required
def post_capture(payment: PaymentView, amount: Money) -> None:
    """Post captured money: the gateway's account gains it, the order's loses it. A second posting is refused."""
    _post(payment, "capture", amount, refund=None)


@transaction_required
def post_refund(payment: PaymentView, refund: RefundView) -> None:
    """Post money given back: the reverse of a capture. A second posting for the same refund is refused."""
    _post(payment, "refund", refund.amount * -1, refund=refund)


def _post(payment: PaymentView, kind: str, amount: Money, *, refund: RefundView | None) -> None:
    repositories.insert_posting(
        posting=new_uuid7(),
        order_id=payment.order_id,
        payment_id=payment.id,
        refund_id=None if refund is None else refund.id,
        gateway=payment.gateway,
        kind=kind,
        entries=((gateway_account(payment.gateway), amount), (ORDER_ACCOUNT, amount * -1)),
    )
