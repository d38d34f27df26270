"""The sidecar with the history of an output, ``o.events.jsonl`` next to ``o.jsonl``: what reports and dashboards show.

It may be deleted at any time, and failing to write it never matters. A thread of its own samples the run once a second
and writes the file every quarter of a minute, when an outage begins or ends, and at the end; a kill loses that much.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from llmbatch.core.events import ROW_EVENTS, CallEnded, Event, RunEnded, RunStarted
from llmbatch.display.status_file import replace_sidecar
from llmbatch.display.ticker import RunClock, Ticker
from llmbatch.outputs.deferred import history_path
from llmbatch.report.history import History
from llmbatch.report.stats import RunStats
from llmbatch.storage.sidecar import open_sidecar

__all__ = ["HistoryFile", "read_history"]

_WRITE_EVERY_S = 15.0
_MOST_BYTES = 8_000_000


def read_history(output: Path) -> History:
    """The history of *output*; an empty one where there is no sidecar, or none that can be read."""
    try:
        with open_sidecar(history_path(output)) as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return History()
    return History(text.split("\n"))


class HistoryFile:
    """Keeps the history of *output*. *stats*: numbers that something else feeds first; *afresh* drops what was there.

    *output* None, for standard output: it is kept in memory only, for a dashboard.
    Nothing is written before ``RunStarted``, when the run has its lock. *command* is what to type to run it again.
    """

    skips = ROW_EVENTS - {CallEnded}
    """The statistics have them, and are sampled; of calls, failures are examples."""

    def __init__(
        self,
        output: Path | None,
        *,
        command: str,
        stats: RunStats,
        afresh: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output
        self._path = None if output is None else history_path(output)
        self._afresh = afresh or output is None or not output.exists()
        self._command = command
        self._stats = stats
        self._wall = clock
        self._written = 0.0
        self._run_clock = RunClock()
        self._lock = threading.Lock()
        self._ticker = Ticker(self._tick, interval_s=1.0)
        self.history = History()

    def observe(self, event: Event) -> None:
        """Take one event; those that end an outage or the run are written down at once."""
        if type(event) is CallEnded and event.verdict == "success":
            return
        wall = self._wall()
        if isinstance(event, RunStarted):
            with self._lock:
                seen = None
                if self._output is None or self._afresh:
                    self.history = History()
                else:
                    self.history = read_history(self._output)
                    with contextlib.suppress(OSError):
                        seen = history_path(self._output).stat().st_mtime if self.history.runs else None
                self.history.begin(event, wall, command=self._command, last_seen=seen)
        if self._stats.started is None:
            return
        with self._lock:
            is_due = self.history.observe(event, wall, self._stats)
            if isinstance(event, RunEnded):
                self.history.sample(wall, self._stats, event.at)
        if is_due:
            self.write()

    def copy(self) -> tuple[History, float]:
        """The history so far, which does not change any more, and the instant on the events' clock."""
        with self._lock:
            return self.history.copy(), self._run_clock.now(self._stats.at)

    def write(self) -> None:
        """Write the sidecar; an ``OSError`` is forgotten."""
        if self._path is None:
            return
        with self._lock, contextlib.suppress(OSError):
            self._written = self._wall()
            replace_sidecar(self._path, "".join(line + "\n" for line in self.history.lines(self._stats)).encode())

    def _tick(self) -> None:
        if self._stats.started is None or self._stats.ended is not None:
            return
        wall = self._wall()
        with self._lock:
            self.history.sample(wall, self._stats, self._run_clock.now(self._stats.at))
        if wall - self._written >= _WRITE_EVERY_S:
            self.write()

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._ticker.stop()
        ended = self._stats.ended
        if self._path is None or self._output is None:
            return
        if ended is not None and ended.exit_code == 2 and len(self.history.runs) <= 1 and not self._output.exists():
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
