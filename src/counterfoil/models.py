"""Every table, one import line each: Django finds them here."""

from __future__ import annotations

from counterfoil.infrastructure.models import AuditEntry, IdempotencyKey, OutboxEvent, RateLimit
from counterfoil.inventory.models import StockLevel, StockMovement
from counterfoil.orders.models import Adjustment, Order, OrderItem
from counterfoil.products.models import Product
from counterfoil.users.models import Profile, User

__all__ = [
    "Adjustment",
    "AuditEntry",
    "IdempotencyKey",
    "Order",
    "OrderItem",
    "OutboxEvent",
    "Product",
    "Profile",
    "RateLimit",
    "StockLevel",
    "StockMovement",
    "User",
]
