"""What open pages are sent of the charts over time: all of them first, then each second what is new."""

from __future__ import annotations

from typing import Final

from llmbatch.core.raw_json import JSON
from llmbatch.report.html.axis import known_buckets
from llmbatch.report.html.chart_data import bucket_rows, chart_data, chart_frame, shade_rows
from llmbatch.report.html.data import RunReport
from llmbatch.report.timeline import Bucket

__all__ = ["LiveChart"]

_MOST_NEWS: Final = 600
"""After so many buckets pages get all again, joined as the history has them by then: a page that is open for a week
holds no more than one that was just opened."""


class LiveChart:
    """The charts of one page as those who watch have them. One thread.

    Cost: a tenth of a millisecond for a new bucket, whatever the length of the history.
    """

    def __init__(self) -> None:
        self._last_start = 0.0
        self._sent = 0
        self._spans: list[list[float]] = []
        self._frame: dict[str, JSON] = {}

    def news(self, report: RunReport, *, is_whole: bool = False) -> JSON:
        """What is new since the last call, or all; None where there is no history."""
        timeline = report.history.timeline
        newest = timeline.newest
        if newest is None:
            return None
        newer = known_buckets(timeline.since(self._last_start))
        self._sent += len(newer)
        # The first ones, and those of a file that was replaced, need all that charts are made from.
        is_new = not self._last_start or newest.start < self._last_start
        self._last_start = max(newest.start, 0.0)
        if is_whole or is_new or self._sent > _MOST_NEWS:
            self._sent, self._spans = 0, []
            return chart_data(report)
        if not self._extend(newer):
            buckets = known_buckets(timeline.buckets())
            if not buckets:
                return None
            self._frame = chart_frame(report, buckets)
            self._spans = [[begin, end] for begin, end, *_ in _pairs(self._frame["spans"])]
        began, ended = self._spans[0][0], self._spans[-1][1]
        return {
            **self._frame,
            "spans": [list[JSON](span) for span in self._spans],
            "shades": shade_rows(report, began, ended),
            "buckets": bucket_rows(newer),
        }

    def _extend(self, newer: list[Bucket]) -> bool:
        """Lengthen the last time of work by *newer*; False where that is not what happened."""
        if not self._spans:
            return False
        for bucket in newer:
            if bucket.start > self._spans[-1][1] + 2 * bucket.width:
                return False
            self._spans[-1][1] = max(self._spans[-1][1], round(bucket.start + bucket.width, 2))
        return True


def _pairs(spans: JSON) -> list[list[float]]:
    """The spans of a frame, which are pairs of numbers."""
    pairs = spans if isinstance(spans, list) else []
    return [[float(at) for at in pair if isinstance(at, (int, float))] for pair in pairs if isinstance(pair, list)]
