"""Writing what follows for an order from its fulfillments, returns and holds."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from django.conf import settings

from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.orders import fulfilment_repositories
from counterfoil.orders.axes import derive_fulfillment_status, derive_return_status
from counterfoil.orders.commands import OrderLine, Trace
from counterfoil.orders.errors import OrderFull
from counterfoil.orders.history import OrderView
from counterfoil.orders.steps import record_event

# Lists of them are answered whole. A hundred lines in parts of one unit each are rare; a program gone wild is not.
CHILDREN_MAX: Final = 500


def require_room(order_id: int, kind: str) -> None:
    """Raise OrderFull when an order has CHILDREN_MAX of a kind. Under the order's lock."""
    if fulfilment_repositories.count_children(order_id)[kind] >= CHILDREN_MAX:
        raise OrderFull(limit=CHILDREN_MAX, kind=kind)


def require_known(lines: Sequence[OrderLine], known: Container[int]) -> None:
    """Raise ValidationFailed that names every line whose product is not among the order's."""
    problems = [
        {"field": f"items[{line.item}].product_id", "message": f"Product {line.product_id} is not in this order."}
        for line in lines
        if line.product_id not in known
    ]
    if problems:
        raise ValidationFailed(problems)


@transaction_required
def write_event(order_id: int, event: str, trace: Trace, *, about: Mapping[str, Any]) -> OrderView:
    """Derive the order's axes and flags anew, and append an event about one of its children. Returns the order.

    Joins the transaction that holds the order's lock and has just changed the child.
    """
    progress = fulfilment_repositories.read_progress(order_id)
    fulfilment_repositories.write_progress(
        order_id,
        progress,
        fulfillment_status=derive_fulfillment_status(
            ordered=progress.ordered, shipped=progress.shipped, delivered=progress.delivered
        ),
        return_status=derive_return_status(
            shipped=progress.shipped, returned=progress.returned, has_open_return=progress.has_open_return
        ),
        return_days=settings.COUNTERFOIL.counterfoil_return_days,
    )
    return record_event(order_id, event, trace, about=about)
