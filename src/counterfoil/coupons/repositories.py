"""All SQL of coupons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from counterfoil.coupons.terms import AskedCoupon, CouponKind, CouponProblem, CouponTerms
from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import Percent


@dataclass(frozen=True, slots=True)
class CouponValues:
    """What staff decide about a coupon. `code` is in capitals; `value` a percentage or an amount in `currency`."""

    code: str
    kind: CouponKind
    value: Decimal
    currency: str | None
    minimum_total: Decimal | None
    starts_at: datetime | None
    ends_at: datetime | None
    usage_limit: int | None
    per_customer_limit: int | None
    active: bool


@dataclass(frozen=True, slots=True)
class CouponRecord:
    """One coupon as it is now; `used` counts the uses that are not given back."""

    id: int
    values: CouponValues
    used: int
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Return the entity tag, which changes with every change by staff and not with a use."""
        return f'"{self.version}"'


_COLUMNS: Final = (
    "id, code, kind, value, currency, minimum_total, starts_at, ends_at, usage_limit, per_customer_limit, active, used,"
    " version, created_at, updated_at"
)
_VALUES: Final = (
    "code = %(code)s, kind = %(kind)s, value = %(value)s, currency = %(currency)s, minimum_total = %(minimum_total)s,"
    " starts_at = %(starts_at)s, ends_at = %(ends_at)s, usage_limit = %(usage_limit)s,"
    " per_customer_limit = %(per_customer_limit)s, active = %(active)s"
)


def _record(row: tuple[Any, ...]) -> CouponRecord:
    id_, code, kind, *values, used, version, created_at, updated_at = row
    return CouponRecord(id_, CouponValues(code, CouponKind(kind), *values), used, version, created_at, updated_at)


# ---------------------------------------------------------------- staff
def read_page(*, after: int, limit: int) -> list[CouponRecord]:
    """Return up to `limit` coupons by id, above `after`."""
    sql = f"SELECT {_COLUMNS} FROM coupons WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"
    return [_record(row) for row in fetch_all(sql, {"after": after, "limit": limit})]


@transaction_required
def lock_coupon(coupon_id: int) -> CouponRecord | None:
    """Lock one coupon until the end of the open transaction and return it."""
    row = fetch_one(f"SELECT {_COLUMNS} FROM coupons WHERE id = %(id)s FOR NO KEY UPDATE", {"id": coupon_id})
    return None if row is None else _record(row)


@transaction_required
def was_used(coupon_id: int) -> bool:
    """Tell whether any order has ever used a coupon. Joins the transaction with its lock."""
    return fetch_one("SELECT 1 FROM coupon_uses WHERE coupon_id = %(id)s LIMIT 1", {"id": coupon_id}) is not None


@transaction_required
def insert_coupon(values: CouponValues) -> CouponRecord | None:
    """Insert a coupon and return it, or None when the code is taken. Joins the open transaction."""
    row = fetch_one(
        "INSERT INTO coupons (code, kind, value, currency, minimum_total, starts_at, ends_at, usage_limit,"
        " per_customer_limit, active) VALUES (%(code)s, %(kind)s, %(value)s, %(currency)s, %(minimum_total)s,"
        " %(starts_at)s, %(ends_at)s, %(usage_limit)s, %(per_customer_limit)s, %(active)s)"
        f" ON CONFLICT (code) DO NOTHING RETURNING {_COLUMNS}",
        _parameters(values),
    )
    return None if row is None else _record(row)


@transaction_required
def update_coupon(coupon_id: int, values: CouponValues) -> CouponRecord:
    """Write a coupon's new values and raise its version. Joins the transaction that holds its lock.

    Raises IntegrityError when the code is taken.
    """
    row = fetch_one(
        f"UPDATE coupons SET {_VALUES}, version = version + 1, updated_at = now() WHERE id = %(id)s"
        f" RETURNING {_COLUMNS}",
        {**_parameters(values), "id": coupon_id},
    )
    assert row is not None, coupon_id
    return _record(row)


@transaction_required
def delete_coupon(coupon_id: int) -> None:
    """Delete a coupon that no order has used. Joins the transaction that holds its lock."""
    fetch_all("DELETE FROM coupons WHERE id = %(id)s", {"id": coupon_id})


def _parameters(values: CouponValues) -> dict[str, Any]:
    return {
        "code": values.code,
        "kind": values.kind.value,
        "value": values.value,
        "currency": values.currency,
        "minimum_total": values.minimum_total,
        "starts_at": values.starts_at,
        "ends_at": values.ends_at,
        "usage_limit": values.usage_limit,
        "per_customer_limit": values.per_customer_limit,
        "active": values.active,
    }


# ---------------------------------------------------------------- orders
ASK_FOR_COUPONS: Final = """
SELECT n.code, c.id, c.kind, c.value, c.currency, c.minimum_total,
       CASE WHEN c.id IS NULL THEN 'unknown' WHEN NOT c.active THEN 'inactive'
            WHEN c.starts_at > now() THEN 'not_yet' WHEN c.ends_at <= now() THEN 'ended' END,
       c.usage_limit - c.used, c.per_customer_limit,
       CASE WHEN c.per_customer_limit IS NOT NULL THEN c.per_customer_limit - (
         SELECT count(*)::integer FROM coupon_uses u
         WHERE u.coupon_id = c.id AND u.user_id = %(user_id)s AND u.released_at IS NULL) END,
       EXISTS (SELECT FROM coupon_uses u
               WHERE u.coupon_id = c.id AND u.order_id = %(order_id)s AND u.released_at IS NULL)
FROM unnest(%(codes)s::text[]) WITH ORDINALITY AS n (code, place) LEFT JOIN coupons c ON c.code = n.code
ORDER BY n.place
"""
# By id, like everybody who locks several of them.
LOCK_COUPONS: Final = "SELECT id FROM coupons WHERE code = ANY (%(codes)s) ORDER BY id FOR NO KEY UPDATE"
LOCK_COUPONS_OF: Final = """
SELECT id FROM coupons WHERE id IN (
  SELECT coupon_id FROM coupon_uses WHERE order_id = ANY (%(orders)s) AND released_at IS NULL)
ORDER BY id FOR NO KEY UPDATE
"""


@transaction_required
def lock_coupons(codes: Sequence[str]) -> None:
    """Lock the coupons with these codes until the end of the open transaction, by id.

    Comes after the order's lock and that of a customer's holds, and before the stock's, as in place_orders_v3().
    """
    fetch_all(LOCK_COUPONS, {"codes": list(codes)})


def ask_for_coupons(codes: Sequence[str], *, user_id: int, order_id: int | None) -> list[AskedCoupon]:
    """Return what is known of each code now, in the order given; what an order uses already is `kept`."""
    rows = fetch_all(ASK_FOR_COUPONS, {"codes": list(codes), "user_id": user_id, "order_id": order_id})
    return [_asked(row) for row in rows]


def _asked(row: tuple[Any, ...]) -> AskedCoupon:
    code, id_, kind, value, currency, minimum, problem, uses_left, limit, customer_left, kept = row
    if id_ is None:
        return AskedCoupon(code, None)
    return AskedCoupon(
        code,
        CouponTerms(
            id_,
            Percent.from_decimal(value) if kind == CouponKind.PERCENT else Money.from_decimal(value, currency),
            currency,
            None if minimum is None else Money.from_decimal(minimum, currency),
        ),
        None if problem is None else CouponProblem(problem),
        uses_left,
        customer_left,
        limit,
        kept,
    )


@transaction_required
def take_uses(coupon_ids: Sequence[int], *, order_id: int, user_id: int) -> None:
    """Note that an order uses these coupons and count it, once each. Joins the transaction with the coupons' locks.

    The statement takes only what is left; whoever holds the locks has looked before.
    """
    taken = fetch_all(
        """
        WITH taken AS (
          INSERT INTO coupon_uses (coupon_id, order_id, user_id)
          SELECT id, %(order_id)s, %(user_id)s FROM unnest(%(coupons)s::bigint[]) AS id
          ON CONFLICT (order_id, coupon_id) DO UPDATE SET released_at = NULL, used_at = now()
            WHERE coupon_uses.released_at IS NOT NULL
          RETURNING coupon_id
        )
        UPDATE coupons c SET used = used + 1, updated_at = now() FROM taken
        WHERE c.id = taken.coupon_id AND (c.usage_limit IS NULL OR c.used < c.usage_limit)
        RETURNING c.id
        """,
        {"coupons": list(coupon_ids), "order_id": order_id, "user_id": user_id},
    )
    assert len(taken) == len(coupon_ids), "looked at under the same locks"


@transaction_required
def lock_coupons_of(order_ids: Sequence[int]) -> list[int]:
    """Lock the coupons that these orders use until the end of the open transaction, by id; returns their ids."""
    rows = fetch_all(LOCK_COUPONS_OF, {"orders": list(order_ids)})
    return [row[0] for row in rows]


@transaction_required
def release_uses(order_ids: Sequence[int], *, coupon_ids: Sequence[int]) -> None:
    """Give back these orders' uses of these coupons, each at most once. Joins the transaction with their locks."""
    fetch_all(
        """
        WITH released AS (
          UPDATE coupon_uses SET released_at = now()
          WHERE order_id = ANY (%(orders)s) AND coupon_id = ANY (%(coupons)s) AND released_at IS NULL
          RETURNING coupon_id
        ), counted AS (
          SELECT coupon_id, count(*)::integer AS uses FROM released GROUP BY coupon_id
        )
        UPDATE coupons c SET used = c.used - counted.uses, updated_at = now() FROM counted
        WHERE c.id = counted.coupon_id
        """,
        {"orders": list(order_ids), "coupons": list(coupon_ids)},
    )
