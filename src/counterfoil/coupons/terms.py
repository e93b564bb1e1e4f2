"""What a coupon gives, and whether it counts for an order (rule, pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from counterfoil.coupons.errors import CouponLimitReached, CouponUsedUp
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import Percent

# What one order may name: each one is a row to lock.
COUPONS_MAX: Final = 5


class CouponKind(StrEnum):
    """Whether a coupon takes off a share of the goods or an amount."""

    PERCENT = "percent"
    FIXED = "fixed"


class CouponProblem(StrEnum):
    """Why a coupon does not count for an order."""

    UNKNOWN = "unknown"
    INACTIVE = "inactive"
    NOT_YET = "not_yet"
    ENDED = "ended"
    CURRENCY = "currency"
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True)
class CouponTerms:
    """What a coupon gives: a share of the goods or an amount off, in which currency and from which value of goods on.

    `currency` None: any; then there is no amount and no minimum.
    """

    id: int
    benefit: Percent | Money
    currency: str | None = None
    minimum: Money | None = None

    def reduce(self, goods_minor: int) -> int:
        """Return what is taken off goods of this worth, in smallest units; never more than there is."""
        if isinstance(self.benefit, Percent):
            return self.benefit.of(goods_minor)
        return min(self.benefit.amount_minor, goods_minor)

    @property
    def rank(self) -> tuple[bool, int]:
        """Order of application: percentages before amounts, older coupons before younger."""
        return isinstance(self.benefit, Money), self.id


@dataclass(frozen=True, slots=True)
class AskedCoupon:
    """A coupon that an order names by its code: its terms, and what the database knew of it at that moment.

    `terms` is None for an unknown code, `problem` says why it does not count now. What is left is None without a limit;
    it does not matter for a coupon whose use the order has already (`kept`).
    """

    code: str
    terms: CouponTerms | None
    problem: CouponProblem | None = None
    uses_left: int | None = None
    customer_uses_left: int | None = None
    customer_limit: int | None = None
    kept: bool = False


def check_coupons(asked: Sequence[AskedCoupon], goods: Money) -> tuple[tuple[str, CouponTerms], ...]:
    """Return code and terms of the coupons in their order of application.

    Raises ValidationFailed, naming every one that does not count for these goods, then CouponUsedUp or
    CouponLimitReached for the first that has no use left.
    """
    problems = [
        coupon_problem(
            coupon.code,
            position,
            reason,
            currency=None if coupon.terms is None else coupon.terms.currency,
            minimum=None if coupon.terms is None else coupon.terms.minimum,
        )
        for position, coupon in enumerate(asked)
        if (reason := _find_problem(coupon, goods)) is not None
    ]
    if problems:
        raise ValidationFailed(problems)
    found = [(coupon, coupon.terms) for coupon in asked if coupon.terms is not None]
    found.sort(key=lambda pair: pair[1].rank)
    for coupon, _ in found:
        if not coupon.kept:
            _check_uses(coupon)
    return tuple((coupon.code, terms) for coupon, terms in found)


def coupon_problem(
    code: str, position: int, reason: CouponProblem, *, currency: str | None, minimum: Money | None
) -> dict[str, str]:
    """Say why a coupon does not count; `position` is its place in the caller's list."""
    # Whoever guesses must not learn which codes there are: those that are not valid now and those that never were
    # get the same sentence.
    sentence = {
        CouponProblem.CURRENCY: f"Coupon {code} is for orders in {currency}.",
        CouponProblem.MINIMUM: f"Coupon {code} needs goods worth {minimum} or more.",
    }.get(reason, f"Coupon {code} is not valid.")
    return {"field": f"coupon_codes[{position}]", "message": sentence}


def _find_problem(coupon: AskedCoupon, goods: Money) -> CouponProblem | None:
    terms = coupon.terms
    if terms is None:
        return CouponProblem.UNKNOWN
    if coupon.problem is not None and not coupon.kept:
        return coupon.problem
    if terms.currency not in {None, goods.currency}:
        return CouponProblem.CURRENCY
    if terms.minimum is not None and goods.amount_minor < terms.minimum.amount_minor:
        return CouponProblem.MINIMUM
    return None


def _check_uses(coupon: AskedCoupon) -> None:
    if coupon.uses_left is not None and coupon.uses_left <= 0:
        raise CouponUsedUp(coupon_code=coupon.code)
    if coupon.customer_uses_left is not None and coupon.customer_uses_left <= 0:
        raise CouponLimitReached(coupon_code=coupon.code, limit=coupon.customer_limit)
