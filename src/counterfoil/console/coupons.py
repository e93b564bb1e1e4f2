"""Coupons in the console."""

from __future__ import annotations

from django.contrib import admin

from counterfoil.console.sites import Page, find_model


@admin.register(find_model("Coupon"))
class CouponPage(Page):
    """Coupons, and how often they are used."""

    list_display = ("id", "code", "kind", "value", "currency", "used", "usage_limit", "ends_at", "active")
    list_filter = ("kind", "active")
    search_fields = ("=id", "code")
    search_help_text = "A coupon's id, or a part of its code."
    ordering = ("-id",)
    fields = (
        *("code", "kind", "value", "currency", "minimum_total", "starts_at", "ends_at"),
        *("usage_limit", "per_customer_limit", "used", "active", "version", "created_at", "updated_at"),
    )
