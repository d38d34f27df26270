"""Measure a route's own rate of random errors, by the rows that were first sent when the judged row was.

Time is told by the numbers of calls. Another epoch begins with a row's first failure, if something has succeeded since
the last one began: what was sent before an hour of errors says nothing about it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from llmbatch.route.law import FLOOR, Sample

__all__ = ["ALONE", "ErrorRate"]

PRIOR = 20.0
"""Attempts, one in four of them failed, that :attr:`ErrorRate.cautious` assumes before any is known."""

EPOCHS = 64
"""Epochs that are kept apart; older ones are joined, the smallest first."""

RECENT = 16
"""The latest of them, which are never joined."""

HORIZON = 2000.0
"""Attempts that the average looks back on at least; they are halved in weight whenever twice as many are there."""

STALE = 32
"""What was worked out of a sample stands until it has grown by one part in so many."""

ENOUGH = 300
"""Good answers that a row is judged by, if need be some to calls that were sent before it first failed."""

JUMP = 0.01
"""How likely it is that the rate has changed since those, just before the row failed, where other rows suggest it."""

ALONE = 10
"""Successes that are assumed if no evidence can come any more."""


class Epoch:
    """What rows met whose first call had the number *start* or a later one, before the next epoch's."""

    __slots__ = ("checks", "excused", "failed", "lost", "rows", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.rows = 0
        self.checks = 0
        self.failed = 0
        self.excused = 0
        """Throttled attempts that count against no row; all others are in :attr:`failed`."""
        self.lost: Counter[int] = Counter()
        """Failed attempts to the number of rows that ended as failed after so many."""

    @property
    def answers(self) -> int:
        """Good ones."""
        return self.rows + self.checks

    def join(self, other: Epoch) -> None:
        """Take in what the next one holds."""
        self.rows += other.rows
        self.checks += other.checks
        self.failed += other.failed
        self.excused += other.excused
        self.lost += other.lost


class ErrorRate:
    """Share of failed attempts among those of rows that succeeded in the end.

    Rows that never succeed cannot raise it. O(1) per row; memory: a few numbers per epoch, 64 of them.
    """

    __slots__ = ("_attempts", "_epochs", "_events", "_failed", "_known", "_present", "_starts", "rows")

    def __init__(self) -> None:
        self._attempts = 0.0
        self._failed = 0.0
        self.rows = 0
        """Rows that succeeded."""
        self._present = Epoch(0)
        self._epochs = [self._present]
        self._starts = [0]
        self._events = 0
        """Failures, checks that passed, rows that ended after some: with :attr:`rows`, a clock of what was learned."""
        self._known: dict[tuple[int, int, bool], tuple[int, int]] = {}
        """An epoch's start, the row's own failures and what counts, to what ends a row, and until when."""

    def __repr__(self) -> str:
        return f"<ErrorRate {self.value:.2%} of {self._attempts:.0f} attempts>"

    @property
    def value(self) -> float:
        """The measured share, without margin."""
        return self._failed / self._attempts if self._attempts else 0.0

    @property
    def cautious(self) -> float:
        """The share as long as little is known: from one in four, at the start, down to what was measured."""
        return max(FLOOR, (self._failed + 0.25 * PRIOR) / (self._attempts + PRIOR))

    def answered(self, serial: int) -> None:
        """Call *serial*, the first of its row, succeeded."""
        self.rows += 1
        self._attempts += 1
        if serial >= self._present.start:
            self._present.rows += 1
        else:
            self._epoch(serial).rows += 1
        if self._attempts > 2 * HORIZON:
            self._fade()

    def resolved(self, failures: int, began: int, rows: int = 1) -> None:
        """A row whose first failed call was *began* succeeded after *failures*.

        *rows* is 0 where its good answer is no sample: probes that fail do not count either.
        """
        epoch = self._epoch(began)
        epoch.rows += rows
        epoch.failed += failures
        self._events += 1
        self.rows += rows
        self._attempts += failures + rows
        self._failed += failures
        if self._attempts > 2 * HORIZON:
            self._fade()

    def checked(self, serial: int, failures: int) -> None:
        """A request that no row waits for succeeded as call *serial*, *failures* others having failed before it."""
        epoch = self._epoch(serial)
        epoch.checks += 1
        epoch.failed += failures
        self._events += 1 + failures

    def note_excused(self, attempts: int, began: int) -> None:
        """A row whose first failed call was *began* succeeded after *attempts* that were throttled and excused."""
        if attempts > 0:
            self._epoch(began).excused += attempts
            self._events += attempts

    def failing(self, serial: int, *, first: bool) -> None:
        """A row's call *serial* failed; *first*: as none of its calls had."""
        self._events += 1
        present = self._present
        if first and present.answers and serial > present.start:
            self._present = Epoch(serial)
            self._epochs.append(self._present)
            self._starts.append(serial)
            if len(self._epochs) > EPOCHS:
                self._join()

    def lost(self, failures: int, began: int) -> None:
        """A row ended as failed after *failures*."""
        self._epoch(began).lost[failures] += 1
        self._events += 1

    def excused(self) -> None:
        """Failures of other rows are explained otherwise and no longer count: what was worked out from them is void."""
        self._known.clear()

    def needed(
        self,
        began: int,
        unresolved: Iterable[tuple[int, int]],
        *,
        own: int = 0,
        alone: bool = False,
        with_excused: bool = False,
    ) -> int:
        """Proven failures that end a row which began to fail with call *began*.

        *unresolved*: for each other row that failed and has no answer, its first failed call and its failures.
        *own*: the row's own failures, which *unresolved* leaves out. *alone*: it is judged by all rows of the route,
        however long ago. *with_excused*: throttled attempts of others count too, in *unresolved* as well.
        """
        at = 0 if alone else bisect_right(self._starts, began) - 1
        start = -1 if alone else self._starts[at]
        clock = self.rows + self._events
        known = self._known.get((start, own, with_excused))
        if known is not None and clock <= known[1]:
            return known[0]
        unresolved = list(unresolved)
        sample = self.since(at, unresolved, with_excused=with_excused)
        earlier = self._reach_back(at, len(self._epochs))
        if alone:
            sample.checks += ALONE
        needed = 1
        if earlier < at:
            if sample.suggests_errors:
                needed = sample.needed(1, JUMP)
            sample = self.since(earlier, unresolved, with_excused=with_excused)
        needed = sample.needed(needed)
        self._known[start, own, with_excused] = needed, clock + sample.size // STALE
        return needed

    def needed_before(self, serial: int, began: int, *, with_excused: bool = False) -> int:
        """The same by answered rows that were first sent before call *serial*; 1 where these are too few.

        *serial* is the row's last failed call, or the oldest call in flight if that is older. Rows that were sent later
        say nothing about what that call met: errors may have ended meanwhile. And where errors take longer than good
        answers, as timeouts do, the latest rows that have an answer are mostly good ones.
        """
        end = bisect_right(self._starts, serial) - 1
        at = min(bisect_right(self._starts, began) - 1, end)
        sample = self.since(self._reach_back(at, end), (), end, with_excused=with_excused)
        return sample.needed(1) if sample.answers >= ENOUGH else 1

    def _reach_back(self, at: int, end: int) -> int:
        """*at* or the epoch before it from which on there are enough answers until *end*; 0 where there are not."""
        answers = sum(epoch.answers for epoch in self._epochs[at:end])
        while at and answers < ENOUGH:
            at -= 1
            answers += self._epochs[at].answers
        return at

    def since(
        self,
        at: int,
        unresolved: Iterable[tuple[int, int]],
        end: int | None = None,
        *,
        with_excused: bool = False,
    ) -> Sample:
        """What rows met that began in epoch number *at* of those that are kept, or later, but before number *end*."""
        start = self._starts[at]
        last = math.inf if end is None else self._starts[end]
        counts = Counter(failures for began, failures in unresolved if start <= began < last and failures)
        sample = Sample(unresolved=counts)
        for epoch in self._epochs[at:end]:
            sample.rows += epoch.rows
            sample.checks += epoch.checks
            sample.failed += epoch.failed + (epoch.excused if with_excused else 0)
            counts.update(epoch.lost)
        return sample

    def _epoch(self, serial: int) -> Epoch:
        return self._epochs[max(0, bisect_right(self._starts, serial) - 1)]

    def _join(self) -> None:
        epochs = self._epochs
        at = min(range(EPOCHS - RECENT), key=lambda at: epochs[at].answers + epochs[at + 1].answers)
        epochs[at].join(epochs.pop(at + 1))
        del self._starts[at + 1]
        self._known.clear()

    def _fade(self) -> None:
        self._attempts /= 2
        self._failed /= 2
