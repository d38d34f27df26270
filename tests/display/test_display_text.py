"""Durations, counts and safe text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.events import CircuitChanged, RowParked, RunStarted, Throttled
from llmbatch.display.phrases import count, duration, plural, rate, shown, waits_for
from llmbatch.report.stats import RunStats


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (3.24, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m00s"),
        (62, "1m02s"),
        (3599.7, "1h00m"),
        (11220, "3h07m"),
        (187200, "2d04h"),
        (None, "?"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_durations_carry_their_unit(seconds: float | None, text: str) -> None:
    """The unit grows with the length, two parts at most, and what is unknown is said to be."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9812, "9,812"), (99_999, "99,999"), (124_500, "124k"), (1_234_567, "1.23M"), (2 * 10**9, "2G")],
)
def test_counts_stay_short(number: int, text: str) -> None:
    """Large counts are rounded with a sign for the size."""
    assert count(number) == text


def test_rates_and_plurals_read_well() -> None:
    """A slow rate is told by the minute; one row is not one rows."""
    assert [rate(0.0), rate(0.1), rate(38.24), rate(9876.5)] == [
        "0.0 rows/s",
        "6.0 rows/min",
        "38.2 rows/s",
        "9,876 rows/s",
    ]
    assert [plural(1, "row"), plural(2000, "row"), plural(2, "retry", "retries")] == [
        "1 row",
        "2,000 rows",
        "2 retries",
    ]


@given(st.text(), st.one_of(st.none(), st.integers(1, 50)))
def test_shown_text_is_printable(text: str, limit: int | None) -> None:
    """No text keeps a character that a terminal acts on, and printable text within the limit stays as it is."""
    line = shown(text, limit)

    assert line.isprintable()
    if text.isprintable() and (limit is None or len(text) <= limit):
        assert line == text


def test_what_a_run_waits_for_is_a_phrase() -> None:
    """An open circuit names its route and the next probe; a pause names who asked for it; else there is nothing."""
    stats = RunStats()
    stats.observe(RunStarted(0.0, "i", "o", 4, 0, 0, None))

    assert waits_for(stats.snapshot()) is None
    stats.observe(Throttled(0.0, "b/m", 20.0, "rate_limit"))
    assert (
        waits_for(stats.snapshot(8.0)) == "the slower pace that b/m asked for (provider's wait, 12 s left: rate_limit)"
    )
    stats.observe(CircuitChanged(1.0, "a/m", "closed", "open", "down", 4.0))
    stats.observe(CircuitChanged(1.0, "c/m", "closed", "open", "down", 4.0))
    assert waits_for(stats.snapshot(2.0)) == "a/m to answer again, probe in 3.0 s (and 1 more route)"
    # No row of them is left that could probe: the run waits for the other route.
    told = waits_for(stats.snapshot(12.0))
    assert told == "the slower pace that b/m asked for (provider's wait, 8.0 s left: rate_limit)"
    stats.observe(RowParked(12.0, "c/m", 1, 9.0, "open", True))
    assert waits_for(stats.snapshot(12.0)) == "c/m to answer again, probe due"
