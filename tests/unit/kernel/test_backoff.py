"""Waits between attempts, and how many attempts an outage may cost."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from counterfoil.kernel.backoff import Backoff, RetryBudget

GATEWAY = Backoff(base_seconds=0.5, cap_seconds=8.0)


def test_the_longest_waits_double_from_half_a_second_up_to_the_cap() -> None:
    assert [GATEWAY.longest_seconds(n) for n in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@given(st.integers(0, 10_000), st.integers())
def test_a_wait_is_never_negative_and_never_longer_than_its_longest(retry: int, seed: int) -> None:
    wait = GATEWAY.wait_seconds(retry, uniform=random.Random(seed).uniform)

    assert 0.0 <= wait <= GATEWAY.longest_seconds(retry) <= 8.0


def test_jitter_is_full_so_both_ends_of_the_interval_are_drawn() -> None:
    assert GATEWAY.wait_seconds(2, uniform=lambda low, _: low) == 0.0
    assert GATEWAY.wait_seconds(2, uniform=lambda _, high: high) == 2.0


def test_a_fresh_budget_pays_for_ten_retries_and_no_more() -> None:
    budget = RetryBudget(retries_max=10)

    assert [budget.try_spend() for _ in range(12)] == [True] * 10 + [False] * 2
    assert budget.retries_left == 0.0


def test_ten_successes_earn_one_retry() -> None:
    budget = RetryBudget(retries_max=1)
    assert budget.try_spend()

    for _ in range(9):
        budget.earn()
    assert not budget.try_spend()
    budget.earn()

    assert budget.try_spend()
    assert not budget.try_spend()


def test_a_quiet_time_does_not_fill_the_budget_above_its_start() -> None:
    budget = RetryBudget(retries_max=10)

    for _ in range(1000):
        budget.earn()

    assert budget.retries_left == 10.0


@given(st.lists(st.booleans(), max_size=400))
def test_retries_never_exceed_the_start_and_a_tenth_of_the_successes(events: list[bool]) -> None:
    budget, spent, earned = RetryBudget(retries_max=10), 0, 0

    for is_success in events:
        if is_success:
            budget.earn()
            earned += 1
        else:
            spent += budget.try_spend()

    assert spent * 10 <= 100 + earned
    assert 0.0 <= budget.retries_left <= 10.0


def test_threads_together_spend_no_more_than_one_alone() -> None:
    budget = RetryBudget(retries_max=50)

    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(lambda _: budget.try_spend(), range(400)))

    assert granted == 50
