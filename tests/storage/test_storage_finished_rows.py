"""Which rows are finished."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.storage.finished_rows import FAILED, SUCCESS, FinishedRows, fingerprint

rows = st.integers(1, 20_000) | st.integers(1, 10**10)


@given(st.lists(st.tuples(rows, st.integers(0, 2**64 - 1), st.booleans()), max_size=40), st.integers(1, 20_000))
def test_finished_rows_are_a_dict_of_rows(entries: list[tuple[int, int, bool]], first: int) -> None:
    """Against a plain dict: membership, hashes, counts, ranges; a row enters once."""
    finished = FinishedRows()
    naive: dict[int, tuple[str, bool]] = {}

    for number, digest, good in entries:
        entered = finished.add(number, f"{digest:016x}", "success" if good else "failed")
        assert entered == (number not in naive)
        naive.setdefault(number, (f"{digest:016x}", good))

    assert len(finished) == len(naive)
    assert finished.success == sum(good for _, good in naive.values())
    assert finished.failed == len(naive) - finished.success
    assert finished.last == max(naive, default=0)
    for number in [*naive, first]:
        assert finished.is_done(number) == (number in naive)
        if number in naive:
            assert finished.matches(number, naive[number][0])
            assert not finished.matches(number, f"{int(naive[number][0], 16) ^ (0xF0 << 56):016x}")
    assert list(finished.fingerprints_of(first, 5000)) == [
        fingerprint(naive[number][0]) if number in naive else 0 for number in range(first, first + 5000)
    ]
    assert finished.are_done(first, 2) == (first in naive and first + 1 in naive)


def test_entering_many_stops_at_the_first_that_is_there() -> None:
    """The rows before it are entered, and counted."""
    finished = FinishedRows()
    finished.add(3, "0" * 16, "success")

    entered = finished.add_all((1, 2, 3, 4), (1, 2, 3, 4), (SUCCESS, FAILED, SUCCESS, SUCCESS))

    assert entered == 2
    assert (finished.success, finished.failed, finished.last) == (2, 1, 3)
    assert not finished.is_done(4)


@pytest.mark.parametrize("number", [0, -1, -5000, 10**12])
def test_an_absurd_row_number_is_refused(number: int) -> None:
    """What is no row number of ours is an error and changes nothing."""
    finished = FinishedRows()
    finished.add(1, "0" * 16, "success")

    with pytest.raises(ValueError, match="not a row number"):
        finished.add(number, "0" * 16, "success")

    assert (len(finished), finished.last) == (1, 1)


@pytest.mark.slow
def test_far_scattered_rows_are_refused_before_they_take_the_memory() -> None:
    """Rows that lie millions apart cost a bounded amount, then an error. Slow: it goes to that bound, 70 MB."""
    finished = FinishedRows()
    scattered = range(1, 10**10, 1_000_000)

    with pytest.raises(ValueError, match="too far"):
        finished.add_all(scattered, scattered, [SUCCESS] * len(scattered))

    assert len(finished) < 5000


def test_a_row_takes_about_four_bytes() -> None:
    """Five pages full of rows take four bytes a row, and little beside."""
    numbers, digests, statuses = range(1, 20_480), range(20_479), [SUCCESS] * 20_479
    finished = FinishedRows()

    tracemalloc.start()
    finished.add_all(numbers, digests, statuses)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert 20_480 * 4 <= taken < 20_480 * 5
