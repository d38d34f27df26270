"""The latest attempts of many rows: do rows fail, or is it one that does?"""

from __future__ import annotations

from collections import Counter, deque

__all__ = ["Recent"]


class Recent:
    """The latest attempts on a route, to tell elevated errors from one bad row."""

    def __init__(self, size: int) -> None:
        self._window: deque[tuple[int, bool]] = deque()
        self._failed: Counter[int] = Counter()
        self._excused: set[int] = set()
        self._size = size

    def add(self, row: int, failed: bool) -> None:
        """Note one attempt of *row*."""
        self._window.append((row, failed))
        if failed:
            self._failed[row] += 1
        if len(self._window) > self._size:
            old, had_failed = self._window.popleft()
            if had_failed:
                self._failed[old] -= 1
                if not self._failed[old]:
                    del self._failed[old]
                    self._excused.discard(old)

    def excuse(self, row: int) -> None:
        """The row fails again and again: that is its own problem, and no sign of elevated errors."""
        if row in self._failed:
            self._excused.add(row)

    @property
    def failing(self) -> float:
        """The rows that failed over all attempts: 0 to 1."""
        return len(self._failed) / len(self._window) if self._window else 0.0

    def others_failing(self, row: int) -> float:
        """The share of the other rows' attempts that failed, a row's repeated failures counted once."""
        own = self._failed.get(row, 0)
        others = len(self._window) - own
        failing = len(self._failed) - len(self._excused)
        if own and row not in self._excused:
            failing -= 1
        return failing / others if others > 0 else 0.0
