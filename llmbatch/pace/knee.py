"""Find the knee of a server: the number of requests in flight beyond which more of them only wait longer.

By Little's law *n* requests in flight with a mean latency *L* deliver ``n / L`` answers per second. Two numbers of
requests in flight are compared by the elasticity of that throughput: 1 if twice as many bring twice as many answers,
0 if they bring no more. As in TCP Vegas (Brakmo and Peterson 1995) and in gradient limits a latency is compared with
one at less load, but both are measured one after the other: no latency of an idle server must be remembered, which
would mislead as soon as rows get longer.

The search itself is in :mod:`llmbatch.pace.search`. Latency that suddenly rises interrupts it, as the knee may have
come down:

* ``look``: measure it once more.
* ``trial``: try a lower bound. If it brings as many answers, search from there, else the reason is another one, such as
  longer rows.
* ``confirm``: try a bound that the user has chosen once more before it is lowered.

Pure: it counts answers; time is an argument, and only tells whether the load was steady.
"""

from __future__ import annotations

import math
from typing import assert_never

from llmbatch.pace.gauge import Level
from llmbatch.pace.search import BENDS, START, Search

__all__ = ["Knee"]

EVIDENT = 0.25
"""Elasticity below which fewer requests evidently bring as many answers, where a chosen bound is to be lowered."""

OWN_RATE = 500.0
"""Answers per second above which this process may be the bottleneck: a chosen bound is not lowered then."""


class Knee(Search):
    """Search for the knee of one route, up to *ceiling*. Not safe for concurrent use.

    *is_auto*: it begins with START requests in flight. Else it begins at the ceiling, which a user has chosen, and
    stays there unless there is clear evidence of a knee.
    """

    __slots__ = ("is_auto",)

    def __init__(self, ceiling: int, *, is_auto: bool) -> None:
        self.is_auto = is_auto
        super().__init__(ceiling, is_chosen=not is_auto or ceiling <= START)

    def resume(self, newest: int) -> None:
        """Go on after a wait: only calls after number *newest* count."""
        if self.phase == "climb":
            self._last = self._before = None
            self._measure(newest, math.nan)
        else:
            self._return(newest, math.nan)

    def note(self, serial: int, newest: int, seconds: float, load: int, now: float) -> None:
        """Count an answer to call *serial*, which took *seconds* and was sent as one of *load* in flight.

        *newest* is the number of the last call sent. Calls sent while there was less to send do not count.
        """
        if serial > self._gauge.since and 4 * load >= 3 * self.cap and self._gauge.add(seconds, load):
            self._judge(newest, now)

    def refused(self, newest: int) -> None:
        """Stop growing: a call was refused because of the load."""
        now = math.nan
        if self.phase in ("climb", "descend", "high"):
            if self.phase != "high":
                self._center = max(1.0, self.cap / math.sqrt(self._step))
            self._begin_rest(newest, now, bound=self.cap if self.phase != "high" else None)
        elif self.phase in ("look", "trial", "confirm"):
            self._return(newest, now)
        else:
            self._measure(newest, now)

    def _judge(self, newest: int, now: float) -> None:
        """Judge the level that was measured, and set the next bound."""
        gauge = self._gauge
        if gauge.is_early(now):
            gauge.wanted += max(START // 2, self.cap // 4)
            return
        level = gauge.level(now)
        if level is None:
            self._measure(newest, now)
            return
        if self.phase in ("low", "high", "rest", "top", "look") and self._has_risen(level):
            if self.phase == "look":
                self._try_lower(level, newest, now)
            else:
                self.phase = "look"  # the load may have changed while it was measured
                self._measure(newest, now)
            return
        match self.phase:
            case "climb":
                self._climb(level, newest, now)
            case "descend":
                self._descend(level, newest, now)
            case "low" | "high":
                self._usual.note(level)
                self._compare(level, newest, now)
            case "rest":
                self._usual.note(level)
                self._left -= 1
                if self._left > 0:
                    self._measure(newest, now)
                else:
                    self._search(newest, now)
            case "top":
                self._usual.note(level)
                self._left -= 1
                if self._left > 0 or self._chosen:
                    self._measure(newest, now)
                else:
                    self._center = self.ceiling / self._step
                    self._search(newest, now)
            case "look":
                self._return(newest, now)
            case "trial" | "confirm":
                if not self._is_vague(level):
                    self._end_trial(level, newest, now)
            case _:
                assert_never(self.phase)

    # Sudden rises of latency.

    def _has_risen(self, level: Level) -> bool:
        if level.load < 2 or (self._chosen and level.rate > OWN_RATE):
            return False
        return self._usual.is_below(level)

    def _try_lower(self, level: Level, newest: int, now: float) -> None:
        usual = self._usual.level
        assert usual is not None  # noqa: S101 - it has risen above it
        self._before = level
        self.phase = "trial"
        share = max(0.5 if self._chosen else 0.25, usual.seconds / level.seconds)
        self._measure(newest, now, max(1, int(self.cap * share)))

    def _end_trial(self, level: Level, newest: int, now: float) -> None:
        before, last = self._before, self._last
        assert before is not None  # noqa: S101 - a trial begins with it
        if self.phase == "confirm":
            assert last is not None  # noqa: S101 - the trial has set it
            level, before = last, level
        if before.span(level) < 0.1 or before.elasticity(level) > (EVIDENT if self._chosen else BENDS):
            self._usual.adopt(before, by_load=False)
            self._return(newest, now)
        elif self._chosen and self.phase == "trial":
            self._last = level
            self.phase = "confirm"
            self._measure(newest, now, self._usual_bound)
        else:
            self._accept(level, before, newest, now)

    def _accept(self, level: Level, before: Level, newest: int, now: float) -> None:
        """Search from the lower *level*, as it brings as many answers as the one *before* it."""
        usual = self._usual.level
        assert usual is not None  # noqa: S101 - the level before has risen above it
        self._usual.adopt(level, by_load=True)
        self._moves = self._rest = self._drift = 0
        if level.seconds > 1.3 * usual.seconds and level.load >= 2:
            self._last = level
            self.phase = "descend"
            self._measure(newest, now, max(1, round(level.load) // 2))
        else:
            self._search(newest, now, before.knee(level))
