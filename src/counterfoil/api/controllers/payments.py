"""Payments and refunds over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.params import Parameter

from counterfoil.api.answers import AnyRequest, also, answer, problems, trace_of, write_once
from counterfoil.api.controllers.orders import OrderId
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.fields import ID_MAX, encode_body
from counterfoil.api.schemas.orders import OrderOut, render_order
from counterfoil.api.schemas.payments import (
    CaptureIn,
    PayIn,
    PaymentList,
    PaymentOut,
    PaymentResult,
    RefundIn,
    RefundList,
    RefundOut,
    ReviewIn,
    render_payment,
    render_refund,
    result_of,
    terms_of,
)
from counterfoil.api.waiting import Undertaking, Verdict, answer_when_known
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.infrastructure.idempotency import Answer
from counterfoil.orders import paying
from counterfoil.orders.errors import (
    OrderPaymentDeclined,
    OrderRefundFailed,
    PaymentActionRefused,
    PaymentGatewayUnavailable,
)
from counterfoil.orders.history import OrderView
from counterfoil.orders.services import require_may_see
from counterfoil.orders.states import Party
from counterfoil.orders.steps import party_of
from counterfoil.payments.states import Operation, PaymentState, RefundState
from counterfoil.payments.views import PaymentView, RefundView
from counterfoil.users.permissions import Permission

PaymentId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The payment's id.")]
RefundId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The refund's id.")]
_UNDER_WAY = frozenset({PaymentState.PROCESSING})
_REFUND_DONE = frozenset({RefundState.SUCCEEDED, RefundState.FAILED})
_NOT_YET = "Not known yet"
_KEYED = (
    " Needs an Idempotency-Key: repeat the same request with the same key until it is answered, and it is done once."
    " 202 means that it is not known yet; ask at `status_url`, or repeat the request."
)


class PaymentsController(Controller):
    """Pay for orders, and take or give back the money."""

    path = "/api/v1"
    tags = ["Payments"]

    @post(
        "/orders/{order_id:int}/payments",
        summary="Pay for an order",
        description="Takes the money at once, or holds it with `capture: false`; an order that is covered is confirmed."
        " 402 leaves the order as it was: pay with another method and a fresh key." + _KEYED,
        responses={
            **also(OrderOut, 200, "Nothing is left to pay: the order"),
            **also(PaymentOut, 202, _NOT_YET),
            **problems(400, 401, 402, 403, 404, 409, 413, 415, 422, 503),
        },
        permission=Permission.PAYMENTS_WRITE,
        key_required=True,
    )
    async def pay_order(self, request: AnyRequest, order_id: OrderId, data: PayIn) -> Response[PaymentOut]:
        """Answer 201 when the money is held or taken, 202 when that is not known yet or the buyer has to act.

        An order that costs nothing is confirmed at once, and answered 200 with the order.
        """
        actor, trace, party = current_actor(request), trace_of(request), party_of(current_actor(request))

        def begin(key: str, known: int | None) -> Answer | int:
            terms = terms_of(data)
            if known is not None:
                return paying.pay_again(known, terms, client_key=key, actor=actor, trace=trace).id
            found = paying.pay(order_id, terms, client_key=key, actor=actor, trace=trace)
            if isinstance(found, OrderView):
                return Answer(200, encode_body(render_order(found, party)), replayed=False)
            return found.id

        return await _answer_payment(
            request,
            data,
            begin=begin,
            is_known=_is_paid_or_not,
            judge=partial(_judge_payment, party=party),
            authorise=lambda: require_may_see(order_id, actor=actor),
        )

    @get(
        "/orders/{order_id:int}/payments",
        summary="List an order's payments",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.PAYMENTS_READ,
        sync_to_thread=True,
    )
    def list_payments(self, request: AnyRequest, order_id: OrderId) -> Response[PaymentList]:
        """Answer every payment of the order, oldest first."""
        actor = current_actor(request)
        found = run_in_thread(paying.list_payments, order_id, actor=actor)
        return answer(PaymentList([render_payment(payment, party_of(actor)) for payment in found]))

    @get(
        "/payments/{payment_id:int}",
        summary="Read a payment",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.PAYMENTS_READ,
        sync_to_thread=True,
    )
    def get_payment(self, request: AnyRequest, payment_id: PaymentId) -> Response[PaymentOut]:
        """Answer the payment as it is now."""
        actor = current_actor(request)
        return answer(render_payment(run_in_thread(paying.read_payment, payment_id, actor=actor), party_of(actor)))

    @post(
        "/payments/{payment_id:int}/capture",
        summary="Take held money",
        description="All of it or a part, once; what is not taken is released." + _KEYED,
        status_code=200,
        responses={
            **also(PaymentOut, 202, _NOT_YET),
            **problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
        },
        permission=Permission.PAYMENTS_CAPTURE,
        key_required=True,
    )
    async def capture_payment(
        self, request: AnyRequest, payment_id: PaymentId, data: CaptureIn
    ) -> Response[PaymentOut]:
        """Answer 200 when the money is taken, 202 when that is not known yet."""
        ask = partial(paying.capture, payment_id, amount=data.amount)
        return await _answer_action(request, data, payment_id, ask, Operation.CAPTURE, PaymentState.CAPTURED)

    @post(
        "/payments/{payment_id:int}/void",
        summary="Release held money, or give up a payment",
        description="A customer may give up a payment that waits for them." + _KEYED,
        status_code=200,
        responses={**also(PaymentOut, 202, _NOT_YET), **problems(400, 401, 403, 404, 409, 422, 503)},
        permission=Permission.PAYMENTS_WRITE,
        key_required=True,
    )
    async def void_payment(self, request: AnyRequest, payment_id: PaymentId) -> Response[PaymentOut]:
        """Answer 200 when the money is released, 202 when that is not known yet."""
        ask = partial(paying.void, payment_id)
        return await _answer_action(request, None, payment_id, ask, Operation.VOID, PaymentState.CANCELLED)

    @post(
        "/payments/{payment_id:int}/look",
        summary="Ask the gateway about a payment now",
        description="A worker asks at once what it would have asked later, or not at all any more.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 422, 503),
        permission=Permission.PAYMENTS_CAPTURE,
        sync_to_thread=True,
    )
    def look_at_payment(self, request: AnyRequest, payment_id: PaymentId) -> Response[PaymentOut]:
        """Answer the payment as it is before that."""
        return _write_payment(request, None, payment_id, paying.look_now)

    @post(
        "/payments/{payment_id:int}/review",
        summary="Say that a person has looked at a payment",
        description="Takes it off the list of those that need one, with what was found.",
        status_code=200,
        responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
        permission=Permission.PAYMENTS_REFUND,
        sync_to_thread=True,
    )
    def review_payment(self, request: AnyRequest, payment_id: PaymentId, data: ReviewIn) -> Response[PaymentOut]:
        """Answer the payment without its `review_reason`; 200 also when it had none."""
        return _write_payment(request, data, payment_id, partial(paying.finish_review, reason=data.reason))

    @post(
        "/payments/{payment_id:int}/refunds",
        summary="Give money back",
        description="All that is left of what was taken, or a part, as often as there is something left." + _KEYED,
        responses={
            **also(RefundOut, 202, _NOT_YET),
            **problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
        },
        permission=Permission.PAYMENTS_REFUND,
        key_required=True,
    )
    async def refund_payment(self, request: AnyRequest, payment_id: PaymentId, data: RefundIn) -> Response[RefundOut]:
        """Answer 201 when the money went back, 202 when that is not known yet."""
        actor, trace = current_actor(request), trace_of(request)

        def begin(key: str, known: int | None) -> int:
            if known is not None:
                return known
            return paying.refund(
                payment_id, amount=data.amount, reason=data.reason, client_key=key, actor=actor, trace=trace
            ).id

        return await answer_when_known(
            request,
            data,
            Undertaking(
                begin=begin,
                look=partial(paying.read_refund, actor=actor),
                is_known=lambda refund: refund.status in _REFUND_DONE,
                judge=partial(_judge_refund, party=party_of(actor)),
                authorise=lambda: _require_may_see_payment(payment_id, actor),
                wakes=payment_id,
            ),
        )

    @get(
        "/payments/{payment_id:int}/refunds",
        summary="List a payment's refunds",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.PAYMENTS_READ,
        sync_to_thread=True,
    )
    def list_refunds(self, request: AnyRequest, payment_id: PaymentId) -> Response[RefundList]:
        """Answer every refund of the payment, oldest first."""
        actor = current_actor(request)
        found = run_in_thread(paying.list_refunds, payment_id, actor=actor)
        return answer(RefundList([render_refund(refund, party_of(actor)) for refund in found]))

    @get(
        "/refunds/{refund_id:int}",
        summary="Read a refund",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.PAYMENTS_READ,
        sync_to_thread=True,
    )
    def get_refund(self, request: AnyRequest, refund_id: RefundId) -> Response[RefundOut]:
        """Answer the refund as it is now."""
        actor = current_actor(request)
        return answer(render_refund(run_in_thread(paying.read_refund, refund_id, actor=actor), party_of(actor)))


# ---------------------------------------------------------------- beginning and waiting
async def _answer_payment(
    request: AnyRequest,
    body: Any,
    *,
    begin: Callable[[str, int | None], Answer | int],
    is_known: Callable[[PaymentView], bool],
    judge: Callable[[PaymentView], Verdict],
    authorise: Callable[[], None],
) -> Response[Any]:
    look = partial(paying.read_payment, actor=current_actor(request))
    return await answer_when_known(
        request,
        body,
        Undertaking(
            begin=begin,
            look=look,
            is_known=is_known,
            judge=judge,
            authorise=authorise,
        ),
    )


async def _answer_action(
    request: AnyRequest,
    body: Any,
    payment_id: int,
    ask: Callable[..., PaymentView],
    operation: Operation,
    wanted: PaymentState,
) -> Response[Any]:
    """Ask for an action on a payment under the request's key, and answer with what has become of it."""
    actor, trace = current_actor(request), trace_of(request)

    def begin(key: str, known: int | None) -> int:
        return ask(client_key=key, actor=actor, trace=trace).id if known is None else known

    return await _answer_payment(
        request,
        body,
        begin=begin,
        is_known=lambda payment: payment.pending != operation,
        judge=partial(_judge_action, operation=operation, wanted=wanted, party=party_of(actor)),
        authorise=lambda: _require_may_see_payment(payment_id, actor),
    )


def _write_payment(
    request: AnyRequest, body: Any, payment_id: int, change: Callable[..., PaymentView]
) -> Response[PaymentOut]:
    """Change a payment in one transaction, with no gateway to wait for."""
    actor, trace = current_actor(request), trace_of(request)
    return write_once(
        request,
        body,
        lambda: render_payment(change(payment_id, actor=actor, trace=trace), party_of(actor)),
        status=200,
        authorise=lambda: _require_may_see_payment(payment_id, actor),
    )


def _require_may_see_payment(payment_id: int, actor: Any) -> None:
    paying.read_payment(payment_id, actor=actor)


# ---------------------------------------------------------------- judging
def _is_paid_or_not(payment: PaymentView) -> bool:
    """Tell whether waiting is over: it is decided, the buyer has to act, or the answer is lost and looked for."""
    return payment.status not in _UNDER_WAY


def _judge_payment(payment: PaymentView, *, party: Party) -> Verdict:
    result = result_of(payment)
    if result is PaymentResult.UNAVAILABLE:
        return Verdict(error=PaymentGatewayUnavailable(payment_id=payment.id, retry_after_seconds=5), final=False)
    if result in {PaymentResult.DECLINED, PaymentResult.VOIDED}:
        code = payment.decline_code or result.value
        refusal = OrderPaymentDeclined(gateway_code=code, payment_id=payment.id, order_id=payment.order_id)
        return Verdict(error=refusal)
    is_final = result is PaymentResult.SUCCEEDED
    return Verdict(201 if is_final else 202, render_payment(payment, party), final=is_final)


def _judge_action(payment: PaymentView, *, operation: Operation, wanted: PaymentState, party: Party) -> Verdict:
    if payment.pending == operation:
        return Verdict(202, render_payment(payment, party), final=False)
    if payment.status is wanted:
        return Verdict(200, render_payment(payment, party))
    return Verdict(
        error=PaymentActionRefused(
            action=operation.value,
            status=payment.status.value,
            payment_id=payment.id,
            allowed_actions=list(paying.actions_of(payment, party)),
        )
    )


def _judge_refund(refund: RefundView, *, party: Party) -> Verdict:
    if refund.status is RefundState.FAILED:
        code = refund.failure_code or "refund_failed"
        return Verdict(error=OrderRefundFailed(gateway_code=code, refund_id=refund.id, payment_id=refund.payment_id))
    is_final = refund.status is RefundState.SUCCEEDED
    return Verdict(201 if is_final else 202, render_refund(refund, party), final=is_final)
