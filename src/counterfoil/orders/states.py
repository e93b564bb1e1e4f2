"""Order states and what may happen in each (rule, pure)."""

from __future__ import annotations

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
    """How much of the order is paid; derived from its payments."""

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


@dataclass(frozen=True, slots=True)
class Transition:
    """One allowed change of status: by which action, from where to where, writing which event."""

    action: OrderAction
    before: OrderStatus
    after: OrderStatus
    event: str
    by_people: bool = True


TRANSITIONS: Final = (
    Transition(OrderAction.PLACE, OrderStatus.DRAFT, OrderStatus.CREATED, "order.created"),
    Transition(OrderAction.UPDATE, OrderStatus.DRAFT, OrderStatus.DRAFT, "order.updated"),
    Transition(OrderAction.UPDATE, OrderStatus.CREATED, OrderStatus.CREATED, "order.updated"),
    Transition(OrderAction.DISCARD, OrderStatus.DRAFT, OrderStatus.CANCELLED, "order.discarded"),
    Transition(OrderAction.CANCEL, OrderStatus.CREATED, OrderStatus.CANCELLED, "order.cancelled"),
    Transition(OrderAction.EXPIRE, OrderStatus.CREATED, OrderStatus.EXPIRED, "order.expired", by_people=False),
)
# What starts an order's life, with the event it writes as number 1.
BEGINNINGS: Final = {OrderStatus.DRAFT: "order.drafted", OrderStatus.CREATED: "order.created"}

_BY_ACTION: Final = {(step.before, step.action): step for step in TRANSITIONS}
_ALLOWED: Final[dict[OrderStatus, tuple[str, ...]]] = {
    status: tuple(sorted(step.action.value for step in TRANSITIONS if step.before is status and step.by_people))
    for status in OrderStatus
}


def find_transition(status: OrderStatus, action: OrderAction) -> Transition | None:
    """Return the transition that `action` makes from `status`, or None when it is not allowed."""
    return _BY_ACTION.get((status, action))


def allowed_actions(status: OrderStatus) -> tuple[str, ...]:
    """Return the names of the actions a person may take now, sorted."""
    return _ALLOWED[status]


def render_state_diagram() -> str:
    """Return the states and transitions as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status}: {event}" for status, event in BEGINNINGS.items()]
    lines += [f"    {step.before} --> {step.after}: {step.action}" for step in TRANSITIONS]
    return "\n".join(lines) + "\n"
