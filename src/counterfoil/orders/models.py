"""Orders, their lines and what is added to or taken off the sum."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from counterfoil.orders.states import FulfillmentStatus, OrderStatus, PaymentStatus, ReturnStatus


def _one_of(
    field: str, enum: type[OrderStatus | PaymentStatus | FulfillmentStatus | ReturnStatus], name: str
) -> models.CheckConstraint:
    return models.CheckConstraint(condition=Q(**{f"{field}__in": [member.value for member in enum]}), name=name)


class Order(models.Model):
    """A sale in the making or made. `version` rises by one with every event, so it is also the last event's seq."""

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey("counterfoil.User", on_delete=models.PROTECT, db_index=False)
    total_amount = models.DecimalField(max_digits=19, decimal_places=4)
    currency = models.CharField(max_length=3)
    # Whether the prices of its lines contain their tax.
    tax_included = models.BooleanField(default=True, db_default=True)
    status = models.CharField(max_length=20)
    payment_status = models.CharField(max_length=20, db_default=PaymentStatus.UNPAID)
    fulfillment_status = models.CharField(max_length=20, db_default=FulfillmentStatus.UNFULFILLED)
    return_status = models.CharField(max_length=20, db_default=ReturnStatus.NONE)
    # What follows from payments, fulfilments, returns and holds, kept so that one row tells what may be done.
    payment_in_flight = models.BooleanField(default=False, db_default=False)
    payment_unknown = models.BooleanField(default=False, db_default=False)
    authorized_amount = models.DecimalField(max_digits=19, decimal_places=4, db_default=0)
    captured_amount = models.DecimalField(max_digits=19, decimal_places=4, db_default=0)
    refunded_amount = models.DecimalField(max_digits=19, decimal_places=4, db_default=0)
    is_held = models.BooleanField(default=False, db_default=False)
    has_open_return = models.BooleanField(default=False, db_default=False)
    cancel_until = models.DateTimeField(null=True)
    return_until = models.DateTimeField(null=True)
    client_reference = models.CharField(max_length=64, null=True)  # noqa: DJ001 - NULL is "not given", outside UNIQUE
    version = models.IntegerField(db_default=1)
    placed_at = models.DateTimeField(null=True)
    reserved_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "orders"
        indexes = [
            models.Index(fields=["user"], name="idx_orders_user_id"),
            models.Index(fields=["status"], name="idx_orders_status"),
            models.Index(fields=["-created_at"], name="idx_orders_created_at"),
            models.Index(fields=["user", "-created_at", "-id"], name="idx_orders_user_page"),
            models.Index(fields=["reserved_until"], name="idx_orders_reserved_until", condition=Q(status="created")),
            # What one customer holds without having paid, however many orders they have had.
            models.Index(
                fields=["user", "reserved_until"], name="idx_orders_open_holds", condition=Q(status="created")
            ),
            # What may be completed next.
            models.Index(fields=["return_until"], name="idx_orders_return_until", condition=Q(status="confirmed")),
        ]
        constraints = [
            _one_of("status", OrderStatus, "ck_orders_status"),
            _one_of("payment_status", PaymentStatus, "ck_orders_payment_status"),
            _one_of("fulfillment_status", FulfillmentStatus, "ck_orders_fulfillment_status"),
            _one_of("return_status", ReturnStatus, "ck_orders_return_status"),
            models.CheckConstraint(condition=Q(total_amount__gte=0), name="ck_orders_total"),
            models.CheckConstraint(condition=Q(version__gte=1), name="ck_orders_version"),
            models.CheckConstraint(
                condition=Q(
                    authorized_amount__gte=0, refunded_amount__gte=0, captured_amount__gte=models.F("refunded_amount")
                ),
                name="ck_orders_money",
            ),
            # A promise of stock has an end, and only a placed, open order holds one.
            models.CheckConstraint(
                condition=Q(status="created", reserved_until__isnull=False, placed_at__isnull=False)
                | Q(status="draft", reserved_until__isnull=True, placed_at__isnull=True)
                | Q(status__in=["confirmed", "completed", "cancelled", "expired"]),
                name="ck_orders_reservation",
            ),
            models.UniqueConstraint(
                fields=["user", "client_reference"],
                condition=Q(client_reference__isnull=False),
                name="uq_orders_client_reference",
            ),
        ]

    def __str__(self) -> str:
        return f"Order {self.pk}"


class OrderItem(models.Model):
    """One line: a product, a quantity, and the product's name and price as they were."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    product = models.ForeignKey("counterfoil.Product", on_delete=models.PROTECT, db_index=False)
    line_no = models.SmallIntegerField()
    sku = models.CharField(max_length=64)
    name = models.CharField(max_length=255)
    quantity = models.IntegerField()
    unit_price = models.DecimalField(max_digits=19, decimal_places=4)
    shipped = models.IntegerField(db_default=0)
    returned = models.IntegerField(db_default=0)
    # Percent; the tax is of the line's worth without its part of the discounts.
    tax_rate = models.DecimalField(max_digits=6, decimal_places=4, default=0, db_default=0)
    tax_amount = models.DecimalField(max_digits=19, decimal_places=4, default=0, db_default=0)
    discount_amount = models.DecimalField(max_digits=19, decimal_places=4, default=0, db_default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "order_items"
        indexes = [
            models.Index(fields=["order"], name="idx_order_items_order_id"),
            models.Index(fields=["product"], name="idx_order_items_product_id"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(quantity__gte=1), name="ck_order_items_quantity"),
            models.CheckConstraint(condition=Q(unit_price__gte=0), name="ck_order_items_unit_price"),
            models.CheckConstraint(
                condition=Q(returned__gte=0, shipped__gte=models.F("returned"), quantity__gte=models.F("shipped")),
                name="ck_order_items_shipped",
            ),
            models.CheckConstraint(
                condition=Q(tax_rate__gte=0, tax_amount__gte=0, discount_amount__gte=0)
                & Q(discount_amount__lte=F("quantity") * F("unit_price")),
                name="ck_order_items_parts",
            ),
        ]

    def __str__(self) -> str:
        return f"Line {self.line_no} of order {self.order_id}"


class Adjustment(models.Model):
    """An amount on top of or off an order's lines: tax, discount, shipping, fee. Already rounded."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    kind = models.CharField(max_length=20)
    label = models.CharField(max_length=120)
    amount = models.DecimalField(max_digits=19, decimal_places=4)
    tax_rate = models.DecimalField(max_digits=6, decimal_places=4, default=0, db_default=0)
    tax_amount = models.DecimalField(max_digits=19, decimal_places=4, default=0, db_default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "adjustments"
        indexes = [models.Index(fields=["order"], name="idx_adjustments_order_id")]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["tax", "discount", "shipping", "fee"]), name="ck_adjustments_kind"
            ),
            models.CheckConstraint(
                condition=(Q(kind="discount", amount__lte=0) | (~Q(kind="discount") & Q(amount__gte=0))),
                name="ck_adjustments_sign",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of order {self.order_id}"
