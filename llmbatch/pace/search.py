"""Search for the number of requests in flight that brings the most answers, by doubling, halving and comparing.

Phases, each with an upper bound of requests in flight (:attr:`Search.cap`):

* ``climb``: double the bound until that brings less than half of what it would bring below the knee.
* ``descend``: halve it, while twice as many requests bring next to nothing.
* ``low``, ``high``: compare two bounds a fifth apart, as often as the spread of latencies demands, and move.
* ``rest``: stay between these two for a while, longer each time they are confirmed.
* ``top``: stay at the ceiling.

:mod:`llmbatch.pace.knee` has the others: ``look``, ``trial`` and ``confirm``.
"""

from __future__ import annotations

import math
from typing import Literal

from llmbatch.pace.gauge import Comparison, Gauge, Level, UsualLevel

__all__ = ["BENDS", "START", "Phase", "Search"]

START = 8
"""Requests in flight with which a search begins."""

STEPS = ((0.06, 1.2), (0.3, 1.4), (math.inf, 2.0))
"""Ratio of the two bounds that are compared around the knee, each with the relative error of a measurement up to which
it is used: small steps could not be told from chance where latencies vary much."""

WANTED = 0.3
"""Elasticity to stay at. With a sharp knee the bounds are then 0.95 and 1.14 times the knee."""

BENDS = 0.5
"""Elasticity below which a doubling has passed the knee."""

ALIKE = 0.15
"""Difference from WANTED up to which the bounds stay nearly where they are."""

STEEP, FLAT = 0.6, 0.1
"""Elasticity above which both bounds are below the knee, and below which both are above it."""

CAREFUL = 0.93
"""Share of the knee found by a climb with which the comparison begins: a queue that is still growing hides it a little.
"""

EXACT = 0.12
"""Relative error of a throughput with which a doubling is judged; after LONGEST round trips with any."""

LONGEST = 4

SIGMAS, SURE = 1.5, 0.15
"""An elasticity is acted on if it differs from WANTED by so many standard errors, or if that error is so small."""

FIRST_PAUSE, CHOSEN_PAUSE = 8, 64
"""Levels until risen latency is looked into again after that was in vain, and the same below a chosen bound."""

LONGEST_REST, LONGEST_TOP = 8, 64
"""Most round trips between two comparisons, and at a ceiling that no user has chosen."""

Phase = Literal["climb", "descend", "low", "high", "rest", "top", "look", "trial", "confirm"]


class Search:
    """Bounds around the knee of one route, and how they move; see :class:`~llmbatch.pace.knee.Knee`."""

    __slots__ = (
        "_before",
        "_center",
        "_chosen",
        "_comparison",
        "_drift",
        "_gauge",
        "_last",
        "_left",
        "_moves",
        "_rest",
        "_step",
        "_usual",
        "cap",
        "ceiling",
        "phase",
    )

    def __init__(self, ceiling: int, *, is_chosen: bool) -> None:
        self.ceiling = ceiling
        self._chosen = is_chosen
        """Whether a user has chosen the ceiling, where it stays without evidence."""
        self._gauge = Gauge()
        self.restart()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.phase}, {self.cap} of {self.ceiling}>"

    def restart(self, newest: int = 0) -> None:
        """Forget what was learned and search from the start; only calls after number *newest* count."""
        self.cap = self.ceiling if self._chosen else min(START, self.ceiling)
        """Upper bound of requests in flight."""
        self.phase: Phase = "top" if self._chosen else "climb"
        self._center = float(self.cap)
        """Estimate of the lower of the two bounds around the knee."""
        self._last: Level | None = None
        """The level measured before this one, to compare with."""
        self._before: Level | None = None
        """In a climb the level before that; in a trial the one that is left."""
        self._usual = UsualLevel(CHOSEN_PAUSE if self._chosen else FIRST_PAUSE)
        self._step = STEPS[0][1]
        """Ratio of the two bounds."""
        self._comparison = Comparison()
        self._drift = 0
        """Small moves up in a row: at a soft knee they become larger."""
        self._moves = 0
        """Moves up in a row; negative: down."""
        self._rest = self._left = 0
        """Round trips of a rest, and those that are left of this one."""
        self._measure(newest, math.nan)

    def change_ceiling(self, ceiling: int, newest: int) -> None:
        """Search up to another *ceiling* from now on; what was learned below it is kept."""
        was_at_top, self.ceiling = self.phase == "top", ceiling
        if self._chosen:
            # The user knows better, unless a knee was found below what is allowed now.
            if was_at_top or self.cap >= ceiling:
                self.restart(newest)
        elif self.cap >= ceiling:
            self._to_top(newest, math.nan)
        elif was_at_top:
            self.phase = "climb"
            self._last = self._before = None
            self._measure(newest, math.nan)

    def _measure(self, newest: int, now: float, cap: int | None = None) -> None:
        """Begin to measure at *cap*; None: once more at this one."""
        if self._gauge.count >= START:
            self._gauge.end()
        if cap is not None:
            self.cap = cap
        match self.phase:
            case "climb" if self._usual.level is None and self._last is not None:
                wanted = self.cap // 2  # the first climb is in haste
            case "climb" | "descend" | "low" | "high":
                wanted = 2 * self.cap
            case _:
                wanted = max(self.cap, 2 * START)
        self._gauge.restart(newest, now, max(START, wanted))

    def _is_vague(self, level: Level) -> bool:
        """Whether *level* should be measured longer before a doubling is judged by it; then it is."""
        gauge = self._gauge
        last = self._before if self.phase == "trial" else self._last
        variance = level.variance if last is None else (level.variance + last.variance) / 2
        if variance <= EXACT * EXACT or gauge.count >= LONGEST * self.cap:
            return False
        gauge.wanted += max(START // 2, self.cap // 2)
        return True

    def _is_doubtful(self, level: Level, last: Level) -> bool:
        """Whether *level* should be measured longer before it ends a climb; then it is."""
        gauge, found = self._gauge, level.elasticity(last)
        error = math.sqrt(level.variance + last.variance) / level.span(last)
        if found > BENDS or found < BENDS - SIGMAS * error or gauge.count >= 2 * LONGEST * self.cap:
            return False
        gauge.wanted += max(START // 2, self.cap // 2)
        return True

    # Far from the knee: double or halve.

    def _climb(self, level: Level, newest: int, now: float) -> None:
        if self._is_vague(level):
            return
        last, before = self._last, self._before
        if last is not None:
            if level.span(last) < 0.1:
                self._measure(newest, now)  # the load did not grow
                return
            if self._is_doubtful(level, last):
                return
            if level.elasticity(last) < BENDS:
                if before is None:
                    # It may be anywhere below. Look longer at the first bound before going there.
                    self._last = level
                    self.phase = "descend"
                    self._measure(newest, now, max(1, round(last.load)))
                    return
                knee = CAREFUL * level.knee(last) / last.load * last.knee(before)
                self._search(newest, now, knee)
                return
            if level.elasticity(last) > STEEP:
                level = level.joined(last)
        self._before, self._last = last, level
        if self.cap >= self.ceiling:
            self._to_top(newest, now)
            return
        self._measure(newest, now, min(2 * self.cap, self.ceiling))

    def _descend(self, level: Level, newest: int, now: float) -> None:
        if self._is_vague(level):
            return
        last = self._last
        assert last is not None  # noqa: S101 - it was measured above
        is_lower = last.span(level) >= 0.1
        if is_lower and level.elasticity(last) >= BENDS:
            self._search(newest, now, last.knee(level))
        elif self.cap == 1:
            self._search(newest, now, 1.0)
        else:
            self._last = level if is_lower else last
            self._measure(newest, now, max(1, self.cap // 2))

    # Near the knee: compare two bounds.

    @property
    def _usual_bound(self) -> int:
        low, high = self._bounds
        return self.ceiling if low == high else round(math.sqrt(low * high))

    @property
    def _bounds(self) -> tuple[int, int]:
        low = min(max(1, round(self._center)), self.ceiling)
        return low, min(max(low + 1, round(self._step * low)), self.ceiling)

    def _search(self, newest: int, now: float, knee: float | None = None) -> None:
        """Compare the two bounds around the estimate, from the lower one; *knee* is a new estimate."""
        at = self._center if knee is None else knee
        error = self._gauge.error(2 * at)
        self._step = next(step for most, step in STEPS if error < most)
        if knee is not None:
            self._center = max(1.0, knee * self._step**-WANTED)
        low, high = self._bounds
        if low == high:
            self._to_top(newest, now)
            return
        self._last = None
        self._comparison = Comparison()
        self.phase = "low"
        self._measure(newest, now, low)

    def _to_top(self, newest: int, now: float) -> None:
        self.phase = "top"
        self._center = float(self.ceiling)
        self._moves = 0
        self._rest = self._left = min(LONGEST_TOP, max(16, 2 * self._rest))
        self._measure(newest, now, self.ceiling)

    def _begin_rest(self, newest: int, now: float, bound: int | None = None) -> None:
        low, high = self._bounds
        self._rest = self._left = min(LONGEST_REST, max(2, 2 * self._rest))
        self._moves = 0
        self.phase = "rest"
        self._measure(newest, now, min(bound or round(math.sqrt(low * high)), self.ceiling))

    def _compare(self, level: Level, newest: int, now: float) -> None:
        last, self._last = self._last, level
        low, high = self._bounds
        if last is not None and abs(level.span(last)) > 0.5 * math.log(high / low):
            self._comparison.add(level, last)
            found, error = self._comparison.found, self._comparison.error
            is_clear = not FLAT < found < STEEP and abs(found - WANTED) > SIGMAS * error
            if is_clear or error < SURE:
                lower, upper = sorted((last, level))
                self._move(found, lower, upper, newest, now)
                return
        self._to_other_bound(newest, now)

    def _to_other_bound(self, newest: int, now: float) -> None:
        low, high = self._bounds
        self.phase = "high" if self.phase == "low" else "low"
        self._measure(newest, now, high if self.phase == "high" else low)

    def _move(self, found: float, lower: Level, upper: Level, newest: int, now: float) -> None:
        """Move both bounds by the elasticity *found* between them."""
        low, high = self._bounds
        self._comparison = Comparison()
        if found > STEEP or found < FLAT:
            self._drift = 0
        if found > STEEP:
            self._moves = max(0, self._moves) + 1
            self._center = float(high)
            if high >= self.ceiling:
                self._to_top(newest, now)
                return
            self._rest = 0
            if self._moves > 1:
                self._moves = 0
                self._before, self._last = lower, upper
                self.phase = "climb"
                self._measure(newest, now, min(2 * high, self.ceiling))
            else:
                self._last = upper
                self.phase = "high"
                self._measure(newest, now, self._bounds[1])
        elif found < FLAT and low > 1:
            self._moves, self._rest = min(0, self._moves) - 1, 0
            if self._moves < -1:
                self._moves = 0
                self._last = lower
                self.phase = "descend"
                self._measure(newest, now, max(1, low // 2))
            else:
                self._center = max(1.0, min(0.93 * self._center, low - 0.5))
                self._search(newest, now)
        else:
            self._drift = self._drift + 1 if found > WANTED + ALIKE else 0
            self._center = max(1.0, self._center * (high / low) ** ((found - WANTED) * max(1, min(4, self._drift))))
            if self._drift > 1:
                self._search(newest, now)
            elif low == 1 and found < FLAT:
                self._begin_rest(newest, now, bound=1)
            else:
                self._begin_rest(newest, now)

    def _return(self, newest: int, now: float) -> None:
        """Return to where it was before a trial, or before a wait."""
        if self._usual_bound == self.ceiling:
            self._to_top(newest, now)
        else:
            self._begin_rest(newest, now)
