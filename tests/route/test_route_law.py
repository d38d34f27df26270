"""How often a row has to fail before it ends, and how a route's own rate of errors is measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.route.law import Sample, backoff_steps


@pytest.mark.parametrize(
    ("rate", "attempts"),
    [(0.0, 3), (0.01, 3), (0.02, 3), (0.05, 4), (0.09, 5), (0.25, 9), (0.5, 17), (0.8, 52), (0.9, 110), (0.99, 110)],
)
def test_a_row_ends_once_chance_would_do_it_less_than_once_in_100_000(rate: float, attempts: int) -> None:
    """``rate ** k < 1e-5``, measured by ten million attempts; rates are taken for 1 % to 90 %."""
    failed = round(rate * 10**7)
    needed = Sample(rows=10**7 - failed, failed=failed).needed(1)

    assert plain_law(rate) == attempts
    assert attempts <= needed <= attempts + (rate >= 0.8)  # rates are tried at steps


def plain_law(rate: float, least: int = 1) -> int:
    """The smallest number of failures in a row that chance brings less than once in 100,000."""
    needed = least
    while min(max(rate, 0.01), 0.9) ** needed > 1e-5:
        needed += 1
    return needed


def test_failures_that_are_just_as_unlikely_as_the_law_asks_are_enough() -> None:
    """Two at 1 % are chance once in 10,000: as much as is granted where one in ten is believed; rounding adds none."""
    assert Sample(rows=10**7).needed(1, 0.1) == 2
    assert Sample(rows=10**7).needed(1, 0.11) == 3


def test_a_row_has_the_attempts_that_the_options_promise() -> None:
    """``--max-attempts`` is the least, whatever the rate allows."""
    assert Sample(rows=10**7).needed(6) == 6
    assert Sample(rows=10**6, failed=10**6).needed(6) == 17


@pytest.mark.parametrize("needed", [1, 2, 3])
def test_each_failure_doubles_the_wait_where_failures_are_rare(needed: int) -> None:
    """As in any exponential backoff."""
    assert [backoff_steps(failures, needed) for failures in range(5)] == [1.0, 1.0, 2.0, 3.0, 4.0]


def test_waits_grow_slowly_where_half_of_all_attempts_fail() -> None:
    """Three doublings for as many failures as end a row: the evidence is what grows them."""
    steps = [backoff_steps(failures, 17) for failures in (1, 2, 17)]

    assert steps == pytest.approx([1.0, 1.0 + 3 / 17, 1.0 + 16 * 3 / 17])
    assert steps[2] < 4.0


@pytest.mark.parametrize(
    ("answers", "needed"), [(0, 110), (1, 88), (2, 66), (3, 44), (5, 17), (10, 8), (20, 5), (30, 4), (61, 4), (62, 3)]
)
def test_the_fewer_answers_are_known_the_more_failures_end_a_row(answers: int, needed: int) -> None:
    """All of them good: ``e ** needed * (1 - e) ** answers < 1e-5`` at any rate *e* up to 90 %."""
    assert Sample(rows=answers).needed(1) == needed
    assert Sample(checks=answers).needed(1) == needed
    assert Sample(rows=answers).needed(120) == 120
    least = max(e**needed * (1 - e) ** answers for e in (number / 1000 for number in range(10, 901)))
    best = 0.99**answers
    assert least / best <= 1e-5 * (1 + 1e-9)


@pytest.mark.parametrize(("failed", "needed"), [(53, 4), (111, 6), (333, 9), (1000, 17), (4000, 52), (9000, 109)])
def test_with_many_answers_the_measured_rate_is_left(failed: int, needed: int) -> None:
    """A thousand rows and their failures: what the rate itself asks for, or one more."""
    measured = plain_law(failed / (failed + 1000), 3)

    found = Sample(rows=1000, failed=failed).needed(3)

    assert measured <= found <= measured + 1 + measured // 25
    assert abs(found - needed) <= 1 + needed // 20


def test_rows_that_only_fail_raise_the_rate_of_nobody() -> None:
    """Half of 200 rows have failed twice and more: were they good, some would have passed meanwhile."""
    bad = Sample(rows=100, unresolved={2: 50, 3: 50})

    assert bad.needed(3) <= 4


def test_rows_still_at_it_may_be_good_ones_in_a_bad_hour() -> None:
    """Ten of 40 rows passed, each at its first attempt, and 30 failed once: three of four calls may fail."""
    begun = Sample(rows=10, unresolved={1: 30})

    assert begun.needed(3) > 30
    assert Sample(rows=10).needed(3) == 8


def test_a_row_that_has_failed_hundreds_of_times_leaves_a_law() -> None:
    """As in hours of throttling: ``0.01 ** 600`` is 0 as a float, and the run ended with a division by it."""
    assert Sample(rows=1000, unresolved={600: 1}).needed(3) == 3
    assert Sample(rows=1, unresolved={10_000: 100}).needed(3) >= 3


def test_without_one_good_row_any_number_may_be_bad() -> None:
    """Only requests that no row waits for tell the rate then."""
    assert Sample(checks=10, unresolved={5: 1000}).needed(3) == 8


def test_a_sample_that_is_hardly_the_one_to_judge_by_asks_for_less() -> None:
    """The chance that it is multiplies that of the failures."""
    assert Sample(rows=10).needed(3, 0.01) == 3
    assert Sample(rows=3).needed(3, 0.01) == 10


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("rows", "others", "failures"), [(100, 50, 2), (10, 30, 1), (1, 60, 5), (200, 1, 1)])
def test_the_chance_of_a_sample_is_that_of_its_rows(rate: float, rows: int, others: int, failures: int) -> None:
    """Where all the others have failed as often, their most likely share among all rows is the one that was met."""
    chance, share = rate**failures, others / (rows + others)
    good = rows * math.log(1 - rate)
    if share > chance:  # else all of them may be good
        good += rows * math.log((1 - share) / (1 - chance))
    sample = Sample(rows=rows, failed=7, unresolved={failures: others})

    found = sample.log_likelihood(math.log(rate / (1 - rate)))

    assert found == pytest.approx(7 * math.log(rate) + good + others * math.log(max(share, chance)), abs=1e-3)


def test_all_attempts_are_the_size_of_a_sample() -> None:
    """Good, failed, and of rows that have no answer."""
    sample = Sample(rows=2, checks=3, failed=4, unresolved={2: 5})

    assert (sample.size, sample.answers) == (19, 5)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("rows", "unresolved"),
    [
        (1, {20: 5}),
        (1, {10: 5, 20: 1}),
        (5, {3: 1, 1: 2}),
        (10, {2: 1}),
        (500, {1: 10, 20: 1, 5: 1}),
    ],
)
def test_the_share_of_bad_rows_is_found_whether_few_or_most_of_them_are_bad(
    rows: int, unresolved: dict[int, int], rate: float
) -> None:
    """Of a thousand shares, and finer ones near 0, none makes the sample likelier."""
    shares = [*(number / 1000 for number in range(1000)), *(number / 100_000 for number in range(2000))]
    best = max(
        rows * (math.log1p(-rate) + math.log1p(-share))
        + sum(count * math.log(share + (1 - share) * rate**failures) for failures, count in unresolved.items())
        for share in shares
    )

    found = Sample(rows=rows, unresolved=unresolved).log_likelihood(math.log(rate / (1 - rate)))

    assert found == pytest.approx(best, abs=2e-3)


@given(
    rows=st.integers(1, 200),
    failed=st.integers(0, 300),
    unresolved=st.dictionaries(st.integers(1, 40), st.integers(1, 60), max_size=4),
    rate=st.floats(0.01, 0.9),
    share=st.floats(0.0, 0.99),
)
def test_the_share_of_bad_rows_is_what_suits_the_rate_best(
    rows: int, failed: int, unresolved: dict[int, int], rate: float, share: float
) -> None:
    """No other share makes the sample likelier."""
    sample = Sample(rows=rows, failed=failed, unresolved=unresolved)
    other = failed * math.log(rate) + rows * (math.log1p(-rate) + math.log1p(-share))
    other += sum(
        count * math.log(max(1e-300, share + (1 - share) * rate**failures)) for failures, count in unresolved.items()
    )

    assert sample.log_likelihood(math.log(rate / (1 - rate))) >= other - 1e-3 * (1 + abs(other))
