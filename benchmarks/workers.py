"""CPU and rows per second of `run --workers N`, beside one process and beside N runs of a shard each, in turns.

All send the same rows to the same server on loopback, which is pinned to the second processor; the CPU is that of the
commands and their processes, as the kernel counts it, so that other load on the machine matters little. Two sizes of
inputs are run, and a row costs their difference: what starting interpreters costs is told apart.

    python benchmarks/workers.py [--rows 40000] [--rounds 3] [--workers 2] [--json raw.json]

Runs of a shard each share nothing, so they show what this machine has to give to N processes; `--workers` has one
display, one circuit and one merged output as well. On two processors, the server and two processes share them.
`--fsync off`, so that the disk has no say.
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


KINDS = ("one process", "workers", "separate shards")


def measure(url: str, rows: int, kind: str, workers: int, *options: str) -> tuple[float, float]:
    """Seconds of CPU, and of time, of *rows* rows with these *options*; each has a line."""
    with tempfile.TemporaryDirectory(prefix="workers-") as name:
        prompts = Path(name) / "prompts.jsonl"
        prompts.write_text("".join(f'{{"prompt":"a question of the usual length, number {n}"}}\n' for n in range(rows)))
        command = [sys.executable, "-m", "llmbatch", "run", str(prompts), "-m", "openai/m", "--base-url", url]
        command += ["-q", "--fsync", "off", *options, "-o"]
        if kind == "separate shards":
            part = ["-c", str(CONCURRENCY // workers), "--shard"]
            commands = [[*command, f"{name}/{n}.jsonl", *part, f"{n}/{workers}"] for n in range(1, workers + 1)]
        else:
            split = ["--workers", str(workers)] if kind == "workers" else []
            commands = [[*command, f"{name}/1.jsonl", "-c", str(CONCURRENCY), *split]]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        environment = os.environ | {"OPENAI_API_KEY": "sk-none", "HOME": name}
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        codes = [process.wait() for process in processes]
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        if any(codes):
            raise SystemExit(f"a run ended with {codes}")
        check_lines([Path(name) / f"{n}.jsonl" for n in range(1, len(commands) + 1)], rows)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu, took


def check_lines(outputs: list[Path], rows: int) -> None:
    """Check that each row has one line."""
    lines = [line for output in outputs for line in output.read_bytes().splitlines()]
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
    runs: list[object] = []
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    speed: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with serving(kinds()[0], 0.0) as url:
        for _ in range(given.rounds):
            for kind in KINDS:
                small = measure(url, few, kind, given.workers)
                large = measure(url, given.rows, kind, given.workers)
                runs.append([kind, few, *small, given.rows, *large])
                cpu[kind].append((large[0] - small[0]) / (given.rows - few) * 1e6)
                speed[kind].append((given.rows - few) / (large[1] - small[1]))
    for kind in KINDS:
        per_row, per_second = statistics.median(cpu[kind]), statistics.median(speed[kind])
        ratios = per_row / statistics.median(cpu[KINDS[0]]), per_second / statistics.median(speed[KINDS[0]])
        print(
            f"{kind:15}  {per_row:4.0f} CPU us per row ({min(cpu[kind]):.0f} to {max(cpu[kind]):.0f})  "
            f"{per_second:7,.0f} rows/s  to one process: CPU {ratios[0]:.2f}, rows/s {ratios[1]:.2f}"
        )
    if given.json is not None:
        about = {"machine": platform.platform(), "python": platform.python_version(), "processors": os.cpu_count()}
        given.json.write_text(json.dumps({**about, "arguments": vars(given), "runs": runs}, default=str) + "\n")


if __name__ == "__main__":
    main()
