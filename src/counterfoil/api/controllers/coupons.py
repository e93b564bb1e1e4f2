"""Coupons over HTTP, for managers."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter

from counterfoil.api.answers import (
    AnyRequest,
    answer,
    if_match,
    next_page,
    open_cursor,
    problems,
    request_id,
    write,
    write_once,
)
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.coupons import CouponIn, CouponOut, CouponPage, parse_coupon, render_coupon
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.coupons import services
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.users.permissions import Permission

CouponId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The coupon's id.")]


class CouponsController(Controller):
    """Codes that take something off an order."""

    path = "/api/v1/coupons"
    tags = ["Coupons"]

    @get(
        summary="List coupons",
        responses=problems(400, 401, 403, 503),
        permission=Permission.COUPONS_READ,
        sync_to_thread=True,
    )
    def list_coupons(
        self,
        request: AnyRequest,
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> Response[CouponPage]:
        """Answer one page of coupons in the order of their making, ended ones too."""
        found = run_in_thread(services.list_coupons, after=int(open_cursor(request, cursor) or 0), limit=limit + 1)
        shown = found[:limit]
        cursor_out, address = next_page(request, str(shown[-1].id) if len(found) > limit else None)
        return answer(CouponPage([render_coupon(coupon) for coupon in shown], cursor_out, address))

    @post(
        summary="Make a coupon",
        responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
        permission=Permission.COUPONS_WRITE,
        sync_to_thread=True,
    )
    def create_coupon(self, request: AnyRequest, data: CouponIn) -> Response[CouponOut]:
        """Make a code that customers name in `coupon_codes` of their orders."""
        values, actor = parse_coupon(data), current_actor(request)
        return write_once(
            request,
            data,
            lambda: render_coupon(
                services.create_coupon(values, actor=actor.principal, request_id=request_id(request))
            ),
        )

    @put(
        "/{coupon_id:int}",
        summary="Replace a coupon",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        permission=Permission.COUPONS_WRITE,
        sync_to_thread=True,
    )
    def replace_coupon(self, request: AnyRequest, coupon_id: CouponId, data: CouponIn) -> Response[CouponOut]:
        """Replace all values; once an order has used it, code, kind, value and currency stay."""
        values = parse_coupon(data)
        coupon: services.CouponRecord = write(
            lambda: services.replace_coupon(
                coupon_id,
                values,
                etag=if_match(request),
                actor=current_actor(request).principal,
                request_id=request_id(request),
            )
        )
        return answer(render_coupon(coupon), etag=coupon.etag)

    @delete(
        "/{coupon_id:int}",
        summary="Delete a coupon",
        responses=problems(400, 401, 403, 404, 409, 412, 503),
        permission=Permission.COUPONS_WRITE,
        sync_to_thread=True,
    )
    def delete_coupon(self, request: AnyRequest, coupon_id: CouponId) -> None:
        """Delete a coupon that no order has used; another is ended with `"active": false`."""
        write(
            lambda: services.delete_coupon(
                coupon_id,
                etag=if_match(request),
                actor=current_actor(request).principal,
                request_id=request_id(request),
            )
        )
