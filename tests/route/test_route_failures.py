"""What has failed since the last good answer: chance, or a route that is down?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.route.failures import FailureWindow, UsualRate, log_chance


def failing(*rows: int, rate: float = 0.01) -> FailureWindow:
    """Rows that failed, in calls of the same number."""
    window = FailureWindow()
    for row in rows:
        window.add(row, row, rate)
    return window


def test_a_usual_rate_starts_with_what_is_assumed() -> None:
    """The prior, as though it had been seen in so many calls."""
    rate = UsualRate(0.1, 10.0, least=0.01, most=0.9)
    assert rate.value == 0.1

    rate.add(1)
    assert rate.value == 2 / 11

    rate.add(0, 9)
    assert rate.value == 2 / 20


def test_a_usual_rate_keeps_within_its_bounds() -> None:
    """However much fails, or passes."""
    rate = UsualRate(0.1, 10.0, least=0.01, most=0.9)

    rate.add(190, 190)
    assert rate.value == 0.9

    for _ in range(20):
        rate.add(0, 190)
    assert rate.value == 0.01


def test_a_usual_rate_forgets() -> None:
    """Beyond twice its horizon, what it knows is halved in weight."""
    rate = UsualRate(0.0, 0.5, least=0.0, most=1.0, horizon=10.0)

    rate.add(19, 19)
    assert rate.value == 19 / 19.5
    rate.add(1)
    assert rate.value == 20 / 20.5
    rate.add(0)

    assert rate.value == 10 / 11.25


def test_a_usual_rate_looks_back_on_a_hundred_calls() -> None:
    """Unless it is told otherwise; it halves above twice as many, not at."""
    rate = UsualRate(0.0, 1.0, least=0.0, most=1.0)

    rate.add(199, 199)
    rate.add(0)
    assert rate.value == pytest.approx(99.5 / 101.5, abs=0.01)
    rate.add(0, 50)
    assert rate.value == pytest.approx(99.5 / 150.5)


@pytest.mark.parametrize(("failed", "sent", "rate"), [(1, 1, 0.5), (2, 2, 0.1), (3, 3, 0.01)])
def test_calls_that_all_failed_are_as_likely_as_the_product_of_their_rates(failed: int, sent: int, rate: float) -> None:
    """There is one way to choose them all."""
    assert log_chance(failed, sent, failed * math.log(rate)) == pytest.approx(failed * math.log(rate))


def test_there_are_more_ways_for_some_of_many_calls_to_fail() -> None:
    """``C(10, 3) = 120`` times the chance of three particular ones."""
    assert log_chance(3, 10, 3 * math.log(0.01)) == pytest.approx(math.log(120e-6))


def test_a_chance_is_at_most_one() -> None:
    """The union bound may be above it."""
    assert log_chance(5, 100, 5 * math.log(0.5)) == 0.0


def test_no_more_calls_fail_than_were_sent() -> None:
    """A count that was taken too early is read as if all had failed."""
    assert log_chance(4, 2, -8.0) == pytest.approx(-8.0)


def test_an_empty_window_is_neither_suspicious_nor_doubtful_nor_down() -> None:
    """Even where no failure at all would be enough."""
    window = FailureWindow()

    assert window.chance(100) == 0.0
    assert not window.is_suspicious(0)
    assert not window.is_doubtful(0)
    assert not window.is_down(0, 0)
    assert window.newest == 0
    assert repr(window) == "<FailureWindow 0 rows after call 0>"


def test_rows_that_fail_grow_suspicious_then_doubtful_then_down() -> None:
    """At 1 % each: one row in a hundred, two in ten thousand, three in a million, and then it cannot be chance."""
    seen = []
    for count in (1, 2, 3, 4):
        window = failing(*range(1, count + 1), rate=0.0099)
        seen.append((window.is_suspicious(0), window.is_doubtful(0), window.is_down(0, 1)))

    assert seen == [(True, False, False), (True, True, False), (True, True, True), (True, True, True)]


def test_exactly_at_the_bound_it_is_still_chance() -> None:
    """Below, not at."""
    assert not failing(1).is_suspicious(0)
    assert not failing(1, 2).is_doubtful(0)
    assert not failing(1, 2, rate=0.001).is_down(0, 1)


def test_calls_in_flight_make_failures_more_likely() -> None:
    """Three of three are an outage, three of forty are not."""
    window = failing(1, 2, 3, rate=0.009)

    assert window.is_down(0, 3)
    assert not window.is_down(37, 3)
    assert window.chance(37) == pytest.approx(log_chance(3, 40, 3 * math.log(0.009)))


def test_fewer_rows_than_the_threshold_never_open() -> None:
    """Whatever the chance."""
    window = failing(1, 2, 3, 4, rate=0.001)

    assert not window.is_down(0, 5)
    assert window.is_down(0, 4)


def test_a_row_counts_once() -> None:
    """Its later failures add nothing, and its first call's number stays."""
    window = failing(7, 8)
    chance = window.chance(0)

    assert not window.add(7, 9, 0.5)

    assert window.chance(0) == chance
    assert window.newest == 8
    assert repr(window) == "<FailureWindow 2 rows after call 0>"


def test_a_good_answer_explains_what_was_sent_before_it() -> None:
    """And nothing that was sent after; how many rows that were."""
    window = failing(1, 2, 5, rate=0.1)

    assert window.prove(4) == 2

    assert list(window.rows) == [5]
    assert window.chance(0) == pytest.approx(math.log(0.1))
    assert repr(window) == "<FailureWindow 1 rows after call 4>"


def test_an_older_good_answer_says_nothing_new() -> None:
    """Answers come in any order."""
    window = FailureWindow()
    window.prove(9)
    window.add(10, 10, 0.1)

    assert window.prove(8) == 0
    assert window.prove(9) == 0

    assert window.since == 9
    assert list(window.rows) == [10]


def test_a_failure_of_a_call_that_was_overtaken_by_a_good_one_is_chance() -> None:
    """It is told so, and does not count."""
    window = FailureWindow()
    assert window.prove(5) == 0

    assert window.add(1, 4, 0.1)
    assert window.add(1, 5, 0.1)
    assert not window.add(1, 6, 0.1)
    assert window.rows == {1: (6, math.log(0.1))}


def test_a_dropped_row_takes_its_share_of_the_chance_along() -> None:
    """And one that is not there takes nothing."""
    window = FailureWindow()
    window.add(1, 1, 0.1)
    window.add(2, 2, 0.5)

    window.drop(3)
    assert window.chance(0) == pytest.approx(math.log(0.05))
    window.drop(1)
    assert window.chance(0) == pytest.approx(math.log(0.5))
    window.drop(2)

    assert window.chance(0) == 0.0


def test_rounding_does_not_add_up() -> None:
    """An empty window starts at exactly zero again."""
    window = FailureWindow()
    for serial in range(1, 1000):
        for row in range(1, 10):
            window.add(row, serial, 0.1 * row)
        for row in range(1, 10):
            window.drop(row)
    window.add(1, 1000, 0.3)

    assert window.chance(0) == math.log(0.3)


def test_a_cleared_window_starts_after_the_newest_call() -> None:
    """What was sent before is explained otherwise, even if it comes back later; it never looks back further."""
    window = failing(1, 2, rate=0.1)
    window.clear(10)

    assert not window.rows
    assert window.since == 10
    assert window.add(3, 10, 0.1)
    window.add(3, 11, 0.2)
    assert window.chance(0) == pytest.approx(math.log(0.2))

    window.clear(4)
    assert window.since == 10


@given(rows=st.lists(st.integers(1, 5), max_size=20), out=st.integers(0, 50), proven=st.integers(0, 20))
def test_the_chance_is_that_of_the_rows_that_are_left(rows: list[int], out: int, proven: int) -> None:
    """After any failures and a good answer, within rounding."""
    window = FailureWindow()
    first: dict[int, int] = {}
    for serial, row in enumerate(rows, 1):
        window.add(row, serial, row / 10)
        first.setdefault(row, serial)

    window.prove(proven)

    left = {row: serial for row, serial in first.items() if serial >= proven}
    assert {row: serial for row, (serial, _) in window.rows.items()} == left
    assert window.newest == max(left.values(), default=0)
    expected = math.log(math.comb(len(left) + out, len(left))) + sum(math.log(row / 10) for row in left)
    assert window.chance(out) == pytest.approx(min(0.0, expected), abs=1e-6)
