"""Every table, one import line each: Django finds them here."""

from __future__ import annotations

from counterfoil.coupons.models import Coupon, CouponUse
from counterfoil.infrastructure.event_models import EventDelivery, PendingEvent, ProcessedEvent
from counterfoil.infrastructure.models import AuditEntry, AuditSeal, IdempotencyKey, OutboxEvent, RateLimit
from counterfoil.inventory.models import StockLevel, StockMovement
from counterfoil.orders.life_models import Fulfillment, FulfillmentLine, Hold, OrderNote, Return, ReturnLine
from counterfoil.orders.models import Adjustment, Order, OrderItem
from counterfoil.payments.models import GatewayNotice, LedgerEntry, Payment, PaymentAttempt, Refund
from counterfoil.payments.reconciliation_models import GatewayFinding, GatewayReconciliation
from counterfoil.privacy.models import ErasureRequest
from counterfoil.products.models import Product
from counterfoil.users.access_models import AccessRevocation, ApiKey, OneTimeToken, RefreshToken, SignIn
from counterfoil.users.models import Profile, User

__all__ = [
    "AccessRevocation",
    "Adjustment",
    "ApiKey",
    "AuditEntry",
    "AuditSeal",
    "Coupon",
    "CouponUse",
    "ErasureRequest",
    "EventDelivery",
    "Fulfillment",
    "FulfillmentLine",
    "GatewayFinding",
    "GatewayNotice",
    "GatewayReconciliation",
    "Hold",
    "IdempotencyKey",
    "LedgerEntry",
    "OneTimeToken",
    "Order",
    "OrderItem",
    "OrderNote",
    "OutboxEvent",
    "Payment",
    "PaymentAttempt",
    "PendingEvent",
    "ProcessedEvent",
    "Product",
    "Profile",
    "RateLimit",
    "RefreshToken",
    "Refund",
    "Return",
    "ReturnLine",
    "SignIn",
    "StockLevel",
    "StockMovement",
    "User",
]
