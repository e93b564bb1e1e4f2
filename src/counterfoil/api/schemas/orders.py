"""Orders on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from msgspec import Meta, Struct

from counterfoil.api.schemas.coupons import CouponCodes
from counterfoil.api.schemas.fields import Id, Reference
from counterfoil.kernel.money import CURRENCY_DIGITS
from counterfoil.kernel.percent import Percent
from counterfoil.orders.commands import LINES_MAX, QUANTITY_MAX
from counterfoil.orders.events import AdjustmentFacts, ItemFacts, OrderFacts, TimelineEntry
from counterfoil.orders.history import OrderView
from counterfoil.orders.states import (
    FulfillmentStatus,
    OrderStatus,
    Party,
    PaymentStatus,
    ReturnStatus,
    allowed_actions,
)


class ItemIn(Struct, forbid_unknown_fields=True, frozen=True):
    """One line of an order to place."""

    product_id: Annotated[Id, Meta(examples=[456])]
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX, examples=[2])]


Items = Annotated[
    list[ItemIn],
    Meta(min_length=1, max_length=LINES_MAX, description="The same product twice is added up before the check."),
]


class PlaceOrderIn(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """An order to place; the price is always ours."""

    items: Items
    user_id: (
        Annotated[Id, Meta(examples=[123], description="The caller when left out; another only for staff.")] | None
    ) = None
    client_reference: Reference | None = None
    draft: Annotated[bool, Meta(description="Save only: no stock is taken, and no use of a coupon.")] = False
    coupon_codes: CouponCodes = []


class UpdateOrderIn(Struct, forbid_unknown_fields=True, frozen=True):
    """What to change; a field that is left out stays. `items` replaces all lines, `coupon_codes` all coupons."""

    items: Items | None = None
    client_reference: Reference | None = None
    coupon_codes: CouponCodes | None = None


class ItemOut(Struct, frozen=True):
    """One line as sold: name, price and tax rate are those of the moment of the order."""

    product_id: int
    sku: str
    name: str
    quantity: int
    unit_price: Decimal
    line_total: Annotated[Decimal, Meta(description="Quantity times unit price.")]
    shipped: int
    returned: int
    discount: Annotated[Decimal, Meta(description="This line's part of the discounts.")]
    tax_rate: Annotated[Decimal, Meta(description="Percent.")]
    tax: Annotated[
        Decimal, Meta(description="Of line_total less discount: contained in it if `tax_included`, else added.")
    ]


class AdjustmentOut(Struct, frozen=True):
    """An amount on top of or off the lines: a `discount` (below zero, labelled with its coupon), `shipping`, `tax`."""

    kind: str
    label: str
    amount: Decimal
    tax_rate: Decimal
    tax: Decimal


class OrderOut(Struct, frozen=True):
    """An order. `version` rises with every change; `allowed_actions` are what a person may do now."""

    id: Annotated[int, Meta(examples=[789])]
    user_id: Annotated[int, Meta(examples=[123])]
    status: OrderStatus
    payment_status: PaymentStatus
    payment_unknown: Annotated[bool, Meta(description="An answer of the gateway is lost and being looked for.")]
    fulfillment_status: FulfillmentStatus
    return_status: ReturnStatus
    has_open_return: Annotated[bool, Meta(description="Somebody still has to do something about a return.")]
    is_held: Annotated[bool, Meta(description="A hold is open: nothing of it is shipped.")]
    total: Annotated[Decimal, Meta(examples=[99.99], description="Exact, with the currency's digits.")]
    currency: Annotated[str, Meta(examples=["EUR"])]
    items: list[ItemOut]
    subtotal: Annotated[Decimal, Meta(description="Sum of the lines. The total is this and the adjustments.")]
    discount: Annotated[Decimal, Meta(description="What the coupons take off.")]
    shipping: Decimal
    tax: Annotated[Decimal, Meta(description="Of lines and shipping together.")]
    tax_included: Annotated[bool, Meta(description="Whether subtotal and shipping contain their tax.")]
    adjustments: list[AdjustmentOut]
    coupon_codes: tuple[str, ...]
    client_reference: str | None
    version: int
    allowed_actions: tuple[str, ...]
    created_at: datetime
    placed_at: datetime | None
    reserved_until: datetime | None
    updated_at: datetime


class OrderPage(Struct, frozen=True):
    """One page; `next` is the address of the following one, null on the last."""

    items: list[OrderOut]
    next_cursor: str | None
    next: str | None


class TimelineEntryOut(Struct, frozen=True):
    """One event of an order: what, when, by whom, because of which request, and the order after it."""

    seq: int
    type: str
    occurred_at: datetime
    actor: str
    request_id: str
    version: int
    total: Decimal
    currency: str
    items: list[ItemOut]
    adjustments: list[AdjustmentOut]
    payment_status: PaymentStatus
    fulfillment_status: FulfillmentStatus
    return_status: ReturnStatus
    about: Annotated[
        dict[str, int | str | bool | None], Meta(description="What the event is about, such as its payment_id.")
    ]


class TimelineOut(Struct, frozen=True):
    """Every event of an order, oldest first."""

    order_id: int
    events: list[TimelineEntryOut]


def render_order(view: OrderView, party: Party) -> OrderOut:
    """Turn the core's view into what is shown to a customer or to staff."""
    facts = view.facts
    digits = CURRENCY_DIGITS[facts.currency]
    return OrderOut(
        id=facts.order_id,
        user_id=facts.user_id,
        status=view.status,
        payment_status=facts.payment_status,
        payment_unknown=facts.payment_unknown,
        fulfillment_status=facts.fulfillment_status,
        return_status=facts.return_status,
        has_open_return=view.has_open_return,
        is_held=view.is_held,
        total=_decimal(facts.total_minor, digits),
        currency=facts.currency,
        items=_items(facts, digits),
        **_sums(facts, digits),
        tax_included=facts.tax_included,
        adjustments=_adjustments(facts, digits),
        coupon_codes=facts.coupon_codes,
        client_reference=facts.client_reference,
        version=facts.version,
        allowed_actions=allowed_actions(view.situation, party),
        created_at=facts.created_at,
        placed_at=view.placed_at,
        reserved_until=facts.reserved_until,
        updated_at=view.updated_at,
    )


def render_placed(facts: OrderFacts, party: Party) -> OrderOut:
    """Show an order as it was the moment it was placed; the same facts give the same bytes for ever."""
    return render_order(
        OrderView(facts=facts, status=OrderStatus.CREATED, placed_at=facts.created_at, updated_at=facts.created_at),
        party,
    )


def render_timeline(order_id: int, timeline: list[TimelineEntry]) -> TimelineOut:
    """Show an order's events."""
    events = []
    for entry in timeline:
        digits = CURRENCY_DIGITS[entry.facts.currency]
        events.append(
            TimelineEntryOut(
                seq=entry.seq,
                type=entry.type,
                occurred_at=entry.occurred_at,
                actor=entry.actor,
                request_id=entry.request_id,
                version=entry.facts.version,
                total=_decimal(entry.facts.total_minor, digits),
                currency=entry.facts.currency,
                items=_items(entry.facts, digits),
                adjustments=_adjustments(entry.facts, digits),
                payment_status=entry.facts.payment_status,
                fulfillment_status=entry.facts.fulfillment_status,
                return_status=entry.facts.return_status,
                about=entry.facts.about,
            )
        )
    return TimelineOut(order_id, events)


def _decimal(minor: int, digits: int) -> Decimal:
    return Decimal(minor).scaleb(-digits)


def _items(facts: OrderFacts, digits: int) -> list[Any]:
    return [
        ItemOut(
            item.product_id,
            item.sku,
            item.name,
            item.quantity,
            _decimal(item.unit_price_minor, digits),
            _decimal(item.unit_price_minor * item.quantity, digits),
            item.shipped,
            item.returned,
            _decimal(item.discount_minor, digits),
            Percent(item.tax_rate_ppm).to_decimal(),
            _decimal(item.tax_minor, digits),
        )
        for item in facts.items
    ]


def _adjustments(facts: OrderFacts, digits: int) -> list[AdjustmentOut]:
    return [
        AdjustmentOut(
            each.kind,
            each.label,
            _decimal(each.amount_minor, digits),
            Percent(each.tax_rate_ppm).to_decimal(),
            _decimal(each.tax_minor, digits),
        )
        for each in facts.adjustments
    ]


def _sums(facts: OrderFacts, digits: int) -> dict[str, Decimal]:
    parts: Sequence[ItemFacts | AdjustmentFacts] = (*facts.items, *facts.adjustments)
    sums = {
        "subtotal": sum(item.unit_price_minor * item.quantity for item in facts.items),
        "discount": sum(item.discount_minor for item in facts.items),
        "shipping": sum(each.amount_minor for each in facts.adjustments if each.kind == "shipping"),
        "tax": sum(part.tax_minor for part in parts),
    }
    return {name: _decimal(minor, digits) for name, minor in sums.items()}
