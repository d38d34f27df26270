"""Resuming a job of which half is done: seconds to the first call, and the memory it takes, beside a short job.

Makes an input of 2N rows (600 bytes a prompt) and an output with N finished lines (1.2 KB each), starts `llmbatch run`
against a server on loopback that notes when the first request comes, and stops it there. Peak memory is the process's
own, as the kernel counts it. Runs are repeated, medians printed; everything with --json.

Bias: the files were just written, so they are read from memory, not from a disk. With --small lines are as short as
they can be, for memory at many rows without as many gigabytes.

    python benchmarks/resume.py [--rows 1000000] [--rounds 3] [--small]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from llmbatch.inputs.rows import line_digest

FEW = 1000
LONGEST = 300.0
"""Seconds after which a run is given up."""


@dataclass(frozen=True)
class Measured:
    rows: int
    seconds: float
    """From the start of the process to its first request."""
    peak_mb: float


def write_files(folder: Path, rows: int, *, small: bool) -> None:
    """An input of twice *rows* rows, and an output with a line for every row of its first half."""
    prompt = "" if small else "word " * 118
    answer = "" if small else "answer " * 146
    with (folder / "in.jsonl").open("wb") as inputs, (folder / "out.jsonl").open("wb") as outputs:
        for number in range(1, 2 * rows + 1):
            line = f'{{"prompt":"{number} {prompt}"}}'.encode()
            inputs.write(line + b"\n")
            if number <= rows:
                outputs.write(
                    f'{{"row":{number},"hash":"{line_digest(line)}","status":"success","id":"row-{number}",'
                    f'"text":"{answer}","model":"m"}}\n'.encode()
                )


def resume(folder: Path, rows: int) -> Measured:
    """Start the run and stop it as soon as it has sent something."""
    before = (folder / "out.jsonl").stat().st_size
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LONGEST)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        words = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "m", "--base-url", url, "--progress", "none"]
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "llmbatch", *words], cwd=folder, stderr=subprocess.DEVNULL)
        try:
            connection, _ = server.accept()
            connection.recv(1)
            seconds = time.perf_counter() - began
            peak_kb = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0])
        finally:
            process.kill()
            process.wait()
    os.truncate(folder / "out.jsonl", before)
    return Measured(rows, seconds, peak_kb / 1024)


def measure(rows: int, rounds: int, *, small: bool) -> list[Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, rows, small=small)
        return [resume(folder, rows) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    few = measure(FEW, given.rounds, small=given.small)
    many = measure(given.rows, given.rounds, small=given.small)
    if given.json:
        print(json.dumps({"few": [asdict(one) for one in few], "many": [asdict(one) for one in many]}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Resume, {given.rounds} rounds; Python {platform.python_version()}, {os.cpu_count()} cores")
    for title in ("finished rows", "to the first call", "peak memory", "more than a short job"):
        table.add_column(title, justify="right")
    base = statistics.median(one.peak_mb for one in few)
    for measured in (few, many):
        peak = statistics.median(one.peak_mb for one in measured)
        seconds = statistics.median(one.seconds for one in measured)
        table.add_row(f"{measured[0].rows:,}", f"{seconds:.2f} s", f"{peak:.1f} MB", f"{peak - base:+.1f} MB")
    Console().print(table)


if __name__ == "__main__":
    main()
