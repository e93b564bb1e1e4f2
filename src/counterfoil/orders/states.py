"""What may happen to an order, by whom and under which condition (rule, pure): tables, and functions that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class OrderStatus(StrEnum):
    """Where an order is in its life; the only axis that commands set."""

    DRAFT = "draft"
    CREATED = "created"
    CONFIRMED = "confirmed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class PaymentStatus(StrEnum):
    """How much of the order is paid; derived from its payments (orders/axes.py)."""

    UNPAID = "unpaid"
    AUTHORIZED = "authorized"
    PARTIALLY_PAID = "partially_paid"
    PAID = "paid"
    OVERPAID = "overpaid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


class FulfillmentStatus(StrEnum):
    """How much of the order has left the house; derived from its fulfillments."""

    UNFULFILLED = "unfulfilled"
    PARTIALLY_FULFILLED = "partially_fulfilled"
    FULFILLED = "fulfilled"
    DELIVERED = "delivered"


class ReturnStatus(StrEnum):
    """How much of the order came back; derived from its returns."""

    NONE = "none"
    REQUESTED = "requested"
    PARTIALLY_RETURNED = "partially_returned"
    RETURNED = "returned"


class OrderAction(StrEnum):
    """A command on an order."""

    PLACE = "place"
    UPDATE = "update"
    CANCEL = "cancel"
    DISCARD = "discard"
    EXPIRE = "expire"
    CONFIRM = "confirm"
    REINSTATE = "reinstate"
    COMPLETE = "complete"
    PAY = "pay"
    REFUND = "refund"
    FULFILL = "fulfill"
    REQUEST_RETURN = "request_return"
    HOLD = "hold"
    RELEASE_HOLD = "release_hold"
    NOTE = "note"


class Party(StrEnum):
    """Who acts: a customer, staff (or a service), a scheduled job, or a gateway's word."""

    CUSTOMER = "customer"
    STAFF = "staff"
    JOB = "job"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Situation:
    """What guards look at: the axes of one order, and the flags beside them."""

    status: OrderStatus
    payment_status: PaymentStatus = PaymentStatus.UNPAID
    fulfillment_status: FulfillmentStatus = FulfillmentStatus.UNFULFILLED
    return_status: ReturnStatus = ReturnStatus.NONE
    payment_in_flight: bool = False
    is_covered: bool = False
    has_captured: bool = False
    is_held: bool = False
    has_open_return: bool = False
    deadline_passed: bool = False
    within_cancel_window: bool = True
    within_return_window: bool = True


class Guard(StrEnum):
    """A condition beyond the status; the value is how documents and refusals say it."""

    NO_PAYMENT_IN_FLIGHT = "no payment is in flight or unknown"
    COVERED = "what is held or paid covers the total"
    NOT_COVERED = "something is left to pay, and nothing was given back"
    PAID = "paid"
    CAPTURED = "money was taken"
    NOT_REFUNDED = "not all of the money was given back"
    DEADLINE_PASSED = "the reservation's deadline has passed"
    NOTHING_SHIPPED = "nothing is shipped"
    NOT_ALL_SHIPPED = "something is left to ship"
    SOMETHING_SHIPPED = "something is shipped"
    FULFILLED = "everything is shipped"
    NOT_HELD = "no hold is open"
    HELD = "a hold is open"
    NO_OPEN_RETURN = "no return is open"
    CANCEL_WINDOW = "the time for cancelling is not over"
    RETURN_WINDOW = "the time for returns is not over"
    RETURN_WINDOW_OVER = "the time for returns is over"


_PAID: Final = frozenset(
    {PaymentStatus.PAID, PaymentStatus.OVERPAID, PaymentStatus.PARTIALLY_REFUNDED, PaymentStatus.REFUNDED}
)
_GIVEN_BACK: Final = frozenset({PaymentStatus.PARTIALLY_REFUNDED, PaymentStatus.REFUNDED})
_ALL_SHIPPED: Final = frozenset({FulfillmentStatus.FULFILLED, FulfillmentStatus.DELIVERED})
_HOLDS: Final[Mapping[Guard, Callable[[Situation], bool]]] = {
    Guard.NO_PAYMENT_IN_FLIGHT: lambda s: not s.payment_in_flight,
    Guard.COVERED: lambda s: s.is_covered,
    # What was given back is not owed again.
    Guard.NOT_COVERED: lambda s: not s.is_covered and s.payment_status not in _GIVEN_BACK,
    Guard.NOT_REFUNDED: lambda s: s.payment_status is not PaymentStatus.REFUNDED,
    Guard.PAID: lambda s: s.payment_status in _PAID,
    Guard.CAPTURED: lambda s: s.has_captured,
    Guard.DEADLINE_PASSED: lambda s: s.deadline_passed,
    Guard.NOTHING_SHIPPED: lambda s: s.fulfillment_status is FulfillmentStatus.UNFULFILLED,
    Guard.NOT_ALL_SHIPPED: lambda s: s.fulfillment_status not in _ALL_SHIPPED,
    Guard.SOMETHING_SHIPPED: lambda s: s.fulfillment_status is not FulfillmentStatus.UNFULFILLED,
    Guard.FULFILLED: lambda s: s.fulfillment_status in _ALL_SHIPPED,
    Guard.NOT_HELD: lambda s: not s.is_held,
    Guard.HELD: lambda s: s.is_held,
    Guard.NO_OPEN_RETURN: lambda s: not s.has_open_return,
    Guard.CANCEL_WINDOW: lambda s: s.within_cancel_window,
    Guard.RETURN_WINDOW: lambda s: s.within_return_window,
    Guard.RETURN_WINDOW_OVER: lambda s: not s.within_return_window,
}
assert _HOLDS.keys() == set(Guard), "every guard has its condition"

_PEOPLE: Final = frozenset({Party.CUSTOMER, Party.STAFF})
_CUSTOMER: Final = frozenset({Party.CUSTOMER})
_STAFF: Final = frozenset({Party.STAFF})
_JOB: Final = frozenset({Party.JOB})
_GATEWAY: Final = frozenset({Party.GATEWAY})


@dataclass(frozen=True, slots=True)
class Transition:
    """One allowed step: by which action, from where to where, writing which event, by whom, under which conditions."""

    action: OrderAction
    before: OrderStatus
    after: OrderStatus
    event: str
    parties: frozenset[Party] = _PEOPLE
    guards: tuple[Guard, ...] = ()

    def is_open(self, situation: Situation, party: Party) -> bool:
        """Tell whether this party may take the step now."""
        return (
            situation.status is self.before
            and party in self.parties
            and all(_HOLDS[guard](situation) for guard in self.guards)
        )


_DRAFT, _CREATED, _CONFIRMED = OrderStatus.DRAFT, OrderStatus.CREATED, OrderStatus.CONFIRMED
_COMPLETED, _CANCELLED, _EXPIRED = OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.EXPIRED

TRANSITIONS: Final = (
    Transition(OrderAction.PLACE, _DRAFT, _CREATED, "order.created"),
    Transition(OrderAction.UPDATE, _DRAFT, _DRAFT, "order.updated"),
    Transition(OrderAction.DISCARD, _DRAFT, _CANCELLED, "order.discarded"),
    Transition(OrderAction.UPDATE, _CREATED, _CREATED, "order.updated", guards=(Guard.NO_PAYMENT_IN_FLIGHT,)),
    Transition(OrderAction.CANCEL, _CREATED, _CANCELLED, "order.cancelled"),
    Transition(
        OrderAction.EXPIRE,
        _CREATED,
        _EXPIRED,
        "order.expired",
        _JOB,
        (Guard.DEADLINE_PASSED, Guard.NO_PAYMENT_IN_FLIGHT),
    ),
    Transition(OrderAction.CONFIRM, _CREATED, _CONFIRMED, "order.confirmed", _GATEWAY, (Guard.COVERED,)),
    # On terms: the goods go out, the money follows.
    Transition(OrderAction.CONFIRM, _CREATED, _CONFIRMED, "order.confirmed", _STAFF, (Guard.NO_PAYMENT_IN_FLIGHT,)),
    Transition(OrderAction.REINSTATE, _EXPIRED, _CREATED, "order.reinstated", _GATEWAY),
    Transition(OrderAction.CANCEL, _CONFIRMED, _CANCELLED, "order.cancelled", _STAFF, (Guard.NOTHING_SHIPPED,)),
    Transition(
        OrderAction.CANCEL,
        _CONFIRMED,
        _CANCELLED,
        "order.cancelled",
        _CUSTOMER,
        (Guard.NOTHING_SHIPPED, Guard.CANCEL_WINDOW),
    ),
    Transition(
        OrderAction.COMPLETE,
        _CONFIRMED,
        _COMPLETED,
        "order.completed",
        _JOB,
        (Guard.FULFILLED, Guard.PAID, Guard.NO_PAYMENT_IN_FLIGHT, Guard.NO_OPEN_RETURN, Guard.RETURN_WINDOW_OVER),
    ),
    # Staff may close the time for returns early.
    Transition(
        OrderAction.COMPLETE,
        _CONFIRMED,
        _COMPLETED,
        "order.completed",
        _STAFF,
        (Guard.FULFILLED, Guard.PAID, Guard.NO_PAYMENT_IN_FLIGHT, Guard.NO_OPEN_RETURN),
    ),
)
# What starts an order's life, with the event it writes as number 1.
BEGINNINGS: Final = {_DRAFT: "order.drafted", _CREATED: "order.created"}


@dataclass(frozen=True, slots=True)
class Activity:
    """What people may do while the status stays: something is added to the order or goes on beside it."""

    action: OrderAction
    statuses: frozenset[OrderStatus]
    parties: frozenset[Party] = _STAFF
    guards: tuple[Guard, ...] = ()

    def is_open(self, situation: Situation, party: Party) -> bool:
        """Tell whether this party may do it now."""
        return (
            situation.status in self.statuses
            and party in self.parties
            and all(_HOLDS[guard](situation) for guard in self.guards)
        )


_PLACED: Final = frozenset({_CREATED, _CONFIRMED, _COMPLETED, _CANCELLED, _EXPIRED})
_OPEN: Final = frozenset({_CREATED, _CONFIRMED})
_ONLY_CONFIRMED: Final = frozenset({_CONFIRMED})

ACTIVITIES: Final = (
    # An order that costs nothing is paid for by saying so.
    Activity(OrderAction.PAY, frozenset({_CREATED}), _PEOPLE, (Guard.NO_PAYMENT_IN_FLIGHT,)),
    Activity(OrderAction.PAY, _ONLY_CONFIRMED, _PEOPLE, (Guard.NOT_COVERED, Guard.NO_PAYMENT_IN_FLIGHT)),
    Activity(OrderAction.REFUND, _PLACED, _STAFF, (Guard.CAPTURED,)),
    Activity(OrderAction.FULFILL, _ONLY_CONFIRMED, _STAFF, (Guard.NOT_HELD, Guard.NOT_ALL_SHIPPED, Guard.NOT_REFUNDED)),
    Activity(OrderAction.REQUEST_RETURN, _ONLY_CONFIRMED, _CUSTOMER, (Guard.SOMETHING_SHIPPED, Guard.RETURN_WINDOW)),
    Activity(OrderAction.REQUEST_RETURN, _ONLY_CONFIRMED, _STAFF, (Guard.SOMETHING_SHIPPED,)),
    Activity(OrderAction.HOLD, _OPEN),
    Activity(OrderAction.RELEASE_HOLD, _PLACED, _STAFF, (Guard.HELD,)),
    Activity(OrderAction.NOTE, _PLACED | {_DRAFT}),
)

_EVER: Final = frozenset(_PLACED)
# Events of what belongs to an order; they leave its status as it is. Money may move, and be heard of, at any time.
CHILD_EVENTS: Final[Mapping[str, frozenset[OrderStatus]]] = {
    "payment.started": _EVER,
    "payment.not_needed": frozenset({_CREATED}),
    "payment.capture_requested": _EVER,
    "payment.void_requested": _EVER,
    "payment.refused": _EVER,
    "payment.status_changed": _EVER,
    "payment.requires_action": _EVER,
    "payment.authorized": _EVER,
    "payment.captured": _EVER,
    "payment.failed": _EVER,
    "payment.unknown": _EVER,
    "payment.voided": _EVER,
    "payment.mismatched": _EVER,
    "refund.requested": _EVER,
    "refund.succeeded": _EVER,
    "refund.failed": _EVER,
    "refund.unknown": _EVER,
    "fulfillment.created": _ONLY_CONFIRMED,
    "fulfillment.started": _ONLY_CONFIRMED,
    "fulfillment.shipped": _ONLY_CONFIRMED,
    "fulfillment.delivered": _ONLY_CONFIRMED | {_COMPLETED},
    "fulfillment.cancelled": _ONLY_CONFIRMED,
    "return.requested": _ONLY_CONFIRMED,
    "return.approved": _ONLY_CONFIRMED,
    "return.declined": _ONLY_CONFIRMED,
    "return.received": _ONLY_CONFIRMED,
    "return.closed": _ONLY_CONFIRMED,
    "order.held": _OPEN,
    "order.hold_released": _EVER,
    "order.noted": _PLACED | {_DRAFT},
}


def find_transition(situation: Situation, action: OrderAction, party: Party) -> Transition | None:
    """Return the step that this party may take by `action` now, or None when it is not allowed."""
    return next((step for step in TRANSITIONS if step.action is action and step.is_open(situation, party)), None)


def may(situation: Situation, action: OrderAction, party: Party) -> bool:
    """Tell whether this party may take an action now."""
    steps = (*TRANSITIONS, *ACTIVITIES)
    return any(step.action is action and step.is_open(situation, party) for step in steps)


def allowed_actions(situation: Situation, party: Party) -> tuple[str, ...]:
    """Return the names of the actions that a person of this party may take now, sorted."""
    return tuple(sorted(action.value for action in OrderAction if may(situation, action, party)))


def render_state_diagram() -> str:
    """Return the states and transitions as a Mermaid state diagram; who may take a step stands behind it."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status}: {event}" for status, event in BEGINNINGS.items()]
    edges: dict[tuple[str, str, str], set[str]] = {}
    for step in TRANSITIONS:
        edges.setdefault((step.before, step.after, step.action), set()).update(step.parties)
    lines += [
        f"    {before} --> {after}: {action} ({', '.join(sorted(parties))})"
        for (before, after, action), parties in edges.items()
    ]
    return "\n".join(lines) + "\n"
