"""The axes that follow from payments, fulfilments and returns."""

from __future__ import annotations

import pytest

from counterfoil.orders.axes import (
    derive_fulfillment_status,
    derive_payment_status,
    derive_return_status,
    is_covered,
)


@pytest.mark.parametrize(
    ("total", "authorized", "captured", "refunded", "status", "covered"),
    [
        (100, 0, 0, 0, "unpaid", False),
        (100, 99, 0, 0, "unpaid", False),
        (100, 100, 0, 0, "authorized", True),
        (100, 0, 40, 0, "partially_paid", False),
        (100, 60, 40, 0, "partially_paid", True),
        (100, 0, 100, 0, "paid", True),
        (100, 0, 101, 0, "overpaid", True),
        (100, 0, 100, 1, "partially_refunded", False),
        (100, 0, 100, 100, "refunded", False),
        (0, 0, 0, 0, "paid", True),
    ],
)
def test_payment_status(
    total: int, authorized: int, captured: int, refunded: int, status: str, *, covered: bool
) -> None:
    sums = {"total": total, "authorized": authorized, "captured": captured, "refunded": refunded}

    assert derive_payment_status(**sums) == status
    assert is_covered(**sums) is covered


@pytest.mark.parametrize(
    ("shipped", "delivered", "status"),
    [(0, 0, "unfulfilled"), (1, 1, "partially_fulfilled"), (3, 2, "fulfilled"), (3, 3, "delivered")],
)
def test_fulfillment_status(shipped: int, delivered: int, status: str) -> None:
    assert derive_fulfillment_status(ordered=3, shipped=shipped, delivered=delivered) == status


@pytest.mark.parametrize(
    ("returned", "has_open_return", "status"),
    [
        (0, False, "none"),
        (0, True, "requested"),
        (1, True, "partially_returned"),
        (3, False, "returned"),
    ],
)
def test_return_status(returned: int, status: str, *, has_open_return: bool) -> None:
    assert derive_return_status(shipped=3, returned=returned, has_open_return=has_open_return) == status
