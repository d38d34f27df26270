"""A small sidecar beside the output, ``.results.jsonl.status.json``, that lets ``llmbatch status`` say more.

It is news, not truth: it may be deleted at any time, and failing to write it never matters. What this does not do:
write from the event loop; a thread of its own does, at most once a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from llmbatch.core.events import Event, RunEnded
from llmbatch.core.raw_json import JSON
from llmbatch.display.format import waits_for
from llmbatch.display.ticker import RunClock, Ticker
from llmbatch.report.stats import RunStats
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC

__all__ = ["StatusFile", "status_path"]

_HEARTBEAT_S = 10.0


def status_path(output: Path) -> Path:
    """Where the sidecar of *output* lies."""
    return output.with_name(f".{output.name}.status.json")


class StatusFile:
    """Keeps the sidecar of *output*: once a second while events come, every 10 s while none do, and at the end.

    Nothing is written before ``RunStarted``, when the run has its lock: one that is refused leaves the other's alone.

    *command* is what to type to run it again, for people. *tally*: numbers that something else feeds first.
    """

    def __init__(
        self,
        output: Path,
        *,
        command: str = "",
        stats: RunStats | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = status_path(output)
        self._command = command
        self._is_fed = stats is not None
        self._stats = RunStats() if stats is None else stats
        self._wall = clock
        self._started = clock()
        self._written_at: tuple[float, float] | None = None  # the last event's instant, and the wall's
        self._run_clock = RunClock()
        self._lock = threading.Lock()
        self._ticker = Ticker(self._tick, interval_s=1.0)

    def observe(self, event: Event) -> None:
        """Take one event; the last one of a run is written down at once."""
        if not self._is_fed:
            self._stats.observe(event)
        if isinstance(event, RunEnded) and self._stats.started is not None:
            self.write(event.at)

    def write(self, now: float) -> None:
        """Write the sidecar as of *now* on the events' clock; an ``OSError`` is forgotten."""
        with self._lock, contextlib.suppress(OSError):
            self._written_at = (self._stats.at, self._wall())
            _replace(self._path, json.dumps(self._content(now), separators=(",", ":"), allow_nan=False).encode())

    def _content(self, now: float) -> dict[str, JSON]:
        snapshot = self._stats.snapshot(now)
        return {
            "pid": os.getpid(),
            "started": _stamp(self._started),
            "updated": _stamp(self._wall()),
            "command": self._command,
            "waits_for": waits_for(snapshot),
            "run": snapshot.to_json(),
        }

    def _tick(self) -> None:
        if self._stats.started is None or self._stats.ended is not None:
            return
        if self._written_at is not None:
            event_at, wall = self._written_at
            if event_at == self._stats.at and self._wall() - wall < _HEARTBEAT_S:
                return
        self.write(self._run_clock.now(self._stats.at))

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._ticker.stop()


def _stamp(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _replace(path: Path, content: bytes) -> None:
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
