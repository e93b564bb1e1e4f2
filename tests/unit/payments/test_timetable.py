from __future__ import annotations

import itertools

import pytest

from counterfoil.payments.timetable import JITTER, Timetable

HOUR = 3600.0


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def test_looks_happen_at_10_s_30_s_2_min_10_min_30_min_1_h_and_then_every_hour() -> None:
    waits = [Timetable().wait_seconds(looks, age_seconds=0, uniform=middle) for looks in range(9)]

    assert list(itertools.accumulate(wait or 0 for wait in waits)) == pytest.approx(
        [10, 30, 120, 600, 1800, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]
    )


@pytest.mark.parametrize("looks", [0, 3, 40])
def test_a_wait_is_spread_by_ten_percent_to_either_side(looks: int) -> None:
    exact = Timetable().wait_seconds(looks, age_seconds=0, uniform=middle)
    assert exact is not None

    shortest = Timetable().wait_seconds(looks, age_seconds=0, uniform=lambda low, _: low)
    longest = Timetable().wait_seconds(looks, age_seconds=0, uniform=lambda _, high: high)

    assert (shortest, longest) == pytest.approx((exact * 0.9, exact * 1.1))
    assert JITTER == 0.1


def test_after_72_hours_nobody_looks_by_itself_any_more() -> None:
    assert Timetable().wait_seconds(80, age_seconds=72 * HOUR - 1, uniform=middle) == pytest.approx(HOUR)
    assert Timetable().wait_seconds(80, age_seconds=72 * HOUR, uniform=middle) is None


def test_nothing_is_sent_again_once_a_gateway_may_have_forgotten_the_key() -> None:
    assert Timetable().may_resend(23 * HOUR - 1)
    assert not Timetable().may_resend(23 * HOUR)


def test_a_person_looks_after_a_day_and_a_buyer_is_given_up_after_an_hour() -> None:
    assert not Timetable().needs_review(24 * HOUR - 1)
    assert Timetable().needs_review(24 * HOUR)
    assert not Timetable().buyer_has_left(HOUR - 1)
    assert Timetable().buyer_has_left(HOUR)


def test_a_drill_shortens_the_waits_and_no_limit_that_guards_money() -> None:
    drill = Timetable(speed=100)

    assert drill.wait_seconds(0, age_seconds=0, uniform=middle) == pytest.approx(0.1)
    assert drill.may_resend(23 * HOUR - 1)
    assert not drill.may_resend(23 * HOUR)
    assert drill.wait_seconds(0, age_seconds=72 * HOUR, uniform=middle) is None
