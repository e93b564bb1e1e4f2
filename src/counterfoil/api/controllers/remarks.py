"""Holds and notes over HTTP. For staff."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, post
from litestar.params import Parameter

from counterfoil.api.answers import (
    AboutPerson,
    AnyRequest,
    answer,
    if_match,
    problems,
    trace_of,
    write,
    write_once,
)
from counterfoil.api.controllers.orders import OrderId
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.api.schemas.remarks import (
    AddNoteIn,
    HoldList,
    HoldOut,
    NoteList,
    NoteOut,
    PlaceHoldIn,
    render_hold,
    render_note,
)
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.orders import remarks, services
from counterfoil.users.permissions import Permission

HoldId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The hold's id.")]


class RemarksController(Controller):
    """What staff puts on an order: holds that stop it, notes that explain it."""

    path = "/api/v1/orders/{order_id:int}"
    tags = ["Holds and notes"]

    @post(
        "/holds",
        summary="Put a hold on an order",
        description="While one is open, nothing of the order is put into a fulfillment or shipped.",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 422, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def place_hold(self, request: AnyRequest, order_id: OrderId, data: PlaceHoldIn) -> Response[HoldOut]:
        """Answer 201 with the hold."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        return write_once(
            request,
            data,
            lambda: render_hold(remarks.place_hold(order_id, reason=data.reason, etag=etag, actor=actor, trace=trace)),
            authorise=lambda: services.require_may_see(order_id, actor=actor),
        )

    @get(
        "/holds",
        summary="List the holds on an order",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def list_holds(self, request: AnyRequest, order_id: OrderId) -> Response[HoldList]:
        """Answer all of them, released ones too."""
        found = run_in_thread(remarks.list_holds, order_id, actor=current_actor(request))
        return answer(HoldList([render_hold(each) for each in found]))

    @delete(
        "/holds/{hold_id:int}",
        summary="Release a hold",
        responses=problems(400, 401, 403, 404, 409, 412, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def release_hold(self, request: AnyRequest, order_id: OrderId, hold_id: HoldId) -> None:
        """End the hold; 204, also when it was released before."""
        actor, etag, trace = current_actor(request), if_match(request), trace_of(request)
        write(lambda: remarks.release_hold(order_id, hold_id, etag=etag, actor=actor, trace=trace))

    @post(
        "/notes",
        summary="Write a note on an order",
        responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def add_note(self, request: AnyRequest, order_id: OrderId, data: AddNoteIn) -> Response[NoteOut]:
        """Answer 201 with the note."""
        actor, trace = current_actor(request), trace_of(request)

        def add() -> AboutPerson:
            note = remarks.add_note(order_id, text=data.text, actor=actor, trace=trace)
            return AboutPerson(render_note(note), remarks.subject_of(order_id, actor=actor))

        return write_once(request, data, add, authorise=lambda: services.require_may_see(order_id, actor=actor))

    @get(
        "/notes",
        summary="List the notes on an order",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.ORDERS_FULFIL,
        sync_to_thread=True,
    )
    def list_notes(self, request: AnyRequest, order_id: OrderId) -> Response[NoteList]:
        """Answer all of them, oldest first."""
        found = run_in_thread(remarks.list_notes, order_id, actor=current_actor(request))
        return answer(NoteList([render_note(each) for each in found]))
