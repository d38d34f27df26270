"""Spans and metrics of a run for OpenTelemetry: an observer over its API, whatever SDK and exporter stand behind it.

Spans: one for the run, one for each call with its start and end. A span of a call is begun and ended when the call has
ended, so that nothing is kept while it is in flight. The SDK's exporter is set up elsewhere
(:mod:`llmbatch.telemetry.otel_export`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, set_span_in_context

from llmbatch.core.call_details import CallDetails
from llmbatch.core.events import (
    CallEnded,
    CircuitChanged,
    Event,
    OutageEnded,
    OutageStarted,
    RowFinished,
    RunEnded,
    RunStarted,
)
from llmbatch.report.stats import RunStats
from llmbatch.telemetry import genai
from llmbatch.telemetry.labels import OTHER, FirstValues, label_text
from llmbatch.telemetry.run_metrics import Histogram, Metric, RunMetrics

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetryObserver"]

_SPANS_OF_RUN = 1000
"""Calls whose spans belong to the trace of the run; stores of traces bound the size of one."""
_MOST_WAITING = 10_000
_MOST_ROUTES = 16
_MOST_ERRORS = 16
_TICK_S = 1.0
_SUCCESSFUL_EXITS = (0, 1, 75)
_UNITS = {"seconds": "s", "usd": "{USD}"}
_NOT_COUNTED = frozenset({"call_duration", "run_info", "run_state", "run_start_time"})


class OpenTelemetryObserver:
    """Observer of one run. Use a new one for each run; ``BatchRunner`` makes them from its two providers.

    Args:
        tracer_provider: gives the tracer; None: no spans.
        meter_provider: gives the meter; None: no metrics.
        stats: the statistics of the run, if something else feeds them, before this observer sees an event.
        version: of llmbatch, of the instrumentation scope.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        stats: RunStats | None = None,
        version: str = "",
    ) -> None:
        self._stats = RunStats() if stats is None else stats
        self._feeds_stats = stats is None
        self._spans = None if tracer_provider is None else _Spans(tracer_provider, version)
        self._metrics = None if meter_provider is None else _Metrics(meter_provider, self._stats, version)
        self._details: CallDetails | None = None

    def observe_call(self, details: CallDetails) -> None:
        """Keep what the event that follows says too little of."""
        self._details = details

    def observe(self, event: Event) -> None:
        """Take one event."""
        if self._feeds_stats:
            self._stats.observe(event)
        if type(event) is CallEnded:
            details, self._details = self._details, None
            if details is not None and details.call == event.call and details.label == event.route:
                if self._spans is not None:
                    self._spans.call_ended(details, event)
                if self._metrics is not None:
                    self._metrics.call_ended(details, event)
        elif self._spans is not None:
            self._spans.observe(event, self._stats)
        if self._metrics is not None:
            self._metrics.tick(event)


class _Spans:
    def __init__(self, provider: TracerProvider, version: str) -> None:
        self._tracer = provider.get_tracer("llmbatch", version)
        self._run: Span | None = None
        self._in_run: Context | None = None
        self._count = 0
        self._rows: dict[int, tuple[Context, SpanContext]] = {}
        """Rows that are sent again: the context of their spans, and the last of these."""

    def call_ended(self, details: CallDetails, event: CallEnded) -> None:
        run, in_run = self._run, self._in_run
        if run is None or in_run is None:
            return
        attributes = genai.call_attributes(details.route, details.endpoint)
        earlier = self._rows.pop(details.row, None) if details.row else None
        begins_trace = earlier is None and self._count >= _SPANS_OF_RUN
        links: list[Link] = []
        if earlier is not None:
            context, last = earlier
            links.append(Link(last, {"llmbatch.link": "earlier_attempt"}))
        elif begins_trace:
            context = Context()
            links.append(Link(run.get_span_context(), {"llmbatch.link": "run"}))
        else:
            context = in_run
        self._count += 1
        end = time.time_ns()
        is_function = details.endpoint == genai.FUNCTION
        span = self._tracer.start_span(
            genai.span_name(attributes),
            context=context,
            kind=SpanKind.INTERNAL if is_function else SpanKind.CLIENT,
            attributes=attributes,
            links=links,
            start_time=end - int(event.latency_s * 1e9),
        )
        if span.is_recording():
            span.set_attributes(genai.answer_attributes(details, provider=str(attributes[genai.PROVIDER])))
            span.set_attributes(_of_call(details, event))
            if event.verdict not in ("success", None):
                span.set_status(Status(StatusCode.ERROR, genai.error_type(details.outcome)))
        span.end(end)
        outcome = details.outcome
        if details.row and (outcome is None or outcome.verdict != "success" or outcome.follow_up is not None):
            if len(self._rows) >= _MOST_WAITING:
                del self._rows[next(iter(self._rows))]
            own = set_span_in_context(span, context) if begins_trace else context
            self._rows[details.row] = own, span.get_span_context()

    def observe(self, event: Event, stats: RunStats) -> None:
        match event:
            case RowFinished():
                self._rows.pop(event.row, None)
            case RunStarted():
                self._start(event)
            case CircuitChanged(old="closed") | CircuitChanged(new="closed"):
                self._add(f"circuit {event.new}", event.route, retry_after=event.retry_after)
            case OutageStarted():
                self._add("outage started", event.route, retry_after=event.retry_after)
            case OutageEnded():
                self._add("outage ended", event.route, seconds=event.seconds)
            case RunEnded():
                self._end(event, stats)
            case _:
                pass

    def _start(self, event: RunStarted) -> None:
        attributes: genai.Attributes = {
            genai.OPERATION: genai.RUN_OPERATION,
            genai.WORKFLOW: "llmbatch",
            "llmbatch.concurrency": event.concurrency,
        }
        for name, value in (("llmbatch.input", event.input), ("llmbatch.output", event.output)):
            if value:
                attributes[name] = label_text(value)
        if event.total_rows is not None:
            attributes["llmbatch.rows.total"] = event.total_rows
        self._run = self._tracer.start_span(
            f"{genai.RUN_OPERATION} llmbatch", kind=SpanKind.INTERNAL, attributes=attributes
        )
        self._in_run = set_span_in_context(self._run)

    def _add(self, name: str, route: str, **attributes: float) -> None:
        if self._run is not None:
            own = {f"llmbatch.{key}": round(value, 3) for key, value in attributes.items() if value}
            self._run.add_event(name, {"llmbatch.route": label_text(route), **own})

    def _end(self, event: RunEnded, stats: RunStats) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        now = stats.snapshot(event.at)
        attributes: genai.Attributes = {
            "llmbatch.exit_code": event.exit_code,
            "llmbatch.rows.success": now.this_run_success,
            "llmbatch.rows.failed": now.this_run_failed,
            "llmbatch.rows.deferred": event.deferred,
            "llmbatch.calls": now.calls,
            "llmbatch.calls.avoided": now.calls_avoided,
            "llmbatch.outages": now.outages,
            genai.INPUT_TOKENS: now.input_tokens,
            genai.OUTPUT_TOKENS: now.output_tokens,
        }
        if now.spending.cost_usd is not None:
            attributes["llmbatch.cost_usd"] = now.cost
        run.set_attributes(attributes)
        if event.exit_code not in _SUCCESSFUL_EXITS:
            run.set_attribute(genai.ERROR_TYPE, f"exit_{event.exit_code}")
            run.set_status(Status(StatusCode.ERROR, f"exit code {event.exit_code}"))
        run.end()


def _of_call(details: CallDetails, event: CallEnded) -> genai.Attributes:
    attributes: genai.Attributes = {
        "llmbatch.route": label_text(details.label),
        "llmbatch.attempt": details.attempt,
        "llmbatch.probe": details.probe,
    }
    if details.row:
        attributes["llmbatch.row"] = details.row
    if event.cost_usd is not None:
        attributes["llmbatch.cost_usd"] = float(event.cost_usd)
    if details.outcome is not None and details.outcome.request_id:
        attributes["llmbatch.request_id"] = label_text(details.outcome.request_id)
    return attributes


class _Metrics:
    def __init__(self, provider: MeterProvider, stats: RunStats, version: str) -> None:
        self._meter = provider.get_meter("llmbatch", version)
        self._run_metrics = RunMetrics(stats, clock=lambda: stats.at, version=version)
        self._routes = FirstValues(_MOST_ROUTES)
        self._errors = FirstValues(_MOST_ERRORS)
        self._attributes: dict[str, genai.Attributes] = {}
        """Of the calls of each route that is told apart."""
        self._duration = self._meter.create_histogram(
            genai.OPERATION_DURATION,
            unit="s",
            description="Duration of the calls.",
            explicit_bucket_boundaries_advisory=genai.DURATION_BOUNDS,
        )
        self._tokens = self._meter.create_histogram(
            genai.TOKEN_USAGE,
            unit="{token}",
            description="Tokens of the calls, by type.",
            explicit_bucket_boundaries_advisory=[float(bound) for bound in genai.TOKEN_BOUNDS],
        )
        self._own: dict[str, _Own] = {}
        self._told_at = float("-inf")

    def call_ended(self, details: CallDetails, event: CallEnded) -> None:
        key = self._routes(f"{details.endpoint} {details.route.label}")
        attributes = self._attributes.get(key)
        if attributes is None:
            attributes = self._attributes[key] = genai.call_attributes(details.route, details.endpoint)
            if key == OTHER:
                attributes = self._attributes[key] = {genai.OPERATION: OTHER, genai.PROVIDER: OTHER}
        for kind, tokens in (("input", event.input_tokens), ("output", event.output_tokens)):
            if tokens:
                self._tokens.record(tokens, {**attributes, genai.TOKEN_TYPE: kind})
        failed = genai.error_type(details.outcome)
        if failed is not None:
            attributes = {**attributes, genai.ERROR_TYPE: self._errors(failed)}
        self._duration.record(event.latency_s, attributes)

    def tick(self, event: Event) -> None:
        """Tell the run's own metrics, once a second and at the end."""
        if event.at - self._told_at < _TICK_S and type(event) is not RunEnded:
            return
        self._told_at = event.at
        for reading in self._run_metrics.read():
            if reading.metric.name not in _NOT_COUNTED:
                own = self._own.get(reading.metric.name)
                if own is None:
                    own = self._own[reading.metric.name] = _Own(self._meter, reading.metric)
                own.tell(reading.values)


class _Own:
    """One metric of the run's statistics as an instrument: gauges are set, counters get what was added."""

    def __init__(self, meter: Meter, metric: Metric) -> None:
        self._labels = [f"llmbatch.{label}" for label in metric.labels]
        self._before: dict[tuple[str, ...], float] = {}
        name, unit = f"llmbatch.{metric.name}", _UNITS.get(metric.unit, "")
        self._gauge = meter.create_gauge(name, unit, metric.help) if metric.kind == "gauge" else None
        self._counter = meter.create_counter(name, unit, metric.help) if metric.kind == "counter" else None

    def tell(self, values: Mapping[tuple[str, ...], float | Histogram]) -> None:
        for labels, value in values.items():
            if isinstance(value, Histogram):
                continue
            attributes = dict(zip(self._labels, labels, strict=True))
            if self._gauge is not None:
                self._gauge.set(value, attributes)
            elif self._counter is not None:
                added = value - self._before.get(labels, 0)
                if added > 0:
                    self._counter.add(added, attributes)
                    self._before[labels] = value
