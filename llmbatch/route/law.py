"""The law: how often a row has to fail before it ends as failed, and how a route's own rate of errors is measured.

A good row fails an attempt by chance with the route's error rate *e*, so it fails *k* times in a row with probability
``e ** k``. A row ends once ``e ** k < CHANCE``, that is after ``k = log(CHANCE) / log(e)`` proven failures.
"""

from __future__ import annotations

import math

__all__ = ["CHANCE", "FLOOR", "ErrorRate", "attempts_needed", "backoff_steps"]

CHANCE = 1e-5
"""A good row ends as failed by chance less often than this."""

FLOOR = 0.01
"""The least error rate that is assumed: nobody has seen enough good answers to rule out one error in a hundred."""

CEILING = 0.9
"""The highest rate that the law reckons with; a row then has 110 attempts."""

PRIOR = 10.0
"""Attempts at the rate of ``FLOOR`` that every estimate starts with."""

EPOCH = 40
"""Rows after which another epoch begins; what was met lately is told by the epoch of a row's first attempt."""

EPOCHS = 64
"""Epochs that are kept."""

HORIZON = 2000.0
"""Attempts that the rate looks back on at least; older ones are halved in weight whenever twice as many are there."""


def attempts_needed(rate: float, least: int) -> int:
    """Proven failures that end a row where good rows fail with *rate* (0 to 1); never fewer than *least*."""
    rate = min(max(rate, FLOOR), CEILING)
    return max(least, math.ceil(math.log(CHANCE) / math.log(rate)))


def backoff_steps(failures: int, rate: float) -> float:
    """Doublings that *failures* are worth where good rows fail with *rate*.

    Each failure counts one as long as failures are rare. Where half of all attempts fail, one more says little about
    the row, so its wait grows in proportion to the evidence: ``log(rate) / log(CHANCE ** (1/3))``.
    """
    rate = min(max(rate, FLOOR), CEILING)
    weight = min(1.0, 3.0 * math.log(rate) / math.log(CHANCE))
    return 1.0 + max(0, failures - 1) * weight


class ErrorRate:
    """How often attempts of rows that succeeded in the end had failed before.

    Rows that never succeed cannot raise it. O(1) per row; memory: a few numbers per epoch, 64 of them.
    """

    __slots__ = ("_attempts", "_by_epoch", "_failed", "_left", "epoch", "rows")

    def __init__(self) -> None:
        self._attempts = 0.0
        self._failed = 0.0
        self.rows = 0
        """Rows that succeeded."""
        self.epoch = 0
        """The present epoch, for :meth:`add` and :meth:`since`."""
        self._left = EPOCH
        self._by_epoch = [[0, 0] for _ in range(EPOCHS)]
        """For each epoch, failed attempts and attempts of rows whose first attempt was made in it."""

    def __repr__(self) -> str:
        return f"<ErrorRate {self.value:.2%} of {self._attempts:.0f} attempts>"

    @property
    def value(self) -> float:
        """The measured share, without margin."""
        return self._failed / self._attempts if self._attempts else 0.0

    @property
    def cautious(self) -> float:
        """The share as long as little is known: from one in four, at the start, down to what was measured."""
        return max(FLOOR, (self._failed + 0.25 * 2 * PRIOR) / (self._attempts + 2 * PRIOR))

    def add(self, failures: int, epoch: int) -> None:
        """A row whose first attempt was made in *epoch* succeeded after *failures* failed attempts."""
        attempts = failures + 1
        self._attempts += attempts
        if epoch > self.epoch - EPOCHS:
            counts = self._by_epoch[epoch % EPOCHS]
            counts[1] += attempts
            counts[0] += failures
        if failures:
            self._failed += failures
        if self._attempts > 2 * HORIZON:
            self._attempts /= 2
            self._failed /= 2
        self.rows += 1
        self._left -= 1
        if not self._left:
            self._left = EPOCH
            self.epoch += 1
            self._by_epoch[self.epoch % EPOCHS] = [0, 0]

    def since(self, epoch: int) -> float:
        """The rate that a row is judged by which began to fail in *epoch*: on the safe side of what was measured.

        The long average, with a margin of a part of its standard error that grows with it; or what rows met that were
        first sent since, where that is more than chance explains: the errors of an hour that has only just begun.
        """
        failed, attempts = self._failed, self._attempts + PRIOR
        share = failed / attempts
        usual = (failed + FLOOR * PRIOR + (0.25 + 2.0 * share) * math.sqrt(failed)) / attempts
        lately = met = 0
        for number in range(max(epoch, self.epoch - EPOCHS + 1), self.epoch + 1):
            failures, sent = self._by_epoch[number % EPOCHS]
            lately += failures
            met += sent
        expected = met * usual
        if lately <= expected + 2.0 * math.sqrt(expected) + 1.0:
            return usual
        return max(usual, (lately + math.sqrt(lately)) / (met + PRIOR))
