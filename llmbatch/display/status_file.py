"""A small sidecar beside the output, ``.results.jsonl.status.json``, that lets ``llmbatch status`` say more.

It may be deleted at any time, and failing to write it never matters: the output's lines are the truth. A thread of its
own writes it, at most once a second. A later run on the same output carries its history on.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from llmbatch.core.events import ROW_EVENTS, Event, RunEnded, RunStarted
from llmbatch.core.raw_json import JSON, parse
from llmbatch.display.phrases import waits_for
from llmbatch.display.ticker import RunClock, Ticker
from llmbatch.outputs.deferred import status_path
from llmbatch.report.iso_time import from_iso, to_iso
from llmbatch.report.journal import Journal
from llmbatch.report.stats import RunStats
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC
from llmbatch.storage.sidecar import open_sidecar

__all__ = [
    "StatusFile",
    "agrees",
    "integer",
    "mapping",
    "read_sidecar",
    "replace_sidecar",
    "status_path",
    "text",
    "working_directory",
]

_HEARTBEAT_S = 10.0
_MOST_SIDECAR_BYTES = 1 << 20
_MOST_UNWRITTEN_ROWS = 100
_MOST_UNCOUNTED_ROWS = 50_000
"""The sidecar of a killed run is up to a second old, so lines may have been appended after it; rows that it counted
have their lines, but for those of the last moment."""


def read_sidecar(output: Path) -> dict[str, JSON]:
    """What the sidecar of *output* holds; empty where there is none, or none that can be read."""
    try:
        with open_sidecar(status_path(output)) as file:
            value = parse(file.read(_MOST_SIDECAR_BYTES).decode())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def mapping(value: JSON) -> dict[str, JSON]:
    """*value* if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def integer(value: JSON) -> int | None:
    """*value* if it is an integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: JSON) -> str | None:
    """*value* if it is text."""
    return value if isinstance(value, str) else None


def agrees(sidecar: dict[str, JSON], success: int, failed: int | None = None) -> bool:
    """Whether a sidecar that no run is writing is about an output with so many lines.

    A run that ended knew of all its lines; one that was killed knew of about as many. Without *failed* only successful
    lines are compared, since failed ones are dropped to be sent again.
    """
    run = sidecar.get("run")
    if not isinstance(run, dict):
        return False
    counted = run.get("success" if failed is None else "done_rows")
    lines = success + (failed or 0)
    if not isinstance(counted, int) or isinstance(counted, bool):
        return False
    if run.get("exit_code") is not None:
        return counted == lines
    return lines - _MOST_UNCOUNTED_ROWS <= counted <= lines + _MOST_UNWRITTEN_ROWS


class StatusFile:
    """Keeps the sidecar of *output*: once a second while events come, every 10 s while none do, and at the end.

    Nothing is written before ``RunStarted``, when the run has its lock: one that is refused leaves the other's alone.

    *command* is what to type to run it again, for people. *stats*: numbers that something else feeds first. The history
    of earlier runs is kept where it agrees with the lines that were there at the start; *afresh* drops it.
    """

    def __init__(
        self,
        output: Path,
        *,
        command: str = "",
        stats: RunStats | None = None,
        afresh: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output
        self._path = status_path(output)
        self._afresh = afresh
        self._journal = Journal()
        self._command = command
        self._is_fed = stats is not None
        self.skips = ROW_EVENTS if self._is_fed else frozenset()
        self._stats = RunStats() if stats is None else stats
        self._wall = clock
        self._started = clock()
        self._input_format: str | None = None
        self._written_at: tuple[float, float] | None = None  # the last event's instant, and the wall's
        self._run_clock = RunClock()
        self._lock = threading.Lock()
        self._ticker = Ticker(self._tick, interval_s=1.0)

    def observe(self, event: Event) -> None:
        """Take one event; the last one of a run is written down at once."""
        if not self._is_fed:
            self._stats.observe(event)
        if type(event) in ROW_EVENTS:
            return  # the statistics have them
        if isinstance(event, RunStarted):
            self._input_format = event.input_format
            self._carry_on(event)
        if self._stats.started is None:
            return
        with self._lock:
            self._journal.observe(event, self._wall(), self._stats)
        if isinstance(event, RunEnded):
            self.write(event.at)

    def _carry_on(self, event: RunStarted) -> None:
        sidecar = {} if self._afresh else read_sidecar(self._output)
        journal = Journal(sidecar.get("history") if agrees(sidecar, event.done_success) else None)
        journal.begin(self._started, last_seen=from_iso(sidecar.get("updated")))
        with self._lock:
            self._journal = journal

    def write(self, now: float) -> None:
        """Write the sidecar as of *now* on the events' clock; an ``OSError`` is forgotten."""
        with self._lock, contextlib.suppress(OSError):
            self._written_at = (self._stats.at, self._wall())
            replace_sidecar(self._path, json.dumps(self._content(now), separators=(",", ":"), allow_nan=False).encode())

    def refresh(self) -> None:
        """Write the sidecar as of now, while the run goes on."""
        if self._stats.started is not None and self._stats.ended is None:
            self.write(self._run_clock.now(self._stats.at))

    def _content(self, now: float) -> dict[str, JSON]:
        snapshot = self._stats.snapshot(now)
        return {
            "pid": os.getpid(),
            "started": to_iso(self._started),
            "updated": to_iso(self._wall()),
            "command": self._command,
            "directory": working_directory(),
            "input_format": self._input_format,
            "waits_for": waits_for(snapshot),
            "run": snapshot.to_json(),
            "history": self._journal.to_json(self._stats),
        }

    def _tick(self) -> None:
        if self._stats.started is None or self._stats.ended is not None:
            return
        if self._written_at is not None:
            event_at, wall = self._written_at
            if event_at == self._stats.at and self._wall() - wall < _HEARTBEAT_S:
                return
        self.refresh()

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._ticker.stop()
        self._remove_if_refused()

    def _remove_if_refused(self) -> None:
        """A command that was wrong leaves nothing: neither the first output, which is removed by now, nor this."""
        ended = self._stats.ended
        is_refused = ended is not None and ended.exit_code == 2
        if is_refused and self._journal.runs <= 1 and not os.path.lexists(self._output):
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def working_directory() -> str:
    """Where relative paths of the run start; empty if that folder is gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def replace_sidecar(path: Path, content: bytes) -> None:
    """Replace *path*, a sidecar, as a whole.

    Raises:
        OSError: as the system says.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    # A name that is there already, a link planted by somebody else above all, is refused by O_EXCL.
    descriptor = FILESYSTEM.open(str(part), os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        FILESYSTEM.replace(str(part), str(path))
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
