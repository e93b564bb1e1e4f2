"""Coupons on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END, Amount, CurrencyCode, parse_instant, parse_money
from counterfoil.coupons.services import CouponRecord, CouponValues
from counterfoil.coupons.terms import COUPONS_MAX, CouponKind
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import Percent

_PERCENT_MAX: Final = Percent(1_000_000)
# What fits an integer column, and more than anybody hands out.
_USES_MAX: Final = 2_000_000_000

CouponCode = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=40,
        pattern=r"^[A-Za-z0-9_-]+" + END,
        examples=["SPRING-10"],
        description="Capitals and small letters are the same.",
    ),
]
CouponCodes = Annotated[
    list[CouponCode],
    Meta(max_length=COUPONS_MAX, description="Percentages are taken off before amounts, older coupons before younger."),
]
Uses = Annotated[int, Meta(ge=1, le=_USES_MAX)]
Instant = Annotated[str, Meta(max_length=40, examples=["2027-01-15T10:30:00Z"])]


class CouponIn(Struct, forbid_unknown_fields=True, frozen=True):
    """A coupon to make, or all of its new values."""

    code: CouponCode
    kind: CouponKind
    value: Annotated[Amount, Meta(description="A percentage up to 100, or an amount in `currency`.")]
    currency: (
        Annotated[
            CurrencyCode, Meta(description="Only for orders in this one; needed for an amount and for a minimum.")
        ]
        | None
    ) = None
    minimum_total: (
        Annotated[Amount, Meta(description="Worth of goods, before discounts, from which on it counts.")] | None
    ) = None
    starts_at: Instant | None = None
    ends_at: Annotated[Instant, Meta(description="The first instant at which it does not count any more.")] | None = (
        None
    )
    usage_limit: Annotated[Uses, Meta(description="Orders that may use it.")] | None = None
    per_customer_limit: Annotated[Uses, Meta(description="Orders of one customer that may use it.")] | None = None
    active: bool = True


class CouponOut(Struct, frozen=True):
    """A coupon; `used` counts the orders that use it now."""

    id: int
    code: str
    kind: CouponKind
    value: Annotated[str, Meta(examples=["10"])]
    currency: str | None
    minimum_total: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    usage_limit: int | None
    per_customer_limit: int | None
    active: bool
    used: int
    version: int
    created_at: datetime
    updated_at: datetime


class CouponPage(Struct, frozen=True):
    """One page; `next` is the address of the following one, null on the last."""

    items: list[CouponOut]
    next_cursor: str | None
    next: str | None


def parse_codes(codes: Sequence[str]) -> tuple[str, ...]:
    """Return codes in capitals; raises ValidationFailed for one that is named twice."""
    found = tuple(code.upper() for code in codes)
    problems = [
        {"field": f"coupon_codes[{n}]", "message": f"Coupon {code} is named twice."}
        for n, code in enumerate(found)
        if code in found[:n]
    ]
    if problems:
        raise ValidationFailed(problems)
    return found


def parse_coupon(data: CouponIn) -> CouponValues:
    """Return a coupon's values; raises ValidationFailed that names the field."""
    starts_at, ends_at = parse_instant(data.starts_at, field="starts_at"), parse_instant(data.ends_at, field="ends_at")
    if starts_at is not None and ends_at is not None and ends_at <= starts_at:
        raise _wrong("ends_at", "It must end after it starts.")
    if data.minimum_total is not None and data.currency is None:
        raise _wrong("currency", "A minimum needs its currency.")
    return CouponValues(
        code=data.code.upper(),
        kind=data.kind,
        value=_parse_value(data),
        currency=data.currency,
        minimum_total=None
        if data.minimum_total is None
        else parse_money(data.minimum_total, data.currency or "", field="minimum_total").to_decimal(),
        starts_at=starts_at,
        ends_at=ends_at,
        usage_limit=data.usage_limit,
        per_customer_limit=data.per_customer_limit,
        active=data.active,
    )


def _parse_value(data: CouponIn) -> Decimal:
    value: Money | Percent
    if data.kind is CouponKind.FIXED:
        if data.currency is None:
            raise _wrong("currency", "An amount needs its currency.")
        value = parse_money(data.value, data.currency, field="value")
    else:
        if data.currency is not None:
            parse_money("0", data.currency, field="currency")
        try:
            value = Percent.parse(data.value)
        except ValueError as error:
            raise _wrong("value", f"{error}.") from error
        if value > _PERCENT_MAX:
            raise _wrong("value", "A percentage is at most 100.")
    if value.to_decimal() <= 0:
        raise _wrong("value", "It must be above zero.")
    return value.to_decimal()


def _wrong(field: str, message: str) -> ValidationFailed:
    return ValidationFailed([{"field": field, "message": message}])


def render_coupon(coupon: CouponRecord) -> CouponOut:
    """Turn the core's record into what is shown."""
    values = coupon.values
    return CouponOut(
        id=coupon.id,
        code=values.code,
        kind=values.kind,
        value=_render(values.value, values.currency if values.kind is CouponKind.FIXED else None),
        currency=values.currency,
        minimum_total=None if values.minimum_total is None else _render(values.minimum_total, values.currency),
        starts_at=values.starts_at,
        ends_at=values.ends_at,
        usage_limit=values.usage_limit,
        per_customer_limit=values.per_customer_limit,
        active=values.active,
        used=coupon.used,
        version=coupon.version,
        created_at=coupon.created_at,
        updated_at=coupon.updated_at,
    )


def _render(value: Decimal, currency: str | None) -> str:
    exact = Percent.from_decimal(value) if currency is None else Money.from_decimal(value, currency)
    return str(exact.to_decimal())
