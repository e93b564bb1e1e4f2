"""What the shop sells."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class Product(models.Model):
    """One sellable article. A deleted one keeps its row: past orders point at it."""

    id = models.BigAutoField(primary_key=True)
    sku = models.CharField(max_length=64)
    name = models.CharField(max_length=255)
    description = models.TextField(db_default="")
    category = models.CharField(max_length=120, db_default="")
    price = models.DecimalField(max_digits=19, decimal_places=4)
    currency = models.CharField(max_length=3)
    # Percent; contained in the price or added to it, as the shop is set up.
    tax_rate = models.DecimalField(max_digits=6, decimal_places=4, default=0, db_default=0)
    active = models.BooleanField(default=True, db_default=True)
    version = models.IntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "products"
        constraints = [
            models.UniqueConstraint(
                fields=["sku"], condition=models.Q(deleted_at__isnull=True), name="uq_products_sku"
            ),
            models.CheckConstraint(condition=models.Q(price__gte=0), name="ck_products_price"),
            models.CheckConstraint(condition=models.Q(tax_rate__gte=0), name="ck_products_tax_rate"),
            models.CheckConstraint(condition=models.Q(currency__regex="^[A-Z]{3}$"), name="ck_products_currency"),
        ]

    def __str__(self) -> str:
        return f"{self.sku}: {self.name}"
