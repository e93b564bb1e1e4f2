"""The operators' console: every table that matters, to look at and to search, never to change.

Changes go through the API, which checks, prices, moves stock and leaves a trace; a form here would do none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.apps import apps
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Model]
    _TabularInline = admin.TabularInline[Model, Model]
else:  # generic for the type checker only
    _ModelAdmin, _TabularInline = admin.ModelAdmin, admin.TabularInline

_APP = "counterfoil"

admin.site.site_header = "Counterfoil"
admin.site.site_title = "Counterfoil"
admin.site.index_title = "What is there, and why"
admin.site.empty_value_display = "-"


def _model(name: str) -> type[Model]:
    return apps.get_model(_APP, name)


class _ViewOnly:
    """What all pages have in common: nothing can be added, changed or deleted, by nobody."""

    def has_add_permission(self, *_: Any, **__: Any) -> bool:
        """Refuse: see the module."""
        return False

    def has_change_permission(self, *_: Any, **__: Any) -> bool:
        """Refuse: see the module."""
        return False

    def has_delete_permission(self, *_: Any, **__: Any) -> bool:
        """Refuse: see the module."""
        return False


class _Page(_ViewOnly, _ModelAdmin):
    # An exact COUNT of a large table takes seconds; search results are counted, the whole is not.
    show_full_result_count = False
    list_per_page = 50
    actions = None
    view_on_site = False


class _Rows(_ViewOnly, _TabularInline):
    extra = 0
    can_delete = False
    show_change_link = False


class OrderLines(_Rows):
    """The lines of an order as sold."""

    model = _model("OrderItem")
    verbose_name_plural = "lines"
    fields = ("line_no", "sku", "name", "quantity", "unit_price")
    ordering = ("line_no",)


class Movements(_Rows):
    """What an order did to the stock."""

    model = _model("StockMovement")
    verbose_name_plural = "stock movements"
    fields = ("created_at", "kind", "product_id", "reserved_delta", "actor", "reason")
    readonly_fields = ("product_id",)
    ordering = ("id",)


@admin.register(_model("Order"))
class OrderPage(_Page):
    """Orders, newest first, found by id, customer or reference."""

    list_display = ("id", "user", "status", "total_amount", "currency", "client_reference", "created_at")
    list_filter = ("status", "created_at")
    list_select_related: ClassVar[list[str]] = ["user"]
    search_fields = ("=id", "=user__email", "=client_reference")
    search_help_text = "An order's id, a customer's e-mail address, or a client reference."
    ordering = ("-created_at", "-id")
    inlines = (OrderLines, Movements)
    change_form_template = "console/order.html"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Show an order with its history: events have no foreign key, so they are no inline."""
        events = _model("OutboxEvent")._default_manager.filter(  # noqa: SLF001 - Django's name for it
            aggregate="order", aggregate_id__in=_ids(object_id)
        )
        context = {**(extra_context or {}), "events": events.order_by("seq")}
        return super().change_view(request, object_id, form_url, context)


@admin.register(_model("Product"))
class ProductPage(_Page):
    """The catalogue, with what is in stock."""

    list_display = ("id", "sku", "name", "price", "currency", "active", "deleted_at")
    list_filter = ("active", "category")
    search_fields = ("=id", "=sku", "name")
    search_help_text = "A product's id, its SKU, or a part of its name."
    ordering = ("-id",)


@admin.register(_model("StockLevel"))
class StockLevelPage(_Page):
    """What is there of each product and what is promised."""

    list_display = ("product_id", "sku", "on_hand", "reserved", "allocated", "available", "allow_backorder")
    list_select_related: ClassVar[list[str]] = ["product"]
    search_fields = ("=product__id", "=product__sku")
    search_help_text = "A product's id or its SKU."
    ordering = ("product_id",)

    @admin.display(ordering="product__sku")
    def sku(self, level: Any) -> str:
        """Show the product's SKU."""
        return str(level.product.sku)

    @admin.display(description="available")
    def available(self, level: Any) -> int:
        """Show what can still be sold."""
        return int(level.on_hand - level.reserved - level.allocated)


@admin.register(_model("StockMovement"))
class StockMovementPage(_Page):
    """Every change of stock, newest first."""

    list_display = ("id", "created_at", "kind", "product_id", "on_hand_delta", "reserved_delta", "order_id", "actor")
    list_filter = ("kind",)
    search_fields = ("=product__id", "=product__sku", "=order__id")
    search_help_text = "A product's id or SKU, or an order's id."
    ordering = ("-id",)


@admin.register(_model("User"))
class UserPage(_Page):
    """Accounts; the password's hash is shown to nobody."""

    list_display = ("id", "email", "name", "role", "is_active", "created_at")
    list_filter = ("role", "is_active")
    search_fields = ("=id", "=email")
    search_help_text = "An account's id or its e-mail address."
    ordering = ("-id",)
    exclude = ("password",)


@admin.register(_model("AuditEntry"))
class AuditPage(_Page):
    """Who changed what, newest first."""

    list_display = ("id", "occurred_at", "actor", "action", "target", "target_id", "request_id")
    list_filter = ("action",)
    search_fields = ("=target_id", "=actor", "=request_id")
    search_help_text = "The id of what was changed, an actor such as user:12, or a request's id."
    ordering = ("-id",)


def _ids(text: str) -> list[int]:
    return [int(text)] if text.isascii() and text.isdigit() and len(text) < 19 else []  # noqa: PLR2004 - digits of BIGINT
