"""From what the provider and the runner saw of one trial to the numbers that tell policies apart.

What this module does not do: run a trial, or draw its numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from llmbatch.drill.oracle import Demand, share_of_goodput
from llmbatch.sim.scenario import Scenario

__all__ = [
    "Call",
    "Moment",
    "Recovery",
    "Score",
    "Spell",
    "draw_strip",
    "measure_recoveries",
    "spells_down",
    "worst_load",
]

ENOUGH = 0.9
"""The part of the best goodput that counts as recovered."""

PARTS = 60
"""Parts that a run is drawn in."""

_WINDOW = 60.0
"""Seconds over which the offered load is averaged."""

_JUMP = 0.25
"""By how much of the full goodput a provider must improve at once for that to be a recovery."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the provider saw it: seconds since the first one, and what came of it."""

    began: float
    ended: float
    is_good: bool
    was_down: bool
    is_hit: bool
    """Whether it went to a model that the scenario befalls."""


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which no request could succeed, in seconds since the start."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long after the provider was back, *at* seconds after the start, a run was back too; None: never."""

    at: float
    first_success: float | None
    """Seconds until the first good answer of a call that was sent afterwards."""
    goodput: float | None
    """Seconds until 90 % of the best goodput, by Little's law: as many good calls in flight as that takes."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One part of a run: goodput over the full one, and which parts of it the provider was down and a circuit open."""

    goodput: float
    down: float
    open: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one trial came to. Durations are seconds."""

    scenario: str
    policy: str
    rows: int
    succeeded: int
    failed: int
    """Good rows with a failed line: all of them wrongly."""
    bad: int = 0
    """Rows that cannot succeed, whatever is done."""
    bad_failed: int = 0
    """Those of them that have their failed line, as they should."""
    waiting: int
    """Rows that the run left for another: deferred, or never sent because it had to stop."""
    exit_code: int
    reason: str
    seconds: float
    oracle: float
    """What an oracle takes who knows the outage; infinite where nobody could end."""
    calls: int
    probes: int
    calls_down: int
    """Calls that reached a provider that was down."""
    spells: int
    """How often it was down while the run went on."""
    allowed_down: int
    """What may reach it: for each spell the concurrency and the threshold, and every probe."""
    openings: int
    open_seconds: float
    load: float
    """Offered load over capacity while that was short: the worst minute; 0 where it never was."""
    recoveries: tuple[Recovery, ...]
    wasted_tokens: int
    """Input tokens of calls that brought nothing."""
    cpu_seconds: float
    strip: tuple[Moment, ...]
    """The run in equal parts."""

    @property
    def slowdown(self) -> float:
        """The run's time over the oracle's."""
        return self.seconds / self.oracle

    @property
    def worst_recovery(self) -> float | None:
        """The longest time to 90 % of goodput; None where there was nothing to recover from, or no rows were left."""
        times = [recovery.goodput for recovery in self.recoveries if recovery.goodput is not None]
        return max(times, default=None)


def spells_down(scenario: Scenario, until: float) -> list[Spell]:
    """The spells in which nothing could succeed, up to *until* seconds."""
    spells: list[Spell] = []
    at = 0.0
    while at < until:
        for phase in scenario.phases:
            end = min(at + phase.seconds, until)
            if phase.is_down and phase.capacity_to is None and at < until:
                if spells and spells[-1].ended == at:
                    spells[-1] = Spell(spells[-1].began, end)
                else:
                    spells.append(Spell(at, end))
            at = end
        if not scenario.repeat:
            break
    return spells


def draw_strip(
    calls: Sequence[Call], down: Sequence[Spell], opened: Sequence[Spell], demand: Demand, seconds: float
) -> tuple[Moment, ...]:
    """The run in :data:`PARTS` equal parts."""
    length = max(seconds, 1e-9) / PARTS
    good = [0] * PARTS
    for call in calls:
        if call.is_good:
            good[min(PARTS - 1, int(call.ended / length))] += 1

    def covered(spells: Sequence[Spell], part: int) -> float:
        first, last = part * length, (part + 1) * length
        return sum(max(0.0, min(last, spell.ended) - max(first, spell.began)) for spell in spells) / length

    return tuple(
        Moment(good[part] / (length * demand.full), covered(down, part), covered(opened, part)) for part in range(PARTS)
    )


def worst_load(calls: Sequence[Call], scenario: Scenario, rate: float) -> float:
    """The most that was offered in a minute of short capacity, over what the provider then carried."""
    offered: dict[int, int] = {}
    for call in calls:
        if call.is_hit:
            offered[int(call.began / _WINDOW)] = offered.get(int(call.began / _WINDOW), 0) + 1
    worst = 0.0
    for window, count in offered.items():
        starts = [scenario.at((window + part) * _WINDOW).capacity for part in (0.0, 0.5, 0.999)]
        if any(capacity is None or capacity >= 1 for capacity in starts):
            continue
        carried = sum(capacity for capacity in starts if capacity is not None) / len(starts) * rate * _WINDOW
        # Less than a call a second or so is no load.
        worst = max(worst, count / max(carried, 0.05 * rate * _WINDOW))
    return worst


def measure_recoveries(
    calls: Sequence[Call], scenario: Scenario, demand: Demand, seconds: float
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
    for at in _improvements(scenario, demand, seconds):
        first = min((call.ended for call in calls if call.is_good and call.began >= at), default=None)
        start = bisect_left(times, at)
        back = next(
            (
                times[index]
                for index in range(start, len(times))
                if busy[index] >= ENOUGH * demand.concurrency * share_of_goodput(demand, scenario, times[index])
            ),
            None,
        )
        if start and busy[start - 1] >= ENOUGH * demand.concurrency * share_of_goodput(demand, scenario, at):
            back = at
        found.append(Recovery(at, None if first is None else first - at, None if back is None else back - at))
    return tuple(found)


def _improvements(scenario: Scenario, demand: Demand, until: float) -> list[float]:
    times: list[float] = []
    at = 0.0
    while at < until and scenario.phases:
        for phase in scenario.phases:
            at += phase.seconds
            if at >= until or not math.isfinite(at):
                return times
            before = demand.goodput(phase.after(math.nextafter(phase.seconds, 0.0)))
            after = demand.goodput(scenario.at(at))
            if after - before >= _JUMP * demand.full or (before == 0 and after >= 0 and not scenario.at(at).is_down):
                times.append(at)
        if not scenario.repeat:
            break
    return times
