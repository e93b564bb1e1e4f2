"""Steps in an order's life over HTTP, beside placing and changing it."""

from __future__ import annotations

from functools import partial

from litestar import Controller, Response, post
from litestar.concurrency import sync_to_thread

from counterfoil.api.answers import AnyRequest, answer, if_match, problems, trace_of, write_once
from counterfoil.api.controllers.orders import OrderId, wanted_codes, wanted_lines
from counterfoil.api.coupon_guesses import counted_guesses
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.order_steps import CancelIn, ConfirmIn, PreviewOut, render_preview
from counterfoil.api.schemas.orders import OrderOut, UpdateOrderIn, render_order
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.orders import completion, services
from counterfoil.orders.cancellation import CancelTerms
from counterfoil.orders.preview import preview_update
from counterfoil.orders.steps import party_of
from counterfoil.users.permissions import Permission


class OrderStepsController(Controller):
    """Confirm, cancel and complete an order, and see what a change would do."""

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

    @post(
        "/cancel",
        summary="Cancel an order, with a reason",
        description="What DELETE does, with choices: goods that cannot be sold again are written off, and money can be "
        "kept. What was paid is given back after the order is cancelled.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 422, 503),
        permission=Permission.ORDERS_WRITE,
        sync_to_thread=True,
    )
    def cancel_order(self, request: AnyRequest, order_id: OrderId, data: CancelIn) -> Response[OrderOut]:
        """Answer the order as cancelled; 200, also when it was before."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        terms = CancelTerms(data.reason, restock=data.restock, refund=data.refund)
        return write_once(
            request,
            data,
            lambda: render_order(
                services.cancel_order(order_id, etag=etag, actor=actor, trace=trace, terms=terms), party_of(actor)
            ),
            status=200,
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )

    @post(
        "/complete",
        summary="Complete an order",
        description="Shipped and paid orders complete by themselves when the time for returns is over; this ends it "
        "early.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 412, 422, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def complete_order(self, request: AnyRequest, order_id: OrderId) -> Response[OrderOut]:
        """Answer the order as completed; 200, also when it was before."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        return write_once(
            request,
            None,
            lambda: render_order(
                completion.complete_order(order_id, etag=etag, actor=actor, trace=trace), party_of(actor)
            ),
            status=200,
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )

    @post(
        "/preview",
        summary="See what a change would do",
        description="Takes what PUT takes, answers or refuses as PUT would, and changes nothing.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        permission=Permission.ORDERS_WRITE,
    )
    async def preview_update(self, request: AnyRequest, order_id: OrderId, data: UpdateOrderIn) -> Response[PreviewOut]:
        """Answer the order as it would be, and the differences."""
        actor, codes = current_actor(request), wanted_codes(data)
        preview = partial(
            preview_update,
            order_id,
            lines=wanted_lines(data),
            coupon_codes=codes,
            client_reference=data.client_reference,
            etag=if_match(request),
            actor=actor,
            trace=trace_of(request),
            terms=request.app.state.hold_terms,
            prices=request.app.state.price_terms,
        )
        # It tells whether a code is good, so it counts as a guess.
        async with counted_guesses(request, codes or ()):
            seen = await sync_to_thread(run_in_thread, preview)
        return answer(render_preview(seen, party_of(actor)))
