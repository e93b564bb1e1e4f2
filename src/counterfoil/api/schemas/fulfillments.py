"""Fulfillments on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, structs

from counterfoil.api.schemas.fields import END
from counterfoil.api.schemas.orders import Items
from counterfoil.orders.child_states import FulfillmentState, allowed_steps
from counterfoil.orders.fulfilment import FulfillmentRecord

_LINE = r"^[^\x00-\x1f]*" + END


class CreateFulfillmentIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What goes into one consignment."""

    items: Annotated[Items | None, Meta(description="All units that are in no fulfillment, when left out.")] = None


class ShipIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Who carries it, and how it is followed."""

    carrier: Annotated[str, Meta(max_length=80, pattern=_LINE, examples=["DHL"])] = ""
    tracking_number: Annotated[str, Meta(max_length=120, pattern=_LINE, examples=["JD014600003DE"])] = ""
    tracking_url: Annotated[str, Meta(max_length=500, pattern=r"^(https?://[!-~]+)?" + END)] = ""


class FulfillmentLineOut(Struct, frozen=True):
    """Units of one product."""

    product_id: int
    sku: str
    quantity: int


class FulfillmentOut(Struct, frozen=True):
    """One consignment of an order. `allowed_actions` are what staff may do with it now."""

    id: int
    order_id: int
    status: FulfillmentState
    items: list[FulfillmentLineOut]
    carrier: str
    tracking_number: str
    tracking_url: str
    version: int
    allowed_actions: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    shipped_at: datetime | None
    delivered_at: datetime | None


class FulfillmentList(Struct, frozen=True):
    """The fulfillments of an order, oldest first."""

    items: list[FulfillmentOut]


def render_fulfillment(found: FulfillmentRecord) -> FulfillmentOut:
    """Turn the core's record into what is shown."""
    return FulfillmentOut(
        id=found.id,
        order_id=found.order_id,
        status=found.status,
        items=[FulfillmentLineOut(line.product_id, line.sku, line.quantity) for line in found.lines],
        carrier=found.carrier,
        tracking_number=found.tracking_number,
        tracking_url=found.tracking_url,
        version=found.version,
        allowed_actions=allowed_steps(found.status),
        created_at=found.created_at,
        updated_at=found.updated_at,
        shipped_at=found.shipped_at,
        delivered_at=found.delivered_at,
    )


def without_tracking(shown: FulfillmentOut) -> FulfillmentOut:
    """Return what is stored for a replay: what leads to a person's door ends with the person, and keys do not."""
    return structs.replace(shown, tracking_number="", tracking_url="")
