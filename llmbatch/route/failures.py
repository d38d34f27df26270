"""What has failed since the last good answer: chance at the usual rate, or a route that is down?

Calls are numbered when they are sent. A good answer to call *n* proves everything that was sent before it; what counts
here are the failures of calls that were sent after the newest good one. Were only chance at work, *F* particular calls
would all fail with probability ``p1 * p2 * … * pF``, and some *F* of the *N* calls sent with at most ``C(N, F)`` times
that (the union bound).
"""

from __future__ import annotations

import math

__all__ = ["FailureWindow", "UsualRate", "log_chance"]

DOWN = math.log(1e-6)
"""Below this the route is taken for down."""

SUSPICIOUS = math.log(1e-2)
"""Below this the slots of failed calls are not filled again before a good answer."""

MOST_USUAL = 0.9
"""The highest failure rate that is called usual: above it, calls are a waste of money."""


class UsualRate:
    """The share of calls of one kind that usually fail. *prior* and *weight*: what is assumed before any is known."""

    __slots__ = ("_calls", "_failed", "_horizon", "_least", "_most")

    def __init__(self, prior: float, weight: float, *, least: float, most: float, horizon: float = 100.0) -> None:
        self._failed = prior * weight
        self._calls = weight
        self._least = least
        self._most = most
        self._horizon = horizon

    @property
    def value(self) -> float:
        """The share, within the bounds."""
        return min(max(self._failed / self._calls, self._least), self._most)

    def add(self, failed: int, calls: int = 1) -> None:
        """Note *calls* of which *failed* failed."""
        self._failed += failed
        self._calls += calls
        if self._calls > 2 * self._horizon:
            self._failed /= 2
            self._calls /= 2


def log_chance(failed: int, sent: int, log_rates: float) -> float:
    """The logarithm of a bound on the chance that *failed* of *sent* calls fail; *log_rates* adds up their rates'."""
    sent = max(sent, failed)
    ways = math.lgamma(sent + 1) - math.lgamma(failed + 1) - math.lgamma(sent - failed + 1)
    return min(0.0, ways + log_rates)


class FailureWindow:
    """The rows that failed in calls sent after the newest good one, each counted once.

    Memory: one entry per row that failed since; all go at the next good answer.
    """

    __slots__ = ("_log_rates", "rows", "since", "untold")

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, float, bool]] = {}
        """Row number to call number, the logarithm of the usual rate for it, and whether it had never failed before."""
        self.since = 0
        """What was sent up to this call number is proven, or explained otherwise."""
        self.untold = 0
        """Calls sent since then that say nothing about health: throttled, refused for their content, cancelled."""
        self._log_rates = 0.0

    def __repr__(self) -> str:
        return f"<FailureWindow {len(self.rows)} rows after call {self.since}>"

    def add(self, row: int, serial: int, rate: float, *, fresh: bool) -> None:
        """Call *serial* of *row* failed; calls of its kind (*fresh*: of rows that never failed) usually do with *rate*."""
        if serial <= self.since or row in self.rows:
            return
        chance = math.log(rate)
        self.rows[row] = (serial, chance, fresh)
        self._log_rates += chance

    def skip(self, serial: int) -> None:
        """Call *serial* says nothing about health."""
        if serial > self.since:
            self.untold += 1

    def chance(self, newest: int) -> float:
        """The logarithm of the chance of this, call *newest* being the last one sent; 0 where nothing failed."""
        if not self.rows:
            return 0.0
        return log_chance(len(self.rows), newest - self.since - self.untold, self._log_rates)

    def is_suspicious(self, newest: int) -> bool:
        """Whether chance hardly explains it."""
        return bool(self.rows) and self.chance(newest) < SUSPICIOUS

    def is_down(self, newest: int, threshold: int) -> bool:
        """Whether chance does not explain it, and at least *threshold* different rows failed."""
        return len(self.rows) >= threshold and self.chance(newest) < DOWN

    def prove(self, serial: int) -> list[bool]:
        """Call *serial* succeeded: drop what failed before it; returns for each such row whether it was fresh."""
        if serial <= self.since:
            return []
        self.since = serial
        self.untold = 0
        if not self.rows:
            return []
        proven = [(row, fresh) for row, (sent, _, fresh) in self.rows.items() if sent < serial]
        for row, _ in proven:
            del self.rows[row]
        self._log_rates = sum(chance for _, chance, _ in self.rows.values())
        return [fresh for _, fresh in proven]

    @property
    def newest(self) -> int:
        """The highest number of a call that failed; 0 where there is none."""
        return max((serial for serial, _, _ in self.rows.values()), default=0)

    def clear(self, newest: int) -> None:
        """Start anew after call *newest*: what failed so far is explained otherwise."""
        self.rows.clear()
        self._log_rates = 0.0
        self.untold = 0
        self.since = max(self.since, newest)
