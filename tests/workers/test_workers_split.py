"""Limits of a run, split among its processes: together they are the whole."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import UsageError
from llmbatch.workers.split import CostBudget, Restarts, split_cost, split_number, split_rate, split_sent

COUNTS = st.integers(1, 64)


@given(COUNTS, st.integers(0, 100_000))
def test_whole_numbers_add_up_exactly(count: int, more: int) -> None:
    """Every process gets at least one, and none more than one above another."""
    shares = split_number(count + more, count, flag="--concurrency")

    assert sum(shares) == count + more
    assert len(shares) == count
    assert max(shares) - min(shares) <= 1 <= min(shares)


@given(COUNTS, st.floats(0.001, 1e9))
def test_rates_add_up(count: int, whole: float) -> None:
    """None is 0, which no rate may be."""
    shares = split_rate(whole, count)

    assert sum(shares) == pytest.approx(whole)
    assert min(shares) > 0


@given(COUNTS, st.integers(1, 10**6))
def test_whole_rates_stay_whole_where_they_can(count: int, whole: int) -> None:
    """Requests per minute are."""
    shares = split_rate(float(whole), count)

    if whole >= count:
        assert sum(shares) == whole
        assert all(share.is_integer() for share in shares)


@given(COUNTS, st.integers(0, 1000), st.integers(0, 3000))
def test_requests_of_a_day_that_were_sent_are_split_as_their_limit(count: int, more: int, sent: int) -> None:
    """What all processes have left of ``--rpd`` is what the whole has left, and no process has less than none."""
    limits = split_number(count + more, count, flag="--rpd")
    shares = split_sent((sent, 60.0), count)

    assert sum(share for share, _ in shares) == sent
    assert {ago for _, ago in shares} == {60.0}
    left = [max(0, limit - share) for limit, (share, _) in zip(limits, shares, strict=True)]
    assert sum(left) == max(0, count + more - sent)


@given(COUNTS, st.decimals(0, 1000, places=9))
def test_costs_are_never_more_than_the_whole(count: int, whole: Decimal) -> None:
    """And less by under a millionth for each process."""
    shares = split_cost(whole, count)

    assert sum(shares) <= whole
    assert whole - sum(shares) < Decimal("0.000001") * count


def test_fewer_requests_than_processes_are_refused() -> None:
    """With the number of processes that would do."""
    with pytest.raises(UsageError, match="--concurrency 3 is less than --workers 4") as caught:
        split_number(3, 4, flag="--concurrency")

    assert "--workers 3" in caught.value.hint


def test_three_restarts_a_minute_are_allowed() -> None:
    """Each counts for a minute."""
    restarts = Restarts()

    assert [restarts.allow(now) for now in (0.0, 1.0, 2.0, 3.0, 59.9, 60.1, 60.2, 61.1)] == [
        True, True, True, False, False, True, False, True
    ]  # fmt: skip
    assert list(restarts.times) == [2.0, 60.1, 61.1]


@given(st.lists(st.tuples(st.integers(0, 5), st.decimals(0, 1, places=6), st.integers(1, 8)), max_size=60))
def test_shards_never_spend_more_than_was_left(steps: list[tuple[int, Decimal, int]]) -> None:
    """Whatever each of them spends of what it was dealt, and however often it is given more."""
    budget, spent = CostBudget(Decimal(10)), dict.fromkeys(range(6), Decimal(0))

    for number, part, count in steps:
        most = budget.grant(number, spent[number], count)
        assert most >= spent[number]
        spent[number] += (most - spent[number]) * part
        budget.settle(number, spent[number])

    assert sum(spent.values()) <= 10
    assert budget.free == 10 - sum(spent.values())


def test_what_runs_holds_its_part() -> None:
    """Until it is taken back."""
    budget = CostBudget(Decimal(8))

    first, second = budget.grant(0, Decimal(0), 4), budget.grant(1, Decimal(0), 4)
    budget.settle(0, Decimal("0.5"))

    assert [first, second] == [Decimal(2), Decimal("1.5")]
    assert budget.free == 6
    assert budget.grant(0, Decimal("0.5"), 1) == Decimal("6.5")
