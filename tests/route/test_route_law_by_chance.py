"""The law by its number: how many good rows end as failed by chance, and how soon bad ones do. Seeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest

from llmbatch.core.calls import Outcome
from llmbatch.route.evidence import Evidence

FAILED = Outcome("failure", retry=True, code="http_500")

ROWS = 200_000


class Traffic:
    """Rows that go one attempt at a time, several dozen of them in turn, and fail by chance or always."""

    def __init__(self, seed: int, error_rate: Callable[[int], float], *, bad_each: int = 0, together: int = 40) -> None:
        self.evidence = Evidence(3)
        self.failed: list[int] = []
        """Good rows that ended as failed."""
        self.bad: list[tuple[int, int]] = []
        """Proven failures of each bad row that ended, and how many the law asked for then."""
        self._chance = Random(seed).random
        self._rate = error_rate
        self._bad_each = bad_each
        self._together = together

    def run(self, rows: int) -> None:
        """Until each has ended."""
        waiting: list[int] = []
        sent = row = 0
        while row < rows or waiting:
            while len(waiting) < self._together and row < rows:
                row += 1
                waiting.append(row)
            left = []
            for number in waiting:
                sent += 1
                bad = bool(self._bad_each) and number % self._bad_each == 0
                if bad or self._chance() < self._rate(number):
                    record = self.evidence.failed(number, sent, FAILED)
                    if record.sent_alone or not self.evidence.is_spent(record):
                        left.append(number)
                else:
                    self.evidence.succeeded(number, sent)
                    for other, _ in self.evidence.prove(sent):
                        self._judge(other)
            if row == rows:  # the smallest request passes while nothing but failed rows is left
                sent += 1
                for other, _ in self.evidence.prove(sent):
                    self._judge(other)
            waiting = [number for number in left if number in self.evidence.records]

    def _judge(self, row: int) -> None:
        record = self.evidence.records[row]
        if not self.evidence.is_spent(record):
            return
        if self._bad_each and row % self._bad_each == 0:
            self.bad.append((record.proven, self.evidence.needed(record)))
        else:
            self.failed.append(row)
        self.evidence.ended(row)


def most_by_chance(rows: int) -> int:
    """How many of *rows* may end at one in 100,000, in all but one of a million runs: the tail of Poisson's law."""
    mean = rows * 1e-5
    count, term, rest = 0, math.exp(-mean), 1.0
    while rest > 1e-6:
        rest -= term
        count += 1
        term *= mean / count
    return count - 1


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("percent", "rows"),
    [
        *((1, ROWS), (5, ROWS), (10, ROWS), (25, ROWS // 2), (50, ROWS // 20), (80, ROWS // 200)),
        pytest.param(25, ROWS, marks=pytest.mark.long),
        pytest.param(50, ROWS // 2, marks=pytest.mark.long),
        pytest.param(80, ROWS // 20, marks=pytest.mark.long),
    ],
)
def test_good_rows_end_as_failed_less_than_once_in_100_000(percent: int, rows: int) -> None:
    """Whatever the rate of random errors. Slow: as many attempts as the law needs to settle."""
    traffic = Traffic(percent, lambda _: percent / 100)

    traffic.run(rows)

    assert len(traffic.failed) <= most_by_chance(rows)
    assert traffic.evidence.rate.value == pytest.approx(percent / 100, rel=0.25)


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("percent", "most", "rows"),
    [
        *((1, 5, 20_000), (5, 6, 10_000), (10, 8, 10_000), (25, 13, 10_000)),
        *(pytest.param(*one, 20_000, marks=pytest.mark.long) for one in ((5, 6), (10, 8), (25, 13), (50, 23))),
    ],
)
def test_bad_rows_end_after_as_few_failures_as_the_law_allows(percent: int, most: int, rows: int) -> None:
    """One row in twenty is bad: each ends when the law asks, and its failures raise no rate. Slow: up to 20,000 rows.

    So few bad rows get one attempt more; whether they are few is decided anew with each that ends.
    """
    traffic = Traffic(percent, lambda _: percent / 100, bad_each=20)

    traffic.run(rows)

    assert len(traffic.bad) >= rows // 20 - 5  # the last ones are still at it
    # The first ones failed before it was known how seldom good rows do; what is asked falls now and then for others.
    over = [proven - needed for proven, needed in traffic.bad[200:]]
    assert max(over) <= 3
    assert sum(more > 1 for more in over) <= len(over) // 50
    later = [proven for proven, _ in traffic.bad[200:]]
    assert sorted(later)[len(later) * 99 // 100] <= most
    assert len(traffic.failed) <= most_by_chance(rows)


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("rows", [ROWS // 10, pytest.param(ROWS, marks=pytest.mark.long)])
def test_an_hour_of_errors_that_begins_at_once_fails_hardly_a_row(rows: int) -> None:
    """From none to half of all calls, again and again: at most two rows in 10,000. Slow: up to 200,000 rows."""
    traffic = Traffic(7, lambda row: 0.5 if row // 5000 % 2 else 0.0)

    traffic.run(rows)

    assert len(traffic.failed) <= 2 * rows / 10_000


def test_what_chance_may_do_is_bounded_by_poisson_s_law() -> None:
    """Two rows of 200,000 on average; more than twelve in less than one of a million runs."""
    assert most_by_chance(ROWS) == 12
    assert most_by_chance(40_000) == 6
