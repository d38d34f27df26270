"""Peak memory at growing inputs: `BatchRunner` over files of small rows, with a provider that answers at once.

Everything of a run is there but the network: rows are read, composed, answered by a transport in the same process,
judged, and written as synced lines. Each size is a process of its own, whose peak is the kernel's own figure.

    python benchmarks/memory.py [--rows 10000,1000000] [--concurrency 200] [--json raw.json]

Ten million rows take some ten minutes and 4 GB of disk: --rows 10000,10000000.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmbatch import BatchRunner
from llmbatch.core.calls import Reply, Request

ANSWER = json.dumps(
    {
        "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
).encode()


@dataclass(frozen=True)
class Measured:
    rows: int
    seconds: float
    peak_mb: float


class InstantProvider:
    """A transport that has its answer ready."""

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109
        return Reply(200, {"content-type": "application/json"}, ANSWER)

    async def aclose(self) -> None:
        pass


def job(folder: Path, rows: int, concurrency: int) -> Measured:
    """All of it, in this process."""
    with (folder / "in.jsonl").open("w") as file:
        for number in range(rows):
            file.write(f'{{"prompt":"is {number} a number?"}}\n')
    runner = BatchRunner(
        "m", base_url="http://127.0.0.1:1/v1", environ={}, transport=InstantProvider(), concurrency=concurrency
    )
    began = time.perf_counter()
    summary = runner.run_sync(folder / "in.jsonl", folder / "out.jsonl")
    seconds = time.perf_counter() - began
    if (summary.exit_code, summary.success) != (0, rows):
        raise SystemExit(f"error: {summary.success:,} of {rows:,} rows succeeded, exit code {summary.exit_code}")
    peak_kb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return Measured(rows, seconds, peak_kb / 1024)


def measure(rows: int, concurrency: int) -> Measured:
    """One size, in a process of its own."""
    words = [sys.executable, __file__, "--rows", str(rows), "--concurrency", str(concurrency), "--here"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,1000000", help="sizes, with commas between")
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--json", type=Path, help="where raw figures go")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    sizes = [int(size) for size in given.rows.split(",")]
    if given.here:
        with tempfile.TemporaryDirectory(prefix="memory-") as name:
            print(json.dumps(asdict(job(Path(name), sizes[0], given.concurrency))))
        return 0
    measured = [measure(size, given.concurrency) for size in sizes]
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in measured]))
    print(f"Python {platform.python_version()}, {given.concurrency} at once, instant provider in the same process")
    print(f"{'rows':>12} {'seconds':>9} {'peak MB':>9} {'to the first':>13}")
    for one in measured:
        ratio = one.peak_mb / measured[0].peak_mb
        print(f"{one.rows:>12,} {one.seconds:>9.1f} {one.peak_mb:>9.1f} {ratio:>13.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
