"""Finding a payment whose answer was lost: the search is quick and may be old, reading and listing are true."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from counterfoil.kernel.money import Money
from counterfoil.payments.gateways.base import (
    GatewayPayment,
    GatewayPaymentStatus,
    Page,
    TimeSpan,
    each_payment,
    find_payments,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = TimeSpan(NOW - timedelta(hours=1), NOW + timedelta(hours=1))


def payment(number: int, reference: str = "ours") -> GatewayPayment:
    status = GatewayPaymentStatus.AUTHORIZED
    return GatewayPayment(f"pay-{number}", reference, status, Money(100, "EUR"), Money(0, "EUR"), NOW)


class Lagging:
    """A gateway whose search shows `searched` while `known` is true; pages have two entries."""

    name = "lagging"

    def __init__(self, *, known: list[GatewayPayment], searched: list[GatewayPayment]) -> None:
        self.known = known
        self.searched = searched
        self.calls: list[str] = []

    def search_payments(self, reference: str) -> tuple[GatewayPayment, ...]:
        self.calls.append("search")
        return tuple(each for each in self.searched if each.reference == reference)

    def read_payment(self, payment_id: str) -> GatewayPayment:
        self.calls.append("read")
        return next(each for each in self.known if each.payment_id == payment_id)

    def list_payments(self, span: TimeSpan, *, after: str = "") -> Page[GatewayPayment]:
        assert span == SPAN
        self.calls.append(f"list {after}".strip())
        names = [each.payment_id for each in self.known]
        start = names.index(after) + 1 if after else 0
        page = tuple(self.known[start : start + 2])
        return Page(page, page[-1].payment_id if len(self.known) > start + 2 else "")


def test_what_the_search_finds_is_read_again_because_its_state_may_be_old() -> None:
    captured = replace(payment(1), status=GatewayPaymentStatus.CAPTURED, captured=Money(100, "EUR"))
    gateway = Lagging(known=[captured], searched=[payment(1)])

    assert find_payments(gateway, "ours", span=SPAN) == (captured,)  # type: ignore[arg-type]  # only what is called

    assert gateway.calls == ["search", "read"]


def test_what_the_search_does_not_know_yet_is_found_in_the_list_on_its_last_page() -> None:
    known = [*(payment(n, "other") for n in range(4)), payment(9)]
    gateway = Lagging(known=known, searched=[])

    assert find_payments(gateway, "ours", span=SPAN) == (payment(9),)  # type: ignore[arg-type]

    assert gateway.calls == ["search", "list", "list pay-1", "list pay-3"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_every_page_is_read_and_none_twice(count: int) -> None:
    gateway = Lagging(known=[payment(n) for n in range(count)], searched=[])

    assert list(each_payment(gateway, SPAN)) == gateway.known  # type: ignore[arg-type]

    assert len(gateway.calls) == max(1, -(-count // 2))
