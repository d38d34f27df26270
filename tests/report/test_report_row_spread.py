"""The slowest rows and the distribution of tokens, in bounded memory."""

from __future__ import annotations

import random
from itertools import pairwise

from llmbatch.core.rows import Result, encode_line
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.output_lines import OutputLines
from llmbatch.report.row_spread import RowSpread, TokenHistogram


def test_the_slowest_rows_are_found_by_one_pass_over_the_lines() -> None:
    """In order, with number, id and outcome; of equally slow ones the first."""
    numbers = list(range(1, 401))
    random.Random(1).shuffle(numbers)
    spread = RowSpread()
    lines = OutputLines(spread)

    for number in numbers:
        result = Result(number, f"{number:016x}", "success", f'"r,{number}"', text="x", model="p/m", attempts=1)
        result.latency_s = float(min(number, 399))
        lines.add(encode_line(result))

    slowest = spread.slowest()
    first = next(number for number in numbers if number >= 399)
    assert [row.number for row in slowest][:3] == [first, 799 - first, 398]
    assert [row.latency_s for row in slowest] == [399.0, *(float(n) for n in range(399, 385, -1))]
    assert slowest[2].id == "r,398"
    assert slowest[2].route == "p/m"
    assert not slowest[0].failed


def test_tokens_are_counted_in_ranges_that_touch() -> None:
    """Each value is in its range; what cannot be a count is in the nearest."""
    histogram = TokenHistogram()
    values = [0, 1, 2, 3, 5, 6, 8, 95, 96, 1000, 131_072]
    for value in values:
        histogram.add(value)

    bars = histogram.bars()
    assert sum(rows for _, _, rows in bars) == histogram.count == len(values)
    assert all(before[1] == after[0] for before, after in pairwise(bars))
    for low, above, rows in bars:
        assert rows == sum(low <= value < above for value in values)
    assert histogram.total == sum(values)
    histogram.add(10**400)
    histogram.add(-4)
    assert histogram.bars()[0] == (0, 1, 2)
    assert histogram.bars()[-1][2] == 1


def test_latencies_of_routes_are_joined_and_told_in_ranges() -> None:
    """No value is lost, and the ranges hold them."""
    one, other = LatencyHistogram(), LatencyHistogram()
    for value in (0.1, 0.2, 0.25):
        one.add(value)
    other.add(30.0)
    one.include(other)

    bars = one.bars()
    assert one.count == sum(rows for _, _, rows in bars) == 4
    assert bars[0][0] <= 0.1 < bars[0][1]
    assert bars[-1][0] <= 30.0 < bars[-1][1]
    assert LatencyHistogram().bars() == []


def test_a_cost_that_cannot_be_one_is_unknown() -> None:
    """Of lines that somebody has edited: nothing of that can be added up."""
    line = encode_line(Result(1, f"{1:016x}", "success", '"a"', text="x", model="p/m", attempts=1))
    for cost in (b"-1", b"1e40", b"1e400", b"." * 30):
        lines = OutputLines()
        lines.add(line.replace(b'"cost_usd":null', b'"cost_usd":' + cost))

        assert [route.cost_usd for route in lines.routes] == [None], cost
