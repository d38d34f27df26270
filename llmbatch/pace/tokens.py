"""Budget of tokens or requests per minute: requests reserve an estimate and settle what they really used.

A token bucket that may go into debt: a request larger than the bucket is sent when the bucket is full, so that no row
is too large to be sent. Pure: time is an argument, and nothing here waits.
"""

from __future__ import annotations

__all__ = ["RateBudget"]

BURST_SECONDS = 5.0
"""Capacity of the bucket, in seconds of the rate: at most 65 seconds' worth is sent in any minute."""


class RateBudget:
    """Token bucket of *per_minute* tokens or requests. Not safe for concurrent use.

    *burst_s*: its capacity, in seconds of the rate; at least one unit.
    """

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(self, per_minute: float, now: float, *, burst_s: float = BURST_SECONDS) -> None:
        self._rate = per_minute / 60.0
        self._capacity = max(1.0, self._rate * burst_s)
        self._level = self._capacity
        self._at = now

    def _refill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until *tokens* may be reserved; 0 if they may be now."""
        self._refill(now)
        missing = min(float(tokens), self._capacity) - self._level
        wait = missing / self._rate
        # A wait too short to change the clock is a rounding error, and waiting for it would never end.
        return wait if missing > 1e-9 and now + wait > now else 0.0

    def reserve(self, tokens: int, now: float) -> None:
        """Reserve the estimate of a request that is sent now, even if :meth:`wait` is above 0."""
        self._refill(now)
        self._level -= tokens

    def change(self, per_minute: float, now: float, *, burst_s: float = BURST_SECONDS) -> None:
        """Go on with another rate; what was used counts, and no more than the new capacity is there at once."""
        self._refill(now)
        self._rate = per_minute / 60.0
        self._capacity = max(1.0, self._rate * burst_s)
        self._level = min(self._capacity, self._level)

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Replace a reservation by the tokens that were *used*, 0 if none."""
        self._refill(now)
        self._level = min(self._capacity, self._level + reserved - used)
