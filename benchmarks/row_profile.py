"""Where the time of a row goes, from its bytes in the input to its bytes in the output.

`llmbatch run` against a server on loopback that answers at once (see throughput.py), once by itself for the processor
time a row, once under py-spy (extra `bench`), whose samples share that time out among the parts. Start-up is left out.

With --callgrind: machine instructions a row, counted by valgrind over runs of two sizes without a network. Slow, but
the same each time, so that a change of a hundredth shows.

    python benchmarks/row_profile.py [--rows 40000] [--concurrency 40]
    python benchmarks/row_profile.py --callgrind [--rows 1500]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from throughput import Cell, number, run
from throughput_servers import end_with_parent, kinds, serving

PARTS = {
    "start-up": r"importlib|_make_ssl|load_default_certs",
    "read and parse the row": r"llmbatch/inputs/|runner/reading",
    "write the line": r"encode_line|llmbatch/outputs/|llmbatch/storage/",
    "make the request": r"llmbatch/providers/",
    "judge the answer": r"llmbatch/classify/",
    "send and receive": r"llmbatch/http/",
    "settle": r"runner/(settle|finish|machine)|route/(route|judging|refusing|evidence|law|throttle|failures)",
    "choose, permit, pace": r"runner/(schedule|routes|backlog|checks|calls)|route/|breaker/|pace/",
    "count and show": r"llmbatch/(report|display)/|core/events|runner/engine.py:.*emit|Engine\.emit",
    "workers": r"runner/engine",
}
"""Each sample belongs to the part of its innermost frame that has one; what has none is the event loop's."""

ELSE = "event loop and system calls"


def part_of(frames: Sequence[str]) -> str:
    if any(re.search(PARTS["start-up"], frame) for frame in frames):
        return "start-up"
    for frame in reversed(frames):
        for part, pattern in PARTS.items():
            if re.search(pattern, frame):
                return part if "runner/engine" not in frame or frame is frames[-1] else ELSE
    return ELSE


def sampled(rows: int, concurrency: int) -> None:
    if not shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        raise SystemExit("error: py-spy is not installed\nhint: pip install '.[bench]'")
    with tempfile.TemporaryDirectory(prefix="profile-") as name, serving(kinds()[0], 0.0) as url:
        folder = Path(name)
        cell = Cell("instant", "llmbatch", rows, concurrency)
        cpu_us = min(run(cell, folder, url).cpu_s for _ in range(3)) / rows * 1e6
        words = ["-m", "llmbatch", "run", str(folder / f"{rows}.jsonl"), "-o", str(folder / "p.jsonl"), "-m", "m"]
        words += ["--base-url", url, "-c", str(concurrency), "-q", "--progress", "none"]
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "-F", "-r", "1000", "-f", "raw"]
        raw = folder / "raw"
        subprocess.run(
            [*spy, "-o", str(raw), "--", sys.executable, *words],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: end_with_parent(0),
        )
        samples: Counter[str] = Counter()
        for line in raw.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if "_bootstrap_inner" not in stack:  # the thread that syncs sleeps in the kernel
                samples[part_of(stack.split(";"))] += int(count)
    total = samples.total()
    print(f"{cpu_us:.0f} µs of processor time a row, {rows:,} rows, {concurrency} at once")
    for part, taken in samples.most_common():
        print(f"{cpu_us * taken / total:7.1f} µs {100 * taken / total:5.1f} %  {part}")


def counted(rows: int) -> None:
    """Instructions of a row: the difference between jobs of *rows* and of twice as many."""
    if not shutil.which("valgrind"):
        raise SystemExit("error: valgrind is not installed")
    found = []
    memory = str(Path(__file__).with_name("memory.py"))
    for size in (rows, 2 * rows):
        words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, memory]
        fixed = {"PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [*words, "--here", "--rows", str(size), "--concurrency", "40"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | fixed,
        )
        found.append(number(r"Collected : (\d+)", done.stderr))
    print(f"{(found[1] - found[0]) / rows:,.0f} instructions a row, without the network")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--callgrind", action="store_true", help="count instructions instead")
    given = parser.parse_args(words)
    if given.callgrind:
        counted(given.rows or 1500)
    else:
        sampled(given.rows or 40_000, given.concurrency)
    return 0


if __name__ == "__main__":
    sys.exit(main())
