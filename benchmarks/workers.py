"""CPU of `run --workers N` against one process: per row, of all processes together, in turns against one server.

Both runs send the same rows to the same server on loopback, which is pinned to the second processor; the CPU is that of
the command and its processes, as the kernel counts it, so that other load on the machine matters little. Two sizes of
inputs are run, and the CPU per row is that of their difference: what starting interpreters costs is told apart.

    python benchmarks/workers.py [--rows 40000] [--rounds 3] [--workers 2] [--json raw.json]

Limits: on two processors the server and two processes share them, so rows per second say little about speed-up here:
what one process leaves of a processor for others is not shown. `--fsync off`, so that the disk has no say.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from throughput_servers import kinds, serving

CONCURRENCY = 64


def cpu_of(url: str, rows: int, workers: int, *options: str) -> tuple[float, float]:
    """Seconds of CPU, and of time, of a run of so many rows with these *options*; it has a line for each row."""
    with tempfile.TemporaryDirectory(prefix="workers-") as name:
        prompts = Path(name) / "prompts.jsonl"
        prompts.write_text("".join(f'{{"prompt":"a question of the usual length, number {n}"}}\n' for n in range(rows)))
        command = [sys.executable, "-m", "llmbatch", "run", str(prompts), "-m", "openai/m", "--base-url", url]
        command += ["-o", str(Path(name) / "o.jsonl"), "-c", str(CONCURRENCY), "-q", "--fsync", "off"]
        if workers > 1:
            command += ["--workers", str(workers)]
        command += options
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        environment = os.environ | {"OPENAI_API_KEY": "sk-none", "HOME": name}
        subprocess.run(command, env=environment, check=True)
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        check_lines(Path(name) / "o.jsonl", rows)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu, took


def check_lines(output: Path, rows: int) -> None:
    """Check that each row has one line."""
    lines = output.read_bytes().splitlines()
    if len(lines) != rows or len({line.split(b",", 1)[0] for line in lines}) != rows:
        raise SystemExit(f"a row is lost or twice: {len(lines):,} lines of {rows:,} rows")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    few = max(100, given.rows // 20)
    rounds: list[object] = []
    ratios: list[float] = []
    seconds: dict[int, list[float]] = {1: [], given.workers: []}
    with serving(kinds()[0], 0.0) as url:
        for _ in range(given.rounds):
            measured = {
                (rows, workers): cpu_of(url, rows, workers)
                for workers in (1, given.workers)
                for rows in (few, given.rows)
            }
            per_row = {
                workers: (measured[given.rows, workers][0] - measured[few, workers][0]) / (given.rows - few) * 1e6
                for workers in (1, given.workers)
            }
            ratio = per_row[given.workers] / per_row[1]
            for workers, times in seconds.items():
                times.append(measured[given.rows, workers][1] - measured[few, workers][1])
            rounds.append(
                {
                    "us_per_row": per_row,
                    "ratio": ratio,
                    "runs": [[*key, *measured[key]] for key in measured],
                }
            )
            ratios.append(ratio)
            one, several = per_row[1], per_row[given.workers]
            print(f"{one:.0f} us per row of one process, {several:.0f} of {given.workers}: {ratio:.3f}", flush=True)
    speed = statistics.median(seconds[1]) / statistics.median(seconds[given.workers])
    print(f"median ratio {statistics.median(ratios):.3f}; by the medians {speed:.2f} times the rows per second")
    if given.json is not None:
        about = {"machine": platform.platform(), "python": platform.python_version(), "processors": os.cpu_count()}
        given.json.write_text(json.dumps({**about, "arguments": vars(given), "rounds": rounds}, default=str) + "\n")


if __name__ == "__main__":
    main()
