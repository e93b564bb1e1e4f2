"""Coupons, and which order of which customer has used them."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now, Upper

from counterfoil.coupons.terms import CouponKind


class Coupon(models.Model):
    """A code that takes something off an order. `used` counts the uses that are not given back."""

    id = models.BigAutoField(primary_key=True)
    code = models.CharField(max_length=40)
    kind = models.CharField(max_length=10)
    # A percentage, or an amount in `currency`.
    value = models.DecimalField(max_digits=19, decimal_places=4)
    currency = models.CharField(max_length=3, null=True)  # noqa: DJ001 - NULL: any
    minimum_total = models.DecimalField(max_digits=19, decimal_places=4, null=True)
    starts_at = models.DateTimeField(null=True)
    ends_at = models.DateTimeField(null=True)
    usage_limit = models.IntegerField(null=True)
    per_customer_limit = models.IntegerField(null=True)
    used = models.IntegerField(db_default=0)
    active = models.BooleanField(default=True, db_default=True)
    version = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "coupons"
        constraints = [
            models.UniqueConstraint(fields=["code"], name="uq_coupons_code"),
            # In capitals, so that UNIQUE takes no notice of the case.
            models.CheckConstraint(condition=Q(code=Upper(F("code"))), name="ck_coupons_code"),
            models.CheckConstraint(condition=Q(kind__in=[kind.value for kind in CouponKind]), name="ck_coupons_kind"),
            models.CheckConstraint(condition=Q(value__gt=0), name="ck_coupons_value"),
            models.CheckConstraint(
                condition=Q(kind="percent", value__lte=100) | Q(kind="fixed", currency__isnull=False),
                name="ck_coupons_benefit",
            ),
            models.CheckConstraint(
                condition=Q(minimum_total__isnull=True) | Q(minimum_total__gte=0, currency__isnull=False),
                name="ck_coupons_minimum",
            ),
            models.CheckConstraint(
                condition=Q(starts_at__isnull=True) | Q(ends_at__isnull=True) | Q(ends_at__gt=F("starts_at")),
                name="ck_coupons_period",
            ),
            models.CheckConstraint(
                condition=Q(per_customer_limit__isnull=True) | Q(per_customer_limit__gte=1), name="ck_coupons_customer"
            ),
            # The last line of defence: no race uses a coupon more often than it may be.
            models.CheckConstraint(
                condition=Q(used__gte=0) & (Q(usage_limit__isnull=True) | Q(used__lte=F("usage_limit"))),
                name="ck_coupons_used",
            ),
        ]

    def __str__(self) -> str:
        return f"Coupon {self.code}"


class CouponUse(models.Model):
    """One use of a coupon by one order; given back when the order ends without a sale, or is changed."""

    id = models.BigAutoField(primary_key=True)
    coupon = models.ForeignKey("counterfoil.Coupon", on_delete=models.PROTECT, db_index=False)
    order = models.ForeignKey("counterfoil.Order", on_delete=models.PROTECT, db_index=False)
    user = models.ForeignKey("counterfoil.User", on_delete=models.PROTECT, db_index=False)
    used_at = models.DateTimeField(db_default=Now())
    released_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "coupon_uses"
        indexes = [
            # How often a customer has used a coupon.
            models.Index(
                fields=["coupon", "user"], name="idx_coupon_uses_customer", condition=Q(released_at__isnull=True)
            ),
        ]
        constraints = [
            # At most one use by an order, however often it is changed; also the way from an order to its uses.
            models.UniqueConstraint(fields=["order", "coupon"], name="uq_coupon_uses_order"),
        ]

    def __str__(self) -> str:
        return f"Use of coupon {self.coupon_id} by order {self.order_id}"
