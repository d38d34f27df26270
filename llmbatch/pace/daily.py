"""Budget of requests per day: a number of requests in each 24 hours from the first one on. Pure."""

from __future__ import annotations

import math

__all__ = ["DAY", "DailyBudget"]

DAY = 86_400.0
"""Seconds of a day."""


class DailyBudget:
    """At most *per_day* requests in each period of 24 hours; the first begins with the first request.

    *used*: requests that were sent in a period that *began* before, on the clock of ``now``.
    """

    __slots__ = ("_began", "_per_day", "_used")

    def __init__(self, per_day: float, used: int = 0, began: float = -math.inf) -> None:
        self._per_day = max(1.0, per_day)
        self._began = began
        self._used = float(used)

    def __repr__(self) -> str:
        return f"<DailyBudget {self._used:g} of {self._per_day:g}>"

    def wait(self, amount: int, now: float) -> float:
        """Seconds until *amount* requests may be sent; 0 if they may be now."""
        if now >= self._began + DAY or self._used + amount <= self._per_day:
            return 0.0
        return self._began + DAY - now

    def reserve(self, amount: int, now: float) -> None:
        """Count *amount* requests that are sent now."""
        if now >= self._began + DAY:
            self._began, self._used = now, 0.0
        self._used += amount

    def sent(self, now: float) -> tuple[int, float]:
        """Requests of a period that has not ended, and how many seconds ago it began; none if it has ended."""
        return (int(self._used), now - self._began) if now < self._began + DAY else (0, math.inf)

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Do nothing: a request counts, whatever came of it."""
