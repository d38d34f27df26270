"""Run one trial: the real runner with one policy against one scenario, in virtual time."""

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
from llmbatch.drill.oracle import Workload, bad_rows_as_good, oracle_seconds, rows_within
from llmbatch.drill.score import Call, Downtime, Score, downtimes_of, measure_recoveries, slice_run, worst_load
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.row_fault import RowFault, find_fault
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import FinishedCall, VirtualTransport, run_virtual

__all__ = ["MAX_ROWS", "TrialPlan", "plan_trial", "run_trial"]

MAX_ROWS = 1_000_000

_TARGET_CALLS = 16_000
"""Approximate number of calls of a drill without a given latency."""

_TAIL_SECONDS = 600.0
"""Seconds that a run lasts after the scenario's end, if nothing fails any more."""

_SAMPLE = 400
_MAX_JOB_SECONDS = 48 * 3600.0
"""Maximum seconds of a run whose scenario never ends."""

_WEEK = 7 * 86_400.0

_NEIGHBOR = "neighbour"  # seeds the answers: the numbers of docs/outages.md are of this name


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """Rows and provider of every trial. ``latency`` is the median of a good answer in seconds."""

    scenario: Scenario
    rows: int
    latency: float
    seed: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        """The models that rows name in turn: one, or an affected one and another."""
        if not self.scenario.models:
            return ("drill",)
        return (self.scenario.models[0].replace("*", "").replace("?", "x"), _NEIGHBOR)


def plan_trial(
    scenario: Scenario, options: RunOptions, *, rows: int | None = None, latency: float | None = None, seed: int = 0
) -> TrialPlan:
    """Plan a run that ends ten minutes after the scenario; *latency* None: 1 to 8 s, by the scenario's length.

    A slower provider makes the same hours cheaper to simulate: they have fewer calls.

    Raises:
        UsageError: *rows* or *latency* is out of range.
    """
    if rows is not None and not 1 <= rows <= MAX_ROWS:
        raise UsageError(f"rows is {rows}, must be a whole number from 1 to {MAX_ROWS:,}")
    if latency is not None and not 0.01 <= latency <= 3600:
        raise UsageError(f"latency is {latency:g}, must be 0.01 to 3600 seconds")
    length = scenario.length if math.isfinite(scenario.length) else 2 * _TAIL_SECONDS
    if scenario.repeat:
        length = min(20 * length, _MAX_JOB_SECONDS)
    median = min(8.0, max(1.0, length * options.concurrency / _TARGET_CALLS)) if latency is None else latency
    workload = Workload(options.concurrency, _mean(median, seed), options.timeout, options.rpm)
    unaffected = len(TrialPlan(scenario, 0, median).models) - 1
    if rows is not None:
        count = rows
    elif math.isfinite(scenario.length):
        count = rows_within(workload, scenario, length + _TAIL_SECONDS) * (1 + unaffected)
    else:
        count = math.ceil(workload.full * length)  # as many as a run without faults would take, as no run could end
    return TrialPlan(scenario, max(1, count), median, seed)


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
    """Sink and observer of the run; records each call."""

    congested = False

    def __init__(self, hit: str, bad: Collection[int]) -> None:
        self._bad = bad
        self.succeeded = self.failed = self.bad_failed = self.probes = self.openings = self.wasted_tokens = 0
        self.opened: list[Downtime] = []
        self.calls: list[Call] = []
        self._open_since: dict[str, float] = {}
        self._hit = f'"{hit}"'.encode()

    def put(self, result: Result) -> None:
        if result.status == "success":
            self.succeeded += 1
        elif result.number in self._bad:
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
                self.opened.append(Downtime(self._open_since.pop(event.route, event.at), event.at))

    def on_call(self, finished: FinishedCall) -> None:
        plan, request = finished.plan, finished.request
        is_good = plan.good and finished.arrived
        self.calls.append(Call(finished.began, finished.ended, is_good, plan.down, self._hit in request.body))
        if not is_good:
            self.wasted_tokens += request.tokens

    def finish(self, seconds: float) -> None:
        """End the recording: a circuit that is open was open until now."""
        self.opened += [Downtime(since, seconds) for since in self._open_since.values()]


def run_trial(options: RunOptions, plan: TrialPlan, *, policy: str = "") -> Score:
    """Run *plan* under *options* and score it. Hours take a second or so: some 10,000 calls a second are simulated.

    The provider's full load is what the policy's concurrency makes of it, so that a scenario's capacity means the
    same for every policy.

    Raises:
        VirtualTimeError: the run did not end within ten times the oracle's time, or a week.
    """
    workload = Workload(options.concurrency, _mean(plan.latency, plan.seed), options.timeout, options.rpm)
    unaffected = plan.rows // 2 if len(plan.models) > 1 else 0
    bad = _bad_rows(plan, options.timeout)
    as_good = math.ceil(bad_rows_as_good(workload, plan.scenario, bad.values(), options.max_attempts))
    oracle = oracle_seconds(workload, plan.scenario, plan.rows - len(bad) + as_good, unaffected=unaffected)
    simulated = SimulatedProvider(plan.scenario, seed=plan.seed, latency=plan.latency, rate=workload.full)
    watcher = _Watcher(plan.models[0], bad)
    seeded = replace(options, seed=plan.seed if options.seed is None else options.seed)
    began = time.process_time()
    ending, seconds = run_virtual(
        _trial(seeded, plan, simulated, watcher), limit=min(_WEEK, 10 * oracle + 86_400) if oracle < math.inf else _WEEK
    )
    watcher.finish(seconds)
    downtimes = downtimes_of(plan.scenario, seconds)
    calls = sorted(watcher.calls, key=lambda call: call.began)
    return Score(
        scenario=plan.scenario.name,
        policy=policy,
        rows=plan.rows,
        succeeded=watcher.succeeded,
        failed=watcher.failed,
        bad=len(bad),
        bad_failed=watcher.bad_failed,
        waiting=plan.rows - watcher.succeeded - watcher.failed - watcher.bad_failed,
        exit_code=ending.exit_code or int(watcher.failed + watcher.bad_failed > 0),
        reason=ending.reason,
        seconds=seconds,
        oracle=oracle,
        calls=len(calls),
        probes=watcher.probes,
        calls_down=sum(call.was_down for call in calls),
        downtimes=len(downtimes),
        allowed_down=len(downtimes) * (options.concurrency + options.failure_threshold) + watcher.probes,
        openings=watcher.openings,
        open_seconds=sum(downtime.ended - downtime.began for downtime in watcher.opened),
        load=worst_load(calls, plan.scenario, workload.full),
        recoveries=measure_recoveries(calls, plan.scenario, workload, seconds),
        wasted_tokens=watcher.wasted_tokens,
        cpu_seconds=time.process_time() - began,
        slices=slice_run(calls, downtimes, watcher.opened, workload, seconds),
    )


async def _trial(
    options: RunOptions, plan: TrialPlan, simulated: SimulatedProvider, watcher: _Watcher
) -> tuple[RunOutcome, float]:
    loop = asyncio.get_running_loop()
    connection = ProviderSettings(model=plan.models[0], base_url="http://127.0.0.1:1/v1", environ={})
    provider = HttpProvider(connection, VirtualTransport(simulated, on_call=watcher.on_call))
    engine = Engine(provider, IterableSource(_rows(plan)), watcher, options, observers=[watcher])
    began = loop.time()
    ending = await engine.run()
    return ending, loop.time() - began


def _bad_rows(plan: TrialPlan, timeout: float) -> dict[int, RowFault]:
    """The rows that cannot succeed, by number from 1, with their faults."""
    faults = plan.scenario.rows
    found = ((number, find_fault(faults, f"row {number}")) for number in range(plan.rows)) if faults else ()
    return {number + 1: fault for number, fault in found if fault is not None and fault.is_fatal(timeout)}


def _rows(plan: TrialPlan) -> Iterator[dict[str, str]]:
    models = plan.models
    return ({"prompt": f"row {number}", "model": models[number % len(models)]} for number in range(plan.rows))
