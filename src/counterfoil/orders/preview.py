"""What a change of an order would do: the change itself, made and undone in one transaction.

So the answer follows the same rules as the change, and nothing of it stays: no version, no event, no movement, no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from counterfoil.infrastructure.database import no_transaction, transaction
from counterfoil.inventory import services as inventory
from counterfoil.orders import services
from counterfoil.orders.commands import OrderLine, Trace
from counterfoil.orders.events import ItemFacts
from counterfoil.orders.history import OrderView
from counterfoil.orders.holds import HoldTerms
from counterfoil.orders.price_terms import PriceTerms
from counterfoil.orders.steps import lock
from counterfoil.users.permissions import Actor


@dataclass(frozen=True, slots=True)
class LineDifference:
    """One product before and after; None where it is not in the order. `available`: what would be left to sell."""

    product_id: int
    before: ItemFacts | None
    after: ItemFacts | None
    available: int | None


@dataclass(frozen=True, slots=True)
class EditPreview:
    """An order as it is and as it would be."""

    before: OrderView
    after: OrderView
    lines: tuple[LineDifference, ...]


class _Undone(Exception):
    """Ends the transaction; carries what it has seen."""

    def __init__(self, preview: EditPreview) -> None:
        self.preview = preview
        super().__init__()


@no_transaction
def preview_update(  # noqa: PLR0913 - those of the change
    order_id: int,
    *,
    lines: Sequence[OrderLine] | None,
    coupon_codes: Sequence[str] | None,
    client_reference: str | None,
    etag: str | None,
    actor: Actor,
    trace: Trace,
    terms: HoldTerms,
    prices: PriceTerms,
) -> EditPreview:
    """Return what `update_order` would do, and do nothing. Raises as `update_order`.

    Holds the locks of that change for as long as it takes.
    """
    try:
        with transaction():
            before = lock(order_id, actor=actor, etag=etag)
            after = services.update_order(
                order_id,
                lines=lines,
                coupon_codes=coupon_codes,
                client_reference=client_reference,
                etag=etag,
                actor=actor,
                trace=trace,
                terms=terms,
                prices=prices,
            )
            _undo(EditPreview(before, after, _differences(before, after)))
    except _Undone as undone:
        return undone.preview


def _undo(preview: EditPreview) -> NoReturn:
    raise _Undone(preview)


def _differences(before: OrderView, after: OrderView) -> tuple[LineDifference, ...]:
    was = {item.product_id: item for item in before.facts.items}
    will_be = {item.product_id: item for item in after.facts.items}
    levels = {product_id: inventory.find_level(product_id) for product_id in {**was, **will_be}}
    return tuple(
        LineDifference(
            product_id, was.get(product_id), will_be.get(product_id), None if level is None else level.available
        )
        for product_id, level in levels.items()
        if was.get(product_id) != will_be.get(product_id)
    )
