"""The latency histogram against sorted values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.report.histogram import LatencyHistogram


@settings(max_examples=100)
@given(st.lists(st.floats(0.001, 10_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_within_five_percent(values: list[float], share: float) -> None:
    """A percentile differs from the exact one by at most the half width of a bucket."""
    histogram = LatencyHistogram()

    for value in values:
        histogram.add(value)

    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("odd", [0.0, -1.0, float("nan"), float("inf"), 1e12])
def test_odd_durations_are_taken(odd: float) -> None:
    """A clock that jumps gives nonsense; it lands in the first or the last bucket and breaks nothing."""
    histogram = LatencyHistogram()

    histogram.add(odd)

    value = histogram.quantile(0.5)
    assert value is not None
    assert math.isfinite(value)


def test_an_empty_histogram_has_no_percentile() -> None:
    """Without values there is nothing to say."""
    assert LatencyHistogram().quantile(0.5) is None
