"""Returns on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import Amount, Id, OptionalLine
from counterfoil.api.schemas.orders import Items
from counterfoil.orders.child_states import ReturnReason, ReturnState, allowed_steps
from counterfoil.orders.commands import LINES_MAX, QUANTITY_MAX
from counterfoil.orders.returns import ReturnRecord

_Units = Annotated[int, Meta(ge=0, le=QUANTITY_MAX)]


class RequestReturnIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What is to be given back, and why."""

    items: Items
    reason: ReturnReason = ReturnReason.OTHER


class DecideReturnIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What staff says to it; the customer reads it."""

    note: OptionalLine = ""


class ArrivalIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Units of one product that came: back on the shelf, or damaged."""

    product_id: Id
    restocked: _Units = 0
    damaged: _Units = 0


class ReceiveReturnIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What came in one parcel."""

    items: Annotated[list[ArrivalIn], Meta(min_length=1, max_length=LINES_MAX, description="Each product once.")]


class CloseReturnIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Whether money goes back, and how much."""

    refund: Annotated[bool, Meta(description="Give back what the units that came were sold for.")] = False
    amount: Annotated[Amount | None, Meta(description="Give back this instead, in the order's currency.")] = None


class ReturnLineOut(Struct, frozen=True):
    """Units of one product: asked for, received, and of those restocked or damaged."""

    product_id: int
    sku: str
    quantity: int
    received: int
    restocked: int
    damaged: int


class ReturnOut(Struct, frozen=True):
    """One return of an order. `allowed_actions` are what staff may do with it now."""

    id: int
    order_id: int
    status: ReturnState
    reason: ReturnReason
    note: str
    items: list[ReturnLineOut]
    requested_by: str
    version: int
    allowed_actions: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


class ReturnList(Struct, frozen=True):
    """The returns of an order, oldest first."""

    items: list[ReturnOut]


def render_return(found: ReturnRecord) -> ReturnOut:
    """Turn the core's record into what is shown."""
    return ReturnOut(
        id=found.id,
        order_id=found.order_id,
        status=found.status,
        reason=found.reason,
        note=found.decision,
        items=[
            ReturnLineOut(line.product_id, line.sku, line.quantity, line.received, line.restocked, line.damaged)
            for line in found.lines
        ],
        requested_by=found.requested_by,
        version=found.version,
        allowed_actions=allowed_steps(found.status),
        created_at=found.created_at,
        updated_at=found.updated_at,
    )
