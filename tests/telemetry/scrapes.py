"""Real scrapes of a run: its metrics over HTTP, parsed by prometheus-client."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from llmbatch.core.calls import Verdict
from llmbatch.core.events import CallEnded, CallSent, Event, LimitChanged, RowFinished, RunStarted
from llmbatch.report.stats import RunStats
from llmbatch.telemetry.metrics_server import MetricsServer
from llmbatch.telemetry.prometheus import RunCollector, new_registry, render
from llmbatch.telemetry.run_metrics import RunMetrics

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Each sample by its name and labels."""


def get(url: str, method: str = "GET", headers: Mapping[str, str] = {}) -> tuple[int, str, Mapping[str, str]]:
    """Status, body and headers of one request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request(method, parts.path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()


def parsed(text: str) -> Series:
    """The samples of a scrape; a series that stands twice is an error, as it is for Prometheus."""
    series: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in series, key
            series[key] = sample.value
    return series


def scrape(url: str) -> Series:
    """The samples now."""
    status, text, _ = get(url)
    assert status == 200, text
    return parsed(text)


def value(series: Series, name: str, **labels: str) -> float:
    """One sample."""
    return series[name, frozenset(labels.items())]


@contextmanager
def serving(stats: RunStats, *, now: float | None = None) -> Iterator[MetricsServer]:
    """Serve the metrics of *stats* on loopback; the clock stands at *now*, or at the last event."""
    metrics = RunMetrics(stats, clock=lambda: stats.at if now is None else now, version="9.9")
    registry = new_registry(RunCollector(metrics))
    with MetricsServer("127.0.0.1", 0, lambda accept: render(registry, accept)) as server:
        yield server


def fold(events: Iterable[Event]) -> RunStats:
    """The statistics of *events*."""
    stats = RunStats()
    for event in events:
        stats.observe(event)
    return stats


def started(total: int | None = None) -> RunStarted:
    return RunStarted(1.0, "p.jsonl", "o.jsonl", 40, 0, 0, total)


def call(at: float, route: str, row: int, code: str = "", *, cost: Decimal | None = None) -> list[Event]:
    """A call of half a second that fails with *code*, or succeeds, and the end of its row."""
    verdict: Verdict = "failure" if code else "success"
    status = 500 if code else 200
    tokens = (0, 0) if code else (10, 20)
    return [
        CallSent(at - 0.5, route, row, 1, False, row),
        CallEnded(at, route, row, False, verdict, code, "", status, 0.5, *tokens, row, cost),
        RowFinished(at, route, row, "failed" if code else "success", code, 1),
        LimitChanged(at, route, 7),
    ]
