"""What happened when: a run's numbers, sampled about once a second, in time buckets that double as they age.

The last 256 buckets are one sample long, the 256 before them two seconds wide, then four, and so on: a week has about
3,000. Sampling costs the run nothing per row. Pure: wall time is handed in, in seconds since the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llmbatch.core.raw_json import JSON
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.snapshot import Snapshot

__all__ = ["Bucket", "Timeline"]

BUCKETS_PER_LEVEL = 256
MOST_JOINED = 1000
_MOST_LEVELS = 24
"""The last level is 2^23 seconds wide."""

_SHORTEST_S = 0.5
"""What is sampled sooner, as at the end of a run, is part of the bucket before it."""

_LARGEST = 1e18

_SUMS = ("success", "failed", "calls", "retries", "throttled", "input_tokens", "output_tokens", "cost_usd")
_HIGHEST = ("in_flight", "parked", "limit", "open_circuits", "p95_s")
_FRACTIONS = frozenset({"cost_usd", "p50_s", "p95_s"})
_MEMBERS = (*_SUMS, *_HIGHEST, "p50_s", "good_calls")


@dataclass(slots=True)
class Bucket:
    """*width* seconds from *start* (seconds since the epoch).

    Rows that ended (``success``, ``failed``), calls that were sent (``calls``, ``retries`` among them), refusals that
    asked for a slower pace (``throttled``), tokens and US$ are those of its time. ``in_flight``, ``parked``, ``limit``
    (0: none known) and ``open_circuits`` are the highest values that were sampled. ``p50_s`` and ``p95_s`` are
    latencies of its ``good_calls``; of buckets that were joined, the mean of the first and the highest of the second.
    """

    start: float
    width: float
    success: int = 0
    failed: int = 0
    calls: int = 0
    retries: int = 0
    throttled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    in_flight: int = 0
    parked: int = 0
    limit: int = 0
    open_circuits: int = 0
    good_calls: int = 0
    p50_s: float = 0.0
    p95_s: float = 0.0

    def absorb(self, other: Bucket) -> None:
        """Join a bucket whose time lies within this one's."""
        good = self.good_calls + other.good_calls
        if good:
            self.p50_s = (self.p50_s * self.good_calls + other.p50_s * other.good_calls) / good
        self.good_calls = good
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _HIGHEST:
            setattr(self, name, max(getattr(self, name), getattr(other, name)))

    def add(self, other: Bucket) -> None:
        """Join a bucket of another process and of the same time: what was highest in each was there at once."""
        highest = {name: getattr(self, name) + getattr(other, name) for name in _HIGHEST if name != "p95_s"}
        self.absorb(other)
        for name, value in highest.items():
            setattr(self, name, value)

    def share(self, at: int, count: int) -> Bucket:
        """Part *at* (from 0) of *count* equal parts; parts of a whole number add up to it."""
        if count == 1:
            return self
        part = replace(self, start=self.start + at * self.width / count, width=self.width / count)
        for name in (*_SUMS, "good_calls"):
            value = getattr(self, name)
            split = value / count if name in _FRACTIONS else value * (at + 1) // count - value * at // count
            setattr(part, name, split)
        return part

    def to_json(self) -> dict[str, JSON]:
        """Its members but those that are 0; fractions are rounded to what a picture shows."""
        value: dict[str, JSON] = {"start": round(self.start, 3), "width": round(self.width, 3)}
        for name in _MEMBERS:
            number = getattr(self, name)
            if number:
                value[name] = round(number, 8) if name in _FRACTIONS else number
        return value

    @classmethod
    def from_json(cls, value: JSON) -> Bucket | None:
        """The bucket that :meth:`to_json` gave; None if *value* is none."""
        if not isinstance(value, dict):
            return None
        start, width = _number(value.get("start")), _number(value.get("width"))
        if start is None or width is None or width <= 0:
            return None
        bucket = cls(start, width)
        for name in _MEMBERS:
            number = _number(value.get(name, 0))
            if number is None or number < 0:
                return None
            setattr(bucket, name, number if name in _FRACTIONS else int(number))
        return bucket


class Timeline:
    """Buckets of all runs on one output. *kept*: those of earlier runs, from :meth:`buckets`.

    One writer; a reader in another thread may miss the newest bucket.
    """

    def __init__(self, kept: Iterable[Bucket] = ()) -> None:
        self._levels: list[list[Bucket]] = [[]]
        self._before: Snapshot | None = None
        self._latencies = LatencyHistogram()
        self._at: float | None = None
        for bucket in sorted(kept, key=lambda one: one.start):
            self._keep(bucket)

    def __repr__(self) -> str:
        return f"<Timeline {sum(map(len, self._levels))} buckets in {len(self._levels)} levels>"

    @classmethod
    def joined(cls, timelines: Sequence[Timeline]) -> Timeline:
        """What happened in several processes that ran side by side, in buckets of equal width: at most a thousand.

        A bucket counts where it begins, and one that is wider than these in all that it covers.
        """
        parts = [list(timeline.buckets()) for timeline in timelines]
        every = [bucket for part in parts for bucket in part]
        if not every:
            return cls()
        first = min(bucket.start for bucket in every)
        last = max(bucket.start + bucket.width for bucket in every)
        width = 2.0 ** max(0, math.ceil(math.log2(max(1.0, (last - first) / MOST_JOINED))))
        sums: dict[int, Bucket] = {}
        for part in parts:
            cells: dict[int, Bucket] = {}
            for bucket in part:
                covered = max(1, round(bucket.width / width))
                begin = int((bucket.start - first) / width)
                for at in range(covered):
                    cell = cells.setdefault(begin + at, Bucket(first + (begin + at) * width, width))
                    cell.absorb(bucket.share(at, covered))
            for key, cell in cells.items():
                sums.setdefault(key, Bucket(cell.start, width)).add(cell)
        whole = cls()
        whole._levels = [[sums[key] for key in sorted(sums)]]
        return whole

    def copy(self) -> Timeline:
        """The buckets as they are now, which are shared."""
        copied = Timeline()
        copied._levels = [list(level) for level in self._levels]
        return copied

    def begin(self, wall: float) -> None:
        """A run begins at *wall*: what is sampled first has happened since then."""
        self._before, self._latencies, self._at = None, LatencyHistogram(), wall

    def sample(self, wall: float, now: Snapshot, latencies: LatencyHistogram) -> None:
        """Add the time since the last sample: *now* and *latencies* (of successful calls) count from the run's start.

        Nothing is added where no time has passed, as when the wall clock was set back.
        """
        began = wall - 1.0 if self._at is None else self._at
        if wall <= began:
            return
        before, recent = self._before, latencies.since(self._latencies)
        bucket = Bucket(began, wall - began)
        bucket.success = now.this_run_success - (before.this_run_success if before else 0)
        bucket.failed = now.this_run_failed - (before.this_run_failed if before else 0)
        bucket.calls = now.calls - (before.calls if before else 0)
        bucket.retries = now.retries - (before.retries if before else 0)
        bucket.throttled = now.throttles - (before.throttles if before else 0)
        bucket.input_tokens = now.input_tokens - (before.input_tokens if before else 0)
        bucket.output_tokens = now.output_tokens - (before.output_tokens if before else 0)
        bucket.cost_usd = now.cost - (before.cost if before else 0.0)
        bucket.in_flight, bucket.parked = now.in_flight, now.parked
        bucket.limit = sum(route.limit or 0 for route in now.routes)
        bucket.open_circuits = sum(route.state != "closed" for route in now.routes)
        bucket.good_calls = recent.count
        bucket.p50_s, bucket.p95_s = recent.quantile(0.5) or 0.0, recent.quantile(0.95) or 0.0
        self._before, self._latencies, self._at = now, latencies.copy(), wall
        last = self._levels[0][-1] if self._levels[0] else None
        if bucket.width < _SHORTEST_S and last is not None and abs(last.start + last.width - began) < 1e-6:
            # A row in the last hundredth of a second would be drawn as a hundred rows per second.
            whole = replace(last, width=wall - last.start)
            whole.absorb(bucket)
            self._levels[0][-1] = whole
            return
        self._keep(bucket)

    def _keep(self, bucket: Bucket) -> None:
        at = 0 if bucket.width < 1.5 else min(_MOST_LEVELS - 1, round(math.log2(bucket.width)))
        while len(self._levels) <= at:
            self._levels.append([])
        self._levels[at].append(bucket)
        while len(self._levels[at]) > BUCKETS_PER_LEVEL and at < _MOST_LEVELS - 1:
            self._fold(at)
            at += 1

    def _fold(self, at: int) -> None:
        """Fold the oldest bucket of a level into the last one of the next level, or begin one there."""
        oldest = self._levels[at].pop(0)
        if len(self._levels) == at + 1:
            self._levels.append([])
        wider, width = self._levels[at + 1], 2.0 ** (at + 1)
        start = math.floor(oldest.start / width) * width
        if wider and wider[-1].start == start:
            wider[-1].absorb(oldest)
            return
        begun = Bucket(start, width)
        begun.absorb(oldest)
        wider.append(begun)

    def calls_of_period(self, seconds: float) -> tuple[int, float]:
        """How many calls were sent in the last period of *seconds*, and when it began; 0 if none was.

        A period begins with the first call after the one before it has ended.
        """
        calls, began = 0, -math.inf
        for bucket in self.buckets():
            if bucket.calls and bucket.start >= began + seconds:
                calls, began = 0, bucket.start
            calls += bucket.calls
        return calls, began

    @property
    def newest(self) -> Bucket | None:
        """The bucket that began last."""
        return max((level[-1] for level in self._levels if level), key=lambda one: one.start, default=None)

    def since(self, start: float) -> list[Bucket]:
        """The buckets that began after *start*, by time. Cost: by their number."""
        found: list[Bucket] = []
        for level in self._levels:
            for bucket in reversed(level):
                if bucket.start <= start:
                    break
                found.append(bucket)
        return sorted(found, key=lambda one: one.start)

    def buckets(self) -> Iterator[Bucket]:
        """All buckets by time; those at the seam of two widths may overlap."""
        return iter(sorted((bucket for level in self._levels for bucket in level), key=lambda one: one.start))


def _number(value: JSON) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # No number of a run is larger, and sums of these are numbers too.
    return float(value) if -_LARGEST <= value <= _LARGEST else None
