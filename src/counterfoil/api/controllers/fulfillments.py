"""Fulfillments over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.params import Parameter

from counterfoil.api.answers import AnyRequest, answer, if_match, problems, trace_of, write_once
from counterfoil.api.controllers.orders import OrderId
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.api.schemas.fulfillments import (
    CreateFulfillmentIn,
    FulfillmentList,
    FulfillmentOut,
    ShipIn,
    render_fulfillment,
    without_tracking,
)
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.orders import fulfilment, services
from counterfoil.orders.child_states import FulfillmentAction
from counterfoil.orders.commands import merge_lines
from counterfoil.users.permissions import Actor, Permission

FulfillmentId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The fulfillment's id.")]
_STEP_PROBLEMS = problems(400, 401, 403, 404, 409, 412, 422, 503)


class OrderFulfillmentsController(Controller):
    """The consignments of one order."""

    path = "/api/v1/orders/{order_id:int}/fulfillments"
    tags = ["Fulfillments"]

    @post(
        summary="Put units into a fulfillment",
        description="Part of an order or all that is left; any number of fulfillments an order.",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 422, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def create_fulfillment(
        self, request: AnyRequest, order_id: OrderId, data: CreateFulfillmentIn
    ) -> Response[FulfillmentOut]:
        """Answer 201 with the fulfillment."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        lines = None if data.items is None else merge_lines([(i.product_id, i.quantity) for i in data.items])
        return write_once(
            request,
            data,
            lambda: render_fulfillment(
                fulfilment.create_fulfillment(order_id, lines=lines, etag=etag, actor=actor, trace=trace)
            ),
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )

    @get(
        summary="List an order's fulfillments",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_READ,
        sync_to_thread=True,
    )
    def list_fulfillments(self, request: AnyRequest, order_id: OrderId) -> Response[FulfillmentList]:
        """Answer all of them, oldest first."""
        found = run_in_thread(fulfilment.list_fulfillments, order_id, actor=current_actor(request))
        return answer(FulfillmentList([render_fulfillment(each) for each in found]))


class FulfillmentsController(Controller):
    """One consignment and its way."""

    path = "/api/v1/fulfillments/{fulfillment_id:int}"
    tags = ["Fulfillments"]

    @get(
        summary="Read a fulfillment",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_READ,
        sync_to_thread=True,
    )
    def get_fulfillment(self, request: AnyRequest, fulfillment_id: FulfillmentId) -> Response[FulfillmentOut]:
        """Answer the fulfillment with its ETag."""
        found = run_in_thread(fulfilment.find_fulfillment, fulfillment_id, actor=current_actor(request))
        return answer(render_fulfillment(found), etag=found.etag)

    @post(
        "/start",
        summary="Start picking a fulfillment",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def start_fulfillment(self, request: AnyRequest, fulfillment_id: FulfillmentId) -> Response[FulfillmentOut]:
        """Somebody is at it; 200, also when that was so before."""
        return _step(request, fulfillment_id, FulfillmentAction.START)

    @post(
        "/ship",
        summary="Ship a fulfillment",
        description="Its units leave the stock. Sent again it answers what is, and ships nothing more; a replay by "
        "Idempotency-Key leaves the tracking out.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 422, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def ship_fulfillment(
        self, request: AnyRequest, fulfillment_id: FulfillmentId, data: ShipIn
    ) -> Response[FulfillmentOut]:
        """Answer the fulfillment as shipped; 200, also when it was before."""
        tracking = fulfilment.Tracking(data.carrier, data.tracking_number, data.tracking_url)
        return _step(request, fulfillment_id, FulfillmentAction.SHIP, body=data, tracking=tracking)

    @post(
        "/deliver",
        summary="Note that a fulfillment arrived",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def deliver_fulfillment(self, request: AnyRequest, fulfillment_id: FulfillmentId) -> Response[FulfillmentOut]:
        """Answer the fulfillment as delivered; 200, also when it was before."""
        return _step(request, fulfillment_id, FulfillmentAction.DELIVER)

    @post(
        "/cancel",
        summary="Cancel a fulfillment",
        description="Before it is shipped. Its units stay set aside for the order.",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def cancel_fulfillment(self, request: AnyRequest, fulfillment_id: FulfillmentId) -> Response[FulfillmentOut]:
        """Answer the fulfillment as cancelled; 200, also when it was before."""
        return _step(request, fulfillment_id, FulfillmentAction.CANCEL)


def _step(
    request: AnyRequest,
    fulfillment_id: int,
    action: FulfillmentAction,
    *,
    body: ShipIn | None = None,
    tracking: fulfilment.Tracking | None = None,
) -> Response[Any]:
    actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
    return write_once(
        request,
        body,
        lambda: render_fulfillment(
            fulfilment.step_fulfillment(fulfillment_id, action, etag=etag, actor=actor, trace=trace, tracking=tracking)
        ),
        status=200,
        keep=without_tracking,
        authorise=lambda: _require_visible(fulfillment_id, actor),
    )


def _require_visible(fulfillment_id: int, actor: Actor) -> None:
    fulfilment.find_fulfillment(fulfillment_id, actor=actor)
