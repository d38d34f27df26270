"""Observers that every run has of its own: OpenTelemetry's. They share one fold of the run's events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmbatch.core.errors import UsageError
from llmbatch.core.events import Observer
from llmbatch.report.stats import RunStats

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Watcher", "make_telemetry", "watched"]

Watcher = Callable[[RunStats], Observer]
"""Makes an observer for one run; the statistics are those of the run, and are fed before it sees an event."""


def watched(observers: Sequence[Observer], watchers: Sequence[Watcher]) -> Sequence[Observer]:
    """*observers* and those that *watchers* make for one run."""
    if not watchers:
        return observers
    # As the run does: an observer's unused RunStats, or one of its own.
    unused = (other for other in observers if isinstance(other, RunStats) and other.started is None)
    stats = next(unused, None) or RunStats()
    others = [other for other in observers if other is not stats]
    return [stats, *others, *(watcher(stats) for watcher in watchers)]


def make_telemetry(tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> list[Watcher]:
    """Make OpenTelemetry's observer; none if there is no provider, and then nothing of it is imported.

    Raises:
        UsageError: one of them is no such provider, or OpenTelemetry is not installed.
    """
    if tracer_provider is None and meter_provider is None:
        return []
    for name, provider, method in (
        ("tracer_provider", tracer_provider, "get_tracer"),
        ("meter_provider", meter_provider, "get_meter"),
    ):
        if provider is not None and not callable(getattr(provider, method, None)):
            raise UsageError(
                f"{name} is {provider!r:.80}, which has no {method}", hint=f"pass a {name} of OpenTelemetry"
            )
    try:
        from llmbatch.telemetry.otel import OpenTelemetryObserver
    except ImportError:
        raise UsageError("OpenTelemetry is not installed", hint="pip install 'llmbatch[otel]'") from None
    version = _version()
    return [
        lambda stats: OpenTelemetryObserver(
            tracer_provider=tracer_provider, meter_provider=meter_provider, stats=stats, version=version
        )
    ]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llmbatch")
    except PackageNotFoundError:  # run from its sources
        return ""
