"""Keep to the limits per minute that a provider states where it refuses: the only ones known of where none is reported.

Such a limit is followed as a token bucket that was empty at the refusal. Nothing says when the limit is raised, so
after a while without a refusal, and a hundred requests, it is tried at twice the rate, and then at twice that again:
one refusal states the limit anew.

Pure: time is an argument, in seconds, and nothing here waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmbatch.core.calls import LimitKind, RateLimit
from llmbatch.pace.budget_wait import NO_WAIT, BudgetWait
from llmbatch.pace.learned import AMOUNT_OF, SentTotals

__all__ = ["StatedLimits"]

TRIED_AFTER = 25.0
"""Seconds without a refusal after which a limit is tried at twice the rate, if as many requests as below were sent."""

TRIED_AFTER_REQUESTS = 100
"""Requests without a refusal after which it is tried: where few are allowed, one refusal in 25 s would be many."""

MOST_DOUBLINGS = 10.0
"""After so many of them a limit is as good as forgotten."""

CHANGED = 0.05
"""Change of a limit that is worth telling, as a share of it."""


class _Stated:
    """One limit of one route."""

    __slots__ = ("at", "call", "level", "limit", "said_at", "sent", "told", "window")

    def __init__(self, limit: float, window: float) -> None:
        self.limit, self.window = limit, window
        self.level = self.at = self.said_at = self.told = 0.0
        self.call = -1.0
        """Number of the refused request that stated it last."""
        self.sent = 0
        """Requests since that one."""

    def fill(self, now: float) -> float:
        """Bring the level to *now*; return the amount that comes back per second."""
        doublings = min(MOST_DOUBLINGS, max(0.0, now - self.said_at) // TRIED_AFTER, self.sent // TRIED_AFTER_REQUESTS)
        rate: float = math.ldexp(self.limit / self.window, int(doublings))
        self.level = min(self.limit, self.level + (now - self.at) * rate)
        self.at = now
        return rate


class StatedLimits:
    """The limits of one route that its refusals stated. Not safe for concurrent use."""

    __slots__ = ("_limits",)

    def __init__(self) -> None:
        self._limits: dict[LimitKind, _Stated] = {}

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __repr__(self) -> str:
        return f"<StatedLimits {', '.join(f'{one.limit:g} {kind}' for kind, one in self._limits.items())}>"

    def send(self, amounts: SentTotals, now: float) -> None:
        """Take a request out of the buckets."""
        for kind, known in self._limits.items():
            known.fill(now)
            known.level -= amounts[AMOUNT_OF[kind]]
            known.sent += 1

    def refused(
        self,
        amounts: SentTotals,
        call: float,
        sent_after: SentTotals,
        sent_at: float,
        now: float,
        stated: Sequence[RateLimit],
    ) -> list[RateLimit]:
        """Note that request number *call*, sent at *sent_at*, was throttled.

        *stated*: the limits that the refusal names. *sent_after*: what was sent since and not refused. Returns the
        limits that are new or have changed.
        """
        for kind, known in self._limits.items():
            if call > known.call:
                known.level += amounts[AMOUNT_OF[kind]]  # nothing was taken for it
        changed: list[RateLimit] = []
        for one in stated:
            if one.window_s is None or one.limit < 1:
                continue
            stated_limit = self._limits.get(one.kind)
            if stated_limit is None:
                stated_limit = self._limits[one.kind] = _Stated(one.limit, one.window_s)
            if call <= stated_limit.call:
                continue
            stated_limit.call, stated_limit.said_at, stated_limit.sent = call, now, 0
            stated_limit.limit, stated_limit.window = one.limit, one.window_s
            stated_limit.level, stated_limit.at = -sent_after[AMOUNT_OF[one.kind]], sent_at
            if abs(one.limit - stated_limit.told) > CHANGED * stated_limit.told:
                stated_limit.told = one.limit
                changed.append(one)
        return changed

    def wait(self, amounts: SentTotals, now: float) -> BudgetWait:
        """How long a request has to wait, and for which limit."""
        longest = NO_WAIT
        for kind, known in self._limits.items():
            rate = known.fill(now)
            missing = min(amounts[AMOUNT_OF[kind]], known.limit) - known.level
            wait = missing / rate
            if missing > 1e-9 and wait > longest.seconds and now + wait > now:
                per = "a second" if known.window == 1.0 else "a minute"
                limit = f"{known.limit:,.0f} {kind.replace('_', ' ')} {per}"
                longest = BudgetWait(wait, limit, is_reported=True)
        return longest
