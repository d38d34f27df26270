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

DOUBTFUL = math.log(1e-4)
"""Below this a request is sent of which nobody has reason to expect that it fails."""

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
    """Rows that had never failed, and failed in calls sent after the newest good one, each counted once.

    Rows that failed before while others passed say nothing about the route. Memory: one entry per row that failed
    since; all go at the next good answer.
    """

    __slots__ = ("_log_rates", "rows", "since")

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, float]] = {}
        """Row number to call number, and the logarithm of the usual rate for it."""
        self.since = 0
        """What was sent up to this call number is proven, or explained otherwise."""
        self._log_rates = 0.0

    def __repr__(self) -> str:
        return f"<FailureWindow {len(self.rows)} rows after call {self.since}>"

    def add(self, row: int, serial: int, rate: float) -> bool:
        """Call *serial* of *row* failed; such calls usually fail with *rate*. Whether a later one passed already."""
        if serial <= self.since:
            return True
        if row not in self.rows:
            chance = math.log(rate)
            self.rows[row] = (serial, chance)
            self._log_rates += chance
        return False

    def chance(self, out: int) -> float:
        """The logarithm of the chance of this, *out* calls of such rows being in flight; 0 where nothing failed."""
        if not self.rows:
            return 0.0
        return log_chance(len(self.rows), len(self.rows) + out, self._log_rates)

    def is_suspicious(self, out: int) -> bool:
        """Whether chance hardly explains it."""
        return bool(self.rows) and self.chance(out) < SUSPICIOUS

    def is_doubtful(self, out: int) -> bool:
        """Whether it is worth a request that carries no row of the input."""
        return bool(self.rows) and self.chance(out) < DOUBTFUL

    def is_down(self, out: int, threshold: int) -> bool:
        """Whether chance does not explain it, and at least *threshold* different rows failed."""
        return len(self.rows) >= threshold and self.chance(out) < DOWN

    def prove(self, serial: int) -> int:
        """Call *serial* succeeded: drop what failed before it; returns how many rows."""
        if serial <= self.since:
            return 0
        self.since = serial
        if not self.rows:
            return 0
        proven = [row for row, (sent, _) in self.rows.items() if sent < serial]
        for row in proven:
            self.drop(row)
        return len(proven)

    def drop(self, row: int) -> None:
        """The row says nothing any more."""
        entry = self.rows.pop(row, None)
        if entry is not None:
            self._log_rates = self._log_rates - entry[1] if self.rows else 0.0

    @property
    def newest(self) -> int:
        """The highest number of a call that failed; 0 where there is none."""
        return max((serial for serial, _ in self.rows.values()), default=0)

    def clear(self, newest: int) -> None:
        """Start anew after call *newest*: what failed so far is explained otherwise."""
        self.rows.clear()
        self._log_rates = 0.0
        self.since = max(self.since, newest)
