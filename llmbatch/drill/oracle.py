"""Compute the shortest possible time through a scenario, as reached by an oracle that knows it in advance.

The oracle keeps every slot busy while the provider answers, sends exactly as much as the provider can handle, and
nothing while it is down. It cannot know which single calls a share of errors will hit; those cost it as much as any
run. Computed by adding up rates, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llmbatch.sim.row_fault import RowFault
from llmbatch.sim.scenario import Behavior, Phase, Scenario

__all__ = [
    "ERROR_TIME_SHARE",
    "Workload",
    "attempts_of_a_bad_row",
    "bad_rows_as_good",
    "oracle_seconds",
    "rows_within",
    "share_of_goodput",
]

ERROR_TIME_SHARE = 0.2
"""Duration of an error response as a share of that of a good answer, in the simulated provider."""

_STEPS = 20_000
_ANSWERED: frozenset[Behavior] = frozenset({"fine", "slow", "stream_pause"})


@dataclass(frozen=True, slots=True)
class Workload:
    """Load that a run puts on the provider. Durations are seconds.

    ``full`` (requests per second) is the rate of a healthy provider by Little's law: slots over the mean call time.
    """

    concurrency: int
    latency: float
    """Mean duration of a good answer."""
    timeout: float
    rpm: float | None = None

    @property
    def full(self) -> float:
        """Good answers per second when nothing is wrong."""
        return self._bounded(self.concurrency / self.latency)

    def goodput(self, phase: Phase) -> float:
        """Maximum good answers per second, as *phase* is at its beginning."""
        shares = dict(phase.mix) or {phase.behavior: phase.share}
        shares["fine"] = shares.get("fine", 0.0) + 1.0 - sum(shares.values())
        seconds = sum(share * self._call_seconds(behavior, phase) for behavior, share in shares.items())
        good = sum(share for behavior, share in shares.items() if self._is_good(behavior, phase))
        sent = self._bounded(self.concurrency / seconds)
        if phase.capacity is not None:
            sent = min(sent, phase.capacity * self.full)
        return sent * good

    def _bounded(self, rate: float) -> float:
        return rate if self.rpm is None else min(rate, self.rpm / 60.0)

    def _call_seconds(self, behavior: Behavior, phase: Phase) -> float:
        match behavior:
            case "fine" | "cut" | "false_success":
                return min(self.latency, self.timeout)
            case "slow" | "stream_pause":
                return min(self.latency + phase.stall, self.timeout)
            case "hang":
                return self.timeout
            case _:
                return self.latency * ERROR_TIME_SHARE

    def _is_good(self, behavior: Behavior, phase: Phase) -> bool:
        return behavior in _ANSWERED and self._call_seconds(behavior, phase) < self.timeout


def attempts_of_a_bad_row(errors: float, max_attempts: int) -> int:
    """Attempts after which a good row would have failed by chance less than once in 100,000, at least *max_attempts*.

    *errors*, 0 to below 1, is the share of all calls that fail whatever the row; below 1 % it counts as 1 %.
    """
    return max(max_attempts, math.ceil(math.log(1e-5) / math.log(max(errors, 0.01)) - 1e-9))


def bad_rows_as_good(workload: Workload, scenario: Scenario, faults: Iterable[RowFault], max_attempts: int) -> float:
    """The number of good rows that take as long as the bad rows of *faults*, over all of their attempts."""
    errors = max((1 - phase.good_share for phase in scenario.phases if not phase.is_down), default=0.0)
    attempts = attempts_of_a_bad_row(min(errors, 0.99), max_attempts)
    took = {
        "errors": workload.latency * ERROR_TIME_SHARE,
        "throttle": workload.latency * ERROR_TIME_SHARE,
        "slow": workload.timeout,
    }
    return sum(attempts * took[fault.behavior] / workload.latency for fault in faults)


def share_of_goodput(workload: Workload, scenario: Scenario, at: float) -> float:
    """The maximum goodput *at* seconds after the start, as a share (0 to 1) of the full goodput."""
    return workload.goodput(scenario.at(at)) / workload.full


def rows_within(workload: Workload, scenario: Scenario, seconds: float) -> int:
    """Number of rows that the oracle has finished after *seconds*."""
    step = seconds / _STEPS
    return math.ceil(sum(workload.goodput(scenario.at((number + 0.5) * step)) for number in range(_STEPS)) * step)


def oracle_seconds(workload: Workload, scenario: Scenario, rows: int, *, unaffected: int = 0) -> float:
    """Seconds from the first call of the oracle to the last answer; infinite where it never comes.

    *unaffected* of the *rows* go to models that the scenario does not befall; the others come first while they can.
    """
    step = max(1e-3, scenario.length / _STEPS) if math.isfinite(scenario.length) else workload.latency
    hit, well = float(rows - unaffected), float(unaffected)
    now = 0.0
    while hit > 0 or well > 0:
        if now >= scenario.length and not scenario.repeat:
            return now + workload.latency + (hit + well) / workload.full
        phase = scenario.at(now + step / 2)
        if phase.seconds == math.inf and workload.goodput(phase) == 0 and hit > 0:
            return math.inf
        sent = min(hit, workload.goodput(phase) * step)
        hit -= sent
        well -= min(well, max(0.0, workload.full * step - sent))
        now += step
    return now + workload.latency
