"""Measure the latency of a route at some number of requests in flight, and compare such levels."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Comparison", "Gauge", "Level", "UsualLevel"]

GUESS, GUESSED = 0.3, 3
"""Assumed spread of latencies, and the number of calls that it counts for."""

TWICE = 0.6
"""Weight of a comparison: each level is compared with both that before and that after it."""

LEAST_VARIANCE = 0.02**2
"""Smallest squared relative error of a comparison, however equal the latencies."""

RISE, RISE_SIGMAS = math.log(1.5), 4.0
"""Sudden rise of the latency that is looked into: its logarithm, and at least so many standard errors."""

LONGEST_PAUSE = 512
"""Most levels until a rise is looked into again after that was in vain."""

STALE = 4.0
"""A level that took so many times as long as its calls explain was not measured at a steady load."""


class Level(NamedTuple):
    """What was measured: mean requests in flight, mean latency in seconds, and the mean's squared relative error."""

    load: float
    seconds: float
    variance: float

    @property
    def rate(self) -> float:
        """Answers per second, by Little's law."""
        return self.load / self.seconds

    def span(self, other: Level) -> float:
        """Logarithm of the ratio of the loads."""
        return math.log(self.load / other.load)

    def elasticity(self, other: Level) -> float:
        """Relative change of the rate per relative change of the load between the two.

        1: the latency is the same. 0: the answers are as many. Below 0: they are fewer where the load is higher.
        """
        return math.log(self.rate / other.rate) / self.span(other)

    def knee(self, other: Level) -> float:
        """Where the knee is, if it is sharp and between the load of *other* and this higher one."""
        return other.load * math.exp(min(1.0, max(0.0, self.elasticity(other))) * self.span(other))

    def joined(self, other: Level) -> Level:
        """This level with the latency of both, weighted by how exact they are; for two below the knee."""
        weight = self.variance + other.variance
        share = other.variance / weight if weight else 0.5
        seconds = other.seconds * (self.seconds / other.seconds) ** share
        return Level(self.load, seconds, self.variance * share)


class Gauge:
    """Sums over the calls that were sent and answered at one level. Not safe for concurrent use.

    The level's latency is the square of the mean square root: a few very slow calls change it little, and twice the
    latency of all calls is twice the latency.
    """

    __slots__ = ("_began", "_load", "_longest", "_roots", "_spread", "_sum", "count", "since", "wanted")

    def __init__(self) -> None:
        self._spread = self._longest = 0.0
        self.restart(0, math.nan, 1)

    def restart(self, since: int, now: float, wanted: int) -> None:
        """Forget all calls; count only calls sent after number *since*, and *wanted* of them."""
        self.since = since
        self.wanted = wanted
        self.count = 0
        self._began = now
        self._load = 0
        self._sum = self._roots = 0.0

    def add(self, seconds: float, load: int) -> bool:
        """Count a call that took *seconds* and was one of *load* in flight; return whether there are enough."""
        self.count += 1
        self._load += load
        self._sum += seconds
        self._roots += math.sqrt(seconds)
        return self.count >= self.wanted

    def level(self, now: float) -> Level | None:
        """Return what was measured; None if it took far longer than it takes with so many in flight."""
        count, root, mean = self.count, self._roots / self.count, self._sum / self.count
        load = self._load / count
        if now - self._began > STALE * max(mean, self._longest) * (1.0 + count / load):
            return None
        spread = max(0.0, mean / (root * root) - 1.0) * 4.0  # of the square: twice the error, relatively
        spread = (max(spread, self._spread) * count + GUESS * GUESSED) / (count + GUESSED)
        return Level(load, root * root, spread / count)

    def is_early(self, now: float) -> bool:
        """Whether those calls that take long have hardly been answered yet."""
        return now - self._began < max(self._typical, self._longest)

    def end(self) -> None:
        """Remember how latencies vary."""
        root, mean = self._roots / self.count, self._sum / self.count
        self._longest += 0.25 * (self._typical - self._longest)
        self._spread += 0.25 * (max(0.0, mean / (root * root) - 1.0) * 4.0 - self._spread)

    def error(self, count: float) -> float:
        """Relative error of the mean of *count* latencies, as they varied lately."""
        return math.sqrt(self._spread / count)

    @property
    def _typical(self) -> float:
        """Seconds that calls in flight take, in which long ones have more weight."""
        root, mean = self._roots / self.count, self._sum / self.count
        return mean * mean / (root * root)


class Comparison:
    """Elasticity between two bounds, averaged over several measurements of both."""

    __slots__ = ("_sum", "_weight")

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, level: Level, last: Level) -> None:
        """Add one level after another."""
        span = level.span(last)
        weight = TWICE * span * span / (level.variance + last.variance + LEAST_VARIANCE)
        self._weight += weight
        self._sum += weight * max(-2.0, min(3.0, level.elasticity(last)))

    @property
    def found(self) -> float:
        """The average; 0 if there is none."""
        return self._sum / self._weight if self._weight else 0.0

    @property
    def error(self) -> float:
        """Standard error of the average."""
        return self._weight**-0.5 if self._weight else math.inf


class UsualLevel:
    """Average of the last levels, to tell a sudden rise of latency. After rises that load did not cause it waits.

    *first_pause*: how many levels, at first.
    """

    __slots__ = ("_first_pause", "_pause", "_span", "level")

    def __init__(self, first_pause: int) -> None:
        self.level: Level | None = None
        """None: not known yet."""
        self._first_pause = self._span = first_pause
        self._pause = 0

    def note(self, level: Level) -> None:
        """Add *level* to the average."""
        self._pause = max(0, self._pause - 1)
        usual = self.level
        if usual is None:
            self.level = level
            return
        load = usual.load + 0.2 * (level.load - usual.load)
        seconds = usual.seconds * (level.seconds / usual.seconds) ** 0.2
        self.level = Level(load, seconds, 0.64 * usual.variance + 0.04 * level.variance)

    def is_below(self, level: Level) -> bool:
        """Whether *level* is so much slower than usual that neither chance nor its own load explains it."""
        usual = self.level
        if usual is None or self._pause:
            return False
        rise = math.log(level.seconds / usual.seconds) - max(0.0, level.span(usual))
        return rise > max(RISE, RISE_SIGMAS * math.sqrt(level.variance + usual.variance))

    def adopt(self, level: Level, *, by_load: bool) -> None:
        """Take *level* for usual from now on; *by_load*: less load has made it faster again."""
        self.level = level
        if by_load:
            self._span = self._first_pause
        else:
            self._pause, self._span = self._span, min(LONGEST_PAUSE, 2 * self._span)
