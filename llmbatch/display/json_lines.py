"""Progress for programs: one JSON object a line, snapshots now and then and changes at once.

Every object has ``event`` and ``time`` (UTC). ``progress`` carries the fields of
:class:`~llmbatch.report.snapshot.Snapshot`, the others those of their event in :mod:`llmbatch.core.events`.
What it does not do: send anything but ASCII, so no log or terminal on the way can be confused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

from llmbatch.core.events import (
    CallEnded,
    CircuitChanged,
    Event,
    LimitLearned,
    Notice,
    ObserverFailed,
    OptionChanged,
    OutageEnded,
    OutageStarted,
    RetryPlanned,
    RowJudged,
    RowMoved,
    RowParked,
    RowsRequeued,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopping,
    Throttled,
)
from llmbatch.core.raw_json import JSON
from llmbatch.display.line_display import LineDisplay
from llmbatch.report.iso_time import to_iso
from llmbatch.report.snapshot import Snapshot, as_json
from llmbatch.report.stats import RunStats

__all__ = ["JsonDisplay"]

_CHANGES: dict[type, str] = {
    RunStarted: "started",
    OutageStarted: "outage_started",
    OutageEnded: "outage_ended",
    Notice: "notice",
    ObserverFailed: "notice",
    RunPaused: "paused",
    RunResumed: "resumed",
    OptionChanged: "option_changed",
    RunStopping: "stopping",
    RunEnded: "ended",
}
_DETAILS: dict[type, str] = {
    CircuitChanged: "circuit",
    CallEnded: "attempt_failed",
    RetryPlanned: "retry_planned",
    RowParked: "parked",
    LimitLearned: "limit_learned",
    RowMoved: "moved",
    RowJudged: "judged",
    RowsRequeued: "requeued",
    Throttled: "throttled",
}


class JsonDisplay(LineDisplay):
    """Lines such as ``{"event":"outage_started","time":"…","route":"openai/gpt-5-mini","reason":"…",…}``."""

    def __init__(
        self, stream: TextIO, *, verbose: int = 0, stats: RunStats | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(stream, verbose=verbose, stats=stats, clock=clock)
        self._names = _CHANGES | _DETAILS if verbose else _CHANGES

    def event_lines(self, event: Event) -> list[str]:
        """The event itself, if it is a change; with ``verbose`` also circuits, failed attempts, parking and retries."""
        name = self._names.get(type(event))
        if name is None or (isinstance(event, CallEnded) and event.verdict in (None, "success")):
            return []
        fields = as_json(event)
        assert isinstance(fields, dict)  # noqa: S101 - tells the type checker what a dataclass becomes
        for on_the_loops_clock in ("at", "since"):
            fields.pop(on_the_loops_clock, None)
        return [self._encoded(name, fields)]

    def progress_line(self, now: Snapshot) -> str:
        """The whole snapshot."""
        return self._encoded("progress", now.to_json())

    def _encoded(self, name: str, fields: dict[str, JSON]) -> str:
        stamp = to_iso(self._wall())
        return json.dumps({"event": name, "time": stamp, **fields}, separators=(",", ":"), allow_nan=False)
