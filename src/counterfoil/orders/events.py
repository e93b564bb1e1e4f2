"""Facts about orders, as they are stored and sent: ids, amounts and versions, never personal data."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from counterfoil.orders.states import FulfillmentStatus, PaymentStatus, ReturnStatus


class ItemFacts(msgspec.Struct, frozen=True):
    """One line as sold; amounts count the smallest unit of the order's currency.

    Of `quantity` units `shipped` have left the house, and of those `returned` came back. `tax_rate_ppm` is in
    millionths: 190,000 is 19 %; the tax is of the line's worth without its part of the discounts.
    """

    product_id: int
    sku: str
    name: str
    quantity: int
    unit_price_minor: int
    shipped: int = 0
    returned: int = 0
    tax_rate_ppm: int = 0
    tax_minor: int = 0
    discount_minor: int = 0


class AdjustmentFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """An amount on top of or off the lines; a discount is below zero, and its label is the coupon's code."""

    kind: str
    label: str
    amount_minor: int
    tax_rate_ppm: int = 0
    tax_minor: int = 0


class OrderFacts(msgspec.Struct, frozen=True):
    """Payload of every event of an order: the whole order after it. What has a default may be missing in a payload.

    `about` names what the event is about when that is not the order itself: ids, amounts in minor units, words of code.
    """

    order_id: int
    user_id: int
    currency: str
    total_minor: int
    client_reference: str | None
    version: int
    created_at: datetime
    reserved_until: datetime | None
    items: tuple[ItemFacts, ...]
    payment_status: PaymentStatus = PaymentStatus.UNPAID
    fulfillment_status: FulfillmentStatus = FulfillmentStatus.UNFULFILLED
    return_status: ReturnStatus = ReturnStatus.NONE
    payment_unknown: bool = False
    authorized_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    about: dict[str, Any] = {}
    adjustments: tuple[AdjustmentFacts, ...] = ()
    # Whether the prices contain their tax.
    tax_included: bool = True

    @property
    def coupon_codes(self) -> tuple[str, ...]:
        """The coupons that the order was priced with, in their order of application."""
        return tuple(each.label for each in self.adjustments if each.kind == "discount")


class TimelineEntry(msgspec.Struct, frozen=True):
    """One event of an order: what happened, when, by whom, because of which request."""

    seq: int
    type: str
    occurred_at: datetime
    actor: str
    request_id: str
    facts: OrderFacts
