"""What a route's latest answers and health checks told: how slow good answers are, and whether failures are chance.

A health check is a request that no row waits for: the smallest one (a ping), or the request of a finished row.
"""

from __future__ import annotations

import math

__all__ = ["FADE", "HealthChecks", "RecentAnswers"]

FADE = 0.995
"""Share of :attr:`RecentAnswers.slowest` that the next, faster answer leaves."""


class RecentAnswers:
    """Latency and time of the last good answers, and the last error message of one route. Times are in seconds."""

    __slots__ = ("error", "key_refused_at", "slowest", "succeeded_at")

    def __init__(self) -> None:
        self.error = ""
        """Message of the last answer that was neither good nor throttled; empty before the first."""
        self.key_refused_at = math.inf
        """When a key was first refused since the last good answer; infinity if none was."""
        self.slowest = 0.0
        """Latency of the slowest good answer, fading with each faster one; 0 before the first."""
        self.succeeded_at = -math.inf
        """When the last call succeeded; minus infinity before the first."""

    def __repr__(self) -> str:
        return f"<RecentAnswers slowest {self.slowest:.1f} s, error {self.error!r}>"


class HealthChecks:
    """The health checks of one route: whether any can be sent, and what the last ones told."""

    __slots__ = ("available", "ended_at", "log_chance", "ping_misleads")

    def __init__(self) -> None:
        self.available = False
        """Whether a health check can be sent at all."""
        self.ended_at = -math.inf
        """When the last one ended; minus infinity before the first."""
        self.log_chance = 0.0
        """Logarithm of the chance that all checks since the last success failed by ordinary random errors."""
        self.ping_misleads = False
        """Whether a finished row's request has passed after the last ping had failed: then it is asked alone."""

    def __repr__(self) -> str:
        return f"<HealthChecks {'available' if self.available else 'none'}, log chance {self.log_chance:.1f}>"

    def note_failure(self, rate: float) -> None:
        """Note that a check failed, as happens by chance with *rate* (above 0, to 1)."""
        self.log_chance += math.log(rate)
