"""How many requests may be in flight: a limit that gives way when told to slow down, and ramps after an outage.

Additive increase, multiplicative decrease with slow start, as TCP Reno has them (RFC 5681), one request for one
segment: below ``slow_start`` a success adds 1 (which doubles the limit every round trip), above it ``1 / limit``.
Pure: it counts answers and knows no time.
"""

from __future__ import annotations

__all__ = ["AdaptiveLimit"]

RAMP_START = 2.0


class AdaptiveLimit:
    """The limit of one route, from 1 to *ceiling*; starts at the ceiling."""

    __slots__ = ("_cut_at", "_slow_start", "_value", "ceiling")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._value = float(ceiling)
        self._slow_start = float(ceiling)
        self._cut_at = 0

    @property
    def value(self) -> int:
        """Requests that may be in flight now."""
        return int(self._value)

    def on_success(self) -> None:
        """An answer was good: grow."""
        if self._value < self.ceiling:
            self._value += 1.0 if self._value < self._slow_start else 1.0 / self._value
            self._value = min(self._value, float(self.ceiling))

    def on_pushback(self, serial: int, newest: int) -> None:
        """The provider asked call number *serial* to slow down: halve, once for all calls up to *newest*."""
        if serial <= self._cut_at:
            return
        self._cut_at = newest
        self._value = max(1.0, self._value / 2)
        self._slow_start = self._value

    def restart(self) -> None:
        """The circuit closed: ramp up from 2 instead of stampeding."""
        self._value = min(RAMP_START, float(self.ceiling))
        self._slow_start = float(self.ceiling)
