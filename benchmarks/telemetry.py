"""What monitoring costs a run: processor time per row with metrics and with OpenTelemetry, as ratios to a run without.

All runs are in this process, in turns, against a server of its own that answers at once; the first round warms up. The
lowest time of all rounds counts, as other work on the machine only adds to it. "off again" is a second run without,
whose ratio shows how much is left of that. Metrics are rendered once a second, as a scrape does; spans and metrics go
to a collector in a process of its own that decodes nothing.

Bias: the server answers at once, so that a row costs as little as it can, and monitoring as large a share. Start-up is
left out: importing prometheus-client takes some 0.1 s, OpenTelemetry 0.5 s.

    python benchmarks/telemetry.py [--rows 2000] [--rounds 8] [--json raw.json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from throughput_servers import end_with_parent, pin, serving, wait_for

from llmbatch import BatchRunner
from llmbatch.report.stats import RunStats

MODES = ("off", "off again", "metrics", "otel", "otel, 1 % of rows")


class Collector(BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@contextlib.contextmanager
def collecting() -> Iterator[str]:
    """The URL of a collector on the second processor."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, __file__, "--collect", str(port)]
    process = subprocess.Popen(words, preexec_fn=lambda: end_with_parent(1))
    try:
        wait_for(port, process, "the collector")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def scraped(stats: RunStats) -> Iterator[None]:
    """Render the metrics of *stats* once a second in a thread."""
    from llmbatch.telemetry.prometheus import RunCollector, new_registry, render
    from llmbatch.telemetry.run_metrics import RunMetrics

    registry = new_registry(RunCollector(RunMetrics(stats, clock=lambda: stats.at, version="")))
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(1.0):
            render(registry, "")

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def traced(collector: str, share: float) -> Iterator[dict[str, Any]]:
    """Providers that send to *collector*; leaving sends the rest."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    tracer = TracerProvider(sampler=TraceIdRatioBased(share), shutdown_on_exit=False)
    tracer.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces"), max_queue_size=8192))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{collector}/v1/metrics"))
    meter = MeterProvider([reader], shutdown_on_exit=False)
    try:
        yield {"tracer_provider": tracer, "meter_provider": meter}
    finally:
        tracer.shutdown()
        meter.shutdown()


def run(mode: str, rows: int, url: str, collector: str) -> float:
    """Processor seconds of one run."""
    with contextlib.ExitStack() as stack:
        keywords: dict[str, Any] = {"observers": [RunStats()]}
        began = time.process_time()
        if mode == "metrics":
            stack.enter_context(scraped(keywords["observers"][0]))
        elif mode.startswith("otel"):
            keywords |= stack.enter_context(traced(collector, 0.01 if "1 %" in mode else 1.0))
        runner = BatchRunner("m", base_url=url, display=False, **keywords)
        asyncio.run(runner.map(f"What is {row} and why?" for row in range(rows)))
        stack.close()
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--collect", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.collect is not None:
        ThreadingHTTPServer(("127.0.0.1", given.collect), Collector).serve_forever()
    pin(0)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    with serving("responder", 0.0) as url, collecting() as collector:
        for at in range(given.rounds + 1):
            for mode in MODES:
                took = run(mode, given.rows, url, collector)
                if at:
                    seconds[mode].append(took)
    print(f"Python {platform.python_version()}, {given.rows:,} rows, {given.rounds} rounds")
    print(f"{'':<20}{'µs a row':>9}{'ratio':>8}")
    for mode, each in seconds.items():
        print(f"{mode:<20}{min(each) / given.rows * 1e6:>9.0f}{min(each) / min(seconds['off']):>8.3f}")
    if given.json is not None:
        given.json.write_text(json.dumps({"rows": given.rows, "seconds": seconds}))


if __name__ == "__main__":
    main()
