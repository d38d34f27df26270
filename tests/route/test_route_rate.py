"""How a route's own rate of random errors is measured, and by which rows a failing one is judged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmbatch.route.rate import ErrorRate


def needed(rate: ErrorRate, began: int, *unresolved: tuple[int, int]) -> int:
    return max(3, rate.needed(began, unresolved))


def answered(rate: ErrorRate, calls: range) -> None:
    """Each is the first of its row."""
    for serial in calls:
        rate.answered(serial)


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


@pytest.mark.parametrize(("failures", "faded"), [(0, 2000), (1, 2001)])
def test_attempts_fade_once_there_are_more_than_4000(failures: int, faded: int) -> None:
    """Of rows that were answered at once, or after a failure each."""
    rate = ErrorRate()

    def answer() -> None:
        if failures:
            rate.resolved(failures, 1)
        else:
            rate.answered(1)

    for _ in range(4000 // (1 + failures)):
        answer()
    assert repr(rate).endswith("of 4000 attempts>")

    answer()
    assert repr(rate).endswith(f"of {faded} attempts>")


def test_a_time_holds_what_all_of_its_rows_and_checks_met() -> None:
    """Throttled attempts that count against no row only where they are asked for."""
    rate = ErrorRate()
    for failures in (2, 3):
        rate.resolved(failures, 1)
        rate.checked(1, failures - 1)
        rate.note_excused(failures, 1)
        rate.lost(5, 1)

    plain, throttled = rate.since(0, ()), rate.since(0, (), with_excused=True)

    assert (plain.rows, plain.checks, plain.failed, plain.unresolved) == (2, 2, 5 + 3, {5: 2})
    assert (throttled.rows, throttled.checks, throttled.failed, throttled.unresolved) == (2, 2, 5 + 3 + 5, {5: 2})


def test_what_a_row_met_belongs_to_the_time_in_which_it_began_to_fail() -> None:
    """Whenever its answer comes; and a time ends where the next one begins."""
    rate = ErrorRate()
    rate.answered(1)
    rate.failing(5, first=True)
    rate.resolved(1, 4)
    rate.resolved(2, 5)

    before, since = rate.since(0, [(4, 7), (5, 8)], 1), rate.since(1, [(4, 7), (5, 8)])

    assert (before.rows, before.failed, before.unresolved) == (2, 1, {7: 1})
    assert (since.rows, since.failed, since.unresolved) == (1, 2, {8: 1})


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
            rate.note_excused(3, serial)

    assert len(rate._starts) == len(rate._epochs) == 64
    assert rate._starts == sorted(rate._starts)
    assert rate._starts[-16:] == list(range(925, 1001, 5))
    whole = rate.since(0, [])
    assert (whole.rows, whole.checks, whole.failed, whole.unresolved) == (1000, 200, 600, {9: 200})
    assert rate.since(0, [], with_excused=True).failed == 600 + 600


@pytest.mark.parametrize(("small", "joined"), [(10, 11), (47, 48), (50, 1)])
def test_the_smallest_times_are_joined_first_but_none_of_the_latest(small: int, joined: int) -> None:
    """Two neighbors with one answer each, among times that have two each; of equal ones the oldest are joined."""
    rate = ErrorRate()
    for number in range(64):
        if number:
            rate.failing(100 * number, first=True)
        answered(rate, range(100 * number + 1, 100 * number + (2 if number in (small, small + 1) else 3)))

    rate.failing(6400, first=True)

    assert rate._starts == [100 * number for number in range(65) if number != joined]
    assert rate.since(joined - 1, (), joined).rows == (2 if joined == small + 1 else 4)


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


LEARNED: dict[str, tuple[Callable[[ErrorRate], None], int]] = {
    "a row that is answered": (lambda rate: rate.answered(1), 1),
    "the end of one that failed before": (lambda rate: rate.resolved(1, 1, 0), 1),
    "a check that passed after a failed one": (lambda rate: rate.checked(1, 1), 2),
    "two throttled attempts": (lambda rate: rate.note_excused(2, 1), 2),
    "a failure": (lambda rate: rate.failing(1, first=False), 1),
    "a row that ends as failed": (lambda rate: rate.lost(3, 1), 1),
}
"""What a rate learns, and for how many attempts it counts."""


@pytest.mark.parametrize("what", LEARNED)
def test_what_was_worked_out_of_320_attempts_stands_for_ten_more(what: str) -> None:
    """A part in 32, of whatever kind they are; the rows that have failed meanwhile are looked at then."""
    learn, attempts = LEARNED[what]
    rate = ErrorRate()
    answered(rate, range(1, 321))
    assert rate.needed(1, ()) == 3
    failing = [(1, 1)] * 1000

    for _ in range(10 // attempts):
        learn(rate)
    assert rate.needed(1, failing) == 3

    learn(rate)
    assert rate.needed(1, failing) > 3


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
