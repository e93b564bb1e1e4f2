"""Orders over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from litestar import Controller, Response, delete, get, post, put
from litestar.concurrency import sync_to_thread
from litestar.params import Parameter

from counterfoil.api.answers import (
    AnyRequest,
    answer,
    fingerprint_of,
    if_match,
    next_page,
    open_cursor,
    problems,
    request_id,
    trace_of,
    write,
    write_once,
)
from counterfoil.api.bodies import header
from counterfoil.api.coupon_guesses import counted_guesses
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.coupons import parse_codes
from counterfoil.api.schemas.fields import ID_MAX, parse_instant
from counterfoil.api.schemas.orders import (
    OrderOut,
    OrderPage,
    PlaceOrderIn,
    TimelineOut,
    UpdateOrderIn,
    render_order,
    render_placed,
    render_timeline,
)
from counterfoil.infrastructure.idempotency import read_key
from counterfoil.kernel.cursor import InvalidCursor
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.orders import services
from counterfoil.orders.commands import OrderLine, PlaceOrder, merge_lines
from counterfoil.orders.states import OrderStatus
from counterfoil.orders.steps import party_of
from counterfoil.users.permissions import Permission, owner_filter

OrderId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The order's id.")]


class OrdersController(Controller):
    """Place, read, list, edit and cancel orders."""

    path = "/api/v1/orders"
    tags = ["Orders"]

    @post(
        summary="Place an order",
        description="Prices the order, takes its stock and stores it, in one transaction. Send an Idempotency-Key and "
        "repeat the same request until it is answered: it is done once.",
        responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
        permission=Permission.ORDERS_WRITE,
    )
    async def place_order(self, request: AnyRequest, data: PlaceOrderIn) -> Response[OrderOut]:
        """Answer 201 with the order, or a problem; nothing of a refused order is kept."""
        if data.draft:
            return await _draft(request, data)
        actor = current_actor(request)
        key = read_key(header(request, b"idempotency-key"))
        command = PlaceOrder(
            user_id=data.user_id or actor.user_id,
            lines=merge_lines([(item.product_id, item.quantity) for item in data.items]),
            principal=actor.principal,
            request_id=request_id(request),
            idempotency_key=key,
            fingerprint=None if key is None else fingerprint_of(request, data),
            client_reference=data.client_reference,
            coupon_codes=parse_codes(data.coupon_codes),
        )
        async with counted_guesses(request, command.coupon_codes):
            placed = await services.place_order(request.app.state.hot, command, actor=actor)
        return answer(
            render_placed(placed.facts, party_of(actor)),
            status=201,
            etag=f'"{placed.facts.version}-{OrderStatus.CREATED}"',
            replayed=placed.replayed,
        )

    @get(summary="List orders", responses=problems(400, 401, 403, 503), permission=Permission.ORDERS_READ)
    async def list_orders(
        self,
        request: AnyRequest,
        status: OrderStatus | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        product_id: Annotated[int | None, Parameter(ge=1, le=ID_MAX)] = None,
        q: Annotated[str | None, Parameter(min_length=1, max_length=100, pattern=r"^[^\x00]*$")] = None,
        sort: Literal["-created_at", "created_at"] = "-created_at",
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> Response[OrderPage]:
        """Answer one page of the caller's orders (staff: everybody's), newest first unless sort=created_at."""
        position = open_cursor(request, cursor)
        wanted = services.OrderFilter(
            owner=owner_filter(current_actor(request)),
            status=status,
            created_after=parse_instant(created_after, field="created_after"),
            created_before=parse_instant(created_before, field="created_before"),
            product_id=product_id,
            text=q,
            ascending=sort == "created_at",
            after=None if position is None else _read_position(position),
        )
        found = await services.list_orders(request.app.state.hot, wanted, limit=limit + 1)
        shown = found[:limit]
        party = party_of(current_actor(request))
        last = shown[-1].facts if len(found) > limit else None
        cursor_out, address = next_page(
            request, None if last is None else f"{last.created_at.isoformat()}|{last.order_id}"
        )
        return answer(OrderPage([render_order(view, party) for view in shown], cursor_out, address))

    @get(
        "/{order_id:int}",
        summary="Read an order",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_READ,
    )
    async def get_order(self, request: AnyRequest, order_id: OrderId) -> Response[OrderOut]:
        """Answer the order as it is now, with its ETag."""
        view = await services.get_order(request.app.state.hot, order_id, actor=current_actor(request))
        return answer(render_order(view, party_of(current_actor(request))), etag=view.etag)

    @get(
        "/{order_id:int}/timeline",
        summary="Read an order's history",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_READ,
    )
    async def get_timeline(
        self, request: AnyRequest, order_id: OrderId, at: str | None = None
    ) -> Response[TimelineOut | OrderOut]:
        """Answer every event with actor and cause; with `?at=` the order as of that instant."""
        instant = parse_instant(at, field="at")
        actor = current_actor(request)
        if instant is not None:
            view = await services.get_order_as_of(request.app.state.hot, order_id, instant, actor=actor)
            return answer(render_order(view, party_of(actor)))
        timeline = await services.get_timeline(request.app.state.hot, order_id, actor=actor)
        return answer(render_timeline(order_id, timeline))

    @post(
        "/{order_id:int}/place",
        summary="Place a draft",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 412, 422, 503),
        permission=Permission.ORDERS_WRITE,
        sync_to_thread=True,
    )
    def place_draft(self, request: AnyRequest, order_id: OrderId) -> Response[OrderOut]:
        """Turn a draft into a placed order at today's prices."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        return write_once(
            request,
            None,
            lambda: render_order(
                services.place_draft(
                    order_id,
                    etag=etag,
                    actor=actor,
                    trace=trace,
                    terms=request.app.state.hold_terms,
                    prices=request.app.state.price_terms,
                ),
                party_of(actor),
            ),
            status=200,
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )

    @put(
        "/{order_id:int}",
        summary="Change an order",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        permission=Permission.ORDERS_WRITE,
    )
    async def update_order(self, request: AnyRequest, order_id: OrderId, data: UpdateOrderIn) -> Response[OrderOut]:
        """Change lines, coupons or reference of a draft or an unpaid order; stock changes by the difference."""
        lines, codes = wanted_lines(data), wanted_codes(data)
        change = partial(
            services.update_order,
            order_id,
            lines=lines,
            coupon_codes=codes,
            client_reference=data.client_reference,
            etag=if_match(request),
            actor=current_actor(request),
            trace=trace_of(request),
            terms=request.app.state.hold_terms,
            prices=request.app.state.price_terms,
        )
        async with counted_guesses(request, codes or ()):
            view = await sync_to_thread(write, change)
        return answer(render_order(view, party_of(current_actor(request))), etag=view.etag)

    @delete(
        "/{order_id:int}",
        summary="Cancel an order or discard a draft",
        responses=problems(400, 401, 403, 404, 409, 412, 503),
        permission=Permission.ORDERS_WRITE,
        sync_to_thread=True,
    )
    def cancel_order(self, request: AnyRequest, order_id: OrderId) -> None:
        """Release the order's stock and its coupons; 204, also when it was cancelled before."""
        write(
            lambda: services.cancel_order(
                order_id, etag=if_match(request), actor=current_actor(request), trace=trace_of(request)
            )
        )


def wanted_lines(data: UpdateOrderIn) -> Sequence[OrderLine] | None:
    """Return the lines that a change wants, or None to keep them; raises ValidationFailed when it wants nothing."""
    if data.items is None and data.coupon_codes is None and data.client_reference is None:
        message = "Name at least one of items, coupon_codes, client_reference."
        raise ValidationFailed([{"field": "body", "message": message}])
    return None if data.items is None else merge_lines([(i.product_id, i.quantity) for i in data.items])


def wanted_codes(data: UpdateOrderIn) -> tuple[str, ...] | None:
    """Return the coupons that a change wants, or None to keep them."""
    return None if data.coupon_codes is None else parse_codes(data.coupon_codes)


async def _draft(request: AnyRequest, data: PlaceOrderIn) -> Response[Any]:
    actor = current_actor(request)
    lines = merge_lines([(item.product_id, item.quantity) for item in data.items])
    codes = parse_codes(data.coupon_codes)
    buyer = data.user_id or actor.user_id
    async with counted_guesses(request, codes):
        return await sync_to_thread(
            write_once,
            request,
            data,
            lambda: render_order(
                services.draft_order(
                    user_id=buyer,
                    lines=lines,
                    coupon_codes=codes,
                    client_reference=data.client_reference,
                    actor=actor,
                    trace=trace_of(request),
                    prices=request.app.state.price_terms,
                ),
                party_of(actor),
            ),
            authorise=lambda: services.require_may_order_for(buyer, actor),
        )


def _read_position(position: str) -> tuple[datetime, int]:
    at, _, order_id = position.partition("|")
    try:
        return datetime.fromisoformat(at), int(order_id)
    except ValueError as error:
        raise InvalidCursor from error
