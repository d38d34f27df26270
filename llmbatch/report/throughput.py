"""Throughput: rows per second over the last seconds and over the whole run, in bounded memory.

Pure: times are arguments (``at``, ``now``), in seconds of one monotonic clock.
"""

from __future__ import annotations

from copy import copy

__all__ = ["Throughput"]


class Throughput:
    """Counts rows over time: per second for *span_s* seconds, for the whole run in at most *most_steps* equal steps.

    The steps start at one second and double when all are used. One writer; reading changes nothing, so any thread may
    read. Cost: a comparison and an addition per row, a little more once per second.
    """

    __slots__ = ("_count", "_counts", "_most_steps", "_second", "_seconds", "_span", "_start", "_step_s", "_steps")

    def __init__(self, start: float = 0.0, *, span_s: int = 20, most_steps: int = 64) -> None:
        self._start = start
        self._second = int(start)
        self._count = 0
        self._span = span_s
        self._seconds = [-1] * span_s  # which second each slot of the window counts
        self._counts = [0] * span_s
        self._most_steps = most_steps
        self._step_s = 1.0
        self._steps: list[int] = []

    def add(self, at: float, rows: int = 1) -> None:
        """Count one row, or so many, that ended at *at*."""
        if int(at) == self._second:
            self._count += rows
            return
        second, count = self._second, self._count
        self._counts[second % self._span] = count
        self._seconds[second % self._span] = second
        self._second, self._count = int(at), rows
        self._add_step(second, count)

    def copy(self) -> Throughput:
        """The same counts, to go on with another clock."""
        other = copy(self)
        other._seconds, other._counts, other._steps = self._seconds[:], self._counts[:], self._steps[:]
        return other

    def _add_step(self, second: int, count: int) -> None:
        elapsed = max(0.0, second - self._start)
        while elapsed >= self._most_steps * self._step_s:
            steps = self._steps
            self._steps = [sum(steps[i : i + 2]) for i in range(0, len(steps), 2)]
            self._step_s *= 2
        step, steps = int(elapsed / self._step_s), self._steps
        steps.extend([0] * (step + 1 - len(steps)))
        steps[step] += count

    def per_second(self, now: float) -> float:
        """Rows per second in the window that ends at *now*, or since the start if that is later."""
        newest = int(now)
        oldest = newest - self._span + 1
        count = self._count if oldest <= self._second <= newest else 0
        for second, rows in zip(self._seconds, self._counts, strict=True):
            if oldest <= second <= newest and second != self._second:
                count += rows
        seconds = min(now - self._start, now - oldest)
        return count / seconds if seconds > 0.05 else 0.0

    def history(self, now: float, columns: int) -> list[float]:
        """Rows per second from the start to *now* in at most *columns* columns; without the incomplete step."""
        whole = int(max(0.0, now - self._start) / self._step_s)
        if whole < 1 or columns < 1:
            return []
        each = -(-whole // columns)
        rows = [0] * -(-whole // each)
        for step, count in enumerate(self._steps[:whole]):
            rows[step // each] += count
        last = whole - each * (len(rows) - 1)
        widths = [each] * (len(rows) - 1) + [last]
        return [count / (width * self._step_s) for count, width in zip(rows, widths, strict=True)]
