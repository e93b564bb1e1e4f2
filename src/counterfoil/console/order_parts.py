"""What belongs to an order after it was placed, on the order's page: fulfillments, returns, holds."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet, Sum
from django.http import HttpRequest

from counterfoil.console.cells import render_actor
from counterfoil.console.sites import OrderPage, Rows, find_model


class FulfillmentRows(Rows):
    """The consignments of an order, oldest first."""

    model = find_model("Fulfillment")
    verbose_name_plural = "fulfillments"
    fields = ("id", "status", "units", "carrier", "tracking_number", "created_at", "shipped_at", "delivered_at")
    readonly_fields = ("id", "units")
    ordering = ("id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """Count the units of each."""
        found: QuerySet[Model] = super().get_queryset(request).annotate(units=Sum("fulfillmentline__quantity"))
        return found

    @admin.display(description="units")
    def units(self, fulfillment: Any) -> int:
        """Show how many units are in it."""
        return int(fulfillment.units)


class ReturnRows(Rows):
    """What of an order is given back, oldest first."""

    model = find_model("Return")
    verbose_name_plural = "returns"
    fields = ("id", "status", "reason", "units", "restocked", "damaged", "decision", "requester", "created_at")
    readonly_fields = ("id", "units", "restocked", "damaged", "requester")
    ordering = ("id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """Count the units of each."""
        found: QuerySet[Model] = (
            super()
            .get_queryset(request)
            .annotate(
                units=Sum("returnline__quantity"),
                restocked=Sum("returnline__restocked"),
                damaged=Sum("returnline__damaged"),
            )
        )
        return found

    @admin.display(description="units")
    def units(self, returned: Any) -> int:
        """Show how many units were announced."""
        return int(returned.units)

    @admin.display(description="restocked")
    def restocked(self, returned: Any) -> int:
        """Show how many units came and can be sold again."""
        return int(returned.restocked)

    @admin.display(description="damaged")
    def damaged(self, returned: Any) -> int:
        """Show how many units came and cannot."""
        return int(returned.damaged)

    @admin.display(description="requested by")
    def requester(self, returned: Any) -> str:
        """Show who asked."""
        return render_actor(returned.requested_by)


class HoldRows(Rows):
    """Why an order was stopped, oldest first."""

    model = find_model("Hold")
    verbose_name_plural = "holds"
    fields = ("id", "reason", "placer", "created_at", "releaser", "released_at")
    readonly_fields = ("id", "placer", "releaser")
    ordering = ("id",)

    @admin.display(description="placed by")
    def placer(self, hold: Any) -> str:
        """Show who stopped the order."""
        return render_actor(hold.placed_by)

    @admin.display(description="released by")
    def releaser(self, hold: Any) -> str:
        """Show who let it go on."""
        return render_actor(hold.released_by) if hold.released_by else "-"


OrderPage.inlines = (*OrderPage.inlines, FulfillmentRows, ReturnRows, HoldRows)
