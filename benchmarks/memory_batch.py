"""Peak memory of ``llmbatch run --via batch`` at growing inputs, over real HTTP and with real files.

Each size is a process of its own, whose peak is the kernel's own figure; the simulated provider is another process. Its
batches end at once, so that nearly all the time is reading, uploading, collecting and writing.

    python benchmarks/memory_batch.py [--rows 10000,1000000] [--json raw.json]

Linux and macOS. A million rows take some 1.2 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memory_large import peak_of

SCENARIO = """
description = "batches that end at once"
models = ["m"]

[batch]
validate_s = 0.1
finalize_s = 0.1
rows_per_s = 1_000_000
"""


@dataclass(frozen=True)
class Measured:
    """One run."""

    rows: int
    seconds: float
    peak_mb: float
    exit_code: int
    lines: int


def measure(folder: Path, rows: int) -> Measured:
    """One run against a provider of its own, which ends with it."""
    (folder / "quick.toml").write_text(SCENARIO)
    with (folder / "in.jsonl").open("w") as file:
        for number in range(1, rows + 1):
            file.write(f'{{"id":"r{number}","prompt":"Tell of row {number}"}}\n')
    module = [sys.executable, "-m", "llmbatch"]
    serve = [*module, "sim", "serve", "--port", "0", "--latency", "0.01", "--scenario", str(folder / "quick.toml")]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        run = [*module, "run", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), "--base-url", url, "-m", "m"]
        began = time.perf_counter()
        peak, code = peak_of([*run, "--via", "batch", "-q"], folder / "log")
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(10)
    sys.stderr.write((folder / "log").read_text())
    with (folder / "out.jsonl").open() as lines:
        return Measured(rows, seconds, peak, code, sum(1 for _ in lines))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,1000000", help="sizes of the input")
    parser.add_argument("--json", type=Path, help="where raw figures go")
    given = parser.parse_args(words)
    found: list[Measured] = []
    for rows in map(int, given.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="memory-batch-") as name:
            found.append(measure(Path(name), rows))
        one = found[-1]
        print(f"{one.rows:>10,} rows  exit code {one.exit_code}  {one.seconds:6.0f} s  peak {one.peak_mb:.1f} MB")
        assert one.lines == one.rows, f"{one.lines} lines"
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in found]))
    print(f"{found[-1].peak_mb / found[0].peak_mb:.3f} times the peak")
    return 0


if __name__ == "__main__":
    sys.exit(main())
