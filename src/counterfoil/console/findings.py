"""What the comparison with a gateway's list has found, in the console."""

from __future__ import annotations

from django.contrib import admin

from counterfoil.console.sites import Page, find_model


@admin.register(find_model("GatewayFinding"))
class GatewayFindingPage(Page):
    """Differences between our payments and the gateways' lists; those without an end are open."""

    list_display = ("id", "gateway", "code", "sentence", "first_seen_at", "last_seen_at", "resolved_at")
    list_filter = ("gateway", "code", ("resolved_at", admin.EmptyFieldListFilter))
    search_fields = ("=order_id", "=payment_id", "=subject")
    search_help_text = "The id of an order or of a payment."
    ordering = ("-id",)
    fields = (
        *("gateway", "code", "subject", "sentence", "order_id", "payment_id", "refund_id", "subject_at"),
        *("first_seen_at", "last_seen_at", "resolved_at"),
    )


@admin.register(find_model("GatewayReconciliation"))
class GatewayReconciliationPage(Page):
    """Each comparison that was made."""

    list_display = (
        "id",
        "gateway",
        "is_daily",
        "outcome",
        "payments",
        "refunds",
        "findings",
        "started_at",
        "finished_at",
    )
    list_filter = ("gateway", "outcome", "is_daily")
    ordering = ("-id",)
    fields = (
        *("gateway", "is_daily", "outcome", "span_start", "span_end", "payments", "refunds", "findings"),
        *("started_at", "finished_at"),
    )
