"""What coupons take off an order, and each line's part of it (rule, pure). Amounts are in smallest units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from counterfoil.coupons.terms import CouponTerms


@dataclass(frozen=True, slots=True)
class Share:
    """What a line is worth, and the number that decides between lines of equal claim."""

    worth_minor: int
    product_id: int


def reduce_goods(goods_minor: int, coupons: Sequence[tuple[str, CouponTerms]]) -> list[tuple[str, int]]:
    """Return (code, amount) of each coupon in the order given, each on what the ones before it left."""
    reductions: list[tuple[str, int]] = []
    left = goods_minor
    for code, terms in coupons:
        reduction = terms.reduce(left)
        assert 0 <= reduction <= left, code
        reductions.append((code, reduction))
        left -= reduction
    return reductions


def allocate(discount_minor: int, lines: Sequence[Share]) -> list[int]:
    """Divide a discount among lines by their worth, by largest remainder: the parts add up to it exactly.

    No part is larger than its line's worth. Between equal remainders the lower product id comes first, so the order of
    the lines does not matter.
    """
    goods = sum(line.worth_minor for line in lines)
    assert 0 <= discount_minor <= goods, "no more can be taken off than there is"
    if discount_minor == 0:
        return [0] * len(lines)
    parts = [divmod(discount_minor * line.worth_minor, goods) for line in lines]
    rest = discount_minor - sum(floor for floor, _ in parts)
    by_claim = sorted(range(len(lines)), key=lambda n: (-parts[n][1], lines[n].product_id))
    rounded_up = set(by_claim[:rest])
    return [floor + (n in rounded_up) for n, (floor, _) in enumerate(parts)]
