"""Waits that the provider named, and throttling: one row's, or the route's?

A wait counts for its row at once. It counts for the route once a second call confirms it with no good answer to a later
call between, or where nothing in flight could disprove it: one 503 with ``Retry-After: 3600`` from one bad backend must
not stop a healthy route for an hour. A row that is throttled again and again while later calls pass is too large for
the limit, and no longer sets the pace.
"""

from __future__ import annotations

import math

from llmbatch.pace.backoff import retry_delay
from llmbatch.route.failures import log_chance

__all__ = ["Throttle"]

ROWS_OWN = math.log(0.02)
"""The share of rows that may be too large for a route's limit whatever its pace."""

CONFIRMED = math.log(1e-3)
"""Below this, throttled calls are the route's pace rather than some rows' own size."""

LONGEST_BACKOFF = 60.0


class Throttle:
    """Named waits and throttling of one route. Memory: one entry per call that named a wait since the last success."""

    __slots__ = ("_hints", "_level", "_newest", "_throttled", "given_up", "not_before", "ramp_due", "since")

    def __init__(self) -> None:
        self.not_before = 0.0
        """Nothing is sent before."""
        self.ramp_due = False
        """Whether traffic ramps up when the wait is over."""
        self.since: float | None = None
        """Since when nothing but throttling has come back."""
        self.given_up = False
        """Whether it has lasted longer than the run will wait."""
        self._level = 0
        """Waits in a row for which the provider named no time."""
        self._newest = 0
        """The highest number of a call that succeeded: what calls sent before it were told was their rows'."""
        self._hints: dict[int, float] = {}
        """Call number to the time that its answer named."""
        self._throttled: set[int] = set()
        """Numbers of throttled calls with no later success."""

    def __repr__(self) -> str:
        return f"<Throttle not before {self.not_before:.1f}, {len(self._throttled)} throttled>"

    def throttled(self, serial: int, now: float) -> int:
        """Call *serial* was throttled. How many were with no good answer to a later call between."""
        if serial < self._newest:
            return len(self._throttled)
        self._throttled.add(serial)
        if self.since is None:
            self.since = now
        return len(self._throttled)

    def is_route_wide(self, sent: int, *, disprovable: bool) -> bool:
        """Whether the throttling is the route's, of *sent* calls; *disprovable*: a later call is still in flight."""
        count = len(self._throttled)
        return not disprovable or log_chance(count, sent, count * ROWS_OWN) < CONFIRMED

    def backoff(self, chance: float, now: float) -> float:
        """Seconds to wait where the provider named none; *chance* is a draw, 0 to 1. Grows while nothing else comes."""
        if now >= self.not_before:
            self._level += 1
        return retry_delay(self._level, chance, longest=LONGEST_BACKOFF)

    def hear(self, serial: int, until: float) -> None:
        """The answer to call *serial* asked to wait until then."""
        if serial > self._newest:
            self._hints[serial] = until

    def is_disproved(self, serial: int) -> bool:
        """Whether a call that was sent after call *serial* has succeeded already."""
        return serial < self._newest

    def confirmed(self, *, disprovable: bool) -> float:
        """Until when the route has to wait by what was heard: the longest wait that two calls named.

        The longest of all where nothing in flight could disprove it; minus infinity where there is none.
        """
        waits = sorted(self._hints.values(), reverse=True)
        if not waits:
            return -math.inf
        if disprovable:
            return waits[1] if len(waits) > 1 else -math.inf
        return waits[0]

    def pause(self, until: float) -> bool:
        """Send nothing before *until*; whether that is news."""
        if until <= self.not_before:
            return False
        self.not_before = until
        self.ramp_due = True
        self._hints.clear()
        self._throttled.clear()
        return True

    def prove(self, serial: int) -> None:
        """Call *serial* succeeded: what was asked of calls sent before it was meant for their rows."""
        self.since = None
        self._level = 0
        if serial > self._newest:
            self._newest = serial
        if self._hints:
            self._hints = {number: until for number, until in self._hints.items() if number > serial}
        if self._throttled:
            self._throttled = {number for number in self._throttled if number > serial}
