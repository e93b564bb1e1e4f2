"""What may happen to a fulfillment and to a return (rule, pure): small machines beside the order's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias


class FulfillmentState(StrEnum):
    """Where one consignment of an order is."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class FulfillmentAction(StrEnum):
    """A command on a fulfillment."""

    START = "start"
    SHIP = "ship"
    DELIVER = "deliver"
    CANCEL = "cancel"


class ReturnState(StrEnum):
    """Where one return of an order is."""

    REQUESTED = "requested"
    APPROVED = "approved"
    DECLINED = "declined"
    RECEIVED = "received"
    CLOSED = "closed"


class ReturnAction(StrEnum):
    """A command on a return."""

    APPROVE = "approve"
    DECLINE = "decline"
    RECEIVE = "receive"
    CLOSE = "close"


class ReturnReason(StrEnum):
    """Why goods come back. A word out of a list: what people write about themselves has no place in what is kept."""

    DAMAGED = "damaged"
    WRONG_ITEM = "wrong_item"
    NOT_AS_DESCRIBED = "not_as_described"
    TOO_LATE = "too_late"
    NO_LONGER_WANTED = "no_longer_wanted"
    OTHER = "other"


class CancelReason(StrEnum):
    """Why an order is cancelled; a word out of a list, as with returns."""

    CUSTOMER_REQUEST = "customer_request"
    ORDERED_BY_MISTAKE = "ordered_by_mistake"
    TOO_SLOW = "too_slow"
    OUT_OF_STOCK = "out_of_stock"
    UNPAID = "unpaid"
    SUSPECTED_FRAUD = "suspected_fraud"
    OTHER = "other"


State: TypeAlias = FulfillmentState | ReturnState
Action: TypeAlias = FulfillmentAction | ReturnAction


@dataclass(frozen=True, slots=True)
class Step:
    """One step: from which states, to which, writing which event of the order.

    `done`: states in which the same command has been obeyed already, so that it changes nothing.
    """

    before: frozenset[State]
    after: State
    event: str
    done: frozenset[State] = frozenset()


_PENDING, _IN_PROGRESS = FulfillmentState.PENDING, FulfillmentState.IN_PROGRESS
_SHIPPED, _DELIVERED = FulfillmentState.SHIPPED, FulfillmentState.DELIVERED
_REQUESTED, _APPROVED, _RECEIVED = ReturnState.REQUESTED, ReturnState.APPROVED, ReturnState.RECEIVED


def _set(*states: State) -> frozenset[State]:
    return frozenset(states)


STEPS: Final[Mapping[Action, Step]] = {
    FulfillmentAction.START: Step(_set(_PENDING), _IN_PROGRESS, "fulfillment.started", _set(_IN_PROGRESS)),
    FulfillmentAction.SHIP: Step(
        _set(_PENDING, _IN_PROGRESS), _SHIPPED, "fulfillment.shipped", _set(_SHIPPED, _DELIVERED)
    ),
    FulfillmentAction.DELIVER: Step(_set(_SHIPPED), _DELIVERED, "fulfillment.delivered", _set(_DELIVERED)),
    FulfillmentAction.CANCEL: Step(
        _set(_PENDING, _IN_PROGRESS),
        FulfillmentState.CANCELLED,
        "fulfillment.cancelled",
        _set(FulfillmentState.CANCELLED),
    ),
    ReturnAction.APPROVE: Step(_set(_REQUESTED), _APPROVED, "return.approved", _set(_APPROVED)),
    ReturnAction.DECLINE: Step(_set(_REQUESTED), ReturnState.DECLINED, "return.declined", _set(ReturnState.DECLINED)),
    # What comes in two parcels is received twice.
    ReturnAction.RECEIVE: Step(_set(_APPROVED, _RECEIVED), _RECEIVED, "return.received"),
    # Also what never came.
    ReturnAction.CLOSE: Step(_set(_APPROVED, _RECEIVED), ReturnState.CLOSED, "return.closed", _set(ReturnState.CLOSED)),
}
# Units in these are promised to a consignment, and have not left the house.
OPEN_FULFILLMENTS: Final = (_PENDING, _IN_PROGRESS)
GONE_FULFILLMENTS: Final = (_SHIPPED, _DELIVERED)
# A return that somebody still has to do something about.
OPEN_RETURNS: Final = (_REQUESTED, _APPROVED, _RECEIVED)


def allowed_steps(state: State) -> tuple[str, ...]:
    """Return the names of the commands that lead on from this state, sorted."""
    return tuple(sorted(action.value for action, step in STEPS.items() if state in step.before))


def render_child_diagram(states: type[FulfillmentState | ReturnState]) -> str:
    """Return the states of one machine as a Mermaid state diagram."""
    first = next(iter(states))
    lines = ["stateDiagram-v2", f"    [*] --> {first.value}"]
    lines += [
        f"    {before.value} --> {step.after.value}: {action.value}"
        for action, step in STEPS.items()
        for before in states
        if before in step.before
    ]
    return "\n".join(lines) + "\n"
