"""The metrics of a run, computed from its statistics when they are asked for: nothing is counted here.

Which metrics there are, with their names, labels and help, is :data:`METRICS`. At most :data:`MOST_SERIES` time series
in all: routes, models and codes beyond the first few are ``other``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from llmbatch.report.route_stats import RouteStats
from llmbatch.report.snapshot import RunState, Snapshot
from llmbatch.report.stats import RunStats
from llmbatch.telemetry.labels import OTHER, FirstValues, error_code, label_text

__all__ = ["METRICS", "MOST_SERIES", "Histogram", "Metric", "Reading", "RunMetrics"]

MOST_SERIES = 199
"""Every bucket of a histogram is a series too."""

_MOST_ROUTES = 8
_MOST_ERRORS = 16
_MOST_FAILURES = 10
_DOUBLINGS = tuple(range(9, 22))  # 51.2 ms to 210 s, and above
_STATES = {"closed": 0, "half_open": 1, "open": 2}

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Buckets as (upper bound, count of all values up to it), and the count and sum of all values."""

    buckets: tuple[tuple[float, int], ...]
    count: int
    total: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name without prefix, unit and ``_total``, and the names of its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("rows", "counter", "Rows that have ended in this run, by status: success or failed.", ("status",)),
        Metric("row_failures", "counter", "Rows that have ended as failed in this run, by error code.", ("code",)),
        Metric("cached_rows", "counter", "Rows that were answered from a cache."),
        Metric("output_rows", "gauge", "Lines in the output, those of earlier runs included."),
        Metric("input_rows", "gauge", "Rows of the input; missing while that is not known."),
        Metric("waiting_retries", "gauge", "Rows that wait for their next attempt."),
        Metric("parked_rows", "gauge", "Rows that wait for a route that is down or paused.", ("route",)),
        Metric(
            "calls",
            "counter",
            "Requests that have ended, by outcome: success, failure (the provider fails), throttled, rejected (this "
            "request) or other.",
            ("route", "outcome"),
        ),
        Metric("call_errors", "counter", "Requests that have not succeeded, by error code.", ("code",)),
        Metric("call_duration", "histogram", "Latency of the requests that succeeded.", unit="seconds"),
        Metric("retries", "counter", "Requests that were sent again for a row, without probes."),
        Metric("repairs", "counter", "Requests that asked again for an answer that did not fit the schema."),
        Metric("probes", "counter", "Requests that looked whether a route that is down has recovered."),
        Metric("calls_avoided", "counter", "Requests to a route that was down that the open circuit avoided."),
        Metric("in_flight", "gauge", "Requests in flight.", ("route",)),
        Metric("concurrency_limit", "gauge", "Requests that may be in flight at once.", ("route",)),
        Metric("circuit_state", "gauge", "State of the circuit: 0 closed, 1 half open, 2 open.", ("route",)),
        Metric("outages", "counter", "Outages, each from the circuit's opening until it closes again.", ("route",)),
        Metric("outage", "counter", "Time of outages.", ("route",), unit="seconds"),
        Metric("tokens", "counter", "Tokens that providers reported, by type: input or output.", ("route", "type")),
        Metric("cost", "counter", "Cost of the answers whose price is known, in US dollars.", ("route",), unit="usd"),
        Metric("unpriced_calls", "counter", "Answers whose price is not known."),
        Metric(
            "cost_at_risk",
            "counter",
            "The most that requests without an answer or tokens can have cost, in US dollars, if they are billed.",
            unit="usd",
        ),
        Metric("eta", "gauge", "Time left at the present speed; missing while that is not known.", unit="seconds"),
        Metric("run_start_time", "gauge", "When the run began, since the epoch.", unit="seconds"),
        Metric("run_state", "gauge", "1 for the state that the run is in, 0 for all others.", ("state",)),
        Metric("run_info", "gauge", "Always 1; the version of llmbatch.", ("version",)),
    )
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of one metric, by the values of its labels."""

    metric: Metric
    values: Mapping[Labels, float | Histogram]


class RunMetrics:
    """Reads the metrics of the run that *stats* counts. May be read in any thread, and by several at once.

    Args:
        stats: of the run.
        clock: the time on the clock of its events; it may be called in any thread.
        version: of llmbatch, for the label.
    """

    def __init__(self, stats: RunStats, *, clock: Callable[[], float], version: str) -> None:
        self._stats = stats
        self._clock = clock
        self._version = version
        self._lock = threading.Lock()
        self._routes = FirstValues(_MOST_ROUTES)
        self._errors = FirstValues(_MOST_ERRORS)
        self._failures = FirstValues(_MOST_FAILURES)
        self._began: float | None = None

    def read(self) -> Iterator[Reading]:
        """The metrics now, in the order of :data:`METRICS`; those without a value are left out."""
        with self._lock:
            now = max(self._clock(), self._stats.at)
            snapshot = self._stats.snapshot(now)
            values = {**self._of_run(snapshot, now), **self._of_routes(now)}
        for name, metric in METRICS.items():
            if values.get(name):
                yield Reading(metric, values[name])

    def _of_run(self, run: Snapshot, now: float) -> dict[str, dict[Labels, float | Histogram]]:
        latencies = self._stats.latencies
        count, buckets = latencies.count, tuple(latencies.up_to(_DOUBLINGS))
        values: dict[str, dict[Labels, float | Histogram]] = {
            "rows": {("success",): run.this_run_success, ("failed",): run.this_run_failed},
            "row_failures": _by_code(self._failures, run.failures_by_code),
            "call_errors": _by_code(self._errors, run.errors_by_code),
            "call_duration": {(): Histogram(buckets, max(count, buckets[-1][1]), latencies.total_s)},
            "unpriced_calls": {(): run.spending.unpriced_calls},
            "cost_at_risk": {(): float(run.spending.at_risk_usd)},
            "cached_rows": {(): run.cached},
            "output_rows": {(): run.done_rows},
            "waiting_retries": {(): run.waiting_retries},
            "retries": {(): run.retries},
            "repairs": {(): run.repairs},
            "probes": {(): run.probes},
            "calls_avoided": {(): run.calls_avoided},
            "run_state": {(state,): float(state == run.state) for state in get_args(RunState)},
            "run_info": {(self._version,): 1},
        }
        if run.total_rows is not None and not run.total_is_estimate:
            values["input_rows"] = {(): run.total_rows}
        if run.eta_s is not None:
            values["eta"] = {(): run.eta_s}
        started = self._stats.started
        if started is not None:
            if self._began is None:
                self._began = time.time() - (now - started.at)
            values["run_start_time"] = {(): self._began}
        return values

    def _of_routes(self, now: float) -> dict[str, dict[Labels, float | Histogram]]:
        values: dict[str, dict[Labels, float | Histogram]] = {}
        concurrency = 0 if self._stats.started is None else self._stats.started.concurrency
        for route in self._stats.routes():
            label = label_text(route.label)
            shown = self._routes(label)
            for name, labels, number in _route_numbers(route, concurrency, now):
                series = values.setdefault(name, {})
                known = series.get((shown, *labels), 0)
                assert isinstance(known, float | int)  # noqa: S101 - routes have no histograms
                # Of several routes the circuit's state is the worst, and the limit the highest.
                is_sum = name not in ("circuit_state", "concurrency_limit")
                series[(shown, *labels)] = known + number if is_sum else max(known, number)
        return values


def _route_numbers(route: RouteStats, concurrency: int, now: float) -> Iterator[tuple[str, Labels, float]]:
    calls = route.calls
    outcomes = {"success": calls.good, "failure": 0, "throttled": 0, "rejected": 0, OTHER: 0}
    for verdict, count in list(calls.failures.items()):
        outcomes[verdict if verdict in outcomes else OTHER] += count
    for outcome, count in outcomes.items():
        yield "calls", (outcome,), count
    yield "in_flight", (), calls.in_flight
    yield "concurrency_limit", (), concurrency if route.limit is None else route.limit
    yield "circuit_state", (), _STATES[route.state]
    yield "parked_rows", (), route.parked
    yield "outages", (), route.outages
    yield "outage", (), route.outage_seconds(now)
    yield "tokens", ("input",), calls.spending.input_tokens
    yield "tokens", ("output",), calls.spending.output_tokens
    if calls.spending.cost_usd is not None:
        yield "cost", (), float(calls.spending.cost_usd)


def _by_code(kept: FirstValues, counts: Mapping[str, int]) -> dict[Labels, float | Histogram]:
    sums = kept.sums([(error_code(code), count) for code, count in counts.items()])
    return {(code,): count for code, count in sums.items()}
