"""What belongs to an order after it was placed: fulfillments, returns, holds, notes."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from counterfoil.orders.child_states import FulfillmentState, ReturnReason, ReturnState


class Fulfillment(models.Model):
    """One consignment of an order: some of its units, on their way together."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    status = models.CharField(max_length=20, db_default=FulfillmentState.PENDING.value)
    carrier = models.CharField(max_length=80, db_default="")
    # What the carrier knows a person's address by; emptied when the person is erased.
    tracking_number = models.CharField(max_length=120, db_default="")
    tracking_url = models.CharField(max_length=500, db_default="")
    created_by = models.CharField(max_length=64)
    version = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    shipped_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "fulfillments"
        indexes = [models.Index(fields=["order"], name="idx_fulfillments_order")]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=[state.value for state in FulfillmentState]), name="ck_fulfillments_status"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["shipped", "delivered"], shipped_at__isnull=False)
                | Q(status__in=["pending", "in_progress", "cancelled"], shipped_at__isnull=True),
                name="ck_fulfillments_shipped",
            ),
            models.CheckConstraint(
                condition=Q(status="delivered", delivered_at__isnull=False)
                | (~Q(status="delivered") & Q(delivered_at__isnull=True)),
                name="ck_fulfillments_delivered",
            ),
        ]

    def __str__(self) -> str:
        return f"Fulfillment {self.pk} of order {self.order_id}"


class FulfillmentLine(models.Model):
    """How many units of a line of the order are in a fulfillment."""

    id = models.BigAutoField(primary_key=True)
    fulfillment = models.ForeignKey("counterfoil.Fulfillment", on_delete=models.PROTECT, db_index=False)
    order_item = models.ForeignKey("counterfoil.OrderItem", on_delete=models.PROTECT, db_index=False)
    quantity = models.IntegerField()

    class Meta:
        app_label = "counterfoil"
        db_table = "fulfillment_lines"
        indexes = [models.Index(fields=["order_item"], name="idx_fulfillment_lines_item")]
        constraints = [
            models.UniqueConstraint(fields=["fulfillment", "order_item"], name="uq_fulfillment_lines_item"),
            models.CheckConstraint(condition=Q(quantity__gte=1), name="ck_fulfillment_lines_quantity"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} units in fulfillment {self.fulfillment_id}"


class Hold(models.Model):
    """A reason why an order must not be fulfilled for now; open until it is released."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    reason = models.CharField(max_length=255)
    placed_by = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())
    released_at = models.DateTimeField(null=True)
    released_by = models.CharField(max_length=64, db_default="")

    class Meta:
        app_label = "counterfoil"
        db_table = "holds"
        indexes = [models.Index(fields=["order"], name="idx_holds_order")]
        constraints = [
            models.CheckConstraint(
                condition=Q(released_at__isnull=True, released_by="")
                | (Q(released_at__isnull=False) & ~Q(released_by="")),
                name="ck_holds_released",
            )
        ]

    def __str__(self) -> str:
        return f"Hold {self.pk} on order {self.order_id}"


class OrderNote(models.Model):
    """What staff wrote about an order. The text is sealed with the customer's key, and emptied with the customer."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    body = models.BinaryField(null=True)
    author = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "order_notes"
        indexes = [models.Index(fields=["order"], name="idx_order_notes_order")]

    def __str__(self) -> str:
        return f"Note {self.pk} on order {self.order_id}"


class Return(models.Model):
    """Goods that a customer wants to give back; `decision` is what staff said to it."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    status = models.CharField(max_length=20, db_default=ReturnState.REQUESTED.value)
    reason = models.CharField(max_length=20)
    decision = models.CharField(max_length=255, db_default="")
    requested_by = models.CharField(max_length=64)
    version = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "returns"
        indexes = [models.Index(fields=["order"], name="idx_returns_order")]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=[state.value for state in ReturnState]), name="ck_returns_status"
            ),
            models.CheckConstraint(
                condition=Q(reason__in=[reason.value for reason in ReturnReason]), name="ck_returns_reason"
            ),
        ]

    def __str__(self) -> str:
        return f"Return {self.pk} of order {self.order_id}"


class ReturnLine(models.Model):
    """Units of a line of the order in a return: asked for, and of those received, back on the shelf or not."""

    id = models.BigAutoField(primary_key=True)
    # `return` is a word of the language.
    parent = models.ForeignKey("counterfoil.Return", on_delete=models.PROTECT, db_index=False, db_column="return_id")
    order_item = models.ForeignKey("counterfoil.OrderItem", on_delete=models.PROTECT, db_index=False)
    quantity = models.IntegerField()
    restocked = models.IntegerField(db_default=0)
    damaged = models.IntegerField(db_default=0)

    class Meta:
        app_label = "counterfoil"
        db_table = "return_lines"
        indexes = [models.Index(fields=["order_item"], name="idx_return_lines_item")]
        constraints = [
            models.UniqueConstraint(fields=["parent", "order_item"], name="uq_return_lines_item"),
            models.CheckConstraint(
                condition=Q(quantity__gte=1, restocked__gte=0, damaged__gte=0)
                & Q(quantity__gte=F("restocked") + F("damaged")),
                name="ck_return_lines_units",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} units in return {self.parent_id}"
