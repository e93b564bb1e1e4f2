"""What can go wrong with a coupon."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict, NotFound


class CouponNotFound(NotFound):
    """There is no such coupon."""

    code = "COUPON_NOT_FOUND"


class CouponCodeTaken(Conflict):
    """Another coupon has the code {coupon_code} already, in whatever case it is written."""

    code = "COUPON_CODE_TAKEN"


class CouponChanged(Conflict):
    """The coupon has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "COUPON_CHANGED"


class CouponInUse(Conflict):
    """Orders have used coupon {coupon_code}, so its code, kind, value and currency stay; make another coupon."""

    code = "COUPON_IN_USE"


class CouponUsedUp(Conflict):
    """Coupon {coupon_code} is used up; order without it."""

    code = "COUPON_USED_UP"


class CouponLimitReached(Conflict):
    """This customer has used coupon {coupon_code} as often as one may ({limit}); order without it."""

    code = "COUPON_LIMIT_REACHED"
