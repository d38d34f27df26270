"""Learn the rate limits that a provider reports, and say how long a request has to wait to stay within them.

Each limit is followed as a token bucket: at an answer it holds what the provider says remains, less what was sent after
that answer's call; then it fills at the limit's rate. The period of a limit is believed where its header's name says
it, or where ``reset`` proves it: a bucket that is full again in ``reset`` seconds and lacks ``limit - remaining`` has
the period ``reset * limit / (limit - remaining)``. Without either, nothing is assumed to come back before the reset.

What a provider says is not always true. A limit that contradicts itself, or the good answer that it came with, is
ignored, and so is one that says again and again that nothing remains though nothing was sent until its reset.

Pure: time is an argument, in seconds, and nothing here waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence

from llmbatch.core.calls import LimitKind, RateLimit
from llmbatch.pace.budget_wait import NO_WAIT, BudgetWait

__all__ = ["AMOUNT_OF", "LearnedLimits", "SentTotals"]

_MINUTE = 60.0

WINDOWS = (1.0, 60.0, 3600.0, 86_400.0)
"""Periods that a reset may prove, in seconds."""

TOLERANCE = 0.2
"""Largest deviation of a computed period from one of :data:`WINDOWS`, as a share of it."""

LONGEST_RESET = 32 * 86_400.0
"""Longest reset that is believed, in seconds: a month."""

ROUNDING = 1000.0
"""Anthropic rounds what remains to thousands, so it may be above the limit by less than that."""

MOST_EMPTY = 3
"""How often in a row nothing may remain after a wait until the reset, before the limit is ignored."""

COMPARED = 0.05
"""Part of the limit that is sent before what the provider took is compared with it."""

FEWEST = 10.0
"""The same in units of what remains: as few as make its rounding small."""

RATIO_WEIGHT = 0.3
"""Weight of the newest comparison in what requests count for with the provider, relative to our estimate."""

MOST_RATIO = 4.0
"""Bound of that ratio, and of its inverse."""

MARGIN = 1.01
"""Safety of estimated amounts."""

CHANGED = 0.05
"""Change of a limit that is worth telling, as a share of it."""

MOST_REFUSED = 256
"""Refused requests that are remembered, to be left out of what the provider took."""

SHORTEST_BURST = 1.0
"""Seconds of a limit that may be sent at once, at least, however often more is refused."""

FIRST_BURST = 0.25
"""Part of a limit that may be sent at once after the first refusal of what it has room for."""

MUCH = 0.3
"""Part of a limit that must remain for a refusal to contradict it."""

SentTotals = tuple[float, float, float, float]
"""Requests, tokens, input tokens and output tokens that were sent on a route so far."""

_Refused = Collection[tuple[float, SentTotals]]
"""Numbers of requests, and what they counted as."""

AMOUNT_OF: dict[LimitKind, int] = {"requests": 0, "tokens": 1, "input_tokens": 2, "output_tokens": 3}
"""Where the amount of each kind is in :data:`SentTotals`."""


class _LearnedLimit:
    """One limit of one route, as a token bucket."""

    __slots__ = (
        "_at",
        "_burst",
        "_burst_at",
        "_burst_level",
        "_burst_set_at",
        "_empty",
        "_factor",
        "_full_at",
        "_heard",
        "_is_requests",
        "_is_rounded",
        "_level",
        "_newest",
        "_ratio",
        "_waited_until",
        "index",
        "is_ignored",
        "limit",
        "told",
        "window",
    )

    def __init__(self, kind: LimitKind) -> None:
        self.index = AMOUNT_OF[kind]
        """Where the amount of its kind is in :data:`SentTotals`."""
        self._is_requests = kind == "requests"
        self._is_rounded = kind != "requests"
        """Whether all that it has said of tokens were whole thousands."""
        self.limit = math.inf
        self.window: float | None = None
        self.told = 0.0
        """The limit that was told last."""
        self.is_ignored = False
        self._level = math.inf
        self._at = 0.0
        self._full_at = math.inf
        self._newest = -1.0
        """Requests sent up to the call whose answer was heeded last."""
        self._waited_until = -math.inf
        self._empty = 0
        self._heard: tuple[float, float, float, float] | None = None
        """What remained at the answer compared last, the call's number, what was sent up to it, and when that was."""
        self._ratio = 1.0
        """What requests count for with the provider, relative to our own estimate of them."""
        self._factor = 1.0
        """What our amounts count for: at least 1 for requests, of which another run with the same key takes some."""
        self._burst = math.inf
        """How much may be sent at once; less than the limit if the provider refuses bursts that it has room for."""
        self._burst_level = math.inf
        """How much of that may be sent now."""
        self._burst_at = 0.0
        self._burst_set_at = -math.inf

    def hear(
        self, reported: RateLimit, call: float, sent: float, sent_after: float, sent_at: float, refused: _Refused
    ) -> str:
        """Take in what the answer to request number *call* says, which was sent at *sent_at*.

        *sent*: what was sent up to it, and *sent_after* since. *refused*: requests among both of which nothing was
        taken.

        Providers count a request, and report what remains, when it arrives.

        Returns why it is not believed; empty if it is, or if it is older than what is known.
        """
        if self.is_ignored or call <= self._newest:
            return ""
        fault = _fault(reported)
        if fault:
            self.is_ignored = True
            return fault
        used = reported.limit - reported.remaining
        if reported.remaining < 1.0 and self._waited_until > -math.inf and sent_at >= self._waited_until:
            self._empty += 1
            self._waited_until = -math.inf
            if self._empty >= MOST_EMPTY:
                self.is_ignored = True
                return "nothing remains though nothing was sent until its reset"
        elif reported.remaining >= 1.0:
            self._empty = 0
        self._newest = call
        if reported.limit != self.limit:
            if self._burst < math.inf:
                self._burst = max(1.0, self._burst * reported.limit / self.limit)
            self.limit = reported.limit
            self.window = reported.window_s
        if self.window is None and reported.reset_s is not None and reported.reset_s > 0 and used >= 1:
            self.window = _proven_window(reported.reset_s * reported.limit / used)
        remaining = reported.remaining
        if remaining % ROUNDING:
            self._is_rounded = False
        self._learn_ratio(remaining, call, sent, sent_at, refused)
        if self._is_rounded and remaining:
            remaining -= ROUNDING / 2
        sent_after -= self._sum(refused, call, math.inf)
        self._level = remaining - sent_after * self._factor
        self._at = sent_at
        reset = reported.reset_s
        self._full_at = math.inf if reset is None else sent_at + max(0.0, reset)
        return ""

    def _sum(self, refused: _Refused, after: float, up_to: float) -> float:
        """What was refused of the requests with a number above *after* and at most *up_to*."""
        return sum(amounts[self.index] for number, amounts in refused if after < number <= up_to) if refused else 0.0

    def _learn_ratio(self, remaining: float, call: float, sent: float, sent_at: float, refused: _Refused) -> None:
        """Compare what the provider took between two calls with what was sent between them and not refused.

        Over a part of the limit that is large beside the rounding of what remains. If refused requests counted as
        taken, too low a ratio would confirm itself: more requests would be refused, and nothing be taken for them.
        """
        heard = self._heard
        least = FEWEST * ROUNDING if self._is_rounded else max(FEWEST, COMPARED * self.limit)
        used = 0.0 if heard is None else sent - heard[2] - self._sum(refused, heard[1], call)
        if heard is not None and heard[0] <= 0.9 * self.limit and used < least:
            return
        self._heard = (remaining, call, sent, sent_at)
        if heard is None or self.window is None or heard[0] > 0.9 * self.limit:
            return  # a bucket that was full in between took less than it could
        came_back = (sent_at - heard[3]) * self.limit / self.window
        ratio = (heard[0] + came_back - remaining) / used
        self._ratio += RATIO_WEIGHT * (min(MOST_RATIO, max(1.0 / MOST_RATIO, ratio)) - self._ratio)
        self._factor = max(1.0, self._ratio) if self._is_requests else self._ratio

    def refused(self, amount: float, call: float, sent_at: float, now: float) -> None:
        """Note that request number *call* was throttled, which was sent at *sent_at*.

        Nothing was taken for it. If much remains, the provider keeps another limit over a shorter time, such as
        Azure's over ten seconds: from then on less is sent at once, at the same rate.
        """
        if self._level == math.inf or self.is_ignored:
            return
        self._fill(now)
        if call > self._newest:
            self._level = min(self.limit, self._level + amount * self._factor)
        is_short = self.window is not None and self.window <= _MINUTE
        if self.window is None or not is_short or self._level < MUCH * self.limit or sent_at <= self._burst_set_at:
            return
        burst = FIRST_BURST * self.limit if self._burst == math.inf else self._burst / 2
        self._burst = max(burst, 1.0, SHORTEST_BURST * self.limit / self.window)
        self._burst_level = min(0.0, self._burst_level)
        self._burst_at = self._burst_set_at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until *amount* may be sent; 0 if it may be now, or if nothing is known."""
        if self.is_ignored or self._level == math.inf:
            return 0.0
        needed = amount if amount <= 1.0 else amount * MARGIN + 1.0  # an estimate, of more than one request
        needed *= self._factor
        if needed <= self._level and self._burst == math.inf:
            return 0.0  # what has come back since can only be more
        self._fill(now)
        missing = min(needed, self.limit) - self._level
        in_burst = min(needed, self._burst) - self._burst_level if self._burst < math.inf else 0.0
        if missing <= 1e-9 and in_burst <= 1e-9:
            return 0.0
        by_rate = math.inf if self.window is None else max(missing, in_burst) * self.window / self.limit
        wait = by_rate if missing <= 1e-9 else min(by_rate, self._full_at - now)
        if wait == math.inf or now + wait <= now:
            return 0.0
        if by_rate == math.inf:
            self._waited_until = now + wait
        return wait

    def send(self, amount: float, now: float) -> None:
        """Take *amount* out of the bucket."""
        if self._level != math.inf:
            self._fill(now)
            amount *= self._factor
            self._level -= amount
            self._burst_level -= amount

    def _fill(self, now: float) -> None:
        if self._burst < math.inf and self.window is not None:
            came_back = (now - self._burst_at) * self.limit / self.window
            self._burst_level, self._burst_at = min(self._burst, self._burst_level + came_back), now
        if now >= self._full_at:
            self._level, self._full_at = max(self._level, self.limit), math.inf
        elif self.window is not None:
            self._level = min(self.limit, self._level + (now - self._at) * self.limit / self.window)
        self._at = now


class LearnedLimits:
    """The limits of one route that its answers reported. Not safe for concurrent use."""

    __slots__ = ("_limits", "_refused", "_sent")

    def __init__(self) -> None:
        self._limits: dict[tuple[LimitKind, float | None], _LearnedLimit] = {}
        self._sent: SentTotals = (0.0, 0.0, 0.0, 0.0)
        self._refused: deque[tuple[float, SentTotals]] = deque(maxlen=MOST_REFUSED)
        """The latest refused requests: their numbers and what they counted as."""

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __repr__(self) -> str:
        told = (f"{known.limit:g} {kind} / {known.window or '?'} s" for (kind, _), known in self._limits.items())
        return f"<LearnedLimits {', '.join(told)}>"

    def send(self, amounts: SentTotals, now: float) -> SentTotals:
        """Count a request; return what was sent up to it, to be passed to :meth:`hear` with its answer."""
        requests, tokens, given, made = self._sent
        self._sent = sent = (requests + amounts[0], tokens + amounts[1], given + amounts[2], made + amounts[3])
        if self._limits:
            for known in self._limits.values():
                known.send(amounts[known.index], now)
        return sent

    def knows(self, kind: LimitKind, window: float | None) -> bool:
        """Whether good answers report a limit of *kind* over that period."""
        return any(
            one == kind and known.window == window and not known.is_ignored for (one, _), known in self._limits.items()
        )

    def sent_after(self, sent: SentTotals) -> SentTotals:
        """What was sent after a request and not refused; *sent*: what :meth:`send` returned for it."""
        later = [amounts for number, amounts in self._refused if number > sent[0]]
        left = [self._sent[at] - sent[at] - sum(amounts[at] for amounts in later) for at in range(4)]
        return left[0], left[1], left[2], left[3]

    def refused(self, amounts: SentTotals, sent: SentTotals, sent_at: float, now: float) -> None:
        """Note that a request was throttled; *sent*: what :meth:`send` returned for it, at *sent_at*."""
        self._refused.append((sent[0], amounts))
        for known in self._limits.values():
            known.refused(amounts[known.index], sent[0], sent_at, now)

    def hear(
        self, reported: Sequence[RateLimit], sent: SentTotals, sent_at: float
    ) -> tuple[list[tuple[RateLimit, float | None]], list[str]]:
        """Take in what the answer to a request reports; *sent*: what :meth:`send` returned for it, at *sent_at*.

        Returns the limits that are new or have changed, each with its period, and why others are not believed.
        """
        changed: list[tuple[RateLimit, float | None]] = []
        faults: list[str] = []
        for one in reported:
            if one.limit < 0 or one.remaining < 0:
                continue  # -1 means unknown
            key = (one.kind, one.window_s)
            known = self._limits.get(key)
            if known is None:
                known = self._limits[key] = _LearnedLimit(one.kind)
            at = AMOUNT_OF[one.kind]
            fault = known.hear(one, sent[0], sent[at], self._sent[at] - sent[at], sent_at, self._refused)
            if fault:
                faults.append(f"a limit of {one.limit:g} {one.kind.replace('_', ' ')}, of which {fault}")
            elif not known.is_ignored and abs(known.limit - known.told) > CHANGED * known.told:
                known.told = known.limit
                changed.append((one, known.window))
        return changed, faults

    def wait(self, amounts: SentTotals, now: float) -> BudgetWait:
        """How long a request has to wait, and for which limit."""
        longest, slowest = 0.0, None
        for key, known in self._limits.items():
            wait = known.wait(amounts[known.index], now)
            if wait > longest:
                longest, slowest = wait, (key[0], known)
        if slowest is None:
            return NO_WAIT
        kind, known = slowest
        limit = f"{known.limit:,.0f} {kind.replace('_', ' ')}{_per(known.window)}"
        return BudgetWait(longest, limit, is_reported=True, is_quota=known.window is None or known.window > _MINUTE)


def _per(window: float | None) -> str:
    names = {1.0: "a second", 60.0: "a minute", 3600.0: "an hour", 86_400.0: "a day", 2_592_000.0: "a month"}
    return "" if window is None or window not in names else f" {names[window]}"


def _fault(reported: RateLimit) -> str:
    """Why what is reported with a good answer cannot be true; empty if it can."""
    if reported.limit < 1:
        return "an answer was given all the same"
    if reported.remaining > reported.limit + (ROUNDING if "tokens" in reported.kind else 0):
        return f"{reported.remaining:g} remain"
    if reported.reset_s is not None and reported.reset_s > LONGEST_RESET:
        return f"the reset is {reported.reset_s / 86_400:.0f} days ahead"
    return ""


def _proven_window(seconds: float) -> float | None:
    return next((window for window in WINDOWS if abs(seconds - window) <= TOLERANCE * window), None)
