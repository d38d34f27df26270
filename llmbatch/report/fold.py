"""The statistics of several processes that work on one run, folded into one.

A process tells its own statistics (:class:`ProcessStats`) about twice a second, and what changes at once as events.
Counting costs this process nothing per row. Pure, as :mod:`llmbatch.report.stats`: all processes are on one machine,
whose monotonic clock is that of their events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from llmbatch.core.events import (
    CircuitChanged,
    CircuitState,
    Event,
    OutageEnded,
    OutageStarted,
    Progress,
    Throttled,
)
from llmbatch.report.counters import CodeCounter, Counts
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.route_stats import RouteStats
from llmbatch.report.snapshot import Snapshot
from llmbatch.report.stats import RunStats

__all__ = ["FoldedStats", "ProcessState", "ProcessStats"]


@dataclass(slots=True)
class ProcessState:
    """What one process has counted since it began."""

    at: float
    counts: Counts
    latencies: LatencyHistogram
    errors: dict[str, int]
    failures: dict[str, int]
    tiers: dict[str, int]
    routes: list[RouteStats]
    progress: Progress | None
    waiting: int
    parked: int


class ProcessStats(RunStats):
    """Statistics of one process, which it tells its parent."""

    def state(self) -> ProcessState:
        """What was counted so far, apart from the events to come."""
        return ProcessState(
            self.at,
            replace(self._counts),
            self._latency.copy(),
            self._codes.errors.top(),
            self._codes.failures.top(),
            self._codes.tiers.top(),
            [replace(route, calls=route.calls.copy(), learned=dict(route.learned)) for route in self.routes()],
            self._progress,
            len(self._waiting),
            len(self._parked),
        )


@dataclass(slots=True)
class _Processes:
    """What is known of each process by its number, and of the circuits and outages of each by the route."""

    count: int
    states: dict[int, ProcessState] = field(default_factory=dict)
    fractions: dict[int, float] = field(default_factory=dict)
    rows_read: dict[int, int] = field(default_factory=dict)
    at_end: set[int] = field(default_factory=set)
    """Those that have read all their rows; of a small input all bytes are read long before."""
    circuits: dict[str, dict[int, CircuitState]] = field(default_factory=dict)
    down: dict[str, dict[int, float]] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    """The one that ended last, while none was running: its outages are not over until another begins."""


class FoldedStats(RunStats):
    """Statistics of a run whose rows *count* processes send. Each is known by its number, from 0."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._processes = _Processes(count)

    def expect(self, count: int) -> None:
        """Note, before any of them tells anything, that there are *count* processes."""
        self._processes.count = count

    def take(self, number: int, state: ProcessState) -> None:
        """Take what process *number* has counted since it began; only what is new since it last told is added."""
        before = self._processes.states.get(number)
        self._processes.states[number] = state
        self.at = max(self.at, state.at)
        self._add_counts(state.counts, Counts() if before is None else before.counts, self.at)
        self._latency.include(state.latencies.since(LatencyHistogram() if before is None else before.latencies))
        for mine, now, then in (
            (self._codes.errors, state.errors, {} if before is None else before.errors),
            (self._codes.failures, state.failures, {} if before is None else before.failures),
            (self._codes.tiers, state.tiers, {} if before is None else before.tiers),
        ):
            _add_codes(mine, now, then)
        known = {} if before is None else {route.label: route for route in before.routes}
        for route in state.routes:
            self._add_route(route, known.get(route.label))
        self._add_gauges()
        if state.progress is not None:
            self._read(number, state.progress)

    def begun(self, number: int) -> list[Event]:
        """Process *number* has begun its run; returns what changes by that, as events for displays."""
        self._processes.running.add(number)
        last, self._processes.last = self._processes.last, set()
        return [event for one in last for event in self._forget_circuits(one)]

    def gone(self, number: int, *, has_ended: bool) -> list[Event]:
        """Process *number* has ended, or was killed; returns what changes by that, as events for displays.

        Nothing of it is in flight any more; its circuits no longer count, but for an outage that the last process has
        ended in: that is not over.
        """
        self._processes.running.discard(number)
        state = self._processes.states.pop(number, None)
        if state is not None:
            state.counts = Counts()
        self._add_gauges()
        if has_ended and state is not None and state.progress is not None:
            self._processes.fractions[number] = 1.0
        if has_ended and not self._processes.running:
            self._processes.last.add(number)
            return []
        return self._forget_circuits(number)

    def _forget_circuits(self, number: int) -> list[Event]:
        changes: list[Event] = []
        for label in list(self._processes.circuits):
            if number in self._processes.circuits[label]:
                changes += self.fold(number, CircuitChanged(self.at, label, "open", "closed", "", 0.0))
            if number in self._processes.down.get(label, ()):
                changes += self.fold(number, OutageEnded(self.at, label, self.at, 0.0))
        return changes

    def add_rows(self, success: int, failed: int) -> None:
        """Count rows that have their lines, and whose process was killed before it could tell."""
        self._counts.success += max(0, success)
        self._counts.failed += max(0, failed)

    def fold(self, number: int, event: Event) -> list[Event]:
        """What an *event* of process *number* means for the whole run; events to be observed.

        A route's circuit is closed if it is for all processes, and an outage lasts from the first that notices it to
        the last that recovers.
        """
        match event:
            case CircuitChanged():
                return self._fold_circuit(number, event)
            case OutageStarted():
                down = self._processes.down.setdefault(event.route, {})
                down[number] = event.since
                return [event] if len(down) == 1 else []
            case OutageEnded():
                return self._fold_end(number, event)
            case _:
                return [event]

    def _fold_end(self, number: int, event: OutageEnded) -> list[Event]:
        down = self._processes.down.setdefault(event.route, {})
        since = down.pop(number, None)
        if since is None or down:
            return []
        began = self._route(event.route).outage_since
        first = since if began is None else began
        return [replace(event, since=first, seconds=max(0.0, event.at - first))]

    def _fold_circuit(self, number: int, event: CircuitChanged) -> list[Event]:
        states = self._processes.circuits.setdefault(event.route, {})
        before = _whole(states)
        if event.new == "closed":
            states.pop(number, None)
        else:
            states[number] = event.new
        after = _whole(states)
        if before == after and event.new != after:
            return []
        return [replace(event, old=before, new=after)] if before != after or after == "open" else []

    def observe(self, event: Event) -> None:
        """Take an event of the whole run, as :meth:`fold` gives them; counts come with :meth:`take`."""
        if isinstance(event, Throttled):
            self.at = max(self.at, event.at)
            route = self._route(event.route)
            route.note_pause(event.at + event.pause, event.code, is_named=event.is_named, is_limit=not event.is_refusal)
            return
        if type(event).__name__ in _COUNTED:
            self.at = max(self.at, event.at)
            return
        super().observe(event)

    def snapshot(self, now: float | None = None) -> Snapshot:
        """The run at *now*, as all processes last told."""
        whole = super().snapshot(now)
        if self.ended is not None:
            return whole
        states = list(self._processes.states.values())
        return replace(
            whole,
            parked=sum(state.parked for state in states),
            waiting_retries=sum(state.waiting for state in states),
        )

    def _add_counts(self, now: Counts, then: Counts, at: float) -> None:
        mine = self._counts
        for item in fields(Counts):
            if item.name != "in_flight":
                setattr(mine, item.name, getattr(mine, item.name) + getattr(now, item.name) - getattr(then, item.name))
        rows = now.rows - then.rows
        if rows > 0:
            self._rate.add(at, rows)
            if self._working is not self._rate:
                self._working.add(self._downtime.working_time(at), rows)

    def _add_route(self, now: RouteStats, then: RouteStats | None) -> None:
        mine = self._route(now.label)
        then = then or RouteStats(now.label)
        for name in ("success", "failed", "throttles"):
            setattr(mine, name, getattr(mine, name) + getattr(now, name) - getattr(then, name))
        mine.last_row_at = max(mine.last_row_at, now.last_row_at)
        mine.learned.update(now.learned)
        mine.calls.add_since(now.calls, then.calls)

    def _add_gauges(self) -> None:
        """What is in flight, parked and allowed now, summed over the processes that are there."""
        states = list(self._processes.states.values())
        self._counts.in_flight = sum(state.counts.in_flight for state in states)
        for label, mine in list(self._routes.items()):
            there = [route for state in states for route in state.routes if route.label == label]
            mine.calls.in_flight = sum(route.calls.in_flight for route in there)
            mine.parked = sum(route.parked for route in there)
            limits = [route.limit for route in there if route.limit is not None]
            mine.limit = sum(limits) if limits else None

    def _read(self, number: int, progress: Progress) -> None:
        self._processes.rows_read[number] = progress.rows
        self._processes.fractions[number] = 1.0 if progress.exhausted else progress.fraction or 0.0
        fractions, count = self._processes.fractions.values(), self._processes.count
        (self._processes.at_end.add if progress.exhausted else self._processes.at_end.discard)(number)
        exhausted = len(self._processes.at_end) == count
        rows = sum(self._processes.rows_read.values())
        if exhausted and self.started is not None:  # one that was started again has read what was left
            rows = max(rows, self.started.total_rows or 0)
        self._progress_made(Progress(progress.at, rows, sum(fractions) / count, exhausted))


_COUNTED = frozenset(
    {"CallSent", "CallEnded", "RowFinished", "RetryPlanned", "RowParked", "RowMoved", "RowJudged", "RowsRequeued",
     "LimitChanged", "Progress"}
)  # fmt: skip


def _whole(states: dict[int, CircuitState]) -> CircuitState:
    """The state of a route whose circuits that are not closed are *states*: the one with the most trouble."""
    found = set(states.values())
    return "open" if "open" in found else "half_open" if found else "closed"


def _add_codes(counter: CodeCounter, now: dict[str, int], then: dict[str, int]) -> None:
    for code, count in now.items():
        more = count - then.get(code, 0)
        if more > 0:
            counter.add(code, more)
