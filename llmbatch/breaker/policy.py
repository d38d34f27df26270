"""When a circuit opens, how long it stays open, and how it is tried: options, checked at birth.

Pure data: no clock, no chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BreakerPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """The options of one circuit. Durations are seconds, ratios run from 0 to 1.

    Raises :class:`ValueError` for a value out of range.
    """

    failure_threshold: int = 5
    """Consecutive failures of different callers that open the circuit, at least 1."""
    recovery_timeout: float = 60.0
    """Open time, and its upper bound (jitter included) where it grows; above 0. A server's own wait may be longer."""
    success_threshold: int = 1
    """Successful probes in a row that close the circuit, at least 1."""
    first_recovery_timeout: float | None = None
    """Open time of the first opening, above 0 and at most ``recovery_timeout``; it doubles with each failed probe.
    None: the open time is constant."""
    jitter: float = 0.0
    """Share of the open time that chance may add, 0 to 1."""
    failure_rate: float | None = None
    """Share of failures among the last ``rate_window`` calls that opens the circuit, above 0 to 1; None: not used."""
    rate_window: int = 100
    """Calls that the rate looks back on, at least ``minimum_calls``."""
    minimum_calls: int = 20
    """Calls before the rate means anything, at least 1."""
    probe_lease: float = 60.0
    """How long a probe may take before another one replaces it, above 0; doubles with each replacement."""
    stable_time: float = 60.0
    """Time closed after which a grown open time starts over, at least 0."""
    neutral_probes: int = 3
    """Neutral answers to probes that count as recovered, at least 1."""

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "minimum_calls", "neutral_probes"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise ValueError(f"{name} is {value!r}, must be a whole number of at least 1")
        for name in ("recovery_timeout", "probe_lease", "first_recovery_timeout"):
            value = getattr(self, name)
            if value is None and name == "first_recovery_timeout":
                continue
            if not _is_number(value) or value <= 0:
                raise ValueError(f"{name} is {value!r}, must be a finite number of seconds above 0")
        if self.first_recovery_timeout is not None and self.first_recovery_timeout > self.recovery_timeout:
            raise ValueError(
                f"first_recovery_timeout is {self.first_recovery_timeout!r}, "
                f"must be at most recovery_timeout ({self.recovery_timeout!r})"
            )
        if not _is_number(self.stable_time) or self.stable_time < 0:
            raise ValueError(f"stable_time is {self.stable_time!r}, must be a finite number of seconds, at least 0")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter!r}, must be from 0 to 1")
        if self.failure_rate is not None and not (_is_number(self.failure_rate) and 0 < self.failure_rate <= 1):
            raise ValueError(f"failure_rate is {self.failure_rate!r}, must be above 0 and at most 1")
        if not _is_whole(self.rate_window) or self.rate_window < self.minimum_calls:
            raise ValueError(
                f"rate_window is {self.rate_window!r}, must be a whole number, "
                f"at least minimum_calls ({self.minimum_calls})"
            )

    def open_time(self, level: int, chance: float) -> float:
        """Seconds to stay open after *level* failed probes; *chance* is a draw from 0 to 1.

        Exponential backoff with upward jitter: ``min(cap, first · 2^level) · (1 + jitter · chance)``, where ``cap``
        leaves room for the jitter below ``recovery_timeout``.
        """
        if self.first_recovery_timeout is None:
            return self.recovery_timeout
        cap = self.recovery_timeout / (1 + self.jitter)
        wait = min(cap, self.first_recovery_timeout * 2.0 ** min(level, 60))
        return wait * (1 + self.jitter * chance)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
