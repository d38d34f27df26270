"""Limit the request rate of a simulated provider whose capacity is short: a token bucket, with optional collapse."""

from __future__ import annotations

import math

from llmbatch.sim.scenario import Phase

__all__ = ["CapacityLimiter"]

_AVERAGED_REQUESTS = 20.0
"""Requests of full load over which what is offered is averaged, with weights that fall off exponentially."""

_BURST = 4.0
"""Requests, at least, that are carried at once after a quiet time; else a second's."""


class CapacityLimiter:
    """Token bucket of one model. *rate*: requests per second at full capacity."""

    __slots__ = ("_at", "_offered", "_rate", "_room")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._at = -math.inf
        self._offered = 0.0
        self._room = 0.0

    def admits(self, phase: Phase, now: float) -> bool:
        """Count one request that arrives *now* (seconds) and return whether it is admitted.

        Where the provider collapses, it carries ``capacity² / offered`` of what is offered above its capacity: work on
        requests that it gives up later crowds out that on others (congestion collapse, RFC 896).
        """
        passed = now - self._at
        self._at = now
        memory = _AVERAGED_REQUESTS / self._rate
        self._offered = self._offered * math.exp(-passed / memory) + 1.0 / memory
        if phase.capacity is None:
            self._room = math.inf
            return True
        admitted = phase.capacity * self._rate
        offered = self._offered - 0.5 / memory  # between the peak that this request makes and the trough before it
        if phase.collapses and offered > admitted > 0:
            admitted *= admitted / offered
        most = max(_BURST, admitted)
        self._room = min(most, self._room + admitted * passed if math.isfinite(passed) else most)
        if self._room < 1.0 or admitted == 0:
            return False
        self._room -= 1.0
        return True
