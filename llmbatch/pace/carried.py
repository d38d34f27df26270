"""The most requests in flight that a route takes, where it refuses more of them: found by what is refused, and kept.

A limit of requests in flight refuses only those that are sent beside too many others; a limit of the rate, or chance,
also refuses some that are sent beside fewer than others that pass. So a few refusals in a row, beside more than have
passed lately, make the number beside which they were sent the limit. From then on one request more is tried rarely, so
that few are refused; if it passes, more are tried, the sooner and the more of them the longer all pass. If requests are
refused beside fewer than pass, something else is the reason: nothing is limited, and it is not looked for again but
after a growing number of good answers.

Pure: it counts answers. Constant memory.
"""

from __future__ import annotations

import math

__all__ = ["OVERLOADED", "THROTTLED", "CarriedLoad"]

THROTTLED, OVERLOADED = 2, 4
"""Refusals in a row that make a limit: by 429, which stops a route after two, and by 503, more often chance."""

FIRST_SPAN, LONGEST_SPAN = 50, 200
"""Good answers at the limit until one request more is tried: at first, and at most. Twice as many after each
refusal."""

MOST_DOUBT = 2.0
"""Refusals that such a limit does not explain, from which it is not the reason."""

FORGIVEN = 200.0
"""Good answers that make up for one of them."""

FIRST_REST, LONGEST_REST = 200, 12_800
"""Good answers until it is looked for again after it was not the reason; twice as many each time."""


class CarriedLoad:
    """The limit of one route. *load*: requests in flight when one was sent, with it. Not safe for concurrent use."""

    __slots__ = (
        "_candidate",
        "_cut_at",
        "_doubt",
        "_good",
        "_needed",
        "_proven",
        "_rest",
        "_resting",
        "_span",
        "_step",
        "most",
        "trial",
    )

    def __init__(self) -> None:
        self.most = math.inf
        """Requests in flight that are carried; infinity if no limit of them is known."""
        self.trial = 0
        """Requests beyond that which may be sent now, to find out whether more are carried."""
        self._cut_at = 0
        """Number of the last request that was sent before the last refusal came."""
        self._candidate: tuple[int, int, int] | None = None
        """While no limit is known: number of a refused request, the least load of all refused since, and how many they
        are; until one that was sent later passes."""
        self._proven = 0
        """Highest load of a good answer lately; where a limit is known, to a request sent since the last refusal."""
        self._doubt = 0.0
        self._good = 0
        """Good answers at the limit since the last refusal or trial."""
        self._needed = self._span = FIRST_SPAN
        self._step = 1
        self._rest, self._resting = FIRST_REST, 0

    def __repr__(self) -> str:
        return f"<CarriedLoad {self.most:g}, {self.trial} more on trial>"

    def sent(self, load: int) -> None:
        """Note that a request was sent while there is a trial."""
        if load > self.most:
            self.trial -= 1

    def succeeded(self, serial: int, load: int) -> None:
        """Note a good answer to request number *serial*."""
        if self.most == math.inf:
            self._resting -= self._resting > 0
            self._proven = max(self._proven, load)
            if self._candidate is not None and serial > self._candidate[0]:
                self._candidate = None
            return
        is_new = serial > self._cut_at
        if is_new:
            self._proven = max(self._proven, load)
            self._doubt = max(0.0, self._doubt - 1.0 / FORGIVEN)
        if load > self.most:
            self.most = load
            if is_new:
                self._step += 1
                self._needed = load
        self._good += load >= self.most
        if self._good >= self._needed and not self.trial:
            self._good, self.trial, self._needed = 0, self._step, self._span

    def refused(self, serial: int, load: int, newest: int, *, in_a_row: int = THROTTLED) -> None:
        """Note that request number *serial* was refused; *newest* was the last one sent.

        *in_a_row*: refusals that make a limit.
        """
        if self._resting:
            return
        if load <= 1:
            self._give_up()
        elif self.most == math.inf:
            self._suspect(serial, load, newest, in_a_row)
        elif serial <= self._cut_at:
            self.most = min(self.most, load - 1)  # of the same burst
        else:
            self._doubt += load <= self._proven
            if self._doubt >= MOST_DOUBT:
                self._give_up()
                return
            self._span = min(LONGEST_SPAN, 2 * self._span) if load > self.most else FIRST_SPAN
            self._cut(min(self.most, load - 1), newest)

    def _suspect(self, serial: int, load: int, newest: int, in_a_row: int) -> None:
        if load <= self._proven:
            self._proven -= 1  # fewer may be carried now
            return
        first, least, count = self._candidate or (serial, load, 0)
        self._candidate = first, min(least, load), count + 1
        if count + 1 >= in_a_row:
            self._span = FIRST_SPAN
            self._cut(min(least, load) - 1, newest)
            self._candidate = None

    def _cut(self, most: float, newest: int) -> None:
        self.most, self._cut_at, self._proven = most, newest, 0
        self._good, self._needed, self._step, self.trial = 0, self._span, 1, 0

    def _give_up(self) -> None:
        """Limit nothing: something else is the reason."""
        if self.most < math.inf:
            self._resting, self._rest = self._rest, min(LONGEST_REST, 2 * self._rest)
        self.most, self.trial, self._doubt, self._candidate = math.inf, 0, 0.0, None
