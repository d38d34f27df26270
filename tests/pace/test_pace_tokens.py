"""The token budget: never more than it says in any window, and no row too large to go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.pace.tokens import BURST_SECONDS, RateBudget

STARTS = (0.0, 1234.5, 1e6 + 0.1, 3e7 + 0.3)
"""Monotonic clocks start anywhere; far from zero a float is coarse."""


def wait_as_told(budget: RateBudget, tokens: int, now: float) -> float:
    """Wait until *tokens* may go; returns that time."""
    for _ in range(10):
        wait = budget.wait(tokens, now)
        if wait == 0.0:
            return now
        assert now + wait > now, "told to wait without end"
        now += wait
    raise AssertionError("told to wait again and again")


def test_a_fresh_budget_lets_a_burst_go_and_then_paces() -> None:
    """6,000 a minute: 500 at once, then 100 a second."""
    budget = RateBudget(6000, now=50.0)

    assert budget.wait(500, 50.0) == 0.0
    budget.reserve(500, 50.0)

    assert budget.wait(100, 50.0) == pytest.approx(1.0)
    assert budget.wait(100, 50.5) == pytest.approx(0.5)
    assert budget.wait(100, 51.0) == 0.0


def test_asking_takes_nothing() -> None:
    """Only :meth:`reserve` does."""
    budget = RateBudget(6000, now=0.0)

    waits = [budget.wait(500, 0.0) for _ in range(100)]

    assert waits == [0.0] * 100


def test_unused_budget_is_kept_for_a_few_seconds_only() -> None:
    """After an hour of nothing the burst is what it was."""
    budget = RateBudget(6000, now=0.0)

    budget.reserve(500, 3600.0)

    assert budget.wait(1, 3600.0) == pytest.approx(0.01)


def test_a_row_larger_than_the_bucket_goes_when_it_is_full() -> None:
    """It leaves a debt, which those after it wait for."""
    budget = RateBudget(6000, now=0.0)
    budget.reserve(100, 0.0)

    assert budget.wait(2500, 0.0) == pytest.approx(1.0)
    budget.reserve(2500, 1.0)

    assert budget.wait(100, 1.0) == pytest.approx(21.0)
    assert budget.wait(100, 22.0) == 0.0


def test_a_reservation_that_was_too_large_comes_back() -> None:
    """At once when the true use is known."""
    budget = RateBudget(6000, now=0.0)
    budget.reserve(500, 0.0)

    budget.settle(500, 200, 0.0)

    assert budget.wait(300, 0.0) == 0.0
    assert budget.wait(301, 0.0) > 0.0


def test_a_call_that_used_nothing_costs_nothing() -> None:
    """A refused call's whole reservation comes back."""
    budget = RateBudget(6000, now=0.0)
    budget.reserve(500, 0.0)

    budget.settle(500, 0, 0.0)

    assert budget.wait(500, 0.0) == 0.0


def test_a_reservation_that_was_too_small_is_made_up_for() -> None:
    """What was used beyond it is waited for by those after it."""
    budget = RateBudget(6000, now=0.0)
    budget.reserve(100, 0.0)

    budget.settle(100, 900, 0.0)

    assert budget.wait(100, 0.0) == pytest.approx(5.0)


def test_what_comes_back_never_makes_the_burst_larger() -> None:
    """Late corrections to a bucket that has filled up again are lost."""
    budget = RateBudget(6000, now=0.0)
    budget.reserve(500, 0.0)

    budget.settle(500, 0, 60.0)
    budget.reserve(500, 60.0)

    assert budget.wait(1, 60.0) > 0.0


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("per_minute", [60.0, 2e6, 1e9])
def test_waiting_as_told_comes_to_an_end(start: float, per_minute: float) -> None:
    """Also where the wait left is too short to move the clock: rounding is no reason to wait."""
    budget = RateBudget(per_minute, start)
    now = start

    for tokens in range(1, 400):
        now = wait_as_told(budget, tokens * max(1, int(per_minute) // 7919), now)
        budget.reserve(tokens * max(1, int(per_minute) // 7919), now)

    assert now > start


rows = st.tuples(st.floats(0, 30), st.integers(1, 3000), st.none() | st.floats(0, 1))
"""Seconds until the row comes, its tokens, and what share of them it really used, told when the next one comes."""


@given(per_minute=st.sampled_from([60.0, 1000.0, 12_345.6]), start=st.sampled_from(STARTS), story=st.lists(rows))
def test_no_window_holds_more_than_the_rate_the_burst_and_one_oversize_row(
    per_minute: float, start: float, story: list[tuple[float, int, float | None]]
) -> None:
    """Between any two moments, whatever the rows, their order and what comes back of their reservations."""
    budget = RateBudget(per_minute, start)
    rate, burst = per_minute / 60, per_minute / 60 * BURST_SECONDS
    taken: list[tuple[float, float]] = []
    open_reservation: tuple[int, int] | None = None
    now = start

    for pause, tokens, share in story:
        now += pause
        if open_reservation is not None:
            reserved, used = open_reservation
            budget.settle(reserved, used, now)
            taken.append((now, used - reserved))
        now = wait_as_told(budget, tokens, now)
        budget.reserve(tokens, now)
        taken.append((now, tokens))
        open_reservation = None if share is None else (tokens, int(tokens * share))

    oversize = max([0.0, *(tokens - burst for _, tokens, _ in story)])
    for first, (since, _) in enumerate(taken):
        total = 0.0
        for at, tokens_taken in taken[first:]:
            total += tokens_taken
            assert total <= rate * (at - since) + burst + oversize + 1e-3
