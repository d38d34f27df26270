"""Score one trial: recoveries, downtimes, offered load and goodput, from the calls and circuit changes it recorded."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from llmbatch.drill.oracle import Workload, share_of_goodput
from llmbatch.sim.scenario import Scenario

__all__ = [
    "Call",
    "Downtime",
    "Recovery",
    "Score",
    "Slice",
    "downtimes_of",
    "measure_recoveries",
    "slice_run",
    "worst_load",
]

RECOVERED_SHARE = 0.9
"""Share of the maximum goodput from which a run counts as recovered."""

SLICES = 60
"""Number of parts that a run is drawn in."""

_WINDOW = 60.0
"""Seconds over which the offered load is averaged."""

_JUMP = 0.25
"""Share of the full goodput by which a provider must improve at once to count as recovering."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the provider saw it: seconds since the first call, and its outcome."""

    began: float
    ended: float
    is_good: bool
    was_down: bool
    is_hit: bool
    """Whether it went to a model that the scenario affects."""


@dataclass(frozen=True, slots=True)
class Downtime:
    """An interval in which no request could succeed, or a circuit was open; seconds since the start."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long a run took to recover after the provider did, *at* seconds after the start; None: never."""

    at: float
    first_success: float | None
    """Seconds until the first good answer of a call that was sent afterwards."""
    goodput: float | None
    """Seconds until 90 % of the best goodput, by Little's law: as many good calls in flight as that takes."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of a run: goodput over the full one, and which parts of it the provider was down and a circuit open."""

    goodput: float
    down: float
    open: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Results of one trial. Durations are seconds."""

    scenario: str
    policy: str
    rows: int
    succeeded: int
    failed: int
    """Good rows that wrongly ended as failed."""
    bad: int = 0
    """Rows that cannot succeed."""
    bad_failed: int = 0
    """Bad rows that ended as failed, as they should."""
    waiting: int
    """Rows that the run left for another: deferred, or never sent because it had to stop."""
    exit_code: int
    reason: str
    seconds: float
    oracle: float
    """Seconds that an oracle takes; infinite if the scenario lets no run finish."""
    calls: int
    probes: int
    calls_down: int
    """Calls that reached a provider that was down."""
    downtimes: int
    """Number of downtimes of the provider during the run."""
    allowed_down: int
    """What may reach it: for each spell the concurrency and the threshold, and every probe."""
    openings: int
    open_seconds: float
    load: float
    """Offered load over capacity while that was short: the worst minute; 0 where it never was."""
    recoveries: tuple[Recovery, ...]
    wasted_tokens: int
    """Input tokens of calls without a good answer."""
    cpu_seconds: float
    slices: tuple[Slice, ...]
    """The run in equal parts."""

    @property
    def slowdown(self) -> float:
        """Duration of the run divided by that of the oracle."""
        return self.seconds / self.oracle

    @property
    def worst_recovery(self) -> float | None:
        """The longest time to 90 % of goodput; None where there was nothing to recover from, or no rows were left."""
        times = [recovery.goodput for recovery in self.recoveries if recovery.goodput is not None]
        return max(times, default=None)


def downtimes_of(scenario: Scenario, until: float) -> list[Downtime]:
    """Return the downtimes of the provider, up to *until* seconds."""
    downtimes: list[Downtime] = []
    at = 0.0
    while at < until:
        for phase in scenario.phases:
            end = min(at + phase.seconds, until)
            if phase.is_down and phase.capacity_to is None and at < until:
                if downtimes and downtimes[-1].ended == at:
                    downtimes[-1] = Downtime(downtimes[-1].began, end)
                else:
                    downtimes.append(Downtime(at, end))
            at = end
        if not scenario.repeat:
            break
    return downtimes


def slice_run(
    calls: Sequence[Call], down: Sequence[Downtime], opened: Sequence[Downtime], workload: Workload, seconds: float
) -> tuple[Slice, ...]:
    """The run in :data:`PARTS` equal parts."""
    length = max(seconds, 1e-9) / SLICES
    good = [0] * SLICES
    for call in calls:
        if call.is_good:
            good[min(SLICES - 1, int(call.ended / length))] += 1

    def covered(downtimes: Sequence[Downtime], part: int) -> float:
        first, last = part * length, (part + 1) * length
        return sum(max(0.0, min(last, downtime.ended) - max(first, downtime.began)) for downtime in downtimes) / length

    return tuple(
        Slice(good[part] / (length * workload.full), covered(down, part), covered(opened, part))
        for part in range(SLICES)
    )


def worst_load(calls: Sequence[Call], scenario: Scenario, rate: float) -> float:
    """The highest offered load of a minute with short capacity, divided by that capacity."""
    offered: dict[int, int] = {}
    for call in calls:
        if call.is_hit:
            offered[int(call.began / _WINDOW)] = offered.get(int(call.began / _WINDOW), 0) + 1
    worst = 0.0
    for window, count in offered.items():
        starts = [scenario.at((window + part) * _WINDOW).capacity for part in (0.0, 0.5, 0.999)]
        if any(capacity is None or capacity >= 1 for capacity in starts):
            continue
        finished = sum(capacity for capacity in starts if capacity is not None) / len(starts) * rate * _WINDOW
        # Less than a call a second or so is no load.
        worst = max(worst, count / max(finished, 0.05 * rate * _WINDOW))
    return worst


def measure_recoveries(
    calls: Sequence[Call], scenario: Scenario, workload: Workload, seconds: float
) -> tuple[Recovery, ...]:
    """Each recovery of the provider while the run went on, and how long the run took to be back."""
    changes = sorted(
        [(call.began, 1) for call in calls if call.is_good] + [(call.ended, -1) for call in calls if call.is_good]
    )
    times = [at for at, _ in changes]
    busy: list[int] = []
    now = 0
    for _, change in changes:
        now += change
        busy.append(now)
    found: list[Recovery] = []
    for at in _improvements(scenario, workload, seconds):
        first = min((call.ended for call in calls if call.is_good and call.began >= at), default=None)
        start = bisect_left(times, at)
        back = next(
            (
                times[index]
                for index in range(start, len(times))
                if busy[index]
                >= RECOVERED_SHARE * workload.concurrency * share_of_goodput(workload, scenario, times[index])
            ),
            None,
        )
        if start and busy[start - 1] >= RECOVERED_SHARE * workload.concurrency * share_of_goodput(
            workload, scenario, at
        ):
            back = at
        found.append(Recovery(at, None if first is None else first - at, None if back is None else back - at))
    return tuple(found)


def _improvements(scenario: Scenario, workload: Workload, until: float) -> list[float]:
    times: list[float] = []
    at = 0.0
    while at < until and scenario.phases:
        for phase in scenario.phases:
            at += phase.seconds
            if at >= until or not math.isfinite(at):
                return times
            before = workload.goodput(phase.after(math.nextafter(phase.seconds, 0.0)))
            after = workload.goodput(scenario.at(at))
            if after - before >= _JUMP * workload.full or (before == 0 and after >= 0 and not scenario.at(at).is_down):
                times.append(at)
        if not scenario.repeat:
            break
    return times
