"""States of payments, their attempts and refunds, and what may be done in each (rule, pure)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class PaymentState(StrEnum):
    """Where a payment is. `unknown` is not failed: the money may be held or taken, and nobody has told us yet."""

    REQUIRES_PAYMENT = "requires_payment"
    PROCESSING = "processing"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class RefundState(StrEnum):
    """Where a refund is."""

    REQUESTED = "requested"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class AttemptState(StrEnum):
    """Where one call to a gateway is. Open ones are due, running or unknown; the others are at their end."""

    DUE = "due"
    RUNNING = "running"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    NOT_EXECUTED = "not_executed"
    REJECTED = "rejected"


class Operation(StrEnum):
    """What a gateway is asked to do."""

    AUTHORISE = "authorise"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class NoticeVerdict(StrEnum):
    """What was made of a gateway's notice. Only an accepted one has an effect: the payment is looked at."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FORGED = "forged"
    STALE = "stale"
    MALFORMED = "malformed"
    UNKNOWN_PAYMENT = "unknown_payment"
    MISMATCH = "mismatch"


# While a payment is in one of these, its order gets no second one: nobody knows yet whether it needs one.
UNDECIDED: Final = frozenset({PaymentState.REQUIRES_PAYMENT, PaymentState.PROCESSING, PaymentState.UNKNOWN})
OPEN_ATTEMPTS: Final = frozenset({AttemptState.DUE, AttemptState.RUNNING, AttemptState.UNKNOWN})

_UNDECIDED_NEXT: Final = (
    PaymentState.AUTHORIZED,
    PaymentState.CAPTURED,
    PaymentState.FAILED,
    PaymentState.CANCELLED,
)
# From where to where; a repeated or late report that is not in here changes nothing.
TRANSITIONS: Final[dict[PaymentState, frozenset[PaymentState]]] = {
    PaymentState.PROCESSING: frozenset({PaymentState.REQUIRES_PAYMENT, PaymentState.UNKNOWN, *_UNDECIDED_NEXT}),
    PaymentState.REQUIRES_PAYMENT: frozenset({PaymentState.PROCESSING, *_UNDECIDED_NEXT}),
    PaymentState.UNKNOWN: frozenset({PaymentState.REQUIRES_PAYMENT, PaymentState.PROCESSING, *_UNDECIDED_NEXT}),
    PaymentState.AUTHORIZED: frozenset({PaymentState.CAPTURED, PaymentState.CANCELLED, PaymentState.FAILED}),
    # Only when the gateway was certainly not asked: the same request may then try once more.
    PaymentState.FAILED: frozenset({PaymentState.PROCESSING}),
    PaymentState.CAPTURED: frozenset(),
    PaymentState.CANCELLED: frozenset(),
}
REFUND_TRANSITIONS: Final[dict[RefundState, frozenset[RefundState]]] = {
    RefundState.REQUESTED: frozenset(
        {RefundState.PROCESSING, RefundState.UNKNOWN, RefundState.SUCCEEDED, RefundState.FAILED}
    ),
    RefundState.PROCESSING: frozenset({RefundState.SUCCEEDED, RefundState.FAILED}),
    RefundState.UNKNOWN: frozenset({RefundState.PROCESSING, RefundState.SUCCEEDED, RefundState.FAILED}),
    RefundState.SUCCEEDED: frozenset(),
    RefundState.FAILED: frozenset(),
}

# What a person may ask for; `pay` is an action on the order, not on a payment.
_ACTIONS: Final[dict[PaymentState, tuple[Operation, ...]]] = {
    PaymentState.REQUIRES_PAYMENT: (Operation.VOID,),
    PaymentState.AUTHORIZED: (Operation.CAPTURE, Operation.VOID),
    PaymentState.CAPTURED: (Operation.REFUND,),
}


def may_become(before: PaymentState, after: PaymentState) -> bool:
    """Tell whether a payment goes from one state to the other."""
    return after in TRANSITIONS[before]


def refund_may_become(before: RefundState, after: RefundState) -> bool:
    """Tell whether a refund goes from one state to the other."""
    return after in REFUND_TRANSITIONS[before]


def allowed_operations(state: PaymentState, *, is_busy: bool, is_refundable: bool) -> tuple[str, ...]:
    """Return what may be asked of a payment now, sorted. `is_busy`: a capture or void of it is under way."""
    if is_busy:
        return ()
    return tuple(
        operation.value for operation in _ACTIONS.get(state, ()) if operation is not Operation.REFUND or is_refundable
    )


def render_payment_diagram() -> str:
    """Return the states of a payment as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {PaymentState.PROCESSING}"]
    lines += [f"    {before} --> {after}" for before in PaymentState for after in sorted(TRANSITIONS[before])]
    return "\n".join(lines) + "\n"
