"""What ``llmbatch status`` reports, as values and as JSON; :mod:`llmbatch.display.status_read` reads it from files."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from typing import Literal

from llmbatch.core.raw_json import JSON
from llmbatch.display.phrases import shown
from llmbatch.display.summary import how_to_go_on
from llmbatch.report.iso_time import to_iso
from llmbatch.report.journal import Journal, Outage
from llmbatch.report.output_lines import FailureGroup, LineRoute
from llmbatch.report.snapshot import as_json

__all__ = ["Deferred", "PartsState", "StatusReport", "next_step"]

_OWN_FORM = frozenset(("journal", "seen", "failures", "routes"))


@dataclass(frozen=True, slots=True)
class Deferred:
    """The rows that are parked, or were when the run stopped. Times are seconds, as of then; None where no row has one.

    ``rows`` is None where that is not known: a run that was killed could not write it down. ``retry_at`` is the first
    instant at which one of them may be sent again (ISO 8601, UTC): while a run goes on, that of the next probe.
    """

    rows: int | None = 0
    retry_at: str | None = None
    shortest_retry_after: float | None = None
    longest_retry_after: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartsState:
    """How far the shards of a folder are, each named as in ``--shard``: running, finished, stopped, or not begun."""

    count: int
    running: tuple[str, ...]
    finished: tuple[str, ...]
    stopped: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What the files of one output say.

    ``state``: ``running`` (another process holds the lock), ``finished`` (every row has its line), ``stopped`` (rows
    are left), or ``unknown``: nobody works on it, and whether rows are left cannot be told from lines alone.
    """

    output: str
    state: Literal["running", "finished", "stopped", "unknown"]
    rows: int
    success: int
    failed: int
    was_killed: bool
    """The run left no last word: it was killed, or the machine went down."""
    torn_bytes: int
    """Length of an unfinished last line, which opening the file removes; its row goes again."""
    deferred: Deferred
    total_rows: int | None
    input: str | None
    pid: int | None
    """The process that runs, where the sidecar tells."""
    started: str | None
    updated: str | None
    exit_code: int | None
    waits_for: str | None
    command: str
    """What to type to run it again; empty where it is not known."""
    run: dict[str, JSON] | None
    """The sidecar's snapshot, where there is one that fits."""
    journal: Journal
    """The history of all runs on this output; empty where no sidecar fits."""
    seen: float | None
    """The last sign of life of a run that is over, in seconds since the epoch."""
    failures: list[FailureGroup]
    routes: list[LineRoute]
    cut_answers: int = 0
    """Successes whose answers were cut at their token limit, by their lines (finish reason ``length``)."""
    answers_without_text: int = 0
    """Successes whose answers have neither text nor other content, by their lines."""
    cached: int = 0
    """Rows that were answered from a cache, by their lines."""
    tiers: dict[str, int] = field(default_factory=dict)
    """Rows by the service tier that their lines name."""
    parts: PartsState | None = None
    """Of a folder, how far its shards are."""

    @property
    def ended(self) -> float | None:
        """When the last run ended, in seconds since the epoch; None while one goes on, or where it is not known."""
        if self.state == "running":
            return None
        return self.journal.ended if self.journal.ended is not None else self.seen

    def outage_seconds(self, outage: Outage, wall: float) -> float:
        """How long *outage* lasted, or has lasted; one that a stopped run left open is counted up to its end."""
        end = outage.ended if outage.ended is not None else self.ended
        return max(0.0, (wall if end is None else end) - outage.began)

    def to_json(self, wall: float | None = None) -> dict[str, JSON]:
        """The same as JSON values, with ``next``: how to go on. *wall* is the time now, seconds since the epoch."""
        wall = time.time() if wall is None else wall
        journal = self.journal
        value = {name: as_json(getattr(self, name)) for name in self.__dataclass_fields__ if name not in _OWN_FORM}
        value["began"] = None if journal.began is None else to_iso(journal.began)
        value["ended"] = None if self.ended is None else to_iso(self.ended)
        value["runs"] = journal.runs
        value["repaired"] = journal.repaired
        value["batches"] = [one.to_json() for one in journal.batches.batches]
        value["outages"] = [self._outage_json(outage, wall) for outage in journal.outages]
        value["failures"] = [
            {"code": group.code, "count": group.count, "message": group.message, "ids": group.ids[:3]}
            for group in self.failures
        ]
        value["routes"] = [self._route_json(route) for route in self.routes]
        value["next"] = next_step(self)
        return value

    def _outage_json(self, outage: Outage, wall: float) -> JSON:
        seconds = round(self.outage_seconds(outage, wall), 3)
        kept = outage.to_json()
        message = kept.pop("message")
        return {**kept, "seconds": seconds, "message": message}

    def _route_json(self, route: LineRoute) -> JSON:
        return {
            "route": route.label,
            "rows": route.rows,
            "failed": route.failed,
            "rows_per_s": as_json(self.journal.rows_per_s(route.label)),
            "latency_p50_s": as_json(route.latency.quantile(0.5)),
            "latency_p95_s": as_json(route.latency.quantile(0.95)),
            "input_tokens": route.input_tokens,
            "output_tokens": route.output_tokens,
            "cost_usd": None if route.cost_usd is None else float(route.cost_usd),
        }


def next_step(report: StatusReport) -> str:
    """How to go on, in one line, safe to show."""
    match report.state:
        case "running" if (report.run or {}).get("pause_s") is not None:
            return f"paused; to go on: llmbatch resume {shown(shlex.quote(report.output))}"
        case "running":
            return f"still running; no action needed: results are appended to {shown(report.output)}"
        case "finished":
            codes = frozenset(group.code for group in report.failures)
            exit_code, cut = 1 if report.failed else 0, bool(report.cut_answers)
            return how_to_go_on(report.output, exit_code, command=report.command, codes=codes, has_cut_answers=cut)
        case "stopped":
            # Killed runs have no exit code; to go on is the same as after an interruption.
            return how_to_go_on(
                report.output,
                130 if report.exit_code is None else report.exit_code,
                command=report.command,
                has_lines=bool(report.rows),
            )
        case "unknown":
            again = how_to_go_on(report.output, 130, command=report.command)
            return f"{again} (rows that have their line are not sent twice)"
