"""Steps in an order's life over HTTP, beside placing and changing it."""

from __future__ import annotations

from litestar import Controller, Response, post

from counterfoil.api.answers import AnyRequest, if_match, problems, trace_of, write_once
from counterfoil.api.controllers.orders import OrderId
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.order_steps import ConfirmIn
from counterfoil.api.schemas.orders import OrderOut, render_order
from counterfoil.orders import services
from counterfoil.orders.steps import party_of
from counterfoil.users.permissions import Permission


class OrderStepsController(Controller):
    """Confirm an order."""

    path = "/api/v1/orders/{order_id:int}"
    tags = ["Orders"]

    @post(
        "/confirm",
        summary="Confirm an order on terms",
        description="The goods go out, the money follows. What is paid for is confirmed by its payment.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 422, 503),
        permission=Permission.ORDERS_APPROVE,
        sync_to_thread=True,
    )
    def confirm_order(self, request: AnyRequest, order_id: OrderId, data: ConfirmIn) -> Response[OrderOut]:
        """Set the order's stock aside for it; 200, also when it was confirmed before."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        return write_once(
            request,
            data,
            lambda: render_order(
                services.confirm_on_terms(order_id, etag=etag, actor=actor, trace=trace, reason=data.reason),
                party_of(actor),
            ),
            status=200,
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )
