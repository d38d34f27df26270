"""Adaptive limit of requests in flight: lowered when the provider throttles, ramped up after a wait.

It has an upper bound that follows latency (:mod:`llmbatch.pace.knee`): the ceiling that a user has chosen, until there
is evidence that fewer requests bring as many answers; or a search that begins with few. Another one is what the route
takes at once, where it refuses more (:mod:`llmbatch.pace.load_bound`). Below both refusals decide, as follows.

Additive increase, multiplicative decrease with slow start, as TCP Reno has them (RFC 5681), one request for one
segment: below ``slow_start`` a success adds 1 (which doubles the limit every round trip), above it ``1 / limit``.
Below the limit that the provider last carried, it regains half of the distance per round trip, as BIC does (Xu,
Harfoush and Rhee 2004). Above it, after a few round trips without a refusal, it grows faster and faster, as CUBIC does
(RFC 9438); otherwise a limit lowered while answers are slow would take hours to recover.

A 429 lowers the limit to what the provider still carries, the successful share of the last answers, as TCP Westwood
does (Mascolo et al. 2001): by at least a tenth, and at most to half.

Overload (503, 529) is different: some providers answer a share of the requests with it whatever the load, and lowering
the limit for those would keep it low forever (where a share *p* is refused, halving for each leaves
``sqrt(1.5 / p)`` in flight, Mathis et al. 1997). So a lower limit is tried first, a little below what brought good
answers: if it brings nearly as many of them, the provider was overloaded, and the limit stays there; if it brings fewer
in proportion, the load is not the reason, and the limit is restored.

Pure: it counts answers; time is an argument.
"""

from __future__ import annotations

import math
from typing import Literal

from llmbatch.pace.knee import Knee
from llmbatch.pace.load_bound import LoadBound

__all__ = ["RAMP_START", "AdaptiveLimit", "LimitReason"]

LimitReason = Literal["start", "latency", "refusals", "ramp", "ceiling"]
"""What sets a limit: a search that has just begun, latency, refused calls, a ramp after a wait, or the ceiling."""

RAMP_START = 2.0
"""Requests in flight with which a ramp begins."""

TOLERANCE = 0.03
"""Share of overload answers up to which the limit is never lowered."""

HOPELESS = 0.85
"""Share of overload above which a lower limit always stays: too few answers succeed to compare."""

FEW, MANY = 20, 50
"""Answers needed to estimate the share of overload at one limit: if most are overload, and if not."""

MOSTLY = 0.5
"""Share of calls without an answer in time, and of the time limit that good ones take, above which a limit that a user
has chosen may be too high."""

FIRST_SPAN, LONG_SPAN = 100, 6400
"""Answers between two trials of a lower limit: after the first that did not help, and at most."""

CAUTION = 0.9
"""Largest factor of the limit when a route is throttled."""

CAUTIOUS = 3
"""Round trips without a refusal in which the limit grows by 1 each; after them the growth doubles."""


class AdaptiveLimit:
    """Concurrency limit of one route, from 1 to *ceiling*. Not safe for concurrent use.

    It starts at the ceiling. *is_auto*: it starts with few and searches for the best.
    """

    __slots__ = (
        "_answers",
        "_before",
        "_bound",
        "_cut_at",
        "_growth",
        "_knee",
        "_late",
        "_load_helped",
        "_overloads",
        "_pause",
        "_peak",
        "_proven",
        "_refused",
        "_slow_start",
        "_span",
        "_tried_from",
        "_trips",
        "_usual",
        "_value",
        "value",
    )

    def __init__(self, ceiling: int, *, is_auto: bool = False) -> None:
        self._knee = Knee(ceiling, is_auto=is_auto)
        self._bound = LoadBound()
        self._value = float(self._knee.cap)
        self.value = int(self._value)
        """Requests that may be in flight now."""
        self._slow_start = self._value
        self._cut_at = 0
        self._before = self._value
        self._growth = 1.0
        """Growth per round trip without a refusal."""
        self._trips = 0.0
        self._peak = 0.0
        """Estimate of what the provider carried when the limit was last lowered; regained by half per round trip."""
        self._refused = 0.0
        """Share of the last answers that were refused, by 429 or overload."""
        self._late = 0.0
        """Share of the last answers that did not come in time."""
        self._answers = 0
        """Answers to calls sent since the last cut or trial."""
        self._overloads = 0
        """How many of them were overload."""
        self._usual = 0.0
        """Share of overload that the last trial of a lower limit did not reduce."""
        self._tried_from: tuple[float, float] | None = None
        """During a trial of a lower limit: the previous limit and its share of overload; else None."""
        self._load_helped: tuple[float, float] | None = None
        """Limit that was too high when less load last helped, and its share of overload; None if it did not."""
        self._span = FIRST_SPAN
        self._pause = 0
        """Answers until the next trial may begin."""
        self._proven = True
        """Whether a call has succeeded since the last wait."""

    def __repr__(self) -> str:
        trial = f", tried from {self._tried_from[0]:.0f}" if self._tried_from is not None else ""
        return f"<AdaptiveLimit {self.value} of {self.ceiling}{trial}>"

    def _set(self, value: float) -> None:
        self._value, self.value = value, int(min(value, self._bound.value))

    @property
    def ceiling(self) -> int:
        """The highest value that it may ever have."""
        return self._knee.ceiling

    @property
    def reason(self) -> LimitReason:
        """What sets the limit now."""
        knee = self._knee
        if self.value < knee.cap and not self._is_climbing:
            return "ramp" if self._value < self._slow_start else "refusals"
        if knee.phase == "climb":
            return "start"
        return "ceiling" if knee.cap >= knee.ceiling else "latency"

    @property
    def _is_climbing(self) -> bool:
        """Whether it grows because more requests have brought more answers, and not after a wait."""
        cap = self._knee.cap
        return self._knee.phase == "climb" and self._slow_start == cap and 2 * self.value >= cap

    def on_success(
        self, serial: int, *, newest: int = 0, seconds: float = 0.0, load: int = 0, now: float = math.nan
    ) -> None:
        """Raise the limit: call *serial* succeeded.

        Its latency counts if it took *seconds*, was sent as one of *load* in flight, and *newest* was the last call.
        """
        self._proven = True
        if not self._bound.is_idle:
            self._bound.succeeded(serial, load)
            if self._knee.cap <= self._bound.most < math.inf:
                self._bound.forget()
            self._set(self._value)
        if self._refused:
            self._refused -= self._refused / max(float(FEW), self._value)
            if self._refused < 1e-6:
                self._refused = 0.0
        if self._late:
            self._late -= self._late / max(float(FEW), self._value)
        if self._overloads or self._tried_from is not None:
            self._note(serial, overload=0)
            if self._tried_from is not None:
                return
        cap = self._knee.cap
        if self._value >= cap:
            if seconds > 0.0:
                self._knee.note(serial, newest, seconds, load, now)
                if self._knee.cap != cap:
                    self._follow_knee(cap)
        else:
            part = 1.0 / self._value
            if self._value < self._slow_start:
                self._set(min(self._value + 1.0, float(cap)))
                return
            below = self._peak - self._value
            # Never faster than slow start: the last of few calls must not bring a dozen.
            self._set(min(self._value + min(1.0, part * max(self._growth, below / 2.0)), float(cap)))
            if below > 0:
                return
            self._trips += part
            if self._trips >= CAUTIOUS + 1:
                self._trips -= 1.0
                self._growth *= 2.0

    def on_timeout(self, serial: int, newest: int, good: float = 1.0) -> None:
        """Count call *serial*, which had no answer in time, as an overload answer; a search's ramp is not lowered.

        Too many requests in flight for a server that refuses none end like that; so do rows that take too long. Hence a
        limit that a user has chosen is lowered only in a ramp, while most calls end so, or once less load has helped,
        and only if good answers take long, too: *good* is the slowest of the last ones, as a share of the time limit.
        """
        if self._knee.is_auto:
            if self._value >= self._slow_start:
                self.on_overload(serial, newest)
            return
        if good < MOSTLY:
            return
        self._late += (1.0 - self._late) / max(float(FEW), self._value)
        if self._tried_from is not None:
            self._note(serial, overload=1)
        elif self._value < self._slow_start or self._late > MOSTLY or self._load_helped is not None:
            self.on_overload(serial, newest)

    def _follow_knee(self, before: int) -> None:
        knee = self._knee
        self._slow_start = float(knee.cap)
        if knee.cap < before or knee.phase != "climb":
            self._set(self._slow_start)  # else one more per answer

    def on_overload(self, serial: int, newest: int) -> None:
        """Count an overload answer to call number *serial*; *newest* was the last call sent."""
        self._refused += (1.0 - self._refused) / max(float(FEW), self._value)
        if self._value < self._slow_start and not self._is_climbing:
            # In slow start: the last doubling was too much.
            if serial > self._cut_at:
                self._set(max(1.0, self._value / 2))
                self._slow_start = self._value
                self._growth, self._trips = 1.0, 0.0
                self._start_counting(newest)
            return
        self._note(serial, overload=1)
        if self._load_helped is not None and self._tried_from is None:
            self._heed_load(serial, newest, *self._load_helped)
            return
        if self._tried_from is not None or self._value < 2:
            return
        share = self._overloads / max(1, self._answers)
        if self._answers < (FEW if share > 0.5 else MANY):
            return
        if share <= TOLERANCE or (self._pause > 0 and share <= 1.25 * self._usual + TOLERANCE):
            return
        self._tried_from = (self._value, share)
        self._set(max(1.0, self._value * _trial_factor(share)))
        self._start_counting(newest)

    def on_refused(self, serial: int, load: int, newest: int, in_flight: int) -> bool:
        """Note that call *serial*, sent as one of *load* in flight, was throttled; return whether that explains it.

        *newest* was the last call sent; *in_flight* calls still are.
        """
        is_explained = self._bound.refused(serial, load, newest, in_flight)
        self._set(self._value)
        return is_explained

    def on_pushback(self, serial: int, newest: int) -> None:
        """Lower the limit because call *serial* was throttled; once for all calls up to *newest*, the last sent."""
        self._refused += (1.0 - self._refused) / max(float(FEW), self._value)
        self._tried_from = None
        self._give_way(min(CAUTION, max(0.5, 1.0 - self._refused)), serial, newest)

    def restart(self, start: float = RAMP_START, newest: int = 0, *, forget: bool = True) -> None:
        """Start over: ramp up from *start*, to the ceiling if possible, and forget what was refused before.

        *forget*: forget latencies too. Only those of calls after number *newest* count from now on.
        """
        self._late = 0.0
        if forget:
            self._load_helped = None
            self._knee.restart(newest)
        else:
            self._knee.resume(newest)
        self._set(min(start, float(self._knee.cap)))
        self._slow_start = float(self._knee.cap)
        self._refused = self._peak = 0.0
        self._restart_counts()

    def change_ceiling(self, ceiling: int, newest: int) -> None:
        """Go up to another *ceiling*: a lower one counts at once, a higher one is reached by a ramp.

        A search that begins anew counts only calls after number *newest*. What was refused before is not forgotten.
        """
        was_free = self._slow_start >= self._knee.cap
        self._knee.change_ceiling(ceiling, newest)
        cap = float(self._knee.cap)
        self._slow_start = cap if was_free else min(self._slow_start, cap)
        self._set(min(self._value, cap))
        self._tried_from = None  # a trial compares answers at two limits that are no longer these

    def resume(self, in_flight: int) -> None:
        """Ramp up after a wait: from what is still *in_flight*, fast to the limit that the wait began with.

        Calls in flight are already carried, so two more do not overload the provider. A wait that follows another one
        without a success between them gives no new information about that.
        """
        usual = self._value if self._proven else self._slow_start
        start = min(RAMP_START, usual)
        self._set(min(max(start, self._value), in_flight + start, float(self._knee.cap)))
        self._slow_start = min(max(usual, self._value), float(self._knee.cap))
        self._proven = False
        self._restart_counts()

    def _restart_counts(self) -> None:
        self._growth, self._trips = 1.0, 0.0
        self._tried_from = None
        self._answers = self._overloads = 0

    def _heed_load(self, serial: int, newest: int, knee: float, knee_share: float) -> None:
        """Lower the limit by the refused share, as less load helped before; far below *knee*, check it again."""
        if self._value <= max(1.0, 0.5 * knee):
            share = self._overloads / max(1, self._answers)
            if self._answers < (FEW if share > 0.5 else MANY):
                return
            helps = (1.0 + self._value / knee) / 2.0
            is_worse = self._value * (1.0 - share) < helps * knee * (1.0 - knee_share) and share > TOLERANCE
            if is_worse and self._late <= HOPELESS:
                self._load_helped = None
                self._set(knee)
                self._usual = share
                self._pause, self._span = self._span, min(LONG_SPAN, 2 * self._span)
                self._start_counting(newest)
                return
            self._load_helped = self._value, share
        excess = self._refused - TOLERANCE
        if excess > 0:
            self._give_way(max(0.5, 1.0 - excess), serial, newest)

    def _give_way(self, factor: float, serial: int, newest: int) -> None:
        if serial > self._cut_at:
            self._start_counting(newest)
        self._set(min(self._value, max(1.0, self._before * factor)))
        self._growth, self._trips = 1.0, 0.0
        if self._proven:  # else nothing has succeeded since the wait, and this refusal gives no new information
            self._slow_start = self._value
            self._peak = min(self._before, self._value / CAUTION)

    def _note(self, serial: int, *, overload: int) -> None:
        """Count an answer; while a lower limit is tried, check whether it helps."""
        if self._pause:
            self._pause -= 1
        if serial <= self._cut_at:
            return  # sent at another limit
        self._answers += 1
        self._overloads += overload
        if self._tried_from is None:
            if self._answers >= 4 * MANY:
                # Recent answers have more weight.
                self._answers //= 2
                self._overloads //= 2
            return
        before, share_before = self._tried_from
        share = self._overloads / self._answers
        if self._answers < (FEW if share > 0.5 else max(FEW, min(MANY, 2 * self._value))):
            return
        self._tried_from = None
        helps = (1.0 + _trial_factor(share_before)) / 2.0
        if min(share, share_before) > HOPELESS or self._value * (1.0 - share) >= helps * before * (1.0 - share_before):
            self._slow_start = self._value
            self._growth, self._trips = 1.0, 0.0
            self._span = FIRST_SPAN
            self._load_helped = before, share_before
        else:
            self._set(before)
            self._usual = share_before
            self._pause = self._span
            self._span = min(LONG_SPAN, 2 * self._span)
        self._answers = self._overloads = 0

    def _start_counting(self, newest: int) -> None:
        self._knee.refused(newest)
        self._cut_at = newest
        self._before = self._value
        self._answers = self._overloads = 0


def _trial_factor(share: float) -> float:
    """Factor for the limit to try whether less load helps, if *share* of the answers was overload."""
    return max(0.5, 0.9 * (1.0 - share))
