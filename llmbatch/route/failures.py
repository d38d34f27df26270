"""Decide whether the failures since the last success are chance at the usual rate, or mean that the route is down.

Calls are numbered when they are sent. The success of call *n* settles everything sent before it, so only failures of
calls sent after the newest success count. By chance alone, *F* particular calls would all fail with probability
``p1 * p2 * … * pF``, and some *F* of the *N* calls sent with at most ``C(N, F)`` times that (the union bound).
"""

from __future__ import annotations

import math

__all__ = ["FailureWindow", "UsualRate", "log_chance"]

DOWN = math.log(1e-6)
"""Logarithm of the chance below which the route counts as down."""

SUSPICIOUS = math.log(1e-2)
"""Logarithm of the chance below which slots of failed calls stay free until a call succeeds."""

DOUBTFUL = math.log(1e-4)
"""Logarithm of the chance below which a health check is sent."""

MOST_USUAL = 0.9
"""Highest failure rate that counts as usual, 0 to 1: above it, calls are a waste of money."""


class UsualRate:
    """Share of calls of one kind that usually fail, from *least* to *most*.

    Starts as if *weight* calls had failed at the rate *prior*. Older calls count half as much after each *horizon*.
    """

    __slots__ = ("_calls", "_failed", "_horizon", "_least", "_most")

    def __init__(self, prior: float, weight: float, *, least: float, most: float, horizon: float = 100.0) -> None:
        self._failed = prior * weight
        self._calls = weight
        self._least = least
        self._most = most
        self._horizon = horizon

    @property
    def value(self) -> float:
        """The share, 0 to 1, within its bounds."""
        return min(max(self._failed / self._calls, self._least), self._most)

    def add(self, failed: int, calls: int = 1) -> None:
        """Count *calls* calls of which *failed* failed."""
        self._failed += failed
        self._calls += calls
        if self._calls > 2 * self._horizon:
            self._failed /= 2
            self._calls /= 2


def log_chance(failed: int, sent: int, log_rates: float) -> float:
    """Logarithm of a bound on the chance that *failed* of *sent* calls fail; *log_rates*: sum of their log rates."""
    sent = max(sent, failed)
    ways = math.lgamma(sent + 1) - math.lgamma(failed + 1) - math.lgamma(sent - failed + 1)
    return min(0.0, ways + log_rates)


class FailureWindow:
    """Rows that failed for the first time, in calls sent after the newest success; each counts once.

    Rows that failed before while others succeeded say nothing about the route. Memory: one entry per such row, until
    the next success.
    """

    __slots__ = ("_log_rates", "rows", "since")

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, float]] = {}
        """Call number, and logarithm of the usual rate, by row number."""
        self.since = 0
        """Number of the call up to which failures are settled, by a success or by an outage."""
        self._log_rates = 0.0

    def __repr__(self) -> str:
        return f"<FailureWindow {len(self.rows)} rows after call {self.since}>"

    def add(self, row: int, serial: int, rate: float) -> bool:
        """Add failed call *serial* of *row*; *rate*: usual rate of such failures. True if it is settled already."""
        if serial <= self.since:
            return True
        if row not in self.rows:
            chance = math.log(rate)
            self.rows[row] = (serial, chance)
            self._log_rates += chance
        return False

    def chance(self, out: int) -> float:
        """Logarithm of the chance of these failures, with *out* such calls in flight; 0 without failures."""
        if not self.rows:
            return 0.0
        return log_chance(len(self.rows), len(self.rows) + out, self._log_rates)

    def is_suspicious(self, out: int) -> bool:
        """Whether chance is an unlikely explanation."""
        return bool(self.rows) and self.chance(out) < SUSPICIOUS

    def is_doubtful(self, out: int) -> bool:
        """Whether chance is so unlikely that a health check should be sent."""
        return bool(self.rows) and self.chance(out) < DOUBTFUL

    def is_down(self, out: int, threshold: int) -> bool:
        """Whether at least *threshold* different rows failed, and chance does not explain it."""
        return len(self.rows) >= threshold and self.chance(out) < DOWN

    def prove(self, serial: int) -> int:
        """Drop failures of calls sent before *serial*, which succeeded; return the number of rows dropped."""
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
        """Drop the row's failure."""
        entry = self.rows.pop(row, None)
        if entry is not None:
            self._log_rates = self._log_rates - entry[1] if self.rows else 0.0

    @property
    def newest(self) -> int:
        """Highest number of a call that failed; 0 if there is none."""
        return max((serial for serial, _ in self.rows.values()), default=0)

    def clear(self, newest: int) -> None:
        """Drop all failures of calls up to *newest*, because an outage explains them."""
        self.rows.clear()
        self._log_rates = 0.0
        self.since = max(self.since, newest)
