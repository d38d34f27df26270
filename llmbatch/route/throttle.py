"""Decide whether a named wait or throttling concerns one row or the whole route.

A wait applies to its row at once. It applies to the route when a second call confirms it without a later success, or
when no call in flight could disprove it: one 503 with ``Retry-After: 3600`` from one bad backend must not stop a
healthy route for an hour. A row that is throttled again and again while later calls succeed is too large for the
route's limit, and no longer slows the route down.
"""

from __future__ import annotations

import math

from llmbatch.pace.backoff import retry_delay
from llmbatch.route.failures import log_chance

__all__ = ["Throttle"]

ROWS_OWN = math.log(0.02)
"""Logarithm of the share of rows that may be too large for a route's limit."""

CONFIRMED = math.log(1e-3)
"""Logarithm of the chance below which throttling means the route, not some large rows."""

LONGEST_BACKOFF = 60.0
"""Longest wait for throttling without a named wait, in seconds."""


class Throttle:
    """Named waits and throttling of one route. Memory: one entry per such call since the last success."""

    __slots__ = (
        "_hints",
        "_level",
        "_newest",
        "_throttled",
        "given_up",
        "is_covered",
        "not_before",
        "ramp_due",
        "since",
    )

    def __init__(self) -> None:
        self.not_before = 0.0
        """Earliest time of the next call."""
        self.ramp_due = False
        """Whether the next call begins a ramp."""
        self.since: float | None = None
        """Since when all calls were throttled; None if they were not."""
        self.given_up = False
        """Whether it lasts longer than the run waits."""
        self.is_covered = False
        """Whether other routes answer its rows while it lacks capacity: nothing waits, and it is not given up."""
        self._level = 0
        """Consecutive waits without a named time."""
        self._newest = 0
        """Highest number of a call that succeeded; throttling of earlier calls concerns their rows only."""
        self._hints: dict[int, float] = {}
        """End of the wait that each answer named, by call number."""
        self._throttled: set[int] = set()
        """Numbers of throttled calls without a later success."""

    def __repr__(self) -> str:
        return f"<Throttle not before {self.not_before:.1f}, {len(self._throttled)} throttled>"

    def throttled(self, serial: int, now: float) -> int:
        """Note that call *serial* was throttled; return the number of throttled calls without a later success."""
        if serial < self._newest:
            return len(self._throttled)
        self._throttled.add(serial)
        if self.since is None:
            self.since = now
        return len(self._throttled)

    @property
    def first(self) -> int:
        """Number of the first throttled call without a later success; 0 if there is none."""
        return min(self._throttled, default=0)

    def is_route_wide(self, since: int, newest: int, *, disprovable: bool) -> bool:
        """Whether throttling concerns the route, as chance and large rows hardly explain it.

        Calls after number *since* count, up to *newest*. *disprovable*: a call sent later has succeeded, or may.
        """
        count, sent = sum(number > since for number in self._throttled), newest - since
        return not disprovable or log_chance(count, sent, count * ROWS_OWN) < CONFIRMED

    def backoff(self, chance: float, now: float) -> float:
        """Seconds to wait without a named time; grows until a call succeeds. *chance*: a random draw, 0 to 1."""
        if now >= self.not_before:
            self._level += 1
        return retry_delay(self._level, chance, longest=LONGEST_BACKOFF)

    def note_wait(self, serial: int, until: float) -> None:
        """Note that the answer to call *serial* asked to wait until *until*."""
        if serial > self._newest:
            self._hints[serial] = until

    def is_disproved(self, serial: int) -> bool:
        """Whether a call sent after *serial* has succeeded already."""
        return serial < self._newest

    def confirmed_wait(self, *, disprovable: bool, newest: int = 0) -> float:
        """End of the longest wait that two calls have named, or a single one if no call in flight could disprove it.

        Minus infinity if there is none. *disprovable*: every wait may be disproved; *newest*: those named to calls
        before this one, the newest in flight, may be.
        """
        waits = sorted(self._hints.values(), reverse=True)
        confirmed = waits[1] if len(waits) > 1 else -math.inf
        if disprovable:
            return confirmed
        return max((until for number, until in self._hints.items() if number > newest), default=confirmed)

    def pause(self, until: float) -> bool:
        """Send nothing before *until*; return False if that was so already."""
        if until <= self.not_before:
            return False
        self.not_before = until
        self.ramp_due = True
        # A longer wait that one of the calls named counts on: another call may confirm it.
        self._hints = {number: end for number, end in self._hints.items() if end > until}
        self._throttled.clear()
        return True

    def prove(self, serial: int) -> None:
        """Note that call *serial* succeeded: waits named to earlier calls concern their rows only."""
        self.since = None
        self._level = 0
        if serial > self._newest:
            self._newest = serial
        if self._hints:
            self._hints = {number: until for number, until in self._hints.items() if number > serial}
        if self._throttled:
            self._throttled = {number for number in self._throttled if number > serial}
