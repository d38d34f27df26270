"""How a route's own rate of random errors is measured, and by which rows a failing one is judged."""

from __future__ import annotations

import pytest

from llmbatch.route.rate import ErrorRate


def needed(rate: ErrorRate, began: int, *unresolved: tuple[int, int]) -> int:
    return max(3, rate.needed(began, unresolved))


def test_a_new_rate_knows_nothing_and_is_cautious() -> None:
    """Nothing measured is 0 %, feared to be one in four; a row would have every attempt."""
    rate = ErrorRate()

    assert rate.value == 0.0
    assert rate.cautious == 0.25
    assert needed(rate, 1) == 110
    assert repr(rate) == "<ErrorRate 0.00% of 0 attempts>"


def test_failures_of_rows_that_succeeded_are_the_rate() -> None:
    """A row with two failures before its answer made three attempts."""
    rate = ErrorRate()

    rate.resolved(2, 1)
    rate.answered(2)

    assert rate.value == 0.5
    assert rate.rows == 2
    assert repr(rate) == "<ErrorRate 50.00% of 4 attempts>"


def test_the_cautious_rate_comes_down_to_what_was_measured() -> None:
    """From one in four, as though 20 attempts had been made at that rate; never below 1 %."""
    rate = ErrorRate()

    rate.resolved(1, 1)
    assert rate.cautious == (1 + 5) / (2 + 20)

    for _ in range(3000):
        rate.answered(2)
    assert rate.cautious == 0.01


def test_old_attempts_fade() -> None:
    """They are halved in weight beyond 4,000, so that the rate looks back on 2,000 at least."""
    rate = ErrorRate()
    for _ in range(2000):
        rate.resolved(1, 1)
    assert repr(rate) == "<ErrorRate 50.00% of 4000 attempts>"

    rate.answered(2)
    assert repr(rate) == "<ErrorRate 49.99% of 2000 attempts>"

    for _ in range(20_000):
        rate.answered(3)
    assert rate.value < 0.001
    for _ in range(1500):
        rate.resolved(2, 1)
    assert 0.3 < rate.value < 2 / 3


def test_a_row_s_own_time_begins_with_its_first_failure() -> None:
    """What was sent before says nothing of an hour of errors that begins with it, whenever it comes back."""
    rate = ErrorRate()
    for serial in range(1, 101):
        rate.answered(serial)
    rate.failing(102, first=True)
    rate.answered(101)
    rate.answered(103)

    own = rate.since(1, [(102, 1)])

    assert (own.rows, own.unresolved) == (1, {1: 1})
    assert rate.since(0, []).rows == 102


def test_rows_that_begin_to_fail_with_nothing_good_between_share_a_time() -> None:
    """Also one whose call was sent before, and one that had failed before."""
    rate = ErrorRate()
    rate.answered(1)
    rate.failing(5, first=True)
    rate.failing(6, first=True)
    rate.failing(4, first=True)
    rate.answered(7)
    rate.failing(8, first=False)
    rate.failing(3, first=True)

    assert len(rate._starts) == 2
    rate.failing(9, first=True)
    assert rate._starts == [0, 5, 9]


def test_few_rows_of_its_own_time_say_little_beside_those_before() -> None:
    """A hundred answers in all; that the rate has just changed is believed to be one chance in a hundred."""
    rate = ErrorRate()
    for serial in range(1, 101):
        rate.answered(serial)
    rate.failing(200, first=True)
    for serial in range(201, 211):
        rate.answered(serial)

    assert needed(rate, 200) == 3


def test_an_hour_of_errors_that_has_only_begun_is_seen_by_rows_still_at_it() -> None:
    """Ten passed, thirty did not: most calls fail now, whatever the hundreds before did."""
    rate = ErrorRate()
    for serial in range(1, 1001):
        rate.answered(serial)
    rate.failing(2001, first=True)
    for serial in range(2011, 2021):
        rate.answered(serial)

    assert needed(rate, 2001, *[(serial, 1) for serial in range(2001, 2031)]) > 10


def test_a_row_that_ended_as_failed_stays_a_row_with_no_answer() -> None:
    """It may have been bad, or unlucky."""
    rate = ErrorRate()
    rate.failing(1, first=True)
    rate.lost(5, 1)

    assert rate.since(0, [(1, 2), (0, 0)]).unresolved == {5: 1, 2: 1}


def test_old_times_are_joined_and_lose_nothing() -> None:
    """Sixty-four are kept apart, the latest in any case."""
    rate = ErrorRate()
    for serial in range(1, 1001):
        if serial % 5:
            rate.answered(serial)
        else:
            rate.failing(serial, first=True)
            rate.resolved(1, serial)
            rate.lost(9, serial)
            rate.checked(serial, 2)

    assert len(rate._starts) == len(rate._epochs) == 64
    assert rate._starts == sorted(rate._starts)
    assert rate._starts[-16:] == list(range(925, 1001, 5))
    whole = rate.since(0, [])
    assert (whole.rows, whole.checks, whole.failed, whole.unresolved) == (1000, 200, 600, {9: 200})


def test_what_was_worked_out_stands_until_much_more_is_known() -> None:
    """A part in 32."""
    rate = ErrorRate()
    rate.failing(1, first=True)
    for serial in range(2, 50):
        rate.answered(serial)
    assert needed(rate, 1) == 4
    for serial in range(50, 150):
        rate.answered(serial)
    assert needed(rate, 1) == 3

    rate.resolved(3, 1)

    assert needed(rate, 1) == 3
    for serial in range(150, 153):
        rate.answered(serial)
    rate.resolved(30, 1)
    rate.failing(160, first=False)
    rate.failing(161, first=False)
    assert needed(rate, 1) > 3


@pytest.mark.parametrize("times", [200, 400])
def test_what_was_worked_out_is_bounded(times: int) -> None:
    """Some hundred numbers, however many times there were."""
    rate = ErrorRate()
    for serial in range(1, 2 * times, 2):
        rate.failing(serial, first=True)
        rate.answered(serial)
        needed(rate, serial)

    assert len(rate._known) <= 65


@pytest.mark.parametrize(("answers", "least"), [(4, 7), (7, 3)])
def test_errors_that_began_with_the_row_itself_are_noticed_by_few_others(answers: int, least: int) -> None:
    """Three rows without an answer beside four with one: a row ended after three failures while 68 % failed."""
    rate = ErrorRate()
    for serial in range(1, 84):
        rate.answered(serial)
    rate.failing(84, first=True)
    for serial in range(85, 85 + answers):
        rate.answered(serial)

    asked = needed(rate, 84, (100, 1), (101, 2), (102, 2))

    assert asked >= least
    assert (asked == 3) == (answers > 6)
