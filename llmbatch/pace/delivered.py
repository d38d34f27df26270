"""Keep to the rate at which a provider delivers, where it refuses more and nothing states its limit.

Three phases. *idle*: nothing is refused. *watching*: a request was refused; if a considerable share is in two windows,
while others succeed, requests are sent evenly from then on, at the rate that succeeded. *following*: that rate grows,
and is lowered around the limit (:mod:`llmbatch.pace.cubic_rate`).

A rate need not be the reason. Requests refused at random, or for their size, are refused as often at a lower rate: it
is given up after a few of them, and not tried again but after a growing rest. A provider that limits requests in
flight refuses those that were sent beside more than any that succeeded; the limit in flight follows that alone. And
where refusals name long pauses, as with fixed windows of a minute, nothing is followed.

Pure: time is an argument, in seconds, and nothing here waits.
"""

from __future__ import annotations

import math

from llmbatch.pace.budget_wait import NO_WAIT, BudgetWait
from llmbatch.pace.cubic_rate import CubicRate

__all__ = ["DeliveredRate"]

WINDOW_S, WINDOW_ANSWERS = 10.0, 20
"""Seconds and answers of a window, at least."""

CONSIDERABLE = 0.03
"""Refused share of a window from which a rate limit is suspected."""

MOST_REFUSALS, FIRST_REFUSALS, SURE = 8.0, 6.5, 4.0
"""Refusals from which the rate is not the reason, those that it begins with, and those down to which it is on trial."""

FORGIVEN, FORGIVEN_ON_TRIAL = 40.0, 3.0
"""Good answers that make up for a refusal, at most; on trial, how many times as many as were sent for each before."""

LEAST = 1.0 / 6.0
"""Requests per second that are followed, at least: to grow back from less would take long."""

MOST_ABOVE, COMPARED = 2, 40
"""Refusals in a row above the loads of all good answers, from which requests in flight are limited instead, and good
answers before each of them, at least."""

LONG_PAUSE = 10.0
"""Named pause, in seconds, from which a refusal costs more than it tells: then the pauses alone set the pace."""

FIRST_REST, LONGEST_REST = 300.0, 3600.0
"""Seconds until a rate is tried again after it was given up; twice as many each time."""

CHANGED = 0.2
"""Change of the limit that is worth telling, as a share of it."""


class _Window:
    """Answers from *now* on, only to rows that were not refused the time before: one that always is counts once."""

    __slots__ = ("answers", "began", "delivered", "refused")

    def __init__(self, now: float) -> None:
        self.began = now
        self.answers = self.refused = self.delivered = 0

    def count(self, *, refused: bool, is_repeat: bool) -> None:
        self.delivered += not refused
        if not is_repeat:
            self.answers += 1
            self.refused += refused

    def is_over(self, now: float) -> bool:
        return now - self.began >= WINDOW_S and self.answers >= WINDOW_ANSWERS

    @property
    def share(self) -> float:
        """Share of the answers that were refusals."""
        return self.refused / self.answers

    def rate(self, now: float) -> float:
        """Requests per second that succeeded."""
        return self.delivered / (now - self.began)


class _Following:
    """A *rate* that is kept to, and the evidence whether it is the reason; *share*: what was refused before."""

    __slots__ = ("_above", "_forgiven", "_good", "_highest", "_refusals", "began", "is_sure", "rate")

    def __init__(self, rate: CubicRate, share: float, now: float) -> None:
        self.rate, self.began = rate, now
        self.is_sure = False
        """Whether the rate is the reason, as far as is known: until then it is on trial, and stays as it is."""
        self._refusals, self._forgiven = FIRST_REFUSALS, min(FORGIVEN, FORGIVEN_ON_TRIAL / share)
        """Refusals, less those that were made up for, and how many good answers do that for one."""
        self._good = self._highest = 0
        """Good answers since the last refusal, and the highest load of all."""
        self._above: list[int] = []
        """Loads of the last refusals, while all are above that."""

    def succeeded(self, load: int) -> None:
        self._refusals = max(0.0, self._refusals - 1.0 / self._forgiven)
        if self.is_sure:
            self._good += 1
            if load > self._highest:
                self._highest = load
                self._above = [refused for refused in self._above if refused > load]
        elif self._refusals <= SURE:
            self.is_sure, self._forgiven = True, FORGIVEN
            self.rate.grow()

    def refused(self, number: float, load: int, sent_at: float, now: float) -> bool:
        """Count a refusal; return whether the rate is not the reason, or too low to be followed."""
        self._refusals += 1.0
        if load <= self._highest:
            self._above.clear()
        elif self._good >= COMPARED:
            self._above.append(load)
        self._good = 0
        if self.is_sure:
            self.rate.lower(number, sent_at, now)
        is_lost = self._refusals >= MOST_REFUSALS or self.rate.limit < LEAST
        return is_lost or len(self._above) >= MOST_ABOVE


class DeliveredRate:
    """The rate of requests that one route takes without refusals. Constant memory. Not safe for concurrent use.

    *number*: of a request on the route, rising; 0 if it was sent while this was not active. *load*: requests in flight
    when it was sent, with it. *is_repeat*: its row was refused the time before.
    """

    __slots__ = ("_earlier", "_following", "_newest", "_rest", "_rest_until", "_told", "_window")

    def __init__(self) -> None:
        self._window: _Window | None = None
        self._earlier: tuple[float, float] | None = None
        """Rate and refused share of the window before; None in the first."""
        self._following: _Following | None = None
        self._rest, self._rest_until = FIRST_REST, -math.inf
        self._newest = self._told = 0.0
        """Number of the last request, and requests per second that were told."""

    def __repr__(self) -> str:
        if self._following is not None:
            return f"<DeliveredRate {self._following.rate}>"
        return f"<DeliveredRate {'watching' if self.is_active else 'idle'}>"

    @property
    def is_active(self) -> bool:
        """Whether it has to be told of requests and good answers."""
        return self._window is not None or self._following is not None

    def wait(self, now: float) -> BudgetWait:
        """How long a request has to wait, and for which limit."""
        following = self._following
        if following is None or not (seconds := following.rate.wait(now)):
            return NO_WAIT
        limit = f"about {following.rate.limit * 60.0:,.0f} requests a minute, which no answer states"
        return BudgetWait(seconds, limit, is_reported=True)

    def send(self, number: float, now: float) -> None:
        """Count a request."""
        self._newest = number
        if self._following is not None:
            self._following.rate.send(number, now, grows=self._following.is_sure)

    def succeeded(self, number: float, load: int, now: float, *, is_repeat: bool) -> float | None:
        """Note that a request succeeded.

        Returns the requests per minute that the provider takes, if they are new or have changed.
        """
        following = self._following
        if following is None:
            self._watch(now, refused=False, is_repeat=is_repeat)
        elif following.rate.is_current(number):
            following.succeeded(load)
            limit, is_known = following.rate.limit, following.is_sure and following.rate.is_measured
            if is_known and abs(limit - self._told) > CHANGED * self._told:
                self._told = limit
                return 60.0 * limit
        return None

    def refused(
        self, number: float, load: int, sent_at: float, now: float, *, is_repeat: bool, pause: float = 0.0
    ) -> None:
        """Note that a request, sent at *sent_at*, was refused; *pause*: seconds that the refusal names, 0 if none."""
        following = self._following
        if pause >= LONG_PAUSE:
            if self.is_active:
                self.stop(now)
        elif following is not None:
            following.rate.note_refused(number)
            if not following.rate.is_current(number) or (is_repeat and following.is_sure):
                return
            if following.refused(number, load, sent_at, now):
                self.stop(now)
        elif self._window is not None:
            if number:
                self._watch(now, refused=True, is_repeat=is_repeat)
        elif now >= self._rest_until and not is_repeat:
            self._window, self._earlier = _Window(now), None

    def stop(self, now: float) -> None:
        """Keep to no rate, and try none for a while: it is not the reason, or the limit is known."""
        if self._following is not None and now - self._following.began > self._rest:
            self._rest = FIRST_REST  # it was the reason for long
        self._window = self._following = None
        self._rest_until = now + self._rest
        self._rest, self._told = min(LONGEST_REST, 2.0 * self._rest), 0.0

    def _watch(self, now: float, *, refused: bool, is_repeat: bool) -> None:
        window = self._window
        if window is None:
            return
        window.count(refused=refused, is_repeat=is_repeat)
        if not window.is_over(now):
            return
        before, self._earlier, self._window = self._earlier, (window.rate(now), window.share), None
        if self._earlier[0] < LEAST or window.share < CONSIDERABLE:
            return
        if before is None:
            self._window = _Window(now)
            return
        rate, share = max(before[0], self._earlier[0]), (before[1] + self._earlier[1]) / 2.0
        self._following = _Following(CubicRate(rate, self._newest, now), share, now)
