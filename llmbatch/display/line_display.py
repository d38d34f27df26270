"""What the displays that print line by line share: when a line is due.

What it does not do: words; those are in :mod:`llmbatch.display.plain` and :mod:`llmbatch.display.json_lines`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from llmbatch.core.events import CallEnded, CallSent, Event, LimitChanged, Progress, RowFinished, RunEnded, RunStarted
from llmbatch.display.safe_stream import write_line
from llmbatch.display.ticker import RunClock, Ticker
from llmbatch.report.snapshot import Snapshot
from llmbatch.report.stats import RunStats

__all__ = ["LineDisplay"]

_LEAST_GAP_S = 10.0
_LONGEST_GAP_S = 60.0
_FREQUENT = (CallSent, CallEnded, RowFinished, Progress, LimitChanged)


class LineDisplay(ABC):
    """Prints a line of progress every 10 s, growing to 60 s in a long run, and lines for what changes at once.

    ``observe`` comes from one thread; a ticker's thread prints the lines that fall due while no event comes. An
    ordinary event costs one fold and one comparison. *clock* gives the wall time of a line, seconds since the epoch.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        verbose: int = 0,
        stats: RunStats | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._wall = clock
        self._is_fed = stats is not None
        self._stats = RunStats() if stats is None else stats
        self._passes_frequent = verbose > 0
        self._due_at = float("inf")
        self._lock = threading.Lock()
        self._clock = RunClock()
        self._ticker = Ticker(self._tick, interval_s=1.0)

    @abstractmethod
    def event_lines(self, event: Event) -> list[str]:
        """The lines that *event* deserves at once; *event* is folded already."""

    @abstractmethod
    def progress_line(self, now: Snapshot) -> str:
        """Where the run stands."""

    def observe(self, event: Event) -> None:
        """Take one event."""
        if not self._is_fed:
            self._stats.observe(event)
        if isinstance(event, _FREQUENT) and not self._passes_frequent and not _is_throttled(event):
            if event.at >= self._due_at:
                self._print_if_due(event.at)
            return
        if isinstance(event, RunStarted):
            self._due_at = event.at + _LEAST_GAP_S
        with self._lock:
            if isinstance(event, RunEnded):
                self._due_at = float("inf")
                write_line(self._stream, self.progress_line(self._stats.snapshot(event.at)))
            for line in self.event_lines(event):
                write_line(self._stream, line)
        self._print_if_due(event.at)

    def show(self, text: str) -> None:
        """Print *text* as it is."""
        with self._lock:
            write_line(self._stream, text)

    def _print_if_due(self, now: float) -> None:
        with self._lock:
            if now < self._due_at:
                return
            snapshot = self._stats.snapshot(now)
            self._due_at = now + min(_LONGEST_GAP_S, max(_LEAST_GAP_S, snapshot.elapsed_s / 10))
            write_line(self._stream, self.progress_line(snapshot))

    def _tick(self) -> None:
        self._print_if_due(self._clock.now(self._stats.at))

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._ticker.stop()


def _is_throttled(event: Event) -> bool:
    """Whether a provider refused a call for its pace; the first of a kind deserves a line."""
    return isinstance(event, CallEnded) and event.verdict == "throttled"
