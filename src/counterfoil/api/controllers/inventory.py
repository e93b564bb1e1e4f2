"""Stock over HTTP."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get, post
from litestar.params import Parameter

from counterfoil.api.answers import (
    AnyRequest,
    answer,
    next_page,
    open_cursor,
    problems,
    request_id,
    write_once,
)
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.api.schemas.inventory import (
    LevelOut,
    ManualKind,
    MovementIn,
    MovementPage,
    render_level,
    render_movement,
)
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.infrastructure.idempotency import KEY_HOURS_LONG
from counterfoil.inventory import services
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.products.errors import ProductNotFound
from counterfoil.users.permissions import Permission

ProductId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The product's id.")]


class InventoryController(Controller):
    """What is there, why, and how it is changed. For staff and services."""

    path = "/api/v1/inventory/{product_id:int}"
    tags = ["Inventory"]

    @get(
        summary="Read a stock level",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.INVENTORY_READ,
        sync_to_thread=True,
    )
    def get_level(self, product_id: ProductId) -> Response[LevelOut]:
        """Answer the counters of one product."""
        level = run_in_thread(services.find_level, product_id)
        if level is None:
            raise ProductNotFound
        return answer(render_level(level))

    @get(
        "/movements",
        summary="List stock movements",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.INVENTORY_READ,
        sync_to_thread=True,
    )
    def list_movements(
        self,
        request: AnyRequest,
        product_id: ProductId,
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> Response[MovementPage]:
        """Answer the movements that explain the counters, newest first."""
        position = open_cursor(request, cursor)
        if run_in_thread(services.find_level, product_id) is None:
            raise ProductNotFound
        rows = run_in_thread(
            services.list_movements, product_id, before=None if position is None else int(position), limit=limit + 1
        )
        shown = rows[:limit]
        cursor_out, address = next_page(request, str(shown[-1]["id"]) if len(rows) > limit else None)
        return answer(MovementPage([render_movement(row) for row in shown], cursor_out, address))

    @post(
        "/movements",
        summary="Receive, correct or write off stock",
        responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
        permission=Permission.INVENTORY_WRITE,
        key_required=True,
        sync_to_thread=True,
    )
    def record_movement(self, request: AnyRequest, product_id: ProductId, data: MovementIn) -> Response[LevelOut]:
        """Change what is there by a typed movement. Needs an Idempotency-Key."""
        actor = current_actor(request)
        _require_sign(data)

        def record() -> LevelOut:
            if services.find_level(product_id) is None:
                raise ProductNotFound
            level = services.record_movement(
                product_id=product_id,
                kind=services.MovementKind(data.kind.value),
                quantity=data.quantity,
                reason=data.reason,
                actor=actor.principal,
                request_id=request_id(request),
            )
            return render_level(level)

        return write_once(request, data, record, hours=KEY_HOURS_LONG, key_required=True)


def _require_sign(data: MovementIn) -> None:
    wrong = {
        ManualKind.RECEIPT: data.quantity <= 0,
        ManualKind.LOSS: data.quantity >= 0,
        ManualKind.ADJUSTMENT: data.quantity == 0,
    }[data.kind]
    if wrong:
        message = "A receipt is above zero, a loss below, an adjustment either, none is zero."
        raise ValidationFailed([{"field": "quantity", "message": message}])
