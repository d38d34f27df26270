"""``--metrics-port`` and ``--otel``: the metrics of a run for Prometheus, its spans and metrics for OpenTelemetry."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmbatch import __version__
from llmbatch.cli.settings import Settings
from llmbatch.cli.terminal import print_note, tell_note
from llmbatch.core.calls import record
from llmbatch.core.errors import UsageError
from llmbatch.core.events import Notice, Observer
from llmbatch.report.stats import RunStats
from llmbatch.runner.value_types import Address

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Telemetry", "send_telemetry", "serve_metrics"]


@record
class Telemetry:
    """OpenTelemetry's providers; None where nothing is sent."""

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None


@contextlib.contextmanager
def serve_metrics(settings: Settings, stats: RunStats) -> Iterator[None]:
    """Serve the metrics of the run that *stats* counts, if that was asked for. Call it on the run's event loop.

    A port that is in use costs the metrics only: a note says so, and the run goes on.

    Raises:
        UsageError: prometheus-client is not installed, or there is no such address on this machine.
    """
    if settings.metrics_port is None:
        yield
        return
    try:
        from llmbatch.telemetry.prometheus import RunCollector, new_registry, render
    except ImportError:
        message = "--metrics-port needs prometheus-client, which is not installed"
        raise UsageError(message, hint="pip install 'llmbatch[metrics]'") from None
    from llmbatch.telemetry.metrics_server import MetricsServer
    from llmbatch.telemetry.run_metrics import RunMetrics

    ahead = asyncio.get_running_loop().time() - time.monotonic()
    metrics = RunMetrics(stats, clock=lambda: time.monotonic() + ahead, version=__version__)
    registry = new_registry(RunCollector(metrics))
    try:
        server = MetricsServer(*Address.split(settings.metrics_port), lambda accept: render(registry, accept))
    except OSError as error:
        _refuse_address(settings.metrics_port, error)
        tell_note(
            f"no metrics are served: the port of --metrics-port {settings.metrics_port} is in use",
            "the run goes on; another run may have it: give each a port of its own",
            as_json=settings.progress == "json",
        )
        yield
        return
    if not settings.quiet and settings.progress != "json":
        print_note(f"metrics at {server.url}")
    with server:
        yield


@contextlib.contextmanager
def send_telemetry(settings: Settings, display: Callable[[], Observer]) -> Iterator[Telemetry]:
    """Send spans and metrics while the run goes on, if that was asked for. Call it on the run's event loop.

    What cannot be sent costs a warning, on *display* while the run goes on; leaving waits for five seconds at most.

    Raises:
        UsageError: OpenTelemetry is not installed, or a variable of it cannot be meant.
    """
    if not settings.otel:
        yield Telemetry()
        return
    try:
        from llmbatch.telemetry.otel_export import OtlpExport
    except ImportError:
        message = "--otel needs OpenTelemetry, which is not installed"
        raise UsageError(message, hint="pip install 'llmbatch[otel]'") from None
    loop = asyncio.get_running_loop()
    is_over = False

    def warn(message: str, hint: str) -> None:
        if settings.quiet:
            return
        if is_over or settings.progress == "none":
            tell_note(message, hint, as_json=settings.progress == "json")
        else:
            with contextlib.suppress(RuntimeError):  # the loop was just closed
                loop.call_soon_threadsafe(lambda: display().observe(Notice(loop.time(), "warning", message, hint)))

    with OtlpExport(os.environ, warn=warn, version=__version__) as export:
        try:
            yield Telemetry(export.tracer_provider, export.meter_provider)
        finally:
            is_over = True


def _refuse_address(address: str, error: OSError) -> None:
    """Raise for everything but a port that is in use.

    Raises:
        UsageError: this address will never do.
    """
    if error.errno == errno.EADDRINUSE and not isinstance(error, socket.gaierror):
        return
    why = (error.strerror or str(error)).lower()
    hint = "ports below 1024 need a privilege; take a higher one, such as 9464"
    if error.errno not in (errno.EACCES, errno.EPERM):
        hint = "give the port alone, or an address of this machine, such as 0.0.0.0:9464"
    raise UsageError(f"--metrics-port {address}: cannot listen there: {why}", hint=hint) from None
