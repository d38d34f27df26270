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

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = MOST
        self._at: float | None = None

    def __repr__(self) -> str:
        return f"<RetryBudget {self._left:.1f} left>"

    def allows(self, now: float) -> bool:
        """Whether a retry is within the budget."""
        self._advance(now)
        return self._left >= 1.0 - 1e-9

    def first(self, now: float) -> None:
        """Count a first attempt."""
        if self._left < MOST:  # else no time that has passed can add to it
            self._advance(now)
            self._left = min(MOST, self._left + SHARE)

    def retry(self, now: float) -> None:
        """Count a retry; one beyond the budget, because nothing else was left to send, is no debt."""
        self._advance(now)
        self._left = max(0.0, self._left - 1.0)

    def _advance(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._left = min(MOST, self._left + (now - self._at) * PER_SECOND)
        self._at = now if self._at is None else max(self._at, now)
