"""What monitoring costs a run: processor time with ``--metrics-port`` and ``--otel``, as ratios to a run without.

Each mode runs the same rows through ``llmbatch run`` in a process of its own, against a server on the other processor,
in turns, once with all rows and once with a fifth: the difference leaves out what starting costs, which is shown apart.
The ratio is taken within each round, and the median of all rounds is shown with the lowest and the highest.
"off again" is a second run without, whose ratio shows how much this machine varies. Metrics are scraped once a
second; spans and metrics go to a collector in a process of its own that decodes nothing.

Bias: the server answers at once, so that a row costs as little as it can, and monitoring as large a share.

    python benchmarks/telemetry.py [--rows 20000] [--rounds 5] [--json raw.json]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from throughput_servers import end_with_parent, pin, serving, wait_for

MODES: dict[str, list[str]] = {
    "off": [],
    "off again": [],
    "metrics": ["--metrics-port", "0"],
    "metrics, scraped": ["--metrics-port", "0"],
    "otel": ["--otel"],
    "otel, 1 % of rows": ["--otel"],
}


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
    process = subprocess.Popen(
        [sys.executable, __file__, "--collect", str(port)], preexec_fn=lambda: end_with_parent(1)
    )
    try:
        wait_for(port, process, "the collector")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def scrape(stderr: int, stop: threading.Event) -> None:
    """Read the address of the metrics from the run, and ask once a second."""
    with os.fdopen(stderr) as lines:
        found = next((match for line in lines if (match := re.search(r"http://127\.0\.0\.1:(\d+)", line))), None)
        while found is not None and not stop.wait(1.0):
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=5)
                connection.request("GET", "/metrics")
                connection.getresponse().read()
                connection.close()


def run(mode: str, folder: Path, url: str, collector: str, rows: int) -> float:
    """Processor seconds of one run of so many rows."""
    words = ["-m", "llmbatch", "run", "p.jsonl", "-m", "m", "--base-url", url, "-o", "o.jsonl", "--overwrite"]
    words += ["-n", str(rows)]
    environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | {"HOME": str(folder)}
    environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
    if "1 %" in mode:
        environ |= {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    stop, (reads, writes) = threading.Event(), os.pipe()
    is_scraped = "scraped" in mode
    reader = threading.Thread(target=scrape, args=(reads, stop)) if is_scraped else None
    process = subprocess.Popen(
        [sys.executable, *words, "--progress", "none", *MODES[mode]],
        cwd=folder,
        env=environ,
        stderr=writes if is_scraped else subprocess.DEVNULL,
        preexec_fn=lambda: end_with_parent(0),
    )
    os.close(writes)
    if reader is None:
        os.close(reads)
    else:
        reader.start()
    _, status, used = os.wait4(process.pid, 0)
    stop.set()
    if reader is not None:
        reader.join()
    if status:
        raise SystemExit(f"error: the run with {mode} ended with status {status}")
    process.returncode = 0
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--collect", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.collect is not None:
        ThreadingHTTPServer(("127.0.0.1", given.collect), Collector).serve_forever()
    pin(1)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    starts: dict[str, list[float]] = {mode: [] for mode in MODES}
    few = given.rows // 5
    began = time.strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory() as name, serving("responder", 0.0) as url, collecting() as collector:
        folder = Path(name)
        rows = (f'{{"id":"r{row}","prompt":"What is {row} and why?"}}\n' for row in range(given.rows))
        (folder / "p.jsonl").write_text("".join(rows))
        for _ in range(given.rounds):
            for mode in MODES:
                small = run(mode, folder, url, collector, few)
                seconds[mode].append(run(mode, folder, url, collector, given.rows) - small)
                starts[mode].append(small - seconds[mode][-1] / (given.rows - few) * few)
    print(f"Python {platform.python_version()}, {given.rows:,} rows, {given.rounds} rounds, {began}")
    print(f"{'':<20}{'µs a row':>9}{'ratio':>8}  {'lowest to highest':<20}start-up, s")
    for mode, each in seconds.items():
        ratios = [one / off for one, off in zip(each, seconds["off"], strict=True)]
        micros = statistics.median(each) / (given.rows - few) * 1e6
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        start = statistics.median(starts[mode])
        print(f"{mode:<20}{micros:>9.0f}{statistics.median(ratios):>8.3f}  {spread:<20}{start:.2f}")
    if given.json is not None:
        given.json.write_text(json.dumps({"rows": given.rows, "seconds": seconds, "starts": starts}))


if __name__ == "__main__":
    main()
