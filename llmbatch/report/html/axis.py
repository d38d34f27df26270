"""The time axis of the charts: runs side by side, with long waits between them cut short."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import tzinfo

from llmbatch.report.html.text import clock, day_and_clock
from llmbatch.report.timeline import Bucket

__all__ = ["Column", "TimeAxis", "columns", "known_buckets"]

_LATEST = 250_000_000_000.0
"""Somewhat before the last instant that a date can be made of, in seconds since the epoch."""
_GAP_SHARE = 0.03
_MOST_GAPS = 50
_DAY_S = 86_400
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, _DAY_S)


def known_buckets(buckets: Iterable[Bucket]) -> list[Bucket]:
    """Those of *buckets* whose time can be shown, by time."""
    known = (one for one in buckets if 0 <= one.start < _LATEST and 0 < one.width < 1e9)
    return sorted(known, key=lambda one: one.start)


class TimeAxis:
    """Maps instants to 0 … 1. *buckets*, of which there must be one, by time, say when runs were at work.

    ``spans`` are the times that are shown. ``gaps`` lie between them: place from, place to, and the instants there.
    """

    def __init__(self, buckets: list[Bucket]) -> None:
        self.spans = _spans(buckets)
        share = min(_GAP_SHARE, 0.3 / max(1, len(self.spans) - 1))
        shown_s = sum(end - begin for begin, end in self.spans)
        unit = (1.0 - share * (len(self.spans) - 1)) / max(shown_s, 1e-9)
        self.gaps: list[tuple[float, float, float, float]] = []
        self._placed: list[tuple[float, float, float, float]] = []
        left = 0.0
        for begin, end in self.spans:
            if self._placed:
                self.gaps.append((left, left + share, self._placed[-1][1], begin))
                left += share
            right = left + (end - begin) * unit
            self._placed.append((begin, end, left, right))
            left = right

    @property
    def began(self) -> float:
        """The first instant."""
        return self.spans[0][0]

    @property
    def ended(self) -> float:
        """The last instant."""
        return self.spans[-1][1]

    def place(self, wall: float) -> float:
        """Where *wall* is, 0 to 1."""
        before = 0.0
        for begin, end, left, right in self._placed:
            if wall < begin:
                return before
            if wall <= end:
                return min(1.0, left + (right - left) * (wall - begin) / max(end - begin, 1e-9))
            before = right
        return min(1.0, before)

    def instant(self, place: float) -> float:
        """The instant at *place*."""
        found = self.began
        for begin, end, left, right in self._placed:
            if place < left:
                break
            found = end if place > right else begin + (end - begin) * (place - left) / max(right - left, 1e-12)
        return found

    def ticks(self, zone: tzinfo | None, most: int = 8) -> list[tuple[float, str]]:
        """About *most* places with their labels, far enough from each other."""
        shown_s = sum(end - begin for begin, end in self.spans)
        step = next((step for step in _STEPS_S if shown_s / step <= most), 0)
        step = step or _DAY_S * int(-(-shown_s // (_DAY_S * most)))
        has_days = self.ended - self.began >= _DAY_S
        found: list[tuple[float, str]] = []
        for begin, end in self.spans:
            at = -(-begin // step) * step
            while at <= end:
                place = self.place(at)
                if not found or place - found[-1][0] >= 0.8 / most:
                    label = day_and_clock(at, zone)[5:] if has_days else clock(at, zone, seconds=step < 60)
                    found.append((place, label))
                at += step
        return found


def _spans(buckets: list[Bucket]) -> list[tuple[float, float]]:
    """The times of work, of which those with a short wait between them are joined."""
    spans: list[tuple[float, float]] = []
    for one in buckets:
        end = one.start + one.width
        if spans and one.start <= spans[-1][1] + 2 * one.width:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((one.start, end))
    shown_s = sum(end - begin for begin, end in spans)
    waits = sorted((spans[at + 1][0] - spans[at][1], at) for at in range(len(spans) - 1))
    cut = set()
    for number, (wait, at) in enumerate(waits):
        if wait > shown_s * _GAP_SHARE and len(waits) - number <= _MOST_GAPS:
            cut.add(at)
        else:
            shown_s += wait
    joined = [spans[0]]
    for at, span in enumerate(spans[1:]):
        if at in cut:
            joined.append(span)
        else:
            joined[-1] = (joined[-1][0], span[1])
    return joined


@dataclass(slots=True)
class Column:
    """One column of the charts: its part of the axis, and what happened in its ``seconds`` of work."""

    left: float
    right: float
    begin: float
    seconds: float
    sums: dict[str, float]

    def rate(self, name: str) -> float:
        """A sum per second."""
        return self.sums.get(name, 0.0) / self.seconds if self.seconds > 0 else 0.0


_SUMS = frozenset({"success", "failed", "calls", "retries", "throttled", "input_tokens", "output_tokens", "cost_usd"})
_HIGHEST = tuple(
    item.name for item in fields(Bucket) if item.name not in _SUMS | {"start", "width", "p50_s", "good_calls"}
)


def columns(buckets: list[Bucket], axis: TimeAxis, most: int) -> list[Column]:
    """*buckets* shared out to at most *most* columns of equal width: sums by their time, else the highest values."""
    number = max(1, min(most, len(buckets)))
    found = [Column(at / number, (at + 1) / number, axis.instant(at / number), 0.0, {}) for at in range(number)]
    for bucket in buckets:
        left, right = axis.place(bucket.start), axis.place(bucket.start + bucket.width)
        first = min(number - 1, int(left * number))
        last = min(number - 1, max(first, int(right * number - 1e-9)))
        for column in found[first : last + 1]:
            inside = min(right, column.right) - max(left, column.left)
            share = inside / (right - left) if right > left else 1.0
            if share > 0:
                column.seconds += bucket.width * share
                # At the seam of two columns a highest value counts for the one that has more of the time.
                is_most = inside >= 0.5 * min(right - left, column.right - column.left) - 1e-12
                _absorb(column.sums, bucket, share, _HIGHEST if is_most else ())
    return found


def _absorb(sums: dict[str, float], bucket: Bucket, share: float, highest: tuple[str, ...]) -> None:
    good = bucket.good_calls * share
    if good > 0:
        known = sums.get("good_calls", 0.0)
        sums["p50_s"] = (sums.get("p50_s", 0.0) * known + bucket.p50_s * good) / (known + good)
        sums["good_calls"] = known + good
    for name in _SUMS:
        sums[name] = sums.get(name, 0.0) + getattr(bucket, name) * share
    for name in highest:
        sums[name] = max(sums.get(name, 0.0), float(getattr(bucket, name)))
