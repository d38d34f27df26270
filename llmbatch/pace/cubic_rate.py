"""A rate of requests that grows until one is refused, as CUBIC's window does (RFC 9438): to find an unstated limit.

It grows by requests that waited for it instead of time, so that about one in a hundred is refused, and nothing grows
while less is sent. At a refusal the provider's bucket is empty, and it was empty at the refusal before: what it took in
between is the limit.

Pure: time is an argument, in seconds, and nothing here waits.
"""

from __future__ import annotations

__all__ = ["CubicRate"]

FIRST, STEP = 0.05, 0.03
"""How far below the limit it begins, as a share of it: at first, and after a refusal."""

SPAN_REQUESTS, SPAN_S = 45.0, 12.0
"""It is at the limit after so many requests, or after those of so many seconds if they are more."""

RAISED = 1.25
"""Growth beyond the limit, as a share of it, from which the limit was raised in between and is not measured."""

LOWERED, LEAST = 0.8, 0.5
"""Factor of the rate where a refusal does not tell the limit, and the least one where it does."""

FEWEST, MOST_UNUSED = 3, 1.0
"""Requests between two refusals from which the limit is measured, and how many more for each it allowed at most."""


class CubicRate:
    """A rate around *limit* requests per second, without bursts, after request number *newest*.

    Numbers of requests rise with each request that is sent. Not safe for concurrent use.
    """

    __slots__ = (
        *("_at", "_cut", "_grown", "_level", "_lost", "_low", "_newest", "_since", "_unused", "_waits"),
        *("is_measured", "limit"),
    )

    def __init__(self, limit: float, newest: float, now: float) -> None:
        self.limit = limit
        """Requests per second that the provider takes, as far as is known."""
        self.is_measured = True
        """Whether that is more than a guess."""
        self._low, self._grown = FIRST, 0.0
        """How far below the limit it began, as a share of it, and requests since then that waited for it."""
        self._waits = False
        """Whether the next request waits for it."""
        self._level, self._at = 0.0, now
        self._newest = self._cut = newest
        """Number of the last request, and of the last one before the rate was set."""
        self._since = (newest, now)
        """The refused request from which the limit is measured, and when it was sent."""
        self._lost, self._unused = 0, 0.0
        """Requests since that one that were refused, and those that the rate would have allowed but were not sent."""

    def __repr__(self) -> str:
        return f"<CubicRate {self.rate * 60.0:g} a minute, limit {self.limit * 60.0:g}>"

    @property
    def rate(self) -> float:
        """Requests per second that may be sent now."""
        part = self._grown / max(SPAN_REQUESTS, SPAN_S * self.limit) - 1.0
        return self.limit * (1.0 + (STEP if part > 0.0 else self._low) * part**3)

    def grow(self) -> None:
        """Look for the limit from now on, beyond the one that it began with, which may have been too low."""
        self._grown, self._cut = 2.0 * max(SPAN_REQUESTS, SPAN_S * self.limit), self._newest

    def wait(self, now: float) -> float:
        """Seconds until a request may be sent; 0 if it may be now."""
        self._fill(now)
        wait = (1.0 - self._level) / self.rate
        if wait <= 1e-9 or now + wait <= now:
            return 0.0
        self._waits = True
        return wait

    def send(self, number: float, now: float, *, grows: bool) -> None:
        """Take request *number*; *grows*: the rate does, if it made the request wait."""
        self._fill(now)
        self._level -= 1.0
        self._newest = number
        self._grown += self._waits and grows
        self._waits = False

    def is_current(self, number: float) -> bool:
        """Whether request *number* was sent at the present rate, and not before it was set."""
        return number > self._cut

    def note_refused(self, number: float) -> None:
        """Note that the provider took nothing for request *number*."""
        self._lost += number > self._since[0]

    def lower(self, number: float, sent_at: float, now: float) -> None:
        """Lower the rate, as request *number*, sent at *sent_at*, was refused."""
        self._fill(now)
        rate, sent, seconds = self.rate, number - self._since[0], sent_at - self._since[1]
        taken = sent - self._lost
        if rate > RAISED * self.limit:
            self.limit, self._low, self.is_measured = LOWERED * rate, STEP, False
        elif taken >= FEWEST and self._unused <= MOST_UNUSED * sent and seconds > 0.0:
            self.limit, self._low = max(LEAST * rate, min(rate, taken / seconds)), STEP
            self.is_measured = True
        else:
            self._low = max(STEP, 1.0 - LOWERED * rate / self.limit)
        self._since, self._lost, self._unused = (number, sent_at), 0, 0.0
        self._grown, self._cut, self._level = 0.0, self._newest, min(0.0, self._level)

    def _fill(self, now: float) -> None:
        level = self._level + (now - self._at) * self.rate
        self._unused += max(0.0, level - 1.0)
        self._level, self._at = min(1.0, level), now
