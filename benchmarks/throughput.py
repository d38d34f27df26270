"""Rows a second, processor time a row and peak memory: `llmbatch run` beside a bare aiohttp loop, peers, and wrk.

Everyone reads the same JSONL, writes JSONL and talks to the same server on loopback, which has a processor of its own;
each job is a process of its own, pinned to the other. llmbatch runs as in production: circuit, pace, retries,
time-outs, durable lines. Jobs take turns; medians, spread and ratios are printed, raw figures with --json.

Four parts: `instant`, a server that answers at once, at three concurrencies; `latency`, one that takes 50 ms or 1 s,
where the ideal is rows x latency / concurrency; `memory`, at growing inputs; `peers`, those that are installed (extra
`clients`). Rows a second and processor time are those of the whole process, start-up and all, for llmbatch and the bare
loop; for peers start-up is left out, as some take seconds.

Bias: loopback, one Python version, small bodies, a server that costs nothing. No provider answers like this: the
figures say what a tool costs, not how fast a job will be. Only the ratios travel.

    python benchmarks/throughput.py [--parts instant,latency,memory,peers] [--rounds 3] [--scale 1.0]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from throughput_jobs import JOBS
from throughput_servers import end_with_parent, kinds, serving

OURS, BARE, LIMIT = "llmbatch", "bare aiohttp", "wrk"
PARTS = ("instant", "latency", "memory", "peers")
LONGEST = 900.0
"""Seconds after which a job is given up."""

WRK_SECONDS = 5.0
"""Or twenty times what an answer takes, as the first ones are missing at the end."""
WRK_SCRIPT = 'wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"; wrk.body = [[{body}]]\n'


@dataclass(frozen=True)
class Cell:
    """One row of a table: who does how much, how many at once, against which server."""

    part: str
    job: str
    rows: int
    concurrency: int
    delay: float = 0.0

    @property
    def ideal(self) -> float:
        """Seconds of a job that costs nothing."""
        return self.rows / self.concurrency * self.delay


@dataclass(frozen=True)
class Measured:
    """One run. ``seconds`` and ``cpu_s`` are the whole process's, or, for peers, those after its imports."""

    seconds: float
    cpu_s: float
    peak_mb: float


def plan(parts: Sequence[str], scale: float, jobs: Sequence[str]) -> list[Cell]:
    def some(rows: int) -> int:
        return max(20, round(rows * scale))

    cells = []
    for job in (LIMIT, BARE, OURS):
        cells += [Cell("instant", job, some(100_000), concurrency) for concurrency in (40, 200, 2000)]
        for rows, concurrency, delay in ((40_000, 40, 0.05), (100_000, 200, 0.05), (50_000, 2000, 1.0)):
            cells.append(Cell("latency", job, some(rows), concurrency, delay))
    for rows in (10_000, 100_000, 1_000_000):
        cells += [Cell("memory", job, some(rows), 40) for job in (BARE, OURS)]
    cells += [Cell("peers", job, some(10_000), 40) for job in (OURS, *JOBS)]
    cells.sort(key=lambda cell: (PARTS.index(cell.part), cell.delay, cell.concurrency, cell.rows))
    return [cell for cell in cells if cell.part in parts and cell.job in jobs]


def installed() -> list[str]:
    """The jobs that can run here."""
    jobs = [name for name, (_, package) in JOBS.items() if importlib.util.find_spec(package)]
    return [OURS, *jobs, *([LIMIT] if shutil.which("wrk") else [])]


def write_rows(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"id": f"r{number}", "prompt": f"{number} " + "words " * 90}) + "\n")


def run(cell: Cell, folder: Path, url: str) -> Measured:
    """One job in a process of its own."""
    rows, out = folder / f"{cell.rows}.jsonl", folder / "out.jsonl"
    if not rows.exists():
        write_rows(rows, cell.rows)
    out.unlink(missing_ok=True)
    if cell.job == LIMIT:
        return run_wrk(cell, folder, url)
    told = folder / "told"
    if cell.job == OURS:
        words = ["-m", "llmbatch", "run", str(rows), "-o", str(out), "-m", "m", "--base-url", url]
        words += ["-c", str(cell.concurrency), "-q", "--progress", "none", "--json"]
    else:
        words = [str(Path(__file__).with_name("throughput_jobs.py"))]
        words += [cell.job, str(rows), str(out), url, str(cell.concurrency)]
    measured = timed([sys.executable, *words], told)
    with out.open("rb") as lines:
        if (count := sum(1 for _ in lines)) != cell.rows:
            raise SystemExit(f"error: {cell.job} left {count:,} lines for {cell.rows:,} rows")
    if cell.part == "peers":
        said = json.loads(told.read_text())
        # Our own start-up is left out too, but its processor time is not.
        seconds, cpu = (said["duration_s"], measured.cpu_s) if cell.job == OURS else said
        return Measured(seconds, cpu, measured.peak_mb)
    return measured


def timed(command: list[str], told: Path) -> Measured:
    """A whole process, by the kernel's own account; what it prints goes to *told*."""
    with told.open("w") as file:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=file, preexec_fn=before)
        try:
            with given_up_after(LONGEST, process):
                _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command[:4])} … ended with {process.returncode}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def before() -> None:
    """In a child before it becomes another program."""
    end_with_parent(0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65_536, hard))


@contextmanager
def given_up_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(round(seconds))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def number(pattern: str, text: str) -> float:
    """What *pattern*'s group is in *text*.

    Raises:
        ValueError: it is not there.
    """
    if (found := re.search(pattern, text)) is None:
        raise ValueError(f"no {pattern} in {text!r}")
    return float(found[1])


def run_wrk(cell: Cell, folder: Path, url: str) -> Measured:
    """The machine's limit: requests of the same size from a client in C, with neither rows nor lines."""
    script, told = folder / "post.lua", folder / "told"
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "words " * 91}]})
    script.write_text(WRK_SCRIPT.format(body=body))
    words = ["wrk", "-t1", f"-c{cell.concurrency}", f"-d{max(WRK_SECONDS, 20 * cell.delay):.0f}s", "-s", str(script)]
    measured = timed([*words, f"{url}/chat/completions"], told)
    said = told.read_text()
    requests = number(r"(\d+) requests in", said)
    rate = number(r"Requests/sec:\s*([\d.]+)", said)
    return Measured(cell.rows / rate, measured.cpu_s / requests * cell.rows, measured.peak_mb)


def measure(cells: Sequence[Cell], rounds: int, kind: str) -> dict[Cell, list[Measured]]:
    """All cells of one table in turns, so that what changes on the machine meets all of them."""
    found: dict[Cell, list[Measured]] = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        for delay in sorted({cell.delay for cell in cells}):
            with serving("responder" if delay and kind == "nginx" else kind, delay) as url:
                for number in range(rounds):
                    for cell in cells if number % 2 else reversed(cells):
                        if cell.delay == delay:
                            words = f"{cell.part}: {cell.job}, {cell.rows:,} rows, {cell.concurrency} at once"
                            print(f"round {number + 1}/{rounds}  {words}", file=sys.stderr, flush=True)
                            found[cell].append(run(cell, folder, url))
    return found


class Summary:
    """The medians of a cell, beside those of another."""

    def __init__(self, cell: Cell, runs: Sequence[Measured]) -> None:
        rates = sorted(cell.rows / one.seconds for one in runs)
        self.cell = cell
        self.rate, self.slowest, self.fastest = statistics.median(rates), rates[0], rates[-1]
        self.cpu_us = statistics.median(one.cpu_s for one in runs) / cell.rows * 1e6
        self.peak_mb = max(one.peak_mb for one in runs)
        self.of_ideal = cell.ideal / statistics.median(one.seconds for one in runs)

    def same(self, others: Sequence[Summary], job: str) -> Summary | None:
        """The summary of *job* at the same work."""
        like = {**asdict(self.cell), "job": job}
        return next((other for other in others if asdict(other.cell) == like), None)


def show(summaries: Sequence[Summary], rounds: int, kind: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    versions = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "llmbatch"))
    console.print(
        f"{rounds} rounds; {kind}; Python {platform.python_version()}, {versions}, {os.cpu_count()} cores; "
        "spread: slowest to fastest",
        highlight=False,
    )
    for part in PARTS:
        chosen = [summary for summary in summaries if summary.cell.part == part]
        if not chosen:
            continue
        table = Table(title=TITLES[part])
        for title in ("job", "rows", "at once", "rows/s", "spread", "CPU µs/row", "peak MB", MEASURES[part]):
            table.add_column(title, justify="left" if title == "job" else "right")
        last = None
        for summary in chosen:
            cell = summary.cell
            if last is not None and last != (cell.delay, cell.concurrency, cell.rows):
                table.add_section()
            last = (cell.delay, cell.concurrency, cell.rows)
            table.add_row(
                cell.job,
                f"{cell.rows:,}",
                f"{cell.concurrency:,}",
                f"{summary.rate:,.0f}",
                f"{summary.slowest:,.0f} to {summary.fastest:,.0f}",
                f"{summary.cpu_us:,.0f}",
                f"{summary.peak_mb:,.0f}",
                measure_of(summary, chosen),
            )
        console.print(table)


TITLES = {
    "instant": "a server that answers at once",
    "latency": "a server that takes its time",
    "memory": "peak memory at growing inputs",
    "peers": "clients that people use, start-up left out",
}
MEASURES = {
    "instant": "to bare: rows/s, CPU",
    "latency": "of ideal",
    "memory": "to the fewest rows",
    "peers": "llmbatch is faster by",
}


def measure_of(summary: Summary, others: Sequence[Summary]) -> str:
    cell = summary.cell
    if cell.part == "latency":
        return f"{summary.of_ideal:.3f}"
    if cell.part == "memory":
        fewest = next(other for other in others if other.cell.job == cell.job)
        return f"{summary.peak_mb / fewest.peak_mb:.3f}"
    other = summary.same(others, BARE if cell.part == "instant" else OURS)
    if other is None:
        return ""
    if cell.part == "peers":
        return f"{other.rate / summary.rate:.1f}"
    return f"{summary.rate / other.rate:.2f}, {summary.cpu_us / other.cpu_us:.2f}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which tables, with commas between")
    parser.add_argument("--jobs", default=",".join(installed()), help="who, of those that are installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times so many rows")
    parser.add_argument("--server", choices=kinds(), default=kinds()[0])
    parser.add_argument("--json", type=Path, help="where raw figures go")
    parser.add_argument("--picture", type=Path, help="where the picture goes: .svg or .png")
    given = parser.parse_args(words)
    parts, jobs = given.parts.split(","), given.jobs.split(",")
    for name, value, known in (
        *(("part", part, PARTS) for part in parts),
        *(("job", job, installed()) for job in jobs),
    ):
        if value not in known:
            parser.error(f"{name} {value!r} is none of {', '.join(known)}")
    if not 1 <= given.rounds <= 100 or not 0 < given.scale <= 100:
        parser.error("--rounds must be 1 to 100, --scale above 0 and at most 100")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    summaries: list[Summary] = []
    raw = []
    try:
        for part in (part for part in PARTS if part in parts):
            found = measure(plan([part], given.scale, jobs), given.rounds, given.server)
            summaries += [Summary(cell, runs) for cell, runs in found.items()]
            raw += [{**asdict(cell), "runs": [asdict(one) for one in runs]} for cell, runs in found.items()]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    show(summaries, given.rounds, given.server)
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        given.json.write_text(json.dumps({"machine": machine, "server": given.server, "cells": raw}))
    if given.picture:
        from throughput_picture import draw

        draw(summaries, given.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
