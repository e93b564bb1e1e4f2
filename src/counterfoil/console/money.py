"""Payments and refunds in the console, and on the page of the order that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from counterfoil.console.cells import render_actor, render_amount, render_link
from counterfoil.console.sites import OrderPage, Page, Rows, find_model


class _Amounts:
    @admin.display(description="amount", ordering="amount")
    def money(self, row: Any) -> str:
        """Show the amount with its currency."""
        return render_amount(row.amount, row.currency)

    @admin.display(description="captured", ordering="captured_amount")
    def captured(self, payment: Any) -> str:
        """Show what was taken."""
        return render_amount(payment.captured_amount, payment.currency)

    @admin.display(description="refunded", ordering="refunded_amount")
    def refunded(self, payment: Any) -> str:
        """Show what was given back."""
        return render_amount(payment.refunded_amount, payment.currency)

    @admin.display(description="order", ordering="order_id")
    def order_link(self, row: Any) -> str:
        """Show the order that the money is for."""
        return render_link("order", row.order_id, row.order_id)

    @admin.display(description="payment", ordering="payment_id")
    def payment_link(self, row: Any) -> str:
        """Show the payment."""
        return render_link("payment", row.payment_id, row.payment_id)

    @admin.display(description="id")
    def own_link(self, payment: Any) -> str:
        """Lead to the payment's own page."""
        return render_link("payment", payment.pk, payment.pk)

    @admin.display(description="asked for by", ordering="principal")
    def asker(self, row: Any) -> str:
        """Show who asked."""
        return render_actor(row.principal)


class PaymentRows(_Amounts, Rows):
    """The payments of an order, oldest first."""

    model = find_model("Payment")
    verbose_name_plural = "payments"
    fields = (
        *("own_link", "status", "money", "captured", "refunded", "gateway", "decline_code", "review_reason"),
        *("asker", "created_at"),
    )
    readonly_fields = ("own_link", "money", "captured", "refunded", "asker")
    ordering = ("id",)


class AttemptRows(Rows):
    """The calls to gateways about a payment, oldest first; their tokens are shown to nobody."""

    model = find_model("PaymentAttempt")
    verbose_name_plural = "calls to the gateway"
    fields = ("id", "operation", "state", "gateway", "tries", "last_error", "created_at", "finished_at", "next_at")
    readonly_fields = ("id",)
    ordering = ("id",)


class RefundRows(_Amounts, Rows):
    """The refunds of a payment, oldest first."""

    model = find_model("Refund")
    verbose_name_plural = "refunds"
    fields = ("id", "status", "money", "automatic", "reason", "failure_code", "asker", "created_at")
    readonly_fields = ("id", "money", "asker")
    ordering = ("id",)


class NeedsHuman(admin.SimpleListFilter):
    """Payments of which the machine does not know what to make."""

    title = "needs a human"
    parameter_name = "needs_human"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Name the choices."""
        del request, model_admin
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Limit the list to the choice."""
        del request
        if self.value() == "yes":
            return queryset.exclude(review_reason="")
        return queryset.filter(review_reason="") if self.value() == "no" else queryset


@admin.register(find_model("Payment"))
class PaymentPage(_Amounts, Page):
    """Payments, newest first, with the calls that were made for each."""

    list_display = (
        *("id", "order_link", "status", "money", "captured", "refunded", "gateway", "review_reason", "created_at"),
    )
    list_filter = (NeedsHuman, "status", "gateway", "created_at")
    search_fields = ("=id", "=order__id", "=reference", "=gateway_payment_id")
    search_help_text = "A payment's id, an order's, or the name of the payment here or at the gateway."
    ordering = ("-id",)
    fields = (
        *("order_link", "status", "money", "captured", "refunded", "capture_now", "gateway", "gateway_payment_id"),
        *("reference", "decline_code", "review_reason", "asker", "version", "created_at", "updated_at"),
    )
    readonly_fields = ("order_link", "money", "captured", "refunded", "asker")
    inlines = (AttemptRows, RefundRows)


@admin.register(find_model("Refund"))
class RefundPage(_Amounts, Page):
    """Refunds, newest first."""

    list_display = ("id", "order_link", "payment_link", "status", "money", "automatic", "reason", "created_at")
    list_filter = ("status", "automatic", "created_at")
    search_fields = ("=id", "=order__id", "=payment__id", "=reference", "=gateway_refund_id")
    search_help_text = "The id of a refund, a payment or an order, or the name of the refund here or at the gateway."
    ordering = ("-id",)
    fields = (
        *("order_link", "payment_link", "status", "money", "automatic", "reason", "failure_code", "reference"),
        *("gateway_refund_id", "asker", "version", "created_at", "updated_at"),
    )
    readonly_fields = ("order_link", "payment_link", "money", "asker")


OrderPage.inlines = (*OrderPage.inlines, PaymentRows)
