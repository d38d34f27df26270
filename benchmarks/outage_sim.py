"""Naive retry beside a circuit breaker, in one outage after the other: threads, memory, calls, cost, rows, recovery.

Each strategy (``outage_strategies.py`` says with which settings) sends the same prompts over real HTTP to the same
simulated provider, in fresh processes, with the same seed. The provider counts calls by its own clock; threads and
memory are what the kernel says of the strategy's process, looked at every 50 ms.

    python benchmarks/outage_sim.py                                          a small outage, under a minute
    python benchmarks/outage_sim.py --scenario s5-two-waves --speed 60 --requests 6000
    python benchmarks/outage_sim.py --sizes 1000,10000,100000                memory without an outage, at growing sizes

Needs the extra ``bench``. Bias: a compressed outage flatters the naive strategies, whose seconds of backoff are not
compressed and so reach further into it; loopback hides what connections cost; providers do not bill refused calls, so
that the price of calls to a provider that is down is what they would cost if it did.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent))

from outage_strategies import MODEL, STRATEGIES, Order

from llmbatch.core.errors import LlmbatchError, UsageError
from llmbatch.drill.oracle import Workload, oracle_seconds
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.scenario_file import find_scenario

SMALL = """description = "fine for 2 s, down for 6 s, then fine"
[[phase]]
seconds = 2
[[phase]]
seconds = 6
behavior = "down"
"""

PRICED_AS = "gpt-5-mini"
PROMPT = "Summarise what follows in one sentence. " + "The river rises in the hills and runs to the sea. " * 30
MOST_REQUESTS = 100_000
LOOK_EVERY = 0.05
LONGEST = 3600.0
"""Seconds after which a strategy is given up."""


@dataclass
class Measured:
    """One run of one strategy. Durations are seconds from the first call, but for ``seconds``: the process's work."""

    strategy: str
    good: int
    failed: int
    lost: int
    seconds: float
    over_oracle: float
    calls: int
    calls_down: int
    cost_down: float
    peak_threads: int
    thread_seconds: float
    peak_mb: float
    final_mb: float
    first_success: float | None
    goodput_90: float | None
    load: float | None
    timeline: list[list[float]]
    circuit: list[list[Any]]


def end_with_parent() -> None:
    """A child of an interrupted benchmark ends with it, however that ended (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextmanager
def child(words: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, preexec_fn=end_with_parent, **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def provider(scenario: Path, arguments: argparse.Namespace) -> Iterator[str]:
    words = [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", "--scenario", str(scenario)]
    words += ["--speed", str(arguments.speed), "--latency", str(arguments.latency), "--seed", str(arguments.seed)]
    words += ["--rate", f"{arguments.concurrency / mean_latency(arguments.latency):.3f}"]
    with child(words, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise UsageError("the simulated provider did not start", hint="llmbatch sim serve tells why")
        yield url


def mean_latency(median: float) -> float:
    """The mean of the simulated provider's log-normal answers (sigma 0.35), and some time for writing them."""
    return median * (math.exp(0.35**2 / 2) + 0.15)


class Watch(threading.Thread):
    """Looks at a process from outside until :meth:`stop`."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak_threads = 0
        self.thread_seconds = 0.0
        self.peak_mb = self.final_mb = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(LOOK_EVERY):
            try:
                lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            except OSError:
                return
            told = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
            if "VmRSS" not in told:
                return
            now = time.monotonic()
            count = int(told["Threads"][0])
            self.peak_threads = max(self.peak_threads, count)
            self.thread_seconds += (count - 1) * (now - last)
            self.peak_mb = max(self.peak_mb, int(told["VmHWM"][0]) / 1024)
            self.final_mb = int(told["VmRSS"][0]) / 1024
            last = now

    def stop(self) -> None:
        self._over.set()
        self.join()


def run_one(name: str, scenario: Scenario, path: Path, arguments: argparse.Namespace, folder: Path) -> Measured:
    """One strategy against a fresh provider, in a fresh folder: what an earlier run wrote would be resumed."""
    with provider(path, arguments) as url, tempfile.TemporaryDirectory(dir=folder) as own:
        order = Order(
            name,
            url,
            arguments.requests,
            arguments.concurrency,
            arguments.timeout,
            max(1.0, 60.0 / arguments.speed),
            own,
            PROMPT,
        )
        strategies = Path(__file__).with_name("outage_strategies.py")
        with child([sys.executable, str(strategies)], stdin=subprocess.PIPE) as process:
            watch = Watch(process.pid)
            watch.start()
            told, _ = process.communicate(json.dumps(asdict(order)) + "\n", timeout=LONGEST)
            watch.stop()
        if process.returncode:
            raise UsageError(f"the strategy {name} ended with {process.returncode}", hint="its own message is above")
        with urllib.request.urlopen(url.removesuffix("/v1") + "/sim/stats", timeout=30) as reply:
            stats = json.load(reply)
    return measure(name, json.loads(told), stats, watch, scenario, arguments)


def measure(
    name: str,
    came: dict[str, Any],
    stats: dict[str, Any],
    watch: Watch,
    scenario: Scenario,
    arguments: argparse.Namespace,
) -> Measured:
    """What the provider and the kernel saw, as figures."""
    compressed = scenario.compressed(arguments.speed)
    started = stats["started"].get(MODEL, 0.0)
    timeline = [[at - started, calls, good] for at, calls, good in stats["timeline"]]
    demand = Workload(arguments.concurrency, mean_latency(arguments.latency), arguments.timeout)
    oracle = oracle_seconds(demand, compressed, arguments.requests)
    recovered = last_recovery(compressed)
    first = goodput = load = None
    if recovered is not None:
        after = [(at - recovered, calls, good) for at, calls, good in timeline if at >= recovered - 0.05]
        first = next((max(0.0, at) for at, _, good in after if good), None)
        goodput = next(
            (
                max(0.0, at)
                for at, _, _ in after
                if sum(good for other, _, good in after if at <= other < at + 1.0) >= 0.9 * demand.full
            ),
            None,
        )
        windows = [sum(calls for at, calls, _ in after if second <= at < second + 1) for second in range(10)]
        load = max(windows) / demand.full
    return Measured(
        strategy=name,
        good=came["good"],
        failed=came["failed"],
        lost=arguments.requests - came["good"] - came["failed"],
        seconds=came["seconds"],
        over_oracle=came["seconds"] / oracle,
        calls=stats["calls"],
        calls_down=stats["calls_while_down"],
        cost_down=stats["calls_while_down"] * price_of_prompt(),
        peak_threads=watch.peak_threads,
        thread_seconds=watch.thread_seconds,
        peak_mb=watch.peak_mb,
        final_mb=watch.final_mb,
        first_success=first,
        goodput_90=goodput,
        load=load,
        timeline=timeline,
        circuit=came["circuit"],
    )


def last_recovery(scenario: Scenario) -> float | None:
    """When the provider was back for good, seconds from the first call; None where it never was down."""
    at, found = 0.0, None
    for phase in scenario.phases:
        at += phase.seconds
        if phase.is_down and math.isfinite(at):
            found = at
    return found


def price_of_prompt() -> float:
    """US dollars for the input of one call."""
    from genai_prices import Usage, calc_price

    tokens = len(PROMPT) // 4
    return float(calc_price(Usage(input_tokens=tokens), model_ref=PRICED_AS, provider_id="openai").total_price)


ROWS: list[tuple[str, str, str]] = [
    ("rows failed", "failed", "{:,.0f}"),
    ("rows lost", "lost", "{:,.0f}"),
    ("calls while it was down", "calls_down", "{:,.0f}"),
    ("their input, US$", "cost_down", "{:.4f}"),
    ("calls in all", "calls", "{:,.0f}"),
    ("time, s", "seconds", "{:.1f}"),
    ("time ÷ oracle's", "over_oracle", "{:.2f}"),
    ("recovery to first success, s", "first_success", "{:.1f}"),
    ("recovery to 90 % of goodput, s", "goodput_90", "{:.1f}"),
    ("offered ÷ full load after it", "load", "{:.2f}"),
    ("peak threads", "peak_threads", "{:,.0f}"),
    ("thread-seconds held", "thread_seconds", "{:,.0f}"),
    ("peak memory, MB", "peak_mb", "{:.0f}"),
    ("memory at the end, MB", "final_mb", "{:.0f}"),
]


def show(runs: dict[str, list[Measured]]) -> None:
    """Medians, with the least and the most where there were several rounds."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column()
    for name in runs:
        table.add_column(name, justify="right", style="bold" if name == "llmbatch" else None)
    for label, field, form in ROWS:
        cells = []
        for measured in runs.values():
            values = [value for value in (getattr(one, field) for one in measured) if value is not None]
            if len(values) < len(measured):
                cells.append("never")
                continue
            cell = form.format(statistics.median(values))
            if len(values) > 1 and min(values) < max(values):
                cell += f" ({form.format(min(values))}–{form.format(max(values))})"
            cells.append(cell)
        table.add_row(label, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def show_sizes(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[int, float]]:
    """Peak memory at growing sizes, without an outage."""
    from rich.console import Console
    from rich.table import Table

    sizes = [int(size) for size in arguments.sizes.split(",")]
    path = folder / "steady.toml"
    path.write_text('description = "answers well"\n')
    peaks: dict[str, dict[int, float]] = {name: {} for name in arguments.strategies}
    for size in sizes:
        fewer = argparse.Namespace(**{**vars(arguments), "requests": size, "latency": 0.01, "speed": 1.0})
        for name in arguments.strategies:
            peaks[name][size] = run_one(name, find_scenario(str(path)), path, fewer, folder).peak_mb
    table = Table(title="peak memory, MB")
    table.add_column("requests", justify="right")
    for name in peaks:
        table.add_column(name, justify="right")
    for size in sizes:
        table.add_row(f"{size:,}", *(f"{peaks[name][size]:.0f}" for name in peaks))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return peaks


def machine() -> dict[str, Any]:
    libraries = ("llmbatch", "requests", "aiohttp", "tenacity", "openai", "genai-prices")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {name: version(name) for name in libraries},
        "bias": __doc__.split("Bias: ")[1].strip() if __doc__ else "",
    }


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", help="name or .toml file (default: fine for 2 s, down for 6 s, then fine)")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--latency", type=float, default=0.4, help="median of a good answer, seconds")
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--sizes", help="numbers of requests, with commas between: memory only")
    parser.add_argument("--json", type=Path, help="where raw figures go")
    parser.add_argument("--picture", type=Path, help="where the timeline goes: .svg or .png")
    arguments = parser.parse_args(words)
    arguments.strategies = arguments.strategies.split(",")
    return arguments


def check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what cannot be run."""
    sizes = [int(size) if size.isdecimal() else 0 for size in (arguments.sizes or "").split(",") if arguments.sizes]
    for name, value, least, most in (
        ("requests", arguments.requests, 1, MOST_REQUESTS),
        *(("sizes", size, 1, MOST_REQUESTS) for size in sizes),
        ("concurrency", arguments.concurrency, 1, 1000),
        ("latency", arguments.latency, 0.001, 60),
        ("timeout", arguments.timeout, 0.1, 600),
        ("speed", arguments.speed, 0.001, 100_000),
        ("rounds", arguments.rounds, 1, 100),
    ):
        if not least <= value <= most:
            raise UsageError(f"--{name} is {value:g}, must be {least:g} to {most:g}", hint="--help tells the defaults")
    for name in arguments.strategies:
        if name not in STRATEGIES:
            raise UsageError(f"strategy {name!r} is unknown", hint=f"one of: {', '.join(STRATEGIES)}")


def benchmark(arguments: argparse.Namespace, folder: Path) -> None:
    small = folder / "small.toml"
    small.write_text(SMALL)
    path = Path(arguments.scenario) if (arguments.scenario or "").endswith(".toml") else small
    scenario = find_scenario(arguments.scenario or str(small))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    raw: dict[str, Any] = {**machine(), "settings": settings}
    if arguments.sizes:
        raw["peak_mb"] = show_sizes(arguments, folder)
    else:
        name = arguments.scenario if arguments.scenario and path is small else str(path)
        print(f"{scenario.name}: {scenario.description}, {arguments.speed:g} times faster", file=sys.stderr)
        runs: dict[str, list[Measured]] = {name: [] for name in arguments.strategies}
        for number in range(arguments.rounds):
            for strategy in arguments.strategies:
                print(f"round {number + 1}/{arguments.rounds}: {strategy}", file=sys.stderr, flush=True)
                runs[strategy].append(run_one(strategy, scenario, Path(name), arguments, folder))
        show(runs)
        raw["runs"] = {name: [asdict(one) for one in measured] for name, measured in runs.items()}
        if arguments.picture:
            from outage_picture import draw

            first = {name: measured[0] for name, measured in runs.items()}
            draw(scenario.compressed(arguments.speed), first, arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps(raw))


def main(words: Sequence[str] | None = None) -> int:
    arguments = parsed(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check(arguments)
        with tempfile.TemporaryDirectory(prefix="outage-") as name:
            benchmark(arguments, Path(name))
    except LlmbatchError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error}\nhint: pip install '.[bench]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
