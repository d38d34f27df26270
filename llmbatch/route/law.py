"""Decide how often a row has to fail before it ends as failed (the law).

A good row fails an attempt by chance with the route's error rate *e*, and *k* attempts with probability ``e ** k``.
A row ends once ``e ** k < CHANCE`` for every rate *e* that is plausible: a rate that makes what other rows met less
likely by a factor *x* than the best one does is granted that much, ``e ** k / x < CHANCE``. With many answers only the
measured rate is left; with few, more failures are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

__all__ = ["CEILING", "CHANCE", "FLOOR", "Sample", "backoff_steps"]

CHANCE = 1e-5
"""Highest chance that a good row ends as failed."""

FLOOR = 0.01
"""Lowest error rate that is assumed: there are never enough successes to rule out one error in a hundred."""

CEILING = 0.9
"""Highest error rate that is considered; a row then gets 110 attempts."""

LOG_CHANCE = math.log(CHANCE)

NO_CHANCE = 1e-100
"""What stands for any smaller chance, as hundreds of failures in a row have: a float may be 0 there."""

GRID = 18
"""Number of rates tried first, evenly spaced in log odds."""

HALVINGS = 3
"""How often their spacing is halved around the best one."""


def backoff_steps(failures: int, needed: int) -> float:
    """Doublings that *failures* are worth of a row that ends after *needed*.

    Each counts one where three failures end a row. Where it takes more, one says less about the row, so that its wait
    grows in proportion to the evidence: by three doublings in all.
    """
    return 1.0 + max(0, failures - 1) * min(1.0, 3.0 / max(needed, 1))


def _odds(rate: float) -> float:
    return math.log(rate / (1.0 - rate))


@cache
def _rate(odds: float) -> tuple[float, float, float]:
    """The rate of these log odds, and the logarithms of it and of its complement."""
    rate = 1.0 / (1.0 + math.exp(-odds))
    return rate, math.log(rate), math.log1p(-rate)


LEAST_ODDS, MOST_ODDS = _odds(FLOOR), _odds(CEILING)
STEP = (MOST_ODDS - LEAST_ODDS) / (GRID - 1)
ALL_ODDS = tuple(LEAST_ODDS + STEP * number for number in range(GRID))


@dataclass(slots=True)
class Sample:
    """What rows met whose first attempts were made in some stretch of time."""

    rows: int = 0
    """Rows that succeeded."""
    checks: int = 0
    """Health checks that succeeded."""
    failed: int = 0
    """Failed attempts of both before they did."""
    unresolved: Mapping[int, int] = field(default_factory=dict)
    """Failed attempts to the number of rows that have so many and no answer yet: bad rows, or good ones still at it."""

    @property
    def answers(self) -> int:
        """Good ones."""
        return self.rows + self.checks

    @property
    def size(self) -> int:
        """All attempts."""
        unresolved = sum(failures * rows for failures, rows in self.unresolved.items())
        return self.rows + self.checks + self.failed + unresolved

    @property
    def suggests_errors(self) -> bool:
        """Whether any of these rows failed by chance, or more than a third of them have no answer yet."""
        return self.failed > 0 or 2 * sum(self.unresolved.values()) > self.answers

    def log_likelihood(self, odds: float) -> float:
        """The logarithm of the chance of this sample at an error rate of such log *odds*.

        An unknown share *b* of all rows is bad. A row that has failed *j* times and has no answer is one of them or
        had bad luck: ``b + (1 - b) * rate ** j``. *b* is what suits the rate best.
        """
        rate, log_rate, log_rest = _rate(odds)
        base = self.failed * log_rate + (self.rows + self.checks) * log_rest
        if not self.unresolved or not self.rows:
            return base  # without one good row all of the others may be bad
        chances = [(rows, max(NO_CHANCE, rate**failures)) for failures, rows in self.unresolved.items()]
        bad = _bad_share(self.rows, chances)
        base += self.rows * math.log1p(-bad)
        return base + sum(rows * math.log(bad + (1.0 - bad) * chance) for rows, chance in chances)

    def needed(self, least: int, believed: float = 1.0) -> int:
        """Proven failures that end a row by this sample; never fewer than *least*.

        *believed*: how likely it is, 0 to 1, that this sample and no larger one is to be judged by.
        """
        log_chance = LOG_CHANCE - math.log(believed)
        known: dict[float, float] = {}

        def likelihood(odds: float) -> float:
            if odds not in known:
                known[odds] = self.log_likelihood(odds)
            return known[odds]

        best = _climb(likelihood)
        top = likelihood(best)

        def failures(odds: float) -> float:
            return (log_chance + top - likelihood(odds)) / _rate(odds)[1]

        return max(least, math.ceil(max(failures(best), failures(_climb(failures))) - 1e-9))


def _climb(value: Callable[[float], float]) -> float:
    """The log odds at which *value* is highest, near enough."""
    best = max(ALL_ODDS, key=value)
    step = STEP
    for _ in range(HALVINGS):
        step /= 2
        best = max((odds for odds in (best, best - step, best + step) if LEAST_ODDS <= odds <= MOST_ODDS), key=value)
    return best


def _bad_share(good: int, chances: list[tuple[int, float]]) -> float:
    """The share *b* that makes ``(1 - b) ** good`` times each ``(b + (1 - b) * chance) ** rows`` the largest.

    The logarithm is concave in *b*: Newton's method, within bounds.
    """
    if sum(rows * (1.0 - chance) / chance for rows, chance in chances) <= good:
        return 0.0
    rows = sum(rows for rows, _ in chances)
    least, most = 0.0, rows / (rows + good)
    share = most
    for _ in range(8):
        slope, bend = -good / (1.0 - share), -good / (1.0 - share) ** 2
        for count, chance in chances:
            part = (1.0 - chance) / (share + (1.0 - share) * chance)
            slope += count * part
            bend -= count * part * part
        if slope > 0:
            least = share
        else:
            most = share
        following = share - slope / bend
        if not least < following < most:
            following = (least + most) / 2
        if abs(following - share) < 1e-4 * share:
            break
        share = following
    return share
