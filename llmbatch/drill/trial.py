"""One trial: the real runner under one policy, against one scenario, under virtual time.

What this module does not do: choose policies or judge them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from llmbatch.core.errors import UsageError
from llmbatch.core.events import CallSent, CircuitChanged, Event
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Result
from llmbatch.drill.oracle import Demand, bad_rows_as_good, oracle_seconds, rows_within
from llmbatch.drill.score import Call, Score, Spell, draw_strip, measure_recoveries, spells_down, worst_load
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine, RunOutcome
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.row_fault import RowFault, find_fault
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import Carried, VirtualTransport, run_virtual

__all__ = ["MOST_ROWS", "Job", "plan_job", "run_trial"]

MOST_ROWS = 1_000_000

_CALLS = 16_000
"""About so many calls a drill aims at, where the provider's latency is not told."""

_CALM = 600.0
"""Seconds that a job goes on for, in good weather, after the scenario's end."""

_SAMPLE = 400
_LONGEST = 48 * 3600.0
"""Seconds that a job lasts at most whose scenario never ends."""

_WEEK = 7 * 86_400.0

_NEIGHBOUR = "neighbour"


@dataclass(frozen=True, slots=True)
class Job:
    """What every policy is given: so many rows, and a provider of this speed. ``latency`` is a median in seconds."""

    scenario: Scenario
    rows: int
    latency: float
    seed: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        """The models that rows name in turn: one, or one that is hit and one that is not."""
        if not self.scenario.models:
            return ("drill",)
        return (self.scenario.models[0].replace("*", "").replace("?", "x"), _NEIGHBOUR)


def plan_job(
    scenario: Scenario, options: RunOptions, *, rows: int | None = None, latency: float | None = None, seed: int = 0
) -> Job:
    """A job that is still at work ten minutes after the scenario's end; *latency* None: 1 to 8 s, by its length.

    A slower provider makes the same hours cheaper to simulate: they have fewer calls.

    Raises:
        UsageError: *rows* or *latency* is out of range.
    """
    if rows is not None and not 1 <= rows <= MOST_ROWS:
        raise UsageError(f"rows is {rows}, must be a whole number from 1 to {MOST_ROWS:,}")
    if latency is not None and not 0.01 <= latency <= 3600:
        raise UsageError(f"latency is {latency:g}, must be 0.01 to 3600 seconds")
    length = scenario.length if math.isfinite(scenario.length) else 2 * _CALM
    if scenario.repeat:
        length = min(20 * length, _LONGEST)
    median = min(8.0, max(1.0, length * options.concurrency / _CALLS)) if latency is None else latency
    demand = Demand(options.concurrency, _mean(median, seed), options.timeout, options.rpm)
    spared = len(Job(scenario, 0, median).models) - 1
    if rows is not None:
        count = rows
    elif math.isfinite(scenario.length):
        count = rows_within(demand, scenario, length + _CALM) * (1 + spared)
    else:
        count = math.ceil(demand.full * length)  # what good weather would allow, as nobody could end it
    return Job(scenario, max(1, count), median, seed)


def _mean(latency: float, seed: int) -> float:
    """The mean of a good answer whose median is *latency*: the simulated provider's own, sampled."""
    simulated = SimulatedProvider("steady", seed=seed, latency=latency)
    total = 0.0
    for number in range(_SAMPLE):
        body = dumps({"model": "drill", "messages": [{"role": "user", "content": f"row {number}"}]}).encode()
        plan = simulated.answer("POST", "/v1/chat/completions", {}, body, 0.0)
        simulated.finish(plan)
        total += plan.delay
    return max(total / _SAMPLE, 1e-3)


class _Watcher:
    """The sink, an observer of the run, and a witness of each call."""

    congested = False

    def __init__(self, hit: str, bad: Collection[int]) -> None:
        self._bad = bad
        self.succeeded = self.failed = self.bad_failed = self.probes = self.openings = self.wasted_tokens = 0
        self.opened: list[Spell] = []
        self.calls: list[Call] = []
        self._open_since: dict[str, float] = {}
        self._hit = f'"{hit}"'.encode()

    def put(self, result: Result) -> None:
        if result.status == "success":
            self.succeeded += 1
        elif result.row in self._bad:
            self.bad_failed += 1
        else:
            self.failed += 1

    async def drained(self) -> None:
        return

    def observe(self, event: Event) -> None:
        if isinstance(event, CallSent):
            self.probes += event.probe
        elif isinstance(event, CircuitChanged):
            if event.old == "closed":
                self.openings += 1
                self._open_since[event.route] = event.at
            elif event.new == "closed":
                self.opened.append(Spell(self._open_since.pop(event.route, event.at), event.at))

    def witness(self, carried: Carried) -> None:
        plan, request = carried.plan, carried.request
        is_good = plan.good and carried.arrived
        self.calls.append(Call(carried.began, carried.ended, is_good, plan.down, self._hit in request.body))
        if not is_good:
            self.wasted_tokens += request.tokens

    def finish(self, seconds: float) -> None:
        """The run is over: a circuit that is open was open until now."""
        self.opened += [Spell(since, seconds) for since in self._open_since.values()]


def run_trial(options: RunOptions, job: Job, *, policy: str = "") -> Score:
    """Run *job* under *options* and score it. Hours take a second or so: some 10,000 calls a second are simulated.

    The provider's full load is what the policy's concurrency makes of it, so that a scenario's capacity means the
    same for every policy.

    Raises:
        VirtualTimeError: the run did not end within ten times the oracle's time, or a week.
    """
    demand = Demand(options.concurrency, _mean(job.latency, job.seed), options.timeout, options.rpm)
    spared = job.rows // 2 if len(job.models) > 1 else 0
    bad = _bad_rows(job, options.timeout)
    as_good = math.ceil(bad_rows_as_good(demand, job.scenario, bad.values(), options.max_attempts))
    oracle = oracle_seconds(demand, job.scenario, job.rows - len(bad) + as_good, spared=spared)
    simulated = SimulatedProvider(job.scenario, seed=job.seed, latency=job.latency, rate=demand.full)
    watcher = _Watcher(job.models[0], bad)
    seeded = replace(options, seed=job.seed if options.seed is None else options.seed)
    began = time.process_time()
    ending, seconds = run_virtual(
        _trial(seeded, job, simulated, watcher), limit=min(_WEEK, 10 * oracle + 86_400) if oracle < math.inf else _WEEK
    )
    watcher.finish(seconds)
    spells = spells_down(job.scenario, seconds)
    calls = sorted(watcher.calls, key=lambda call: call.began)
    return Score(
        scenario=job.scenario.name,
        policy=policy,
        rows=job.rows,
        succeeded=watcher.succeeded,
        failed=watcher.failed,
        bad=len(bad),
        bad_failed=watcher.bad_failed,
        waiting=job.rows - watcher.succeeded - watcher.failed - watcher.bad_failed,
        exit_code=ending.exit_code or int(watcher.failed + watcher.bad_failed > 0),
        reason=ending.reason,
        seconds=seconds,
        oracle=oracle,
        calls=len(calls),
        probes=watcher.probes,
        calls_down=sum(call.was_down for call in calls),
        spells=len(spells),
        allowed_down=len(spells) * (options.concurrency + options.failure_threshold) + watcher.probes,
        openings=watcher.openings,
        open_seconds=sum(spell.ended - spell.began for spell in watcher.opened),
        load=worst_load(calls, job.scenario, demand.full),
        recoveries=measure_recoveries(calls, job.scenario, demand, seconds),
        wasted_tokens=watcher.wasted_tokens,
        cpu_seconds=time.process_time() - began,
        strip=draw_strip(calls, spells, watcher.opened, demand, seconds),
    )


async def _trial(
    options: RunOptions, job: Job, simulated: SimulatedProvider, watcher: _Watcher
) -> tuple[RunOutcome, float]:
    loop = asyncio.get_running_loop()
    connection = ProviderSettings(model=job.models[0], base_url="http://127.0.0.1:1/v1", environ={})
    provider = HttpProvider(connection, VirtualTransport(simulated, watch=watcher.witness))
    engine = Engine(provider, IterableSource(_rows(job)), watcher, options, observers=[watcher])
    began = loop.time()
    ending = await engine.run()
    return ending, loop.time() - began


def _bad_rows(job: Job, timeout: float) -> dict[int, RowFault]:
    """The rows that cannot succeed, by their place from 1, with what is wrong with them."""
    faults = job.scenario.rows
    found = ((number, find_fault(faults, f"row {number}")) for number in range(job.rows)) if faults else ()
    return {number + 1: fault for number, fault in found if fault is not None and fault.is_fatal(timeout)}


def _rows(job: Job) -> Iterator[dict[str, str]]:
    models = job.models
    return ({"prompt": f"row {number}", "model": models[number % len(models)]} for number in range(job.rows))
