"""The operators' console: every table that matters, to look at and to search, never to change.

Changes go through the API, which checks, prices, moves stock and leaves a trace; a form here would do none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from counterfoil.console.cells import (
    audit_address,
    parse_ids,
    render_actor,
    render_amount,
    render_changes,
    render_hash,
    render_link,
)
from counterfoil.console.people import ShowsPeople, render_person, reveal

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Model]
    _TabularInline = admin.TabularInline[Model, Model]
else:  # generic for the type checker only
    _ModelAdmin, _TabularInline = admin.ModelAdmin, admin.TabularInline

_APP = "counterfoil"

admin.site.site_header = "Counterfoil console"
admin.site.site_title = "Counterfoil console"
admin.site.index_title = "What is there, and why"
admin.site.empty_value_display = "-"
# There is no shop to view behind it.
admin.site.site_url = None
admin.site.index_template = "console/index.html"
admin.site.logout_template = "console/signed_out.html"
# The list of tables beside every page would push the last columns off a screen 1280 pixels wide.
admin.site.enable_nav_sidebar = False


def find_model(name: str) -> type[Model]:
    """Return a table of ours by its class's name."""
    return apps.get_model(_APP, name)


class SignInForm(AdminAuthenticationForm):
    """Django's form with a sentence of ours: the same whether account, password or right is missing."""

    error_messages: dict[str, Any] = {
        **AdminAuthenticationForm.error_messages,
        "invalid_login": "E-mail address or password is wrong, or the account is not one of the staff.",
    }


admin.site.login_form = SignInForm


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


class Page(_ViewOnly, _ModelAdmin):
    """A table of its own in the console: a list, and a page for each row."""

    # An exact COUNT of a large table takes seconds; search results are counted, the whole is not.
    show_full_result_count = False
    list_per_page = 50
    actions = None
    view_on_site = False

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead to the audit entries of the row: Django's own history knows only what was changed here, nothing."""
        del request, extra_context
        return HttpResponseRedirect(audit_address(str(self.opts.model_name), object_id))


class _MovementCells:
    @admin.display(description="product", ordering="product__sku")
    def product_link(self, movement: Any) -> str:
        """Show the product's SKU."""
        return render_link("product", movement.product_id, movement.product.sku)

    @admin.display(description="order", ordering="order_id")
    def order_link(self, movement: Any) -> str | None:
        """Show the order that moved the stock, if one did."""
        return render_link("order", movement.order_id, movement.order_id) if movement.order_id else None

    @admin.display(description="actor", ordering="actor")
    def actor_link(self, movement: Any) -> str:
        """Show who did it."""
        return render_actor(movement.actor)


class Rows(_ViewOnly, _TabularInline):
    """Rows of another table on the page of what they belong to."""

    extra = 0
    can_delete = False
    show_change_link = False
    template = "console/rows.html"
    related: ClassVar[list[str]] = []

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """Fetch what the rows name with them, in one query."""
        return super().get_queryset(request).select_related(*self.related)


class OrderLines(Rows):
    """The lines of an order as sold."""

    model = find_model("OrderItem")
    verbose_name_plural = "lines"
    fields = ("line_no", "sku_link", "name", "quantity", "price_each", "line_total")
    readonly_fields = ("sku_link", "price_each", "line_total")
    ordering = ("line_no",)
    related: ClassVar[list[str]] = ["order"]

    @admin.display(description="SKU")
    def sku_link(self, line: Any) -> str:
        """Show the SKU as sold; it leads to the product as it is now."""
        return render_link("product", line.product_id, line.sku)

    @admin.display(description="unit price")
    def price_each(self, line: Any) -> str:
        """Show the price of one as sold."""
        return render_amount(line.unit_price, line.order.currency)

    @admin.display(description="line total")
    def line_total(self, line: Any) -> str:
        """Show the price of all."""
        return render_amount(line.unit_price, line.order.currency, line.quantity)


class Adjustments(Rows):
    """What is added to an order's lines or taken off."""

    model = find_model("Adjustment")
    verbose_name_plural = "adjustments"
    fields = ("kind", "label", "shown_amount")
    readonly_fields = ("shown_amount",)
    ordering = ("id",)
    related: ClassVar[list[str]] = ["order"]

    @admin.display(description="amount")
    def shown_amount(self, adjustment: Any) -> str:
        """Show the amount with its currency."""
        return render_amount(adjustment.amount, adjustment.order.currency)


class Movements(_MovementCells, Rows):
    """What an order did to the stock."""

    model = find_model("StockMovement")
    verbose_name_plural = "stock movements"
    fields = (
        *("created_at", "kind", "product_link", "on_hand_delta", "reserved_delta", "allocated_delta"),
        *("actor_link", "reason"),
    )
    readonly_fields = ("product_link", "actor_link")
    ordering = ("id",)
    related: ClassVar[list[str]] = ["product"]


@admin.register(find_model("Order"))
class OrderPage(ShowsPeople, Page):
    """Orders, newest first, found by id, customer or reference."""

    person_field = "user_id"

    list_display = ("id", "user", "status", "total", "client_reference", "created_at")
    list_filter = ("status", "created_at")
    list_select_related: ClassVar[list[str]] = ["user"]
    search_fields = ("=id", "=client_reference")
    search_help_text = "An order's id, a customer's e-mail address, or a client reference."
    ordering = ("-created_at", "-id")
    fields = (
        *("user", "customer", "total", "status", "payment_status", "fulfillment_status", "return_status"),
        *("client_reference", "version", "placed_at", "reserved_until", "created_at", "updated_at"),
    )
    readonly_fields = ("total", "customer")
    inlines: ClassVar[tuple[type[Rows], ...]] = (OrderLines, Adjustments, Movements)
    change_form_template = "console/order.html"

    @admin.display(description="customer")
    def customer(self, order: Any) -> str | None:
        """Show whom the order is of; on its own page only, and to who may read accounts only."""
        if not hasattr(order, "person"):
            return None
        shown = dict.fromkeys(render_person(order.person, field) for field in ("name", "email"))
        return ", ".join(filter(None, shown)) or None

    @admin.display(description="total", ordering="total_amount")
    def total(self, order: Any) -> str:
        """Show the amount with its currency."""
        return render_amount(order.total_amount, order.currency)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Show an order with its history: events have no foreign key, so they are no inline."""
        events: Any = find_model("OutboxEvent")._default_manager.filter(  # noqa: SLF001 - Django's name for it
            aggregate="order", aggregate_id__in=parse_ids(object_id)
        )
        history = [(event, render_actor(event.actor)) for event in events.order_by("seq")]
        context = {**(extra_context or {}), "history": history}
        return super().change_view(request, object_id, form_url, context)


@admin.register(find_model("Product"))
class ProductPage(Page):
    """The catalogue, with what is in stock."""

    list_display = ("id", "sku", "name", "price_now", "active", "deleted_at")
    list_filter = ("active", "category")
    search_fields = ("=id", "=sku", "name")
    search_help_text = "A product's id, its SKU, or a part of its name."
    ordering = ("-id",)
    fields = (
        *("sku", "name", "description", "category", "price_now", "tax_rate", "active"),
        *("version", "created_at", "updated_at", "deleted_at"),
    )
    readonly_fields = ("price_now",)

    @admin.display(description="price", ordering="price")
    def price_now(self, product: Any) -> str:
        """Show the price with its currency."""
        return render_amount(product.price, product.currency)


@admin.register(find_model("StockLevel"))
class StockLevelPage(Page):
    """What is there of each product and what is promised."""

    list_display = ("product_id", "sku_link", "on_hand", "reserved", "allocated", "available", "allow_backorder")
    list_select_related: ClassVar[list[str]] = ["product"]
    search_fields = ("=product__id", "=product__sku")
    search_help_text = "A product's id or its SKU."
    ordering = ("product_id",)

    @admin.display(description="SKU", ordering="product__sku")
    def sku_link(self, level: Any) -> str:
        """Show the product's SKU."""
        return render_link("product", level.product_id, level.product.sku)

    @admin.display(description="available")
    def available(self, level: Any) -> int:
        """Show what can still be sold."""
        return int(level.on_hand - level.reserved - level.allocated)


@admin.register(find_model("StockMovement"))
class StockMovementPage(_MovementCells, Page):
    """Every change of stock, newest first."""

    list_display = (
        *("id", "created_at", "kind", "product_link", "on_hand_delta", "reserved_delta", "order_link", "actor_link"),
    )
    list_select_related: ClassVar[list[str]] = ["product"]
    list_filter = ("kind",)
    fields = (
        *("created_at", "kind", "product", "order", "on_hand_delta", "reserved_delta", "allocated_delta"),
        *("actor_link", "reason"),
    )
    readonly_fields = ("actor_link",)
    search_fields = ("=product__id", "=product__sku", "=order__id")
    search_help_text = "A product's id or SKU, or an order's id."
    ordering = ("-id",)


@admin.register(find_model("User"))
class UserPage(ShowsPeople, Page):
    """Accounts; the password's hash is shown to nobody, and every reading of names leaves an audit entry."""

    list_display = ("id", "email_address", "full_name", "role", "is_active", "created_at")
    list_filter = ("role", "is_active")
    search_fields = ("=id",)
    search_help_text = "An account's id or its whole e-mail address."
    ordering = ("-id",)
    fields = (
        *("email_address", "full_name", "role", "is_active", "phone", "address", "version"),
        *("created_at", "updated_at", "erased_at"),
    )
    readonly_fields = ("email_address", "full_name", "phone", "address")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Open what one page of the list shows."""
        changelist = super().get_changelist_instance(request)
        changelist.result_list = list(changelist.result_list)
        reveal(request, changelist.result_list, self.person_field)
        return changelist

    @admin.display(description="e-mail address")
    def email_address(self, user: Any) -> str | None:
        """Show the address."""
        return render_person(user.person, "email")

    @admin.display(description="name")
    def full_name(self, user: Any) -> str | None:
        """Show the name."""
        return render_person(user.person, "name")

    @admin.display(description="phone")
    def phone(self, user: Any) -> str | None:
        """Show the phone number."""
        return render_person(user.person, "phone")

    @admin.display(description="address")
    def address(self, user: Any) -> str | None:
        """Show the postal address on one line."""
        fields = ("address_line1", "address_line2", "postal_code", "city", "country_code")
        shown = dict.fromkeys(render_person(user.person, field) for field in fields)  # `erased` once
        return ", ".join(filter(None, shown)) or None


@admin.register(find_model("AuditEntry"))
class AuditPage(Page):
    """Who changed what, newest first."""

    list_display = ("id", "occurred_at", "actor_link", "action", "target_link", "request_id")
    list_filter = ("target", "action")
    search_fields = ("=target_id", "=target_key", "=actor", "=request_id")
    search_help_text = "The id of what was changed, an actor such as user:12, or a request's id."
    ordering = ("-id",)
    fields = (
        *("occurred_at", "actor_link", "action", "target_link", "request_id", "reason"),
        *("changes_table", "hash_before", "hash_after", "sealed"),
    )
    readonly_fields = ("actor_link", "target_link", "changes_table", "hash_before", "hash_after", "sealed")

    @admin.display(description="actor", ordering="actor")
    def actor_link(self, entry: Any) -> str:
        """Show who did it."""
        return render_actor(entry.actor)

    @admin.display(description="target", ordering="target_id")
    def target_link(self, entry: Any) -> str:
        """Show what was changed."""
        named = entry.target_key or entry.target_id or "(whole table)"
        return render_link(entry.target, entry.target_id, f"{entry.target} {named}")

    @admin.display(description="changes")
    def changes_table(self, entry: Any) -> str | None:
        """Show each changed value before and after."""
        return render_changes(entry.changes)

    @admin.display(description="hash of the row before")
    def hash_before(self, entry: Any) -> str | None:
        """Show it as digits."""
        return render_hash(entry.before_hash)

    @admin.display(description="hash of the row after")
    def hash_after(self, entry: Any) -> str | None:
        """Show it as digits."""
        return render_hash(entry.after_hash)

    @admin.display(description="chain")
    def sealed(self, entry: Any) -> str:
        """Show whether the entry is chained, and in which seal."""
        seals: Any = find_model("AuditSeal")._default_manager  # noqa: SLF001 - Django's name for it
        later = Q(last_xact__gt=entry.xact) | Q(last_xact=entry.xact, last_id__gte=entry.pk)
        seal = seals.filter(later).order_by("number").first()
        if seal is None or entry.pk not in seal.entry_ids:
            # A trail that was copied from another server: its order is another one.
            seal = seals.filter(entry_ids__contains=[entry.pk]).first()
        if seal is None:
            return "waits for the sealer"
        return f"sealed at {seal.sealed_at:%Y-%m-%d %H:%M:%S} UTC, in seal {seal.number}"
