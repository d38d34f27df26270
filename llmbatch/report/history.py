"""What ``llmbatch report`` knows of one output over all of its runs, as JSON lines: runs, outages, errors, times.

:mod:`llmbatch.display.history_file` keeps it in a sidecar. Bounded: 200 runs, 500 notices and pauses, 100 codes of
errors with five examples each, the outages of the :class:`~llmbatch.report.journal.Journal`, and the buckets of the
:class:`~llmbatch.report.timeline.Timeline`: less than 2 MB for a week. Pure: wall time is handed in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from llmbatch.core.events import (
    CallEnded,
    Event,
    Notice,
    OptionChanged,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopping,
)
from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.report.iso_time import from_iso, to_iso
from llmbatch.report.journal import Journal
from llmbatch.report.stats import RunStats
from llmbatch.report.timeline import Bucket, Timeline

__all__ = ["ErrorCode", "History", "PastRun", "PauseSpan"]

MOST_RUNS = 200
MOST_NOTICES = 500
MOST_CODES = 100
MOST_PAUSES = 500
EXAMPLES = 5
_MOST_CHARACTERS = 500
_OTHER = "other"


@dataclass(slots=True)
class PastRun:
    """One run; ``began`` and ``ended`` are seconds since the epoch. Without a last word ``exit_code`` is None."""

    began: float
    ended: float | None = None
    exit_code: int | None = None
    reason: str = ""
    command: str = ""
    input: str = ""
    concurrency: int = 0

    def to_json(self) -> dict[str, JSON]:
        """As a line of the sidecar."""
        return {
            "kind": "run",
            "began": to_iso(self.began),
            "ended": None if self.ended is None else to_iso(self.ended),
            "exit_code": self.exit_code,
            "reason": self.reason,
            "command": self.command,
            "input": self.input,
            "concurrency": self.concurrency,
        }


@dataclass(slots=True)
class ErrorCode:
    """Attempts that failed with one code, and the first messages that differ, each with its route and row."""

    code: str
    count: int = 0
    examples: list[dict[str, JSON]] = field(default_factory=list)

    def add(self, event: CallEnded) -> None:
        """Count one attempt."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            message = event.message[:_MOST_CHARACTERS]
            if all(message != example["message"] for example in self.examples):
                self.examples.append({"message": message, "route": event.route[:_MOST_CHARACTERS], "row": event.row})

    def to_json(self) -> dict[str, JSON]:
        """As a line of the sidecar."""
        return {"kind": "error", "code": self.code, "count": self.count, "examples": list[JSON](self.examples)}


@dataclass(slots=True)
class PauseSpan:
    """A pause by the user, in seconds since the epoch; ``ended`` is None while it lasts."""

    began: float
    ended: float | None = None

    def to_json(self) -> dict[str, JSON]:
        """As a line of the sidecar."""
        return {
            "kind": "pause",
            "from": to_iso(self.began),
            "to": None if self.ended is None else to_iso(self.ended),
        }


class History:
    """The history so far; *lines* are those of the sidecar, of which those that make no sense are left out."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.runs: list[PastRun] = []
        self.notices: list[dict[str, JSON]] = []
        self.errors: dict[str, ErrorCode] = {}
        self.pauses: list[PauseSpan] = []
        buckets: list[Bucket] = []
        kept: dict[str, JSON] = {}
        for line in lines:
            try:
                value = parse(line)
            except RawJsonError:
                continue
            if not isinstance(value, dict):
                continue
            match value.get("kind"):
                case "run":
                    self._read_run(value)
                case "notice":
                    if isinstance(value.get("message"), str) and from_iso(value.get("at")) is not None:
                        self.notices.append(value)
                case "error":
                    self._read_error(value)
                case "pause":
                    began = from_iso(value.get("from"))
                    if began is not None:
                        self.pauses.append(PauseSpan(began, from_iso(value.get("to"))))
                case "journal":
                    kept = value
                case "bucket":
                    bucket = Bucket.from_json(value)
                    if bucket is not None:
                        buckets.append(bucket)
                case _:
                    pass
        self.journal = Journal(kept)
        self.timeline = Timeline(buckets)

    def __repr__(self) -> str:
        return f"<History of {len(self.runs)} runs, {self.timeline!r}>"

    @classmethod
    def joined(cls, histories: Sequence[History]) -> History:
        """The history of several processes that ran side by side, as shards do."""
        whole = cls()
        runs = sorted((run for one in histories for run in one.runs), key=lambda run: run.began)
        whole.runs = runs[-MOST_RUNS:]
        notices = [notice for one in histories for notice in one.notices]
        whole.notices = sorted(notices, key=lambda notice: str(notice["at"]))[-MOST_NOTICES:]
        pauses = sorted((pause for one in histories for pause in one.pauses), key=lambda pause: pause.began)
        whole.pauses = pauses[-MOST_PAUSES:]
        for one in histories:
            for code, error in one.errors.items():
                known = whole.errors.setdefault(code, ErrorCode(code))
                known.count += error.count
                known.examples = [*known.examples, *error.examples][:EXAMPLES]
        whole.journal = Journal.joined([one.journal for one in histories])
        whole.timeline = Timeline.joined([one.timeline for one in histories])
        return whole

    def _read_run(self, value: dict[str, JSON]) -> None:
        began = from_iso(value.get("began"))
        if began is None:
            return
        exit_code, concurrency = value.get("exit_code"), value.get("concurrency")
        self.runs.append(
            PastRun(
                began,
                from_iso(value.get("ended")),
                exit_code if type(exit_code) is int else None,
                _text(value.get("reason")),
                _text(value.get("command")),
                _text(value.get("input")),
                concurrency if type(concurrency) is int else 0,
            )
        )

    def _read_error(self, value: dict[str, JSON]) -> None:
        code, count, examples = value.get("code"), value.get("count"), value.get("examples")
        if isinstance(code, str) and type(count) is int and count > 0 and isinstance(examples, list):
            known = [one for one in examples if isinstance(one, dict) and isinstance(one.get("message"), str)]
            self.errors[code] = ErrorCode(code, count, known[:EXAMPLES])

    def copy(self) -> History:
        """The history as it is now; only its last buckets of each width are shared with it."""
        copied = History()
        copied.runs = [replace(run) for run in self.runs]
        copied.notices = list(self.notices)
        copied.pauses = [replace(pause) for pause in self.pauses]
        copied.errors = {code: replace(error, examples=list(error.examples)) for code, error in self.errors.items()}
        copied.journal = self.journal.copy()
        copied.timeline = self.timeline.copy()
        return copied

    def begin(self, event: RunStarted, wall: float, *, command: str, last_seen: float | None) -> None:
        """A run begins at *wall*. An earlier one without a last word was last seen at *last_seen*."""
        if self.runs and self.runs[-1].ended is None and last_seen is not None:
            self.runs[-1].ended = max(self.runs[-1].began, last_seen)
        self._end_pause(wall if last_seen is None else min(last_seen, wall))
        run = PastRun(wall, None, None, "", command, event.input, event.concurrency)
        self.runs = [*self.runs, run][-MOST_RUNS:]
        self.journal.begin(wall, last_seen=last_seen)
        self.timeline.begin(wall)

    def observe(self, event: Event, wall: float, stats: RunStats) -> bool:
        """Take one event, seen at *wall* and folded into *stats* before; return whether it is worth writing at once."""
        if type(event) is CallEnded:
            if event.verdict is not None and event.verdict != "success":
                self._add_error(event)
            return False
        self.journal.observe(event, wall, stats)
        if isinstance(event, Notice):
            self._add_notice(wall, event.level, event.message, event.hint)
        elif isinstance(event, OptionChanged):
            text = f"{event.name.replace('_', '-')} was changed from {event.old} to {event.new}"
            self._add_notice(wall, "info", text, "")
        elif isinstance(event, RunPaused):
            self.pauses = [*self.pauses, PauseSpan(wall)][-MOST_PAUSES:]
        elif isinstance(event, RunResumed):
            self._end_pause(wall)
        elif isinstance(event, RunStopping) and self.runs:
            self.runs[-1].reason = event.reason[:_MOST_CHARACTERS]
        elif isinstance(event, RunEnded) and self.runs:
            self._end_pause(wall)
            run = self.runs[-1]
            run.ended, run.exit_code = wall, event.exit_code
            run.reason = run.reason or event.reason[:_MOST_CHARACTERS]
        return type(event).__name__ in _WORTH_WRITING

    def _add_notice(self, wall: float, level: str, message: str, hint: str) -> None:
        notice: dict[str, JSON] = {
            "kind": "notice",
            "at": to_iso(wall),
            "level": level,
            "message": message[:_MOST_CHARACTERS],
            "hint": hint[:_MOST_CHARACTERS],
        }
        self.notices = [*self.notices, notice][-MOST_NOTICES:]

    def _end_pause(self, wall: float) -> None:
        if self.pauses and self.pauses[-1].ended is None:
            self.pauses[-1].ended = max(self.pauses[-1].began, wall)

    def _add_error(self, event: CallEnded) -> None:
        code = event.code[:80] or str(event.verdict)
        if code not in self.errors and len(self.errors) >= MOST_CODES:
            code = _OTHER
        self.errors.setdefault(code, ErrorCode(code)).add(event)

    def sample(self, wall: float, stats: RunStats, now: float | None = None) -> None:
        """Add the time since the last sample to the timeline; *now* is on the events' clock."""
        self.timeline.sample(wall, stats.snapshot(now), stats.latencies)

    def lines(self, stats: RunStats) -> Iterator[str]:
        """The lines of the sidecar."""
        values: list[dict[str, JSON]] = [run.to_json() for run in self.runs]
        values.append({"kind": "journal", **self.journal.to_json(stats)})
        values += [pause.to_json() for pause in self.pauses]
        values += self.notices
        values += [code.to_json() for code in sorted(self.errors.values(), key=lambda one: -one.count)]
        values += [{"kind": "bucket", **bucket.to_json()} for bucket in self.timeline.buckets()]
        return (json.dumps(value, separators=(",", ":"), allow_nan=False) for value in values)


_WORTH_WRITING = frozenset({"OutageStarted", "OutageEnded", "RunPaused", "RunResumed", "RunEnded"})


def _text(value: JSON) -> str:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else ""
