"""What durable lines cost: rows a second with `--fsync group` (the default) beside `--fsync off`, in one run.

The same job over and over, in turns, against an instant server in a process of its own; the output lies in the folder
given, which should be on the disk that one asks about. Medians and their ratio.

Bias: loopback, and a server that answers at once: no real provider lets lines come so fast, so the cost there is less.

    python benchmarks/durability.py [--rows 20000] [--concurrency 40] [--rounds 5] [--folder .]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from throughput_servers import kinds, serving

MODES = ("off", "group")
LONGEST = 600.0
"""Seconds after which a run is given up."""


def run(folder: Path, url: str, mode: str, concurrency: int) -> float:
    """Seconds of one whole process."""
    words = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "m", "--base-url", url, "--overwrite"]
    more = ["-c", str(concurrency), "--fsync", mode, "--progress", "none", "-q"]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "llmbatch", *words, *more], cwd=folder)
    # wait() with a time-out looks only every 50 ms.
    watchdog = threading.Timer(LONGEST, process.kill)
    watchdog.start()
    code = process.wait()
    watchdog.cancel()
    if code:
        raise SystemExit(f"llmbatch ended with {code}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    with serving(kinds()[0], 0.0) as url, tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        (folder / "in.jsonl").write_text("".join(f'{{"prompt":"row {n}"}}\n' for n in range(given.rows)))
        for number in range(given.rounds):
            # Whoever goes first in a round goes second in the next.
            for mode in MODES if number % 2 else MODES[::-1]:
                rates[mode].append(given.rows / run(folder, url, mode, given.concurrency))
    medians = {mode: statistics.median(rates[mode]) for mode in MODES}
    ratio = medians["group"] / medians["off"]
    if given.json:
        print(json.dumps({"rows_per_s": rates, "group_over_off": ratio}))
        return
    from rich.console import Console
    from rich.table import Table

    cores = os.cpu_count()
    table = Table(
        title=f"{given.rows:,} rows, {given.rounds} rounds; Python {platform.python_version()}, {cores} cores"
    )
    for title in ("--fsync", "rows/s", "spread", "to off"):
        table.add_column(title, justify="right")
    for mode in MODES:
        spread = f"{min(rates[mode]):,.0f} to {max(rates[mode]):,.0f}"
        table.add_row(mode, f"{medians[mode]:,.0f}", spread, f"{medians[mode] / medians['off']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
