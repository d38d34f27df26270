"""The lanes of a run: one a route, or one for each tenant of it; made when first needed, forgotten when idle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from random import Random

from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.records import Route, Row
from llmbatch.runner.keys import CircuitKeys
from llmbatch.runner.lane import Known, Lane
from llmbatch.runner.options import RunOptions

__all__ = ["Lanes"]

MOST_RESTING = 64
"""From so many lanes on, idle ones are forgotten before another is made."""

FIRST_PROBE = 2.0
"""Seconds from an opening to its first probe; doubles up to ``recovery_timeout``."""


class Lanes:
    """All lanes of one run. Every turn looks at every lane, so that those which rest must not add up."""

    def __init__(self, options: RunOptions, *, seed: int) -> None:
        self._options = options
        self._seed = seed
        self._lanes: dict[str, Lane] = {}
        self._known: dict[str, Known] = {}
        self._keys = None if options.circuit_key is None else CircuitKeys(options.circuit_key)
        self._policy = BreakerPolicy(
            # Streaks are judged by the lane, which knows what was in flight meanwhile.
            failure_threshold=sys.maxsize,
            recovery_timeout=options.recovery_timeout,
            success_threshold=options.success_threshold,
            first_recovery_timeout=min(FIRST_PROBE, options.recovery_timeout),
            jitter=0.1,
            failure_rate=0.5,
            rate_window=max(50, 2 * options.concurrency),
            minimum_calls=20,
            stable_time=options.recovery_timeout,
        )

    @property
    def may_differ(self) -> bool:
        """Whether the rows of one route may have different lanes."""
        return self._keys is not None

    def lane_of(self, row: Row, route: Route, now: float) -> Lane:
        """The lane of *row*, made now if there is none."""
        label = route.label if self._keys is None else self._keys.label(route.label, row)
        lane = self._lanes.get(label)
        if lane is None:
            if len(self._lanes) >= MOST_RESTING:
                self._lanes = {other: lane for other, lane in self._lanes.items() if not lane.is_idle(now)}
            lane = self._lanes[label] = Lane(
                route,
                self._policy,
                label=label,
                known=self._known.setdefault(route.label, Known()),
                concurrency=self._options.concurrency,
                failure_threshold=self._options.failure_threshold,
                chance=Random(f"{self._seed}:circuit:{label}").random,
            )
        return lane

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)
