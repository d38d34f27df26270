"""Where the values of a live page come from: a run of this process, or the files of an output."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from llmbatch.core.errors import OutputError
from llmbatch.core.raw_json import JSON
from llmbatch.dashboard.prompts import Prompts
from llmbatch.display.follow import OutputFollower
from llmbatch.display.history_file import HistoryFile, read_history
from llmbatch.display.phrases import waits_for
from llmbatch.display.report_read import read_report, report_of
from llmbatch.display.status_file import read_sidecar, status_path
from llmbatch.display.status_read import is_running, status_of
from llmbatch.outputs.deferred import deferred_path, history_path
from llmbatch.report.history import History
from llmbatch.report.html.data import LatestRow, RunReport
from llmbatch.report.iso_time import to_iso
from llmbatch.report.stats import RunStats

__all__ = ["FileSource", "RunSource", "Source", "file_states"]

_SHARE = 0.008
"""Of the CPU that the process uses, for reading lines: a run that writes thousands a second is not held up by it."""
_LEAST_BUDGET_S, _MOST_BUDGET_S = 0.001, 0.008
_LAST_BUDGET_S = 3.0
_READ_EVERY_S = 5.0
_MORE_ROWS = 0.05
"""Lines are read once there are so many more, as a share of those that were read, or some seconds have passed."""
_VIEW_BUDGET_S = 0.5


class Source(Protocol):
    """Values of one page. One thread at a time."""

    def read(self, *, is_last: bool = False, for_tables: bool = True) -> RunReport:
        """The values now. *is_last*: there is time to read all. Without *for_tables* those of lines may be older.

        Raises:
            OutputError: the output cannot be read.
        """
        ...

    def latest(self) -> list[LatestRow]:
        """The rows that ended last, as of the last reading."""
        ...


class RunSource:
    """A run of this process: counters from *stats*, the time axis from *history*, the rest from the output's lines.

    *output* None: results go to standard output, and nothing is said of single rows. Costs the run nothing but the time
    of :meth:`read`: no event passes through it.
    """

    def __init__(
        self,
        output: Path | None,
        *,
        stats: RunStats,
        history: HistoryFile,
        command: str,
        version: str,
        prompts: Prompts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output
        self._stats = stats
        self._history = history
        self._command = command
        self._version = version
        self._prompts = prompts
        self._wall = clock
        self._started = clock()
        self._follower = None if output is None else OutputFollower(output)
        self._used = 0.0
        self._read_at = 0.0

    def read(self, *, is_last: bool = False, for_tables: bool = True) -> RunReport:
        """The values now."""
        stats, wall = self._stats, self._wall()
        follower = self._follower or OutputFollower(Path("standard output"))
        if self._follower is not None and stats.started is not None:
            self._read_lines(self._follower, wall, is_last=is_last, for_tables=for_tables)
        history, now = self._history.copy()
        snapshot = stats.snapshot(now)
        sidecar: dict[str, JSON] = {
            "started": to_iso(self._started),
            "updated": to_iso(wall),
            "command": self._command,
            "waits_for": waits_for(snapshot),
            "run": snapshot.to_json(),
            "history": history.journal.to_json(stats),
        }
        status = status_of(
            follower.path,
            follower.lines,
            snapshot.success,
            snapshot.failed,
            is_running=stats.ended is None,
            sidecar=sidecar,
        )
        report = report_of(status, history, follower.spread, version=self._version, wall=wall, is_own=True)
        return replace(report, lines_read=follower.rows if self._output and follower.rows < report.rows else None)

    def latest(self) -> list[LatestRow]:
        """The rows that ended last; with their prompts and answers where those may be shown."""
        if self._follower is None:
            return []
        latest = self._follower.latest(with_text=self._prompts is not None)
        return latest if self._prompts is None else self._prompts.added_to(latest)

    def _read_lines(self, follower: OutputFollower, wall: float, *, is_last: bool, for_tables: bool) -> None:
        """Read on, if it is time: a few lines at a time cost twice as much for each."""
        more = self._stats.success + self._stats.failed - follower.rows
        is_time = not 0 <= wall - self._read_at < _READ_EVERY_S
        if not (is_last or for_tables or is_time or follower.is_behind or more > _MORE_ROWS * follower.rows):
            return
        self._read_at = wall
        try:
            follower.advance(_LAST_BUDGET_S if is_last else self._budget())
        except OutputError:
            if is_last:
                raise

    def _budget(self) -> float:
        """Seconds for reading lines, by what the process has used since the last reading."""
        before, self._used = self._used, time.process_time()
        return min(_MOST_BUDGET_S, max(_LEAST_BUDGET_S, _SHARE * (self._used - before)))


class FileSource:
    """The files of *path*, also of a run of another process. What has not changed is not read again."""

    def __init__(self, path: Path, *, version: str) -> None:
        self._path = path
        self._version = version
        self._follower = OutputFollower(path)
        self._history: tuple[object, History] = (None, History())
        self._known: tuple[object, RunReport] | None = None

    def read(self, *, is_last: bool = False, for_tables: bool = True) -> RunReport:
        """The values now.

        Raises:
            OutputError: the output cannot be read.
        """
        state = file_states(self._path)
        if self._known is not None and self._known[0] == state:
            return self._known[1]  # nor is the lock touched, so that no run that begins just now is held up
        if not is_running(self._path):
            self._known = (state, read_report(self._path, version=self._version))
            return self._known[1]
        self._known = None
        self._follower.advance(_LAST_BUDGET_S if is_last else _VIEW_BUDGET_S)
        if self._history[0] != state[2]:
            self._history = (state[2], read_history(self._path))
        follower, sidecar = self._follower, read_sidecar(self._path)
        run = sidecar.get("run")
        counted = run if isinstance(run, dict) and run.get("exit_code") is None else {}
        success, failed = (counted.get(name) for name in ("success", "failed"))
        # Lines that have not been read yet are those that the run has counted.
        if not (isinstance(success, int) and isinstance(failed, int) and success + failed >= follower.rows):
            success, failed = follower.success, follower.failed
        status = status_of(self._path, follower.lines, success, failed, is_running=True)
        wall = time.time()
        report = report_of(status, self._history[1], follower.spread, version=self._version, wall=wall)
        return replace(report, lines_read=follower.rows if follower.is_behind else None)

    def latest(self) -> list[LatestRow]:
        """The rows that ended last while a run went on; none of an output that nobody writes."""
        return [] if self._known is not None else self._follower.latest()


def file_states(output: Path) -> list[tuple[int, int, int] | None]:
    """What differs once one of the files of *output* has changed: the output, its status, history and deferred rows."""
    return [_state(path) for path in (output, status_path(output), history_path(output), deferred_path(output))]


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
