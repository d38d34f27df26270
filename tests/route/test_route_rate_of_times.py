"""By which rows a failing one is judged: those of its own time, of before, or all of the route."""

from __future__ import annotations

import pytest

from llmbatch.route.rate import ErrorRate


def answered(rate: ErrorRate, calls: range) -> None:
    """Each is the first of its row."""
    for serial in calls:
        rate.answered(serial)


def half_failed(rate: ErrorRate, calls: range) -> None:
    """Rows that failed once and were then answered."""
    for serial in calls:
        rate.resolved(1, serial)


@pytest.mark.parametrize(("answers", "failures", "least"), [(10, 1, 5), (5, 1, 10), (5, 2, 13), (3, 1, 21)])
def test_that_errors_began_with_the_row_itself_is_believed_to_be_one_chance_in_a_hundred(
    answers: int, failures: int, least: int
) -> None:
    """What so few answers ask for at a chance of 1 in 1,000; after a thousand good ones before."""
    rate = ErrorRate()
    answered(rate, range(1, 1001))
    rate.failing(2001, first=True)
    answered(rate, range(2002, 2001 + answers))
    rate.resolved(failures, 2002)

    assert rate.needed(2001, ()) == least


@pytest.mark.parametrize("began", [1, 2001])
def test_an_hour_of_errors_begins_with_the_first_failure_in_it(began: int) -> None:
    """Also where that is the first call of all, which took longer than a thousand others."""
    rate = ErrorRate()
    answered(rate, range(2, 1001))
    rate.failing(began, first=True)
    half_failed(rate, range(2002, 2302))

    assert rate.needed(began, ()) == 17


@pytest.mark.parametrize(("answers", "more"), [(299, True), (300, False)])
@pytest.mark.parametrize("checks", [False, True])
def test_an_hour_of_errors_is_forgotten_after_300_good_answers(answers: int, *, more: bool, checks: bool) -> None:
    """To rows or to health checks. With fewer since the row began to fail, those of before are looked at as well."""
    rate = ErrorRate()
    half_failed(rate, range(1, 601))
    rate.failing(1001, first=True)
    for serial in range(1002, 1002 + answers):
        if checks:
            rate.checked(serial, 0)
        else:
            rate.answered(serial)

    assert (rate.needed(1001, ()) > 10) == more


def test_no_more_times_are_looked_back_on_than_have_300_answers() -> None:
    """Three of a hundred each."""
    rate = ErrorRate()
    half_failed(rate, range(1, 601))
    for start in (1001, 2001, 3001):
        rate.failing(start, first=True)
        answered(rate, range(start + 1, start + 101))

    assert rate.needed(3001, ()) == 3


def test_a_row_that_is_judged_alone_is_judged_by_all_rows_of_the_route() -> None:
    """Though 300 good answers have come since an hour of errors: a third of all attempts failed."""
    rate = ErrorRate()
    half_failed(rate, range(1, 301))
    rate.failing(1001, first=True)
    answered(rate, range(1002, 1302))

    assert rate.needed(1001, ()) == 3
    assert rate.needed(1001, (), alone=True) == 11


def test_ten_good_answers_more_are_assumed_of_a_route_whose_rows_are_judged_alone() -> None:
    """Beside those to health checks: 20 in all."""
    rate = ErrorRate()
    for serial in range(1, 11):
        rate.checked(serial, 0)

    assert rate.needed(1, ()) == 8
    assert rate.needed(1, (), alone=True) == 5


def test_the_first_row_of_all_is_judged_anew_when_it_goes_alone() -> None:
    """It failed after the second was answered: by that one alone, then by ten more."""
    rate = ErrorRate()
    rate.answered(2)
    rate.failing(1, first=True)

    assert rate.needed(1, ()) == 88
    assert rate.needed(1, (), alone=True) == 7


@pytest.mark.parametrize("calls", [range(11, 311), range(1002, 1302)])
def test_throttled_attempts_count_where_they_are_asked_for(calls: range) -> None:
    """Half of all attempts, before the row's own time or in it."""
    rate = ErrorRate()
    answered(rate, range(1, 11))
    rate.failing(1001, first=True)
    answered(rate, calls)
    rate.note_excused(300, calls[0])

    assert rate.needed(1001, ()) == 3
    assert rate.needed(1001, (), with_excused=True) == 17


@pytest.mark.parametrize(("rows", "asked"), [(299, 1), (300, 17)])
def test_rows_sent_before_a_row_s_last_failed_call_are_looked_at_if_300_have_an_answer(rows: int, asked: int) -> None:
    """Half of their attempts failed; a thousand good rows that were sent later do not count."""
    rate = ErrorRate()
    half_failed(rate, range(1, rows + 1))
    rate.failing(1001, first=True)
    answered(rate, range(1002, 2002))

    assert rate.needed_before(1001, 1) == asked
    assert rate.needed_before(1001, 1001) == asked


def test_few_answers_before_a_row_s_last_failed_call_are_added_up_to_300() -> None:
    """However many came later: ten in its own time, and those of the hour of errors before."""
    rate = ErrorRate()
    half_failed(rate, range(1, 301))
    rate.failing(1001, first=True)
    answered(rate, range(1002, 1012))
    rate.failing(2001, first=True)
    answered(rate, range(2002, 3002))

    assert rate.needed_before(2001, 1001) == 17


def test_all_answers_between_a_row_s_first_and_last_failed_call_are_looked_at() -> None:
    """An hour of errors and then 300 good ones: a third of the attempts failed."""
    rate = ErrorRate()
    answered(rate, range(1, 11))
    rate.failing(1001, first=True)
    half_failed(rate, range(1001, 1301))
    rate.failing(2001, first=True)
    answered(rate, range(2002, 2302))
    rate.failing(3001, first=True)

    assert rate.needed_before(3001, 1001) == 11


def test_throttled_attempts_before_a_row_s_last_failed_call_count_where_they_are_asked_for() -> None:
    """Half of all."""
    rate = ErrorRate()
    answered(rate, range(1, 301))
    rate.note_excused(300, 1)
    rate.failing(1001, first=True)

    assert rate.needed_before(1001, 1) == 3
    assert rate.needed_before(1001, 1, with_excused=True) == 17
