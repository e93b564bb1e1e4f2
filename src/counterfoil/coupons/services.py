"""Coupons: made and changed by staff, taken and given back by orders."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from django.db import IntegrityError

from counterfoil.coupons import repositories
from counterfoil.coupons.errors import CouponChanged, CouponCodeTaken, CouponInUse, CouponNotFound
from counterfoil.coupons.repositories import CouponRecord, CouponValues
from counterfoil.coupons.terms import AskedCoupon
from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.errors import ValidationFailed

__all__ = [
    "CouponRecord",
    "CouponValues",
    "ask_for_coupons",
    "change_uses",
    "create_coupon",
    "delete_coupon",
    "list_coupons",
    "lock_coupons",
    "release_uses",
    "replace_coupon",
    "retake_uses",
]


# ---------------------------------------------------------------- staff
def list_coupons(*, after: int, limit: int) -> list[CouponRecord]:
    """Return up to `limit` coupons in the order of their ids, above `after`."""
    return repositories.read_page(after=after, limit=limit)


@transaction_required
def create_coupon(values: CouponValues, *, actor: str, request_id: str) -> CouponRecord:
    """Make a coupon. Joins the open transaction. Raises CouponCodeTaken."""
    declare_change(actor=actor, action="coupon.create", request_id=request_id)
    coupon = repositories.insert_coupon(values)
    if coupon is None:
        raise CouponCodeTaken(coupon_code=values.code)
    return coupon


@transaction_required
def replace_coupon(
    coupon_id: int, values: CouponValues, *, etag: str | None, actor: str, request_id: str
) -> CouponRecord:
    """Replace a coupon's values. Joins the open transaction; locks the coupon.

    What orders were priced with stays as it is once one has used it: code, kind, value and currency. Raises
    CouponNotFound, CouponChanged, CouponInUse, CouponCodeTaken, and ValidationFailed for a limit below what is used.
    """
    declare_change(actor=actor, action="coupon.update", request_id=request_id)
    before = _lock(coupon_id, etag)
    if _gives(values) != _gives(before.values) and repositories.was_used(coupon_id):
        raise CouponInUse(coupon_code=before.values.code)
    if values.usage_limit is not None and values.usage_limit < before.used:
        message = f"The coupon is used {before.used} times already; its limit cannot be lower."
        raise ValidationFailed([{"field": "usage_limit", "message": message}])
    try:
        return repositories.update_coupon(coupon_id, values)
    except IntegrityError as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise CouponCodeTaken(coupon_code=values.code) from error
        raise


@transaction_required
def delete_coupon(coupon_id: int, *, etag: str | None, actor: str, request_id: str) -> None:
    """Delete a coupon that no order has used. Joins the open transaction; locks the coupon.

    Raises CouponNotFound, CouponChanged, CouponInUse.
    """
    declare_change(actor=actor, action="coupon.delete", request_id=request_id)
    before = _lock(coupon_id, etag)
    if repositories.was_used(coupon_id):
        raise CouponInUse(coupon_code=before.values.code)
    repositories.delete_coupon(coupon_id)


def _lock(coupon_id: int, etag: str | None) -> CouponRecord:
    before = repositories.lock_coupon(coupon_id)
    if before is None:
        raise CouponNotFound
    if etag is not None and etag != before.etag:
        raise CouponChanged
    return before


def _gives(values: CouponValues) -> tuple[object, ...]:
    return values.code, values.kind, values.value, values.currency


# ---------------------------------------------------------------- orders
def ask_for_coupons(codes: Sequence[str], *, user_id: int, order_id: int | None = None) -> list[AskedCoupon]:
    """Return what is known of each code now, in the order given; what `order_id` uses already is `kept`."""
    return repositories.ask_for_coupons(codes, user_id=user_id, order_id=order_id) if codes else []


@transaction_required
def lock_coupons(codes: Sequence[str]) -> None:
    """Lock the coupons with these codes, by id. Joins the open transaction, which holds the order and its holds."""
    if codes:
        repositories.lock_coupons(codes)


@transaction_required
def change_uses(asked: Sequence[AskedCoupon], *, order_id: int, user_id: int) -> None:
    """Let an order use exactly these coupons: take what is new to it, give back what it no longer names.

    Joins the transaction that holds the locks of all of them and has found that each has a use left.
    """
    wanted = [coupon.terms.id for coupon in asked if coupon.terms is not None]
    given_up = [coupon_id for coupon_id in repositories.lock_coupons_of([order_id]) if coupon_id not in wanted]
    if given_up:
        repositories.release_uses([order_id], coupon_ids=given_up)
    taken = [coupon.terms.id for coupon in asked if coupon.terms is not None and not coupon.kept]
    if taken:
        repositories.take_uses(taken, order_id=order_id, user_id=user_id)


@transaction_required
def release_uses(order_ids: Sequence[int]) -> None:
    """Give back every use of these orders, each at most once. Joins the transaction that holds the orders' locks."""
    coupon_ids = repositories.lock_coupons_of(order_ids) if order_ids else []
    if coupon_ids:
        repositories.release_uses(order_ids, coupon_ids=coupon_ids)


@transaction_required
def retake_uses(codes: Sequence[str], *, order_id: int, user_id: int) -> bool:
    """Take the uses again that an order gave back when it expired; False, and nothing taken, when one is gone.

    Joins the transaction that holds the order's lock. For a late payment: the price was agreed, so the coupon's period
    does not matter any more, but what others have used is gone.
    """
    lock_coupons(codes)
    asked = ask_for_coupons(codes, user_id=user_id, order_id=order_id)
    missing = [coupon for coupon in asked if not coupon.kept]
    for coupon in missing:
        left = (coupon.uses_left, coupon.customer_uses_left)
        if coupon.terms is None or any(uses is not None and uses <= 0 for uses in left):
            return False
    if missing:
        taken = [coupon.terms.id for coupon in missing if coupon.terms is not None]
        repositories.take_uses(taken, order_id=order_id, user_id=user_id)
    return True
