"""Returns over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.params import Parameter

from counterfoil.api.answers import AnyRequest, answer, if_match, problems, trace_of, write_once
from counterfoil.api.controllers.orders import OrderId
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.api.schemas.returns import (
    CloseReturnIn,
    DecideReturnIn,
    ReceiveReturnIn,
    RequestReturnIn,
    ReturnList,
    ReturnOut,
    render_return,
)
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.infrastructure.idempotency import KEY_HOURS, KEY_HOURS_LONG
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.orders import returns, services
from counterfoil.orders.child_states import ReturnAction
from counterfoil.orders.commands import merge_lines
from counterfoil.users.permissions import Actor, Permission

ReturnId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The return's id.")]
_STEP_PROBLEMS = problems(400, 401, 403, 404, 409, 412, 413, 415, 422, 503)


class OrderReturnsController(Controller):
    """What of one order is given back."""

    path = "/api/v1/orders/{order_id:int}/returns"
    tags = ["Returns"]

    @post(
        summary="Ask for a return",
        description="Of what was shipped and is in no other return. Customers within the time for returns, staff at "
        "any time before the order is completed.",
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_WRITE,
        sync_to_thread=True,
    )
    def request_return(self, request: AnyRequest, order_id: OrderId, data: RequestReturnIn) -> Response[ReturnOut]:
        """Answer 201 with the return."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        lines = merge_lines([(item.product_id, item.quantity) for item in data.items])
        return write_once(
            request,
            data,
            lambda: render_return(
                returns.request_return(order_id, reason=data.reason, lines=lines, etag=etag, actor=actor, trace=trace)
            ),
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )

    @get(
        summary="List an order's returns",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_READ,
        sync_to_thread=True,
    )
    def list_returns(self, request: AnyRequest, order_id: OrderId) -> Response[ReturnList]:
        """Answer all of them, oldest first."""
        found = run_in_thread(returns.list_returns, order_id, actor=current_actor(request))
        return answer(ReturnList([render_return(each) for each in found]))


class ReturnsController(Controller):
    """One return and its way."""

    path = "/api/v1/returns/{return_id:int}"
    tags = ["Returns"]

    @get(
        summary="Read a return",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_READ,
        sync_to_thread=True,
    )
    def get_return(self, request: AnyRequest, return_id: ReturnId) -> Response[ReturnOut]:
        """Answer the return with its ETag."""
        found = run_in_thread(returns.find_return, return_id, actor=current_actor(request))
        return answer(render_return(found), etag=found.etag)

    @post(
        "/approve",
        summary="Approve a return",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def approve_return(self, request: AnyRequest, return_id: ReturnId, data: DecideReturnIn) -> Response[ReturnOut]:
        """Answer the return as approved; 200, also when it was before."""
        return _decide(request, return_id, data, ReturnAction.APPROVE)

    @post(
        "/decline",
        summary="Decline a return",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def decline_return(self, request: AnyRequest, return_id: ReturnId, data: DecideReturnIn) -> Response[ReturnOut]:
        """Answer the return as declined; 200, also when it was before."""
        return _decide(request, return_id, data, ReturnAction.DECLINE)

    @post(
        "/receive",
        summary="Count what came of a return",
        description="Once for every parcel; needs an Idempotency-Key. Restocked units can be sold again.",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        key_required=True,
        sync_to_thread=True,
    )
    def receive_return(self, request: AnyRequest, return_id: ReturnId, data: ReceiveReturnIn) -> Response[ReturnOut]:
        """Answer the return with what came so far."""
        arrivals = _arrivals(data)
        return _write(
            request,
            return_id,
            data,
            lambda **caller: returns.receive_return(return_id, arrivals=arrivals, **caller),
            key_required=True,
        )

    @post(
        "/close",
        summary="Close a return",
        description="Nothing more is expected of it. A refund is asked for with it, and made after it.",
        status_code=200,
        responses=_STEP_PROBLEMS,
        permission=Permission.ORDERS_FULFIL,
        key_required=True,
        sync_to_thread=True,
    )
    def close_return(self, request: AnyRequest, return_id: ReturnId, data: CloseReturnIn) -> Response[ReturnOut]:
        """Answer the return as closed; 200, also when it was before."""
        return _write(
            request,
            return_id,
            data,
            lambda **caller: returns.close_return(return_id, refund=data.refund, amount=data.amount, **caller),
            key_required=True,
        )


def _decide(request: AnyRequest, return_id: int, data: DecideReturnIn, action: ReturnAction) -> Response[ReturnOut]:
    return _write(
        request,
        return_id,
        data,
        lambda **caller: returns.decide_return(return_id, action, decision=data.note, **caller),
    )


def _write(
    request: AnyRequest,
    return_id: int,
    body: Any,
    change: Callable[..., returns.ReturnRecord],
    *,
    key_required: bool = False,
) -> Response[Any]:
    actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
    return write_once(
        request,
        body,
        lambda: render_return(change(etag=etag, actor=actor, trace=trace)),
        status=200,
        hours=KEY_HOURS_LONG if key_required else KEY_HOURS,
        key_required=key_required,
        authorise=lambda: _require_visible(return_id, actor),
    )


def _require_visible(return_id: int, actor: Actor) -> None:
    returns.find_return(return_id, actor=actor)


def _arrivals(data: ReceiveReturnIn) -> list[returns.Arrival]:
    """Return what came; raises ValidationFailed for a product that is named twice, or of which nothing came."""
    found = [returns.Arrival(item.product_id, item.restocked, item.damaged, n) for n, item in enumerate(data.items)]
    wrong = [
        {"field": f"items[{each.item}]", "message": "Name each product once, with at least one unit that came."}
        for each in found
        if each.restocked + each.damaged == 0
        or any(other.product_id == each.product_id for other in found[: each.item])
    ]
    if wrong:
        raise ValidationFailed(wrong)
    return found
