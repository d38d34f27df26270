"""How many retries the budget allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmbatch.pace.retries import MOST, PER_SECOND, SHARE, RetryBudget


def spent(budget: RetryBudget, now: float) -> int:
    """All retries that the budget allows at once."""
    count = 0
    while budget.allows(now):
        budget.count(now, is_retry=True)
        count += 1
    return count


def test_a_few_retries_are_always_allowed_and_one_more_each_second() -> None:
    """The floor: a row that is alone never waits for other traffic."""
    budget = RetryBudget()

    assert spent(budget, 5.0) == MOST
    assert spent(budget, 5.5) == 0
    assert spent(budget, 6.0) == 1
    assert spent(budget, 9.0) == 3


def test_ten_first_attempts_allow_one_retry() -> None:
    """A tenth of the traffic."""
    budget = RetryBudget()
    spent(budget, 0.0)

    for _ in range(9):
        budget.count(0.0, is_retry=False)
    assert not budget.allows(0.0)
    budget.count(0.0, is_retry=False)
    assert spent(budget, 0.0) == 1


def test_what_a_quiet_time_leaves_over_is_bounded() -> None:
    """Neither a night nor a million good rows allow a burst of retries."""
    budget = RetryBudget()
    budget.allows(0.0)

    for _ in range(1000):
        budget.count(1.0, is_retry=False)

    assert spent(budget, 30_000.0) == MOST


def test_retries_beyond_the_budget_are_no_debt() -> None:
    """They went because nothing else was left; the next new row's retry need not pay for them."""
    budget = RetryBudget()
    for _ in range(500):
        budget.count(0.0, is_retry=True)

    assert spent(budget, 1.0) == 1


def test_a_clock_that_goes_back_allows_nothing_more() -> None:
    """Time counts once."""
    budget = RetryBudget()
    spent(budget, 100.0)

    assert not budget.allows(50.0)
    assert not budget.allows(100.5)
    assert budget.allows(101.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200))
def test_no_order_of_calls_exceeds_the_share_and_the_floor(steps: list[tuple[float, bool]]) -> None:
    """Retries that ask first stay within the sum of all that is allowed."""
    budget = RetryBudget()
    now, first, retries = 0.0, 0, 0
    for wait, wants_retry in steps:
        now += wait
        if not wants_retry:
            budget.count(now, is_retry=False)
            first += 1
        elif budget.allows(now):
            budget.count(now, is_retry=True)
            retries += 1

        assert retries <= MOST + SHARE * first + PER_SECOND * now + 1e-6
