"""The cells of ``mess.py --real``: everyday mess over real HTTP, against the simulated provider on loopback.

The provider is a process of its own (``llmbatch sim serve``), stopped after each cell; the run is in this one. Every
cell is bounded in time. Bias: both share the processors of one machine, so that at 20 ms a call the ideal is what 40 in
flight would make of it, not what the processors can do; the bounds are those of the virtual cells.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mess_cells import Cell, Check, Finding, Setup, attempts_of_a_bad_row, own_backoff
from mess_run import is_opening, is_outage

from llmbatch import BatchRunner
from llmbatch.core.events import Event
from llmbatch.sim.row_fault import RowFault, find_fault

__all__ = ["real_cells"]

LATENCY = 0.02
MEAN = 1.235
"""The mean of the simulated provider's good answers, in medians; a longer answer takes longer."""

REFUSAL = 0.2
"""What a refusal takes of the time of a good answer, in the simulated provider."""

LONGEST = 600.0
"""Seconds after which a run is stopped."""


@contextmanager
def provider(scenario: str, latency: float, seed: int) -> Iterator[str]:
    """The base URL of a simulated provider with this *scenario* (TOML), which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="mess-") as folder:
        path = Path(folder) / "cell.toml"
        path.write_text('description = "a cell"\n' + scenario)
        words = ["sim", "serve", "--port", "0", "--scenario", str(path), "--latency", str(latency), "--seed", str(seed)]
        server = subprocess.Popen(
            [sys.executable, "-m", "llmbatch", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the simulated provider did not start: exit code {server.wait(10)}")
            yield url
        finally:
            server.terminate()
            server.wait(10)


class _Counter:
    """Counts openings and outages."""

    def __init__(self) -> None:
        self.openings = self.outages = 0

    def observe(self, event: Event) -> None:
        self.openings += is_opening(event)
        self.outages += is_outage(event)


async def _run(
    url: str, rows: list[dict[str, str]], concurrency: int, seed: int, counter: _Counter
) -> tuple[dict[int, str], bool]:
    """The status of each row that ended, and whether the run did within its bound."""
    statuses: dict[int, str] = {}
    runner = BatchRunner(
        "mess", base_url=url, environ={}, concurrency=concurrency, seed=seed, observers=[counter], timeout=30
    )

    async def read() -> None:
        async for result in runner.stream(rows):
            statuses[result.number] = result.status

    try:
        await asyncio.wait_for(read(), LONGEST)
    except TimeoutError:
        return statuses, False
    return statuses, True


def measure_real(
    setup: Setup,
    scenario: str,
    *,
    errors: float = 0.0,
    faults: tuple[RowFault, ...] = (),
    rows: int = 1_000,
    concurrency: int = 40,
    latency: float = LATENCY,
    slack: float = 60.0,
    down: float = 0.0,
    most_down: int | None = None,
) -> Finding:
    """One run: time at most 1.25 × the ideal, one row's own backoff and *slack*; or 4 s more where it is *down*."""
    texts = [f"row {number}" for number in range(rows)]
    bad = {number + 1 for number, text in enumerate(texts) if find_fault(faults, text) is not None}
    attempts = attempts_of_a_bad_row(errors)
    good_calls = (rows - len(bad)) / (1 - errors)
    ideal_calls = good_calls + len(bad) * attempts
    busy = (rows - len(bad)) * latency * MEAN + (ideal_calls - rows + len(bad)) * latency * REFUSAL
    ideal = busy / concurrency + down
    budget = ideal + 4.0 if down else 1.25 * ideal + own_backoff(attempts) * 1.25 + slack
    counter = _Counter()
    with provider(scenario, latency, setup.seed) as url:
        began, cpu = time.perf_counter(), time.process_time()
        statuses, ended = asyncio.run(_run(url, [{"prompt": text} for text in texts], concurrency, setup.seed, counter))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        with urllib.request.urlopen(url.removesuffix("/v1") + "/sim/stats", timeout=10) as answer:
            stats = json.load(answer)
    wrong = sum(status == "failed" and row not in bad for row, status in statuses.items())
    kept = sum(statuses.get(row) != "failed" for row in bad)
    unsent = sum(statuses.get(row) != "success" for row in range(1, rows + 1) if row not in bad)
    checks = [
        Check("rows failed wrongly", wrong, 0),
        Check("good rows without a good line", unsent, 0),
        Check("bad rows not failed", kept, 0),
        Check("time", seconds if ended else math.inf, budget),
    ]
    if not down:
        checks.append(Check("outages reported", counter.outages, 0))
    if most_down is not None:
        checks.append(Check("calls while down", stats["calls_while_down"], most_down))
    note = f"{stats['calls_while_down']} calls while down" if down else ""
    return Finding(
        seconds, ended, ideal, stats["calls"], ideal_calls, wrong, kept, counter.outages, counter.openings,
        0 if ended else None, checks, cpu, note,
    )  # fmt: skip


def _bad(setup: Setup, share: float) -> Finding:
    faults = (RowFault(share=share),) if share else ()
    scenario = "[[phase]]\nminutes = 60\n" + (f"[[rows]]\nshare = {share}\n" if share else "")
    return measure_real(setup, scenario, faults=faults)


def _partial(setup: Setup, share: float, status: int) -> Finding:
    scenario = f'[[phase]]\nminutes = 60\nbehavior = "errors"\nshare = {share}\nstatuses = [{status}]\n'
    return measure_real(setup, scenario, errors=share, slack=0.0)


def _down(setup: Setup) -> Finding:
    phases = '[[phase]]\nseconds = 1\n[[phase]]\nseconds = 25\nbehavior = "down"\nstatuses = [503]\n'
    return measure_real(setup, phases, rows=600, concurrency=16, latency=0.1, down=25.0, most_down=40)


def _throttled(setup: Setup) -> Finding:
    faults = (RowFault(behavior="throttle", share=0.01),)
    scenario = '[[phase]]\nminutes = 60\n[[rows]]\nbehavior = "throttle"\nshare = 0.01\n'
    return measure_real(setup, scenario, faults=faults)


def real_cells() -> Iterator[Cell]:
    """The cells, the quick ones for ``--quick``."""
    for percent in (0, 1, 5, 10):
        yield Cell(
            f"real/bad {percent}%",
            lambda setup, share=percent / 100: _bad(setup, share),  # type: ignore[misc]
            quick=percent in (1, 5),
        )
    for status in (500, 503):
        for percent in (20, 30, 50, 60, 80):
            yield Cell(
                f"real/partial {percent}% {status}",
                lambda setup, share=percent / 100, status=status: _partial(setup, share, status),  # type: ignore[misc]
                quick=percent == 20,
            )
    yield Cell("real/503 for 25 s", _down, quick=True)
    yield Cell("real/1% of the rows always 429", _throttled, quick=True)
