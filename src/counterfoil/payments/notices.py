"""Notices that gateways send: checked, written down whatever they are, and never believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import structlog

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction
from counterfoil.infrastructure.failpoints import failpoint
from counterfoil.kernel.ids import new_request_id
from counterfoil.kernel.money import Money
from counterfoil.payments import attempt_repositories as attempts
from counterfoil.payments import repositories
from counterfoil.payments.errors import GatewayNotFound
from counterfoil.payments.gateways.base import Callback, CallbackRejected
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.states import NoticeVerdict
from counterfoil.payments.views import PaymentView
from counterfoil.payments.wiring import gateways as process_gateways

log = structlog.get_logger(__name__)

# Longer than any gateway repeats a notice, so a repetition is known as one.
KEEP_DAYS: Final = 90
# Anybody can send what is not believed. So much of it is written down; the rest is only in the log.
UNBELIEVED_MINUTE_MAX: Final = 60
# A notice without a signature is as little to be believed as one with a wrong one.
_VERDICTS: Final = {
    "missing": NoticeVerdict.FORGED,
    "forged": NoticeVerdict.FORGED,
    "stale": NoticeVerdict.STALE,
    "malformed": NoticeVerdict.MALFORMED,
}


def accept_notice(
    gateway_name: str, body: bytes, headers: Mapping[str, str], *, gateways: Gateways | None = None
) -> NoticeVerdict:
    """Check a notice and write it down; one that is genuine, new and about a payment of ours makes that be looked at.

    What the notice says of the payment is compared and then forgotten: a worker reads the truth from the gateway, so
    notices may repeat and overtake each other. Names in `headers` are in lower case; without `gateways` those of
    this process are asked. Opens a transaction. Raises GatewayNotFound, and nothing for a bad notice.
    """
    gateway = (gateways or process_gateways()).by_name.get(gateway_name)
    if gateway is None:
        raise GatewayNotFound
    failpoint("notice.begun")
    values = {
        "gateway": gateway_name,
        "event_id": "",
        "type": "",
        "detail": "",
        "payment_id": None,
        "body_hash": hashlib.sha256(body).digest(),
    }
    try:
        callback = gateway.parse_callback(body, headers)
    except CallbackRejected as error:
        verdict = _VERDICTS[error.code]
        with transaction():
            kept = repositories.insert_unbelieved_notice(
                {**values, "detail": error.code}, verdict=verdict, minute_max=UNBELIEVED_MINUTE_MAX
            )
        log.warning("notice.refused", gateway=gateway_name, verdict=verdict.value, code=error.code, kept=kept)
        return verdict
    values |= {"event_id": callback.event_id[:200], "type": callback.type[:100]}
    with transaction():
        declare_change(actor=f"gateway:{gateway_name}", action="payment.notice", request_id=new_request_id())
        verdict = _take(callback, values)
        failpoint("notice.written")
    failpoint("notice.committed")
    if verdict is not NoticeVerdict.ACCEPTED:
        log.info("notice.without_effect", gateway=gateway_name, verdict=verdict.value, event_id=callback.event_id)
    return verdict


def delete_old_notices(*, limit: int) -> int:
    """Delete up to `limit` notices older than KEEP_DAYS, in a transaction of its own; returns how many."""
    with transaction():
        return repositories.delete_notices(days=KEEP_DAYS, limit=limit)


def _take(callback: Callback, values: dict[str, Any]) -> NoticeVerdict:
    payment, verdict, detail = _compare(callback, values["gateway"])
    values = {**values, "payment_id": payment.id if payment else None, "detail": detail}
    if verdict is not NoticeVerdict.ACCEPTED:
        repositories.insert_notice(values, verdict=verdict)
        return verdict
    if not repositories.insert_notice(values, verdict=NoticeVerdict.ACCEPTED):
        repositories.insert_notice(values, verdict=NoticeVerdict.DUPLICATE)
        return NoticeVerdict.DUPLICATE
    if payment is not None:
        attempts.look_now(payment.id)
    return NoticeVerdict.ACCEPTED


_Comparison = tuple[PaymentView | None, NoticeVerdict, str]


def _compare(callback: Callback, gateway: str) -> _Comparison:
    """Find what a notice is about and hold it against what we asked for."""
    if callback.payment is not None:
        payment = _find(gateway, "p.reference = %(name)s", callback.payment.reference)
        return _agree(payment, payment.amount if payment else None, callback.payment.amount)
    if callback.refund is not None:
        payment = _find(gateway, "p.gateway_payment_id = %(name)s", callback.refund.payment_id)
        refunds = repositories.read_refunds(
            "payment_id = %(payment)s AND reference = %(reference)s",
            {"payment": payment.id if payment else None, "reference": callback.refund.reference},
        )
        return _agree(payment, refunds[0].amount if refunds else None, callback.refund.amount)
    return None, NoticeVerdict.ACCEPTED, "not_followed"


def _agree(payment: PaymentView | None, ours: Money | None, theirs: Money) -> _Comparison:
    if ours is None:
        return payment, NoticeVerdict.UNKNOWN_PAYMENT, "refund" if payment else "payment"
    if ours != theirs:
        return payment, NoticeVerdict.MISMATCH, "amount_mismatch"
    return payment, NoticeVerdict.ACCEPTED, ""


def _find(gateway: str, where: str, name: str) -> PaymentView | None:
    found = repositories.read_payments(f"p.gateway = %(gateway)s AND {where}", {"gateway": gateway, "name": name})
    return found[0] if name and found else None
