"""``--metrics-port``: the metrics of a run, for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Iterator

from llmbatch import __version__
from llmbatch.cli.settings import Settings
from llmbatch.cli.terminal import print_note, tell_note
from llmbatch.core.errors import UsageError
from llmbatch.report.stats import RunStats
from llmbatch.runner.value_types import Address

__all__ = ["serve_metrics"]


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
