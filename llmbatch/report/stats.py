"""Computes all statistics of a run from its events, so that all displays and the summary show the same numbers.

Pure: ``at`` and ``now`` are arguments, on the event loop's clock. Its memory grows with the number of waiting rows
(bounded by the concurrency) and, up to a limit, of routes; not with the input.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import islice
from typing import assert_never

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchLost, BatchMoved, BatchSubmitted
from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    LimitChanged,
    LimitLearned,
    Notice,
    OptionChanged,
    OutageEnded,
    OutageStarted,
    Progress,
    RetryPlanned,
    RowFinished,
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
from llmbatch.report.batches import BatchStats
from llmbatch.report.counters import Codes, Counts
from llmbatch.report.downtime import Downtime
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.route_stats import RouteStats, worst_routes
from llmbatch.report.snapshot import RouteSnapshot, RunState, Snapshot
from llmbatch.report.spending import Spending
from llmbatch.report.summary import Summary, summarize
from llmbatch.report.throughput import Throughput
from llmbatch.report.totals import estimated_rows, total_rows

__all__ = ["RunStats", "Summary"]

_MOST_ROUTES = 500
_OTHER_ROUTES = "(other routes)"


class RunStats:
    """Statistics of a run. Events come from one thread; ``snapshot`` may be called in any, with approximate counts.

    Cost: O(1) per event, a little over a microsecond for the three of an ordinary row; a snapshot sorts the routes.
    """

    def __init__(self) -> None:
        self.at = 0.0
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.stopping: RunStopping | None = None
        self._progress: Progress | None = None
        self._estimated_rows: float | None = None
        self._counts = Counts()
        self._waiting: set[int] = set()
        self._parked: dict[int, str] = {}
        self._downtime = Downtime()
        self._latency = LatencyHistogram()
        self._rate = Throughput()
        self._working = self._rate
        """The same on the clock of :meth:`Downtime.working_time`; itself the same until these clocks part."""
        self._codes = Codes()
        self._routes: dict[str, RouteStats] = {}
        self._batches = BatchStats()
        self._notices: deque[Notice] = deque(maxlen=5)
        self._advising: Notice | None = None  # the last warning or error with a hint

    def observe(self, event: Event) -> None:
        """Count one event. The kinds that every row has come first, with a cheaper test than a match."""
        self.at = event.at
        if type(event) is CallSent:
            self._call_sent(event)
            return
        if type(event) is CallEnded:
            self._call_ended(event)
            return
        if type(event) is RowFinished:
            self._row_finished(event)
            return
        match event:
            case Progress():
                self._progress_made(event)
            case RetryPlanned():
                self._waiting.add(event.row)
            case RowParked():
                self._row_parked(event)
            case RowMoved() | RowJudged():
                self._no_longer_waits(event.row)
            case RowsRequeued():
                self._rows_requeued(event)
            case CircuitChanged():
                self._circuit_changed(event)
            case OutageStarted():
                self._outage_started(event)
            case OutageEnded():
                self._outage_ended(event)
            case LimitChanged():
                self._route(event.route).limit = event.limit
            case LimitLearned():
                self._route(event.route).learn(event)
            case Throttled():
                self._throttled(event)
            case Notice():
                self._notices.append(event)
                if event.hint and event.level != "info":
                    self._advising = event
            case RunStarted():
                self.started = event
                was_one, self._rate = self._working is self._rate, Throughput(event.at)
                self._working = self._rate if was_one else Throughput(event.at)
            case RunPaused():
                self._part_clocks()
                self._downtime.paused(event.at)
            case RunResumed():
                self._downtime.resumed(event.at)
            case OptionChanged():
                if self.started is not None:
                    self.started = replace(self.started, own_limits=event.own_limits)
            case RunStopping():
                self.stopping = event
            case RunEnded():
                self.ended = event
            case BatchSubmitted() | BatchMoved() | BatchCollected() | BatchCancelled() | BatchLost():
                self._batches.observe(event)
            case _:
                assert_never(event)

    def _route(self, label: str) -> RouteStats:
        if label not in self._routes:
            label = label if len(self._routes) < _MOST_ROUTES else _OTHER_ROUTES
            self._routes.setdefault(label, RouteStats(label))
        return self._routes[label]

    def _progress_made(self, event: Progress) -> None:
        self._progress = event
        self._estimated_rows = estimated_rows(event) or self._estimated_rows

    def _call_sent(self, event: CallSent) -> None:
        calls = (self._routes.get(event.route) or self._route(event.route)).calls
        calls.sent += 1
        calls.in_flight += 1
        if calls.first_at is None:
            calls.first_at = event.at
        self._counts.in_flight += 1
        if event.probe:
            self._counts.probes += 1
            if event.row == 0:
                self._counts.canaries += 1
        elif event.attempt > 1:
            self._counts.repairs += event.is_repair
            self._counts.retries += not event.is_repair
        if self._waiting or self._parked:
            self._no_longer_waits(event.row)

    def _call_ended(self, event: CallEnded) -> None:
        calls = (self._routes.get(event.route) or self._route(event.route)).calls
        if calls.in_flight:
            calls.in_flight -= 1
            self._counts.in_flight -= 1
        if event.verdict == "success" and not event.via:
            self._latency.add(event.latency_s)
            calls.good += 1
        elif event.verdict != "success":
            calls.add_failure(event)
            if event.verdict is not None:
                self._codes.errors.add(event.code)
        calls.spending.add(event)

    def _row_finished(self, event: RowFinished) -> None:
        self._rate.add(event.at)
        if self._working is not self._rate:
            self._working.add(self._downtime.working_time(event.at))
        # A malformed row was never meant for any route.
        route = self._routes.get(event.route) or (self._route(event.route) if event.route else None)
        if route is not None:
            route.last_row_at = event.at
        if event.status == "success":
            self._counts.success += 1
            if event.finish_reason or event.has_no_text or event.is_cached or event.is_repaired:
                self._counts.add_kinds(event)
            if route is not None:
                route.success += 1
        elif event.status == "failed":
            self._counts.failed += 1
            self._codes.failures.add(event.code)
            if route is not None:
                route.failed += 1
        if event.tier:
            self._codes.tiers.add(event.tier)
        if self._waiting or self._parked:
            self._no_longer_waits(event.row)

    def _part_clocks(self) -> None:
        if self._working is self._rate:
            self._working = self._rate.copy()

    def _no_longer_waits(self, row: int) -> None:
        self._waiting.discard(row)
        label = self._parked.pop(row, None)
        if label is not None:
            self._route(label).parked -= 1

    def _row_parked(self, event: RowParked) -> None:
        if event.avoided:
            self._counts.avoided += 1
        self._no_longer_waits(event.row)
        self._parked[event.row] = event.route
        self._route(event.route).parked += 1

    def _rows_requeued(self, event: RowsRequeued) -> None:
        # The event has the number of rows, not which; take the longest parked, as only counts are shown.
        of_route = (row for row, label in self._parked.items() if label == event.route)
        for row in list(islice(of_route, max(0, event.count))):
            self._no_longer_waits(row)

    def _circuit_changed(self, event: CircuitChanged) -> None:
        route = self._route(event.route)
        was_closed, is_closed = route.state == "closed", event.new == "closed"
        route.state = event.new
        route.reason = "" if is_closed else event.reason or route.reason
        route.next_probe_at = event.at + event.retry_after if event.new == "open" else None
        if was_closed != is_closed:
            route.not_closed_since = None if is_closed else event.at
            self._part_clocks()
            self._downtime.circuit_changed(event.at, is_closed=is_closed, routes=len(self._routes))

    def _outage_started(self, event: OutageStarted) -> None:
        route = self._route(event.route)
        route.outages += 1
        route.outage_since = event.since
        self._downtime.outage_started(event.since)

    def _outage_ended(self, event: OutageEnded) -> None:
        route = self._route(event.route)
        route.outage_s = route.outage_seconds(event.at)
        route.outage_since = None
        route.recovered_at = event.at
        self._downtime.outage_ended(event.at)

    def _throttled(self, event: Throttled) -> None:
        route = self._route(event.route)
        route.throttles += event.is_refusal
        route.note_pause(event.at + event.pause, event.code, is_named=event.is_named, is_limit=not event.is_refusal)
        self._counts.throttles += event.is_refusal

    @property
    def success(self) -> int:
        """Successful lines in the output, including those of earlier runs."""
        return self._counts.success + (0 if self.started is None else self.started.done_success)

    @property
    def failed(self) -> int:
        """Failed lines in the output, including those of earlier runs."""
        return self._counts.failed + (0 if self.started is None else self.started.done_failed)

    @property
    def repaired(self) -> int:
        """Rows of this run whose answers fit since they were asked again."""
        return self._counts.repaired

    def route(self, label: str, now: float | None = None) -> RouteSnapshot:
        """One route at *now* (default: at the last event)."""
        return self._routes.get(label, RouteStats(label)).snapshot(self.at if now is None else now)

    def last_failure(self, label: str) -> str:
        """Code, status and message of the last failed attempt on a route, such as ``overloaded_error (529): …``."""
        route = self._routes.get(label)
        return "" if route is None else route.calls.last_failure

    def routes(self) -> list[RouteStats]:
        """The routes, to read only, in the order in which they were first used."""
        return list(self._routes.values())

    def open_circuits(self) -> list[tuple[str, float]]:
        """The routes whose circuit is not closed, each with when it opened."""
        return [(route.label, route.not_closed_since) for route in self.routes() if route.not_closed_since is not None]

    @property
    def latencies(self) -> LatencyHistogram:
        """Latencies of the calls of this run that succeeded."""
        return self._latency

    def snapshot(self, now: float | None = None) -> Snapshot:
        """The run at *now* on the events' clock (default: at the last event)."""
        now = self.at if now is None else max(now, self.at)
        started, ended = self.started, self.ended
        counts, downtime = self._counts, self._downtime
        routes = self.routes()
        spending = Spending.total(route.calls.spending for route in routes)
        done = self.success + self.failed
        total, is_estimate = total_rows(started, self._progress, self._estimated_rows, done)
        elapsed = 0.0 if started is None else max(0.0, (ended.at if ended else now) - started.at)
        overall = counts.rows / elapsed if elapsed > 0.05 else 0.0
        work_left = self._work_left(done, total, now)
        return Snapshot(
            state=self._state(),
            elapsed_s=elapsed,
            input="" if started is None else started.input,
            output="" if started is None else started.output,
            total_rows=total,
            total_is_estimate=is_estimate,
            rows_read=0 if self._progress is None else self._progress.rows,
            done_rows=done,
            success=self.success,
            failed=self.failed,
            already_done=done - counts.rows,
            this_run_success=counts.success,
            this_run_failed=counts.failed,
            parked=len(self._parked) if ended is None else ended.deferred,
            waiting_retries=len(self._waiting),
            in_flight=counts.in_flight,
            calls=sum(route.calls.sent for route in routes),
            probes=counts.probes,
            canaries=counts.canaries,
            calls_avoided=counts.avoided,
            retries=counts.retries,
            throttles=counts.throttles,
            outages=downtime.outages,
            outage_s=downtime.seconds(now),
            spending=spending,
            input_tokens=spending.input_tokens,
            output_tokens=spending.output_tokens,
            latency_p50_s=self._latency.quantile(0.5),
            latency_p95_s=self._latency.quantile(0.95),
            rows_per_s=self._rate.per_second(now),
            overall_rows_per_s=overall,
            eta_s=None if (downtime.not_closed or downtime.paused_since is not None) and work_left else work_left,
            work_left_s=work_left,
            errors_by_code=self._codes.errors.top(),
            failures_by_code=self._codes.failures.top(),
            cut_answers=counts.cut_answers,
            answers_without_text=counts.answers_without_text,
            cached=counts.cached,
            repairs=counts.repairs,
            repaired=counts.repaired,
            tiers=self._codes.tiers.top(),
            routes=worst_routes(routes, now),
            routes_total=len(routes),
            max_outage_s=None if started is None else started.max_outage,
            own_limits="" if started is None else started.own_limits,
            adapts=started is not None and started.adapts,
            batches=self._batches.snapshot(),
            notices=tuple(self._notices),
            stopping=None if self.stopping is None else self.stopping.reason,
            exit_code=None if ended is None else ended.exit_code,
            pause_s=None if ended else downtime.pause_seconds(now),
            paused_s=downtime.paused_seconds(ended.at if ended else now),
        )

    def history(self, columns: int, now: float | None = None) -> list[float]:
        """Rows per second over the run in at most *columns* columns of equal width."""
        return self._rate.history(self.at if now is None else now, columns)

    def summary(self, ended: RunEnded) -> Summary:
        """Summary of the run; *ended* is its last event, whether observed before or not."""
        if self.ended is None:
            self.observe(ended)
        return summarize(self.snapshot(ended.at), ended, advising=self._advising)

    def _state(self) -> RunState:
        if self.ended is not None:
            return "finished" if self.ended.exit_code in (0, 1) else "stopped"
        if self.started is None:
            return "starting"
        if self.stopping is not None:
            return "stopping"
        if self._downtime.paused_since is not None:
            return "paused"
        return "waiting" if self._downtime.not_closed and not self._counts.in_flight else "running"

    def _work_left(self, done: int, total: int | None, now: float) -> float | None:
        """Seconds of work left at the speed of the last seconds outside outages, which no outage can spoil."""
        if total is None or self.ended is not None:
            return None
        if total <= done:
            return 0.0
        rate = self._working.per_second(self._downtime.working_time(now))
        if self.stopping is not None or rate <= 0.0:
            return None
        return (total - done) / rate

    def __repr__(self) -> str:
        return f"<RunStats {self._state()}, {self._counts.rows} rows, {self._counts.in_flight} in flight>"
