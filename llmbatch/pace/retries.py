"""Budget of retries: a share of the traffic and a floor, so that a partial outage is not amplified. Pure."""

from __future__ import annotations

__all__ = ["RetryBudget"]

SHARE = 0.1
"""Retries allowed for each first attempt (Google, *Site Reliability Engineering*, 2016, "Handling Overload")."""

PER_SECOND = 1.0
"""Retries allowed per second, whatever else is sent: a single row never waits, as its backoff is no shorter."""

MOST = 10.0
"""Largest number of retries allowed at once: what a quiet time has left over is not spent in a burst."""


class RetryBudget:
    """Retries of one route: in any period at most ``MOST``, one per second, and a tenth of the first attempts."""

    __slots__ = ("_at", "_left", "is_full")

    def __init__(self) -> None:
        self._left = MOST
        self._at: float | None = None
        self.is_full = True
        """Whether a first attempt adds nothing: no retry was sent since all of them were allowed."""

    def __repr__(self) -> str:
        return f"<RetryBudget {self._left:.1f} left>"

    def allows(self, now: float) -> bool:
        """Whether a retry is within the budget."""
        self._advance(now)
        return self._left >= 1.0 - 1e-9

    def count(self, now: float, *, is_retry: bool) -> None:
        """Count a retry or a first attempt. A retry beyond the budget, as nothing else was left, is no debt."""
        self._advance(now)
        self._left = max(0.0, self._left - 1.0) if is_retry else min(MOST, self._left + SHARE)
        self.is_full = self._left >= MOST

    def _advance(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._left = min(MOST, self._left + (now - self._at) * PER_SECOND)
        self._at = now if self._at is None else max(self._at, now)
