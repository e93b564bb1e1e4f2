"""Holds our payments against a gateway's list, both ways. What differs is reported; nothing is repaired in silence.

One thing is done besides: a payment that is open here and decided there is looked at again at once, by whoever makes
calls, who then reads the truth from the gateway as always.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final, TypeVar

import structlog

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import no_transaction, run_in_thread, transaction
from counterfoil.kernel.errors import Unavailable
from counterfoil.payments import attempt_repositories as attempts
from counterfoil.payments import reconciliation_repositories as repositories
from counterfoil.payments.comparison import (
    BookedPayment,
    BookedRefund,
    Difference,
    compare_payment,
    compare_refund,
    payment_missing_there,
    refund_missing_there,
)
from counterfoil.payments.gateways.base import (
    GatewayError,
    GatewayPayment,
    GatewayPaymentStatus,
    GatewayRefund,
    PaymentGateway,
    RequestRejected,
    TimeSpan,
    each_payment,
    each_refund,
)
from counterfoil.payments.reconciliation_repositories import RECONCILIATION_STATE
from counterfoil.payments.views import Trace

__all__ = ["RECONCILIATION_STATE", "Comparison", "GatewayAway", "default_span", "reconcile_gateway", "reconcile_if_due"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

# A hold lasts a week, and may be taken on its last day.
DAYS: Final = 8
# The span is gone through in pieces, so that memory holds one of them.
_PIECE: Final = timedelta(days=1)
_BATCH: Final = 100
_PAGE: Final = 500

_UNDECIDED_THERE: Final = frozenset({GatewayPaymentStatus.PROCESSING, GatewayPaymentStatus.REQUIRES_ACTION})


class GatewayAway(Unavailable):
    """The gateway {gateway} cannot be asked right now ({code}); nothing was concluded, try again later."""

    code = "GATEWAY_AWAY"


@dataclass(slots=True)
class Comparison:
    """What a comparison went through and found. `looked_at` are payments that were made due for another look."""

    gateway: str
    span: TimeSpan
    payments: int = 0
    refunds: int = 0
    looked_at: list[int] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


# ---------------------------------------------------------------- doors
@no_transaction
def reconcile_gateway(gateway: PaymentGateway, span: TimeSpan, trace: Trace) -> Comparison:
    """Compare everything of a span, in transactions of its own, and store what differs. Raises GatewayAway."""

    def begin() -> int:
        with transaction():
            declare_change(actor=trace.principal, action="gateway.reconcile", request_id=trace.request_id)
            return repositories.begin_comparison(gateway.name, span)

    return _compare_and_store(gateway, span, run_in_thread(begin), trace)


@no_transaction
def reconcile_if_due(
    gateway: PaymentGateway, trace: Trace, *, stop: threading.Event | None = None
) -> Comparison | None:
    """Make today's comparison, once a day by the database's clock, however many workers there are.

    Returns None when there was nothing to do. `stop` ends it early, and another worker begins anew. Raises GatewayAway.
    """

    def begin() -> tuple[int, TimeSpan] | None:
        with transaction():
            declare_change(actor=trace.principal, action="gateway.reconcile", request_id=trace.request_id)
            return repositories.begin_daily_comparison(gateway.name, days=DAYS)

    begun = run_in_thread(begin)
    if begun is None:
        return None
    found = _compare_and_store(gateway, begun[1], begun[0], trace, stop=stop)
    if found.differences:
        log.error("gateway.differs", gateway=gateway.name, findings=len(found.differences))
    return found


def default_span() -> TimeSpan:
    """Return the span that a comparison goes through by default: up to now by the database's clock."""
    now = run_in_thread(repositories.read_clock)
    return TimeSpan(now - timedelta(days=DAYS), now)


def _compare_and_store(
    gateway: PaymentGateway, span: TimeSpan, comparison_id: int, trace: Trace, *, stop: threading.Event | None = None
) -> Comparison:
    found = Comparison(gateway.name, span)

    def finish(outcome: str) -> None:
        with transaction():
            declare_change(actor=trace.principal, action="gateway.reconcile", request_id=trace.request_id)
            if found.differences:
                repositories.write_findings(gateway.name, found.differences)
            repositories.finish_comparison(
                comparison_id,
                outcome=outcome,
                payments=found.payments,
                refunds=found.refunds,
                findings=len(found.differences),
            )

    try:
        for piece in _pieces(span):
            if stop is not None and stop.is_set():
                run_in_thread(finish, "failed")
                return found
            _compare_payments(gateway, piece, found, trace)
            _compare_refunds(gateway, piece, found)
    except GatewayError as error:
        run_in_thread(finish, "failed")
        raise GatewayAway(gateway=gateway.name, code=error.code) from error
    run_in_thread(finish, "done")
    return found


def _pieces(span: TimeSpan) -> Iterator[TimeSpan]:
    start = span.start
    while start < span.end:
        end = min(start + _PIECE, span.end)
        yield TimeSpan(start, end)
        start = end


# ---------------------------------------------------------------- payments
def _compare_payments(gateway: PaymentGateway, span: TimeSpan, found: Comparison, trace: Trace) -> None:
    met: set[int] = set()
    for batch in _batches(each_payment(gateway, span)):
        found.payments += len(batch)
        ours = _find_payments(gateway.name, batch)
        for seen in batch:
            mine = ours.get(seen.reference) or ours.get(seen.payment_id)
            if mine is not None and mine.gateway_payment_id in {"", seen.payment_id}:
                met.add(mine.id)
            _judge_payment(gateway, mine, seen, found, trace)
    for mine in _each_page(
        lambda after: repositories.list_booked_payments(gateway.name, span, after=after, limit=_PAGE)
    ):
        if mine.id not in met:
            _look_for_payment(gateway, mine, found, trace)


def _find_payments(gateway: str, batch: Sequence[GatewayPayment]) -> dict[str, BookedPayment]:
    """Return our payments by the gateway's id and by reference."""
    references = [seen.reference for seen in batch if seen.reference]
    rows = run_in_thread(
        repositories.read_booked_payments,
        gateway,
        references=references,
        gateway_ids=[seen.payment_id for seen in batch],
    )
    by_id = {row.gateway_payment_id: row for row in rows if row.gateway_payment_id}
    return {**by_id, **{row.reference: row for row in rows}}


def _judge_payment(
    gateway: PaymentGateway, mine: BookedPayment | None, seen: GatewayPayment, found: Comparison, trace: Trace
) -> None:
    """Compare; what differs is read once more on both sides, for it may have changed in between."""
    if compare_payment(mine, seen) is None:
        return
    if mine is None:
        # Somebody may have written it down after the list was read; the reference is all there is to find it by.
        mine = _find_payments(gateway.name, [seen]).get(seen.reference)
    else:
        mine = run_in_thread(repositories.read_booked_payment, mine.id)
    seen = gateway.read_payment(seen.payment_id)
    if mine is not None and mine.is_open:
        _look_again(mine, seen, found, trace)
        return
    difference = compare_payment(mine, seen)
    if difference is None or (mine is not None and _has_moved(mine)):
        return
    found.differences.append(difference)


def _look_for_payment(gateway: PaymentGateway, mine: BookedPayment, found: Comparison, trace: Trace) -> None:
    """Ask for a payment that the list did not have: the two clocks may disagree on what belongs into the span."""
    if mine.is_open:
        return
    try:
        seen = gateway.read_payment(mine.gateway_payment_id)
    except RequestRejected:
        if not _has_moved(mine):
            found.differences.append(payment_missing_there(mine))
    else:
        _judge_payment(gateway, mine, seen, found, trace)


def _has_moved(mine: BookedPayment) -> bool:
    now = run_in_thread(repositories.read_booked_payment, mine.id)
    return now.version != mine.version or now.is_open


def _look_again(mine: BookedPayment, seen: GatewayPayment, found: Comparison, trace: Trace) -> None:
    """Let a payment that is open here and decided there be looked at now."""
    if seen.status in _UNDECIDED_THERE:
        return

    def look() -> int:
        with transaction():
            declare_change(actor=trace.principal, action="payment.look", request_id=trace.request_id)
            return attempts.look_now(mine.id)

    if run_in_thread(look):
        found.looked_at.append(mine.id)


# ---------------------------------------------------------------- refunds
def _compare_refunds(gateway: PaymentGateway, span: TimeSpan, found: Comparison) -> None:
    met: set[int] = set()
    for batch in _batches(each_refund(gateway, span)):
        found.refunds += len(batch)
        ours = _find_refunds(gateway.name, batch)
        for seen in batch:
            mine = ours.get(seen.reference) or ours.get(seen.refund_id)
            if mine is not None:
                met.add(mine.id)
            _judge_refund(gateway, mine, seen, found)
    for mine in _each_page(
        lambda after: repositories.list_booked_refunds(gateway.name, span, after=after, limit=_PAGE)
    ):
        if mine.id not in met:
            _look_for_refund(gateway, mine, found)


def _find_refunds(gateway: str, batch: Sequence[GatewayRefund]) -> dict[str, BookedRefund]:
    rows = run_in_thread(
        repositories.read_booked_refunds,
        gateway,
        references=[seen.reference for seen in batch if seen.reference],
        gateway_ids=[seen.refund_id for seen in batch],
    )
    by_id = {row.gateway_refund_id: row for row in rows if row.gateway_refund_id}
    return {**by_id, **{row.reference: row for row in rows}}


def _judge_refund(gateway: PaymentGateway, mine: BookedRefund | None, seen: GatewayRefund, found: Comparison) -> None:
    if compare_refund(mine, seen) is None:
        return
    if mine is None:
        mine = _find_refunds(gateway.name, [seen]).get(seen.reference)
    else:
        mine = run_in_thread(repositories.read_booked_refund, mine.id)
    if mine is not None and mine.is_open:
        return
    theirs = {each.refund_id: each for each in gateway.refunds_of(seen.payment_id)} if seen.payment_id else {}
    difference = compare_refund(mine, theirs.get(seen.refund_id, seen))
    if difference is None or (mine is not None and _refund_has_moved(mine)):
        return
    found.differences.append(difference)


def _look_for_refund(gateway: PaymentGateway, mine: BookedRefund, found: Comparison) -> None:
    if mine.is_open:
        return
    try:
        theirs = gateway.refunds_of(mine.gateway_payment_id)
    except RequestRejected:
        theirs = ()
    for seen in theirs:
        if mine.reference == seen.reference or mine.gateway_refund_id == seen.refund_id:
            _judge_refund(gateway, mine, seen, found)
            return
    if not _refund_has_moved(mine):
        found.differences.append(refund_missing_there(mine))


def _refund_has_moved(mine: BookedRefund) -> bool:
    now = run_in_thread(repositories.read_booked_refund, mine.id)
    return now.version != mine.version or now.is_open


# ---------------------------------------------------------------- going through many
def _batches(entries: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(entries, _BATCH)):
        yield batch


Booked = TypeVar("Booked", BookedPayment, BookedRefund)


def _each_page(read: Callable[[int], list[Booked]]) -> Iterator[Booked]:
    """Yield ours page by page, by id."""
    after = 0
    while page := run_in_thread(read, after):
        yield from page
        after = page[-1].id
