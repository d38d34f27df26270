"""Peak memory with large rows while a model is down: 2 MB each, two models in turn, 8 requests in flight.

A real ``llmbatch run`` over real HTTP, in a process of its own, whose peak is the kernel's own figure; the simulated
provider is another process. One model answers, the other refuses everything with 503; its rows must wait without their
bodies, so that the peak does not grow with their number. With ``--on-outage defer`` the run ends when the other model's
rows are done (exit code 75).

    python benchmarks/memory_large.py [--rows 200] [--mb 2] [--concurrency 8] [--json raw.json]

Linux and macOS. It takes as much disk as the rows: 400 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SCENARIO = """
description = "one model is down, and stays down"
models = ["down"]

[[phase]]
minutes = 600
behavior = "down"
statuses = [503]
"""


@dataclass(frozen=True)
class Measured:
    """One run. ``lines`` are rows with a line in the output; the others are deferred."""

    rows: int
    mb_per_row: float
    concurrency: int
    seconds: float
    peak_mb: float
    exit_code: int
    lines: int


def write_rows(path: Path, rows: int, size: int) -> None:
    """Rows of *size* bytes, for a model that answers and one that is down, in turn."""
    with path.open("w") as file:
        for number in range(rows):
            model = "down" if number % 2 else "fine"
            head = f'{{"model":"{model}","prompt":"row {number} '
            file.write(head + "x" * (size - len(head) - 3) + '"}\n')


def peak_of(words: Sequence[str], log: Path) -> tuple[float, int]:
    """Run *words*; the peak resident memory in MB, and the exit code."""
    with log.open("w") as errors:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    return usage.ru_maxrss / unit, process.returncode


def measure(folder: Path, rows: int, mb: float, concurrency: int) -> Measured:
    """One run against a provider of its own, which ends with it."""
    (folder / "down.toml").write_text(SCENARIO)
    write_rows(folder / "in.jsonl", rows, int(mb * 1_000_000))
    module = [sys.executable, "-m", "llmbatch"]
    serve = ["sim", "serve", "--port", "0", "--latency", "0.05", "--scenario", str(folder / "down.toml")]
    server = subprocess.Popen([*module, *serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        run = ["run", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), "--base-url", url, "-c"]
        began = time.perf_counter()
        peak, code = peak_of([*module, *run, str(concurrency), "--on-outage", "defer", "-q"], folder / "log")
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(10)
    with (folder / "out.jsonl").open() as file:
        lines = sum(1 for _ in file)
    return Measured(rows, mb, concurrency, seconds, peak, code, lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--mb", type=float, default=2.0, help="size of a row")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where raw figures go")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        found = measure(Path(name), given.rows, given.mb, given.concurrency)
    if given.json:
        given.json.write_text(json.dumps(asdict(found)))
    print(f"{found.rows:,} rows of {found.mb_per_row:g} MB, {found.concurrency} at once, one of two models down")
    print(f"{found.lines:,} lines, exit code {found.exit_code}, {found.seconds:.1f} s, peak {found.peak_mb:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
