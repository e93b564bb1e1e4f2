"""What must hold when everything has come to rest: our word about money, held against the gateway's (rule, pure).

The gateway's side is its journal, which nobody kills; ours is what the API says. Nothing of the service is imported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

# Enough to see a pattern; all violations are counted.
EXAMPLES_MAX: Final = 10

_OPEN_PAYMENTS: Final = frozenset({"requires_payment", "processing", "unknown"})
_OPEN_REFUNDS: Final = frozenset({"requested", "processing", "unknown"})
_SOLD: Final = frozenset({"confirmed", "completed"})
_UNDONE: Final = frozenset({"cancelled", "expired"})


@dataclass(slots=True)
class GatewayMoney:
    """What really happened to one payment, in the currency's smallest unit."""

    payment_id: str
    reference: str
    currency: str
    authorized: int = 0
    captured: int = 0
    refunded: int = 0
    voided: int = 0

    @property
    def kept(self) -> int:
        """What was taken and not given back."""
        return self.captured - self.refunded

    @property
    def held(self) -> int:
        """What is held now: neither taken nor released. A capture of a part releases the rest."""
        return 0 if self.captured or self.voided else self.authorized


@dataclass(frozen=True, slots=True)
class OurRefund:
    """A refund as the API tells it."""

    id: int
    status: str
    amount: int


@dataclass(frozen=True, slots=True)
class OurPayment:
    """A payment as the API tells it, amounts in the smallest unit."""

    id: int
    reference: str
    status: str
    amount: int
    captured: int
    refunded: int
    refunds: tuple[OurRefund, ...] = ()

    @property
    def kept(self) -> int:
        """What we believe to have taken and not given back."""
        return self.captured - self.refunded

    @property
    def is_settled(self) -> bool:
        """Tell whether nothing of it is under way or unknown."""
        return self.status not in _OPEN_PAYMENTS and not any(each.status in _OPEN_REFUNDS for each in self.refunds)


@dataclass(frozen=True, slots=True)
class OurOrder:
    """An order as the API tells it."""

    id: int
    status: str
    currency: str
    total: int
    payment_unknown: bool
    fulfillment_status: str
    payments: tuple[OurPayment, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Tell whether nothing of its money is under way or unknown."""
        return not self.payment_unknown and all(payment.is_settled for payment in self.payments)


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """A final answer that a client got for a key: status and body, as received."""

    key: str
    status: int
    body: bytes


@dataclass(slots=True)
class Violations:
    """How often each promise was broken, and the first few cases in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, case: str, *, times: int = 1) -> None:
        """Count one case."""
        self.counts[name] += times
        if len(self.examples[name]) < EXAMPLES_MAX:
            self.examples[name].append(case)


# Every promise, in the order in which it is printed. The last two are counted by commands of the service itself.
PROMISES: Final[Mapping[str, str]] = {
    "double_charges": "An order was charged twice.",
    "charged_but_not_paid": "The gateway has money of which we do not know.",
    "paid_but_not_charged": "We count money that the gateway does not have.",
    "unknown_left": "A payment or refund has not come to an end.",
    "captured_differs": "We and the gateway disagree on what was taken.",
    "refunded_differs": "We and the gateway disagree on what was given back.",
    "confirmed_unpaid": "An order is confirmed and the gateway holds less than its total.",
    "shipped_unpaid": "Goods have left and the gateway holds less than the total.",
    "cancelled_not_refunded": "An order is off and the gateway keeps or holds money for it.",
    "answer_changed": "A key was answered in two ways.",
    "acknowledged_lost": "A client was told that it had paid, and the order is not paid.",
    "reconcile_differences": "An identity of the database does not hold.",
    "gateway_findings": "The service's own comparison with the gateway has found a difference.",
}


def read_gateway_money(
    moves: Iterable[Mapping[str, Any]], *, reference_name: str = "counterfoil_reference"
) -> dict[str, GatewayMoney]:
    """Add the moves of a journal up; returns every payment for which money moved, by the gateway's id."""
    found: dict[str, GatewayMoney] = {}
    for move in moves:
        money = found.setdefault(move["payment"], GatewayMoney(move["payment"], "", move["currency"]))
        setattr(money, move["kind"], getattr(money, move["kind"]) + move["amount"])
        money.reference = move.get("metadata", {}).get(reference_name, "") or money.reference
    return found


def compare(
    orders: Sequence[OurOrder], gateway: Iterable[GatewayMoney], answers: Iterable[FinalAnswer] = ()
) -> Violations:
    """Hold both sides against each other; returns what was broken (nothing, in the end)."""
    violations = Violations()
    by_reference: defaultdict[str, list[GatewayMoney]] = defaultdict(list)
    for money in gateway:
        by_reference[money.reference].append(money)
    for order in orders:
        theirs = [money for payment in order.payments for money in by_reference.pop(payment.reference, [])]
        _compare_payments(order, theirs, violations)
        _compare_order(order, theirs, violations)
    for reference, strangers in by_reference.items():
        for money in strangers:
            if money.kept or money.held:
                violations.add(
                    "charged_but_not_paid", f"{money.payment_id} ({reference or 'no reference'}) has no order"
                )
    _compare_answers(answers, violations)
    return violations


def _compare_payments(order: OurOrder, theirs: Sequence[GatewayMoney], violations: Violations) -> None:
    by_reference = {money.reference: money for money in theirs}
    for payment in order.payments:
        case = f"order {order.id}, payment {payment.id}"
        if not payment.is_settled:
            violations.add("unknown_left", f"{case} is {payment.status}")
        money = by_reference.get(payment.reference, GatewayMoney("", payment.reference, order.currency))
        if payment.captured != money.captured:
            violations.add("captured_differs", f"{case}: we say {payment.captured}, the gateway {money.captured}")
        if payment.refunded != money.refunded:
            violations.add("refunded_differs", f"{case}: we say {payment.refunded}, the gateway {money.refunded}")
        if money.captured > payment.captured or (money.held and payment.status != "authorized"):
            violations.add("charged_but_not_paid", f"{case} is {payment.status}, the gateway has {money.captured}")
        if payment.captured > money.captured or (payment.status == "authorized" and not money.held):
            violations.add("paid_but_not_charged", f"{case} is {payment.status}, the gateway has {money.captured}")
    if order.payment_unknown:
        violations.add("unknown_left", f"order {order.id} is marked as unknown")


def _compare_order(order: OurOrder, theirs: Sequence[GatewayMoney], violations: Violations) -> None:
    charges = [money for money in theirs if money.kept or money.held]
    if len(charges) > 1:
        ids = ", ".join(money.payment_id for money in charges)
        violations.add("double_charges", f"order {order.id}: {ids}", times=len(charges) - 1)
    # A refund after the sale does not undo that it was paid for.
    secured = sum(money.captured + money.held for money in theirs)
    if order.status in _SOLD and secured < order.total:
        violations.add("confirmed_unpaid", f"order {order.id}: {secured} of {order.total}")
    if order.fulfillment_status != "unfulfilled" and secured < order.total:
        violations.add("shipped_unpaid", f"order {order.id}: {secured} of {order.total}")
    left = sum(money.kept + money.held for money in theirs)
    if order.status in _UNDONE and left:
        violations.add("cancelled_not_refunded", f"order {order.id} is {order.status}, the gateway keeps {left}")


def _compare_answers(answers: Iterable[FinalAnswer], violations: Violations) -> None:
    first: dict[str, FinalAnswer] = {}
    for answer in answers:
        known = first.setdefault(answer.key, answer)
        if (answer.status, answer.body) != (known.status, known.body):
            violations.add("answer_changed", f"{answer.key}: {known.status}, later {answer.status}")
