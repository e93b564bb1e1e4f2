"""Steps in an order's life on the wire."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import OptionalLine
from counterfoil.api.schemas.orders import OrderOut, render_order
from counterfoil.kernel.money import Money
from counterfoil.orders.child_states import CancelReason
from counterfoil.orders.events import ItemFacts, OrderFacts
from counterfoil.orders.preview import EditPreview
from counterfoil.orders.states import Party

Reason = Annotated[OptionalLine, Meta(description="Why; kept in the audit trail, so without personal data.")]


class CancelIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Why an order is cancelled; the two choices are the staff's."""

    reason: CancelReason = CancelReason.OTHER
    restock: Annotated[bool, Meta(description="False: the goods cannot be sold again and are written off.")] = True
    refund: Annotated[bool, Meta(description="False: what was paid stays with us.")] = True


class LineDifferenceOut(Struct, frozen=True):
    """One product whose line would change; prices and quantities are null where it is not in the order."""

    product_id: int
    quantity_before: int | None
    quantity_after: int | None
    unit_price_before: Decimal | None
    unit_price_after: Decimal | None
    available_after: Annotated[int | None, Meta(description="What would be left to sell to others.")]


class PreviewOut(Struct, frozen=True):
    """What a change would do: the order as it would be, and what would be different."""

    order: OrderOut
    total_before: Decimal
    total_after: Decimal
    total_difference: Decimal
    lines: list[LineDifferenceOut]


def render_preview(preview: EditPreview, party: Party) -> PreviewOut:
    """Turn the core's preview into what is shown."""
    before, after = preview.before.facts, preview.after.facts

    def price(item: ItemFacts | None, facts: OrderFacts) -> Decimal | None:
        return None if item is None else Money(item.unit_price_minor, facts.currency).to_decimal()

    total_before = Money(before.total_minor, before.currency).to_decimal()
    total_after = Money(after.total_minor, after.currency).to_decimal()
    return PreviewOut(
        order=render_order(preview.after, party),
        total_before=total_before,
        total_after=total_after,
        total_difference=total_after - total_before,
        lines=[
            LineDifferenceOut(
                line.product_id,
                None if line.before is None else line.before.quantity,
                None if line.after is None else line.after.quantity,
                price(line.before, before),
                price(line.after, after),
                line.available,
            )
            for line in preview.lines
        ],
    )


class ConfirmIn(Struct, forbid_unknown_fields=True, frozen=True):
    """An approval on terms."""

    reason: Reason = ""
