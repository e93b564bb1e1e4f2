"""Notices of payment gateways over HTTP."""

from __future__ import annotations

from typing import Annotated, Final

from litestar import Controller, Response, post
from litestar.concurrency import sync_to_thread
from litestar.params import Parameter
from msgspec import Struct

from counterfoil.api.answers import AnyRequest, answer, problems
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.kernel.errors import DomainError, Invalid, Unauthenticated
from counterfoil.payments.notices import accept_notice
from counterfoil.payments.states import NoticeVerdict
from counterfoil.users.permissions import PUBLIC


class NoticeNotBelieved(Unauthenticated):
    """The notice has no valid signature of the last five minutes; check the endpoint's secret and the clock."""

    code = "NOTICE_NOT_BELIEVED"


class NoticeMalformed(Invalid):
    """The notice is signed, but cannot be read; nothing was done."""

    code = "NOTICE_MALFORMED"


class NoticeOut(Struct, frozen=True):
    """What was made of a notice; one that is no news is taken as well, so that it is not repeated."""

    verdict: NoticeVerdict


_REFUSED: Final[dict[NoticeVerdict, type[DomainError]]] = {
    NoticeVerdict.FORGED: NoticeNotBelieved,
    NoticeVerdict.STALE: NoticeNotBelieved,
    NoticeVerdict.MALFORMED: NoticeMalformed,
}
Provider = Annotated[str, Parameter(min_length=1, max_length=20, pattern=r"^[a-z]+$", description="The gateway.")]


class CallbacksController(Controller):
    """Take what gateways tell us, and believe none of it: it only says where to look."""

    path = "/payments/callbacks"
    tags = ["Payments"]

    @post(
        "/{provider:str}",
        summary="Take a gateway's notice",
        description="For gateways: the signature is over the raw body. A notice changes nothing; the payment is read at"
        " the gateway.",
        status_code=200,
        responses=problems(400, 401, 404, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
    )
    async def take_notice(self, request: AnyRequest, provider: Provider) -> Response[NoticeOut]:
        """Answer 200 for a genuine notice, also when it is known, or about something that is not ours."""
        body = await request.body()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.scope["headers"]}
        verdict = await sync_to_thread(run_in_thread, accept_notice, provider, body, headers)
        if (refusal := _REFUSED.get(verdict)) is not None:
            raise refusal
        return answer(NoticeOut(verdict))
