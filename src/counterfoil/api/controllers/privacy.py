"""One's own data over HTTP: take it along, or have it erased."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from litestar import Controller, Response, delete, get
from litestar.openapi import ResponseSpec

from counterfoil.api.answers import AnyRequest, answer, problems, request_id
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.privacy import ErasureOut
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.privacy import services
from counterfoil.privacy.export import PersonalData, render_csv, render_json
from counterfoil.users.permissions import Permission, require_person

# A person's data is put together in memory; 10,000 orders with lines and events are some 20 MB.
_EXPORT_ORDERS_MAX: Final = 10_000


class ExportFormat(StrEnum):
    """How the data is wanted: one JSON document, or a ZIP file of CSV tables."""

    JSON = "json"
    CSV = "csv"


class PrivacyController(Controller):
    """The rights of a person about their data."""

    path = "/api/v1/users/me"
    tags = ["Privacy"]

    @get(
        "/export",
        summary="Export one's own data",
        responses={200: ResponseSpec(PersonalData, generate_examples=False), **problems(400, 401, 403, 404, 409, 503)},
        archive="application/zip",
        permission=Permission.ACCOUNT_SELF,
        sync_to_thread=True,
    )
    def export(self, request: AnyRequest, format: ExportFormat = ExportFormat.JSON) -> Response[bytes]:  # noqa: A002 - the parameter's name on the wire
        """Answer account, profile, orders and what was done with the account; `format=csv` gives a ZIP of tables."""
        actor = current_actor(request)
        data = run_in_thread(
            services.export_person,
            actor.user_id,
            actor=actor.principal,
            request_id=request_id(request),
            orders_max=_EXPORT_ORDERS_MAX,
        )
        as_csv = format is ExportFormat.CSV
        name = f"counterfoil-user-{actor.user_id}.{'zip' if as_csv else 'json'}"
        return Response(
            render_csv(data) if as_csv else render_json(data),
            media_type="application/zip" if as_csv else "application/json",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @delete(
        summary="Erase oneself, or have it done when nothing is open any more",
        status_code=202,
        responses={
            204: ResponseSpec(None, description="Erased", generate_examples=False),
            **problems(401, 403, 404, 409, 503),
        },
        permission=Permission.ACCOUNT_SELF,
        sync_to_thread=True,
    )
    def erase(self, request: AnyRequest) -> Response[ErasureOut]:
        """Erase the account and everything personal. Deferred, with the reason, while an order is open. Idempotent."""
        actor = current_actor(request)
        require_person(actor)
        erasure = run_in_thread(
            services.erase_person, actor.user_id, actor=actor.principal, request_id=request_id(request)
        )
        if erasure.completed_at is not None:
            nothing: Response[Any] = Response(None, status_code=204)
            return nothing
        return answer(ErasureOut(erasure.state, erasure.requested_at, erasure.deferred_reason), status=202)
