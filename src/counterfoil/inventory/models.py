"""Stock: what is there, what is promised, and every movement that explains the numbers."""

from __future__ import annotations

from enum import StrEnum

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class MovementKind(StrEnum):
    """Why a counter changed. The first three are entered by people, the others follow from orders."""

    RECEIPT = "receipt"
    ADJUSTMENT = "adjustment"
    LOSS = "loss"
    RESERVE = "reserve"
    RELEASE = "release"
    ALLOCATE = "allocate"
    DEALLOCATE = "deallocate"
    DISPATCH = "dispatch"
    RETURN = "return"


_KINDS = [kind.value for kind in MovementKind]


class StockLevel(models.Model):
    """The sums of a product's movements, kept so that one row lock decides a sale."""

    product = models.OneToOneField("counterfoil.Product", on_delete=models.PROTECT, primary_key=True)
    location = models.CharField(max_length=40, db_default="default")
    on_hand = models.BigIntegerField(db_default=0)
    reserved = models.BigIntegerField(db_default=0)
    allocated = models.BigIntegerField(db_default=0)
    allow_backorder = models.BooleanField(default=False, db_default=False)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "stock_levels"
        constraints = [
            models.CheckConstraint(
                condition=Q(on_hand__gte=0, reserved__gte=0, allocated__gte=0), name="ck_stock_levels_counters"
            ),
            # The last line of defence: whatever the code does, this row cannot be oversold.
            models.CheckConstraint(
                condition=Q(allow_backorder=True) | Q(on_hand__gte=F("reserved") + F("allocated")),
                name="ck_stock_levels_available",
            ),
        ]

    def __str__(self) -> str:
        return f"Stock of product {self.product_id}"


class StockMovement(models.Model):
    """One change of the counters; append-only. StockLevel equals the sums of these rows."""

    id = models.BigAutoField(primary_key=True)
    product = models.ForeignKey("counterfoil.Product", on_delete=models.PROTECT, db_index=False)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, null=True, db_index=False)
    kind = models.CharField(max_length=20)
    on_hand_delta = models.BigIntegerField(db_default=0)
    reserved_delta = models.BigIntegerField(db_default=0)
    allocated_delta = models.BigIntegerField(db_default=0)
    actor = models.CharField(max_length=64)
    reason = models.CharField(max_length=255, db_default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "stock_movements"
        indexes = [models.Index(fields=["product", "-id"], name="idx_stock_movements_product")]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=_KINDS), name="ck_stock_movements_kind"),
            models.CheckConstraint(
                condition=~Q(on_hand_delta=0, reserved_delta=0, allocated_delta=0),
                name="ck_stock_movements_not_empty",
            ),
            models.CheckConstraint(
                condition=(
                    Q(kind="receipt", on_hand_delta__gt=0, reserved_delta=0, allocated_delta=0)
                    | Q(kind="adjustment", reserved_delta=0, allocated_delta=0)
                    | Q(kind="loss", on_hand_delta__lt=0, reserved_delta=0, allocated_delta=0)
                    | Q(kind="reserve", on_hand_delta=0, reserved_delta__gt=0, allocated_delta=0)
                    | Q(kind="release", on_hand_delta=0, reserved_delta__lt=0, allocated_delta=0)
                    | Q(kind="allocate", on_hand_delta=0, reserved_delta__lt=0, allocated_delta=-F("reserved_delta"))
                    | Q(kind="deallocate", on_hand_delta=0, reserved_delta=0, allocated_delta__lt=0)
                    | Q(kind="dispatch", on_hand_delta__lt=0, reserved_delta=0, allocated_delta=F("on_hand_delta"))
                    | Q(kind="return", on_hand_delta__gt=0, reserved_delta=0, allocated_delta=0)
                ),
                name="ck_stock_movements_shape",
            ),
        ]

    def __str__(self) -> str:
        return f"Stock movement {self.pk}"
