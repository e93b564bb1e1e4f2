"""Payments, the calls made for them, refunds, the ledger, and the notices that gateways sent."""

from __future__ import annotations

from enum import StrEnum

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from counterfoil.payments.states import (
    OPEN_ATTEMPTS,
    UNDECIDED,
    AttemptState,
    NoticeVerdict,
    Operation,
    PaymentState,
    RefundState,
)


def _one_of(field: str, enum: type[StrEnum], name: str) -> models.CheckConstraint:
    return models.CheckConstraint(condition=Q(**{f"{field}__in": [member.value for member in enum]}), name=name)


class Payment(models.Model):
    """Money asked of a buyer for an order. `captured_amount` was taken, refunds not subtracted."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    gateway = models.CharField(max_length=20)
    gateway_payment_id = models.CharField(max_length=200, db_default="")
    reference = models.CharField(max_length=64)
    amount = models.DecimalField(max_digits=19, decimal_places=4)
    currency = models.CharField(max_length=3)
    capture_now = models.BooleanField()
    status = models.CharField(max_length=20, db_default=PaymentState.PROCESSING)
    captured_amount = models.DecimalField(max_digits=19, decimal_places=4, db_default=0)
    refunded_amount = models.DecimalField(max_digits=19, decimal_places=4, db_default=0)
    decline_code = models.CharField(max_length=100, db_default="")
    action_url = models.CharField(max_length=2048, db_default="")
    principal = models.CharField(max_length=64)
    # A keyed hash of the client's key: the key itself is the client's own text, and may say anything.
    client_key = models.CharField(max_length=64)
    generation = models.IntegerField(db_default=1)
    review_reason = models.CharField(max_length=120, db_default="")
    version = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "payments"
        indexes = [
            models.Index(fields=["order", "id"], name="idx_payments_order"),
            models.Index(fields=["gateway", "gateway_payment_id"], name="idx_payments_gateway_id"),
            models.Index(fields=["id"], name="idx_payments_review", condition=~Q(review_reason="")),
        ]
        constraints = [
            _one_of("status", PaymentState, "ck_payments_status"),
            models.CheckConstraint(
                condition=Q(amount__gt=0, refunded_amount__gte=0)
                & Q(refunded_amount__lte=F("captured_amount"), captured_amount__lte=F("amount")),
                name="ck_payments_amounts",
            ),
            models.CheckConstraint(
                condition=Q(status=PaymentState.CAPTURED, captured_amount__gt=0)
                | (~Q(status=PaymentState.CAPTURED) & Q(captured_amount=0)),
                name="ck_payments_captured",
            ),
            models.UniqueConstraint(fields=["reference"], name="uq_payments_reference"),
            models.UniqueConstraint(fields=["principal", "client_key", "generation"], name="uq_payments_client_key"),
            # One undecided payment an order: whatever the code does, nobody pays twice for want of an answer.
            models.UniqueConstraint(
                fields=["order"],
                condition=Q(status__in=sorted(state.value for state in UNDECIDED)),
                name="uq_payments_undecided",
            ),
        ]

    def __str__(self) -> str:
        return f"Payment {self.pk}"


class Refund(models.Model):
    """Captured money on its way back."""

    id = models.BigAutoField(primary_key=True)
    payment = models.ForeignKey("counterfoil.Payment", on_delete=models.PROTECT, db_index=False)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    reference = models.CharField(max_length=64)
    gateway_refund_id = models.CharField(max_length=200, db_default="")
    amount = models.DecimalField(max_digits=19, decimal_places=4)
    currency = models.CharField(max_length=3)
    reason = models.CharField(max_length=500, db_default="")
    automatic = models.BooleanField(db_default=False)
    status = models.CharField(max_length=20, db_default=RefundState.REQUESTED)
    failure_code = models.CharField(max_length=100, db_default="")
    principal = models.CharField(max_length=64)
    client_key = models.CharField(max_length=64)
    version = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "refunds"
        indexes = [
            models.Index(fields=["payment", "id"], name="idx_refunds_payment"),
            models.Index(fields=["order", "id"], name="idx_refunds_order"),
        ]
        constraints = [
            _one_of("status", RefundState, "ck_refunds_status"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="ck_refunds_amount"),
            models.UniqueConstraint(fields=["reference"], name="uq_refunds_reference"),
            models.UniqueConstraint(fields=["payment"], condition=Q(automatic=True), name="uq_refunds_automatic"),
        ]

    def __str__(self) -> str:
        return f"Refund {self.pk}"


class PaymentAttempt(models.Model):
    """One call to a gateway, written before it is made: what is to be sent, with which key, and how it went.

    `next_at` is when a worker takes it next; NULL: nobody does. While it runs, that is the end of the lease. `fence`
    rises with every taking, and a result is accepted only with the current one. `is_unknown` stays while an unknown one
    is being looked at. One that succeeded and has a `next_at` waits for the buyer, or for the gateway to go on.
    `noticed_at` is when a notice came about it since it was last taken: then it is looked at again at once.
    """

    id = models.BigAutoField(primary_key=True)
    payment = models.ForeignKey("counterfoil.Payment", on_delete=models.PROTECT, db_index=False)
    refund = models.ForeignKey("counterfoil.Refund", on_delete=models.PROTECT, null=True, db_index=False)
    operation = models.CharField(max_length=20)
    gateway = models.CharField(max_length=20)
    gateway_key = models.CharField(max_length=64)
    amount = models.DecimalField(max_digits=19, decimal_places=4)
    method = models.CharField(max_length=200, db_default="")
    return_url = models.CharField(max_length=2048, db_default="")
    state = models.CharField(max_length=20, db_default=AttemptState.DUE)
    tries = models.IntegerField(db_default=0)
    fence = models.BigIntegerField(db_default=0)
    lease_until = models.DateTimeField(null=True)
    next_at = models.DateTimeField(null=True, db_default=Now())
    first_sent_at = models.DateTimeField(null=True)
    is_unknown = models.BooleanField(db_default=False)
    noticed_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=200, db_default="")
    created_by = models.CharField(max_length=64)
    request_id = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "payment_attempts"
        indexes = [
            models.Index(fields=["payment", "id"], name="idx_payment_attempts_payment"),
            models.Index(fields=["next_at"], name="idx_payment_attempts_due", condition=Q(next_at__isnull=False)),
            models.Index(fields=["first_sent_at"], name="idx_payment_attempts_unknown", condition=Q(is_unknown=True)),
        ]
        constraints = [
            _one_of("state", AttemptState, "ck_payment_attempts_state"),
            _one_of("operation", Operation, "ck_payment_attempts_operation"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="ck_payment_attempts_amount"),
            models.CheckConstraint(
                condition=Q(operation=Operation.REFUND, refund__isnull=False)
                | (~Q(operation=Operation.REFUND) & Q(refund__isnull=True)),
                name="ck_payment_attempts_refund",
            ),
            models.UniqueConstraint(fields=["gateway_key"], name="uq_payment_attempts_key"),
            models.UniqueConstraint(
                fields=["payment"],
                condition=Q(state__in=sorted(state.value for state in OPEN_ATTEMPTS)) & ~Q(operation=Operation.REFUND),
                name="uq_payment_attempts_open",
            ),
            models.UniqueConstraint(
                fields=["refund"],
                condition=Q(state__in=sorted(state.value for state in OPEN_ATTEMPTS)),
                name="uq_payment_attempts_open_refund",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.operation} of payment {self.payment_id}"


class LedgerEntry(models.Model):
    """One side of a posting; append-only. The entries of a posting sum to zero, which a trigger checks at commit."""

    id = models.BigAutoField(primary_key=True)
    posting = models.UUIDField()
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    payment = models.ForeignKey("counterfoil.Payment", on_delete=models.PROTECT, db_index=False)
    refund = models.ForeignKey("counterfoil.Refund", on_delete=models.PROTECT, null=True, db_index=False)
    gateway = models.CharField(max_length=20)
    account = models.CharField(max_length=40)
    amount = models.DecimalField(max_digits=19, decimal_places=4)
    currency = models.CharField(max_length=3)
    kind = models.CharField(max_length=20)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "ledger_entries"
        indexes = [
            models.Index(fields=["order", "account"], name="idx_ledger_entries_order"),
            models.Index(fields=["gateway", "created_at"], name="idx_ledger_entries_gateway"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="capture", refund__isnull=True) | Q(kind="refund", refund__isnull=False),
                name="ck_ledger_entries_kind",
            ),
            models.CheckConstraint(condition=~Q(amount=0), name="ck_ledger_entries_amount"),
            models.UniqueConstraint(fields=["posting", "account"], name="uq_ledger_entries_posting"),
            # One posting for each capture and one for each refund, whatever is reported how often.
            models.UniqueConstraint(
                fields=["payment", "account"], condition=Q(kind="capture"), name="uq_ledger_entries_capture"
            ),
            models.UniqueConstraint(
                fields=["refund", "account"], condition=Q(kind="refund"), name="uq_ledger_entries_refund"
            ),
        ]

    def __str__(self) -> str:
        return f"Ledger entry {self.pk}"


class GatewayNotice(models.Model):
    """A notice that came, and what was made of it; of its body only the hash."""

    id = models.BigAutoField(primary_key=True)
    gateway = models.CharField(max_length=20)
    event_id = models.CharField(max_length=200, db_default="")
    type = models.CharField(max_length=100, db_default="")
    verdict = models.CharField(max_length=20)
    detail = models.CharField(max_length=200, db_default="")
    payment = models.ForeignKey("counterfoil.Payment", on_delete=models.PROTECT, null=True, db_index=False)
    body_hash = models.BinaryField()
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "gateway_notices"
        indexes = [
            models.Index(fields=["received_at"], name="idx_gateway_notices_received"),
            models.Index(fields=["payment", "id"], name="idx_gateway_notices_payment"),
        ]
        constraints = [
            _one_of("verdict", NoticeVerdict, "ck_gateway_notices_verdict"),
            models.UniqueConstraint(
                fields=["gateway", "event_id"],
                condition=Q(verdict=NoticeVerdict.ACCEPTED),
                name="uq_gateway_notices_event",
            ),
        ]

    def __str__(self) -> str:
        return f"Notice {self.pk}"
