"""The most requests in flight that a route takes, where it refuses more of them at once: learned, kept, tried again.

A gateway with such a limit refuses a request within milliseconds, and answers all that were in flight beside it. So a
refusal makes the load beside which it came a bound only once nearly all of those have their answer, and none passes at
that load. From then on a refusal above the bound is explained by it: it says nothing about the row, and nothing has to
wait. One request more is tried after more and more good answers; if it passes, more are tried each round trip.

A refusal that the bound does not explain has another reason, such as a limit of the rate: after two of them at once, or
three within a hundred good answers, nothing is bounded, and for a growing number of good answers none is learned.

Pure: it counts answers. Constant memory.
"""

from __future__ import annotations

import math

__all__ = ["LoadBound"]

FIRST_SPAN, LONGEST_SPAN = 25, 400
"""Good answers at the bound until one request more is tried: at first, and at most. Twice as many after a refusal."""

PROOF = 0.9
"""Share of the requests in flight that must be answered well to show that the load was the reason."""

PASSES = 3
"""Requests above the bound that must pass to raise it; one may, as a server knows before us that it has answered."""

MOST_DOUBT = 2.0
"""Refusals that the bound does not explain, less those that were made up for, from which it is not the reason."""

FORGIVEN = 100.0
"""Good answers that make up for one of them."""

FIRST_REST, LONGEST_REST = 200, 12_800
"""Good answers until a bound may be learned after one was wrong; twice as many each time."""


class LoadBound:
    """The bound of one route. *load*: requests in flight as one was sent, with it. Not safe for concurrent use."""

    __slots__ = (
        "_doubt",
        "_first",
        "_good",
        "_least",
        "_needed",
        "_newest",
        "_passed",
        "_proof",
        "_rest",
        "_resting",
        "_span",
        "_step",
        "is_idle",
        "most",
    )

    def __init__(self) -> None:
        self.most = math.inf
        """Requests in flight that are taken; infinity while no bound is known."""
        self.is_idle = True
        """Whether there is neither a bound nor a suspicion: answers need not be noted."""
        self._least = 0
        """Least load of the requests that were refused lately, while that may become the bound; else 0."""
        self._first = 0
        """Number of the request that was refused at that load."""
        self._proof = 0.0
        """Good answers, to requests that were sent before the last refusal came, that are needed for that."""
        self._newest = 0
        """Number of the last request sent then."""
        self._good = 0
        """Good answers at the bound since it was last refused or raised."""
        self._needed = self._span = FIRST_SPAN
        self._step = 1
        """How many more are tried."""
        self._passed = 0
        """How many of these have passed."""
        self._doubt = 0.0
        self._rest, self._resting = FIRST_REST, 0

    def __repr__(self) -> str:
        return f"<LoadBound {self.most:g}>"

    @property
    def value(self) -> float:
        """Requests that may be in flight, with those that are tried."""
        return self.most + self._step if self._good >= self._needed else self.most

    def succeeded(self, serial: int, load: int) -> None:
        """Note a good answer to request number *serial*, unless :attr:`is_idle`."""
        self._resting = max(0, self._resting - 1)
        if self._least:
            if serial > self._first and load >= self._least:
                self._least = 0  # what was refused passes
            elif serial <= self._newest:
                self._proof -= 1.0
                if self._proof <= 0.0:
                    self._bind(self._least - 1)
        if self.most < math.inf:
            self._doubt = max(0.0, self._doubt - 1.0 / FORGIVEN)
            if load > self.most:
                self._passed += 1
                if self._passed >= max(PASSES, self.most // 2):
                    self._raise(load)
            elif load == self.most:
                self._good += 1
        self._note_idle()

    def refused(self, serial: int, load: int, newest: int, in_flight: int) -> bool:
        """Note that request number *serial* was refused; return whether the bound explains that.

        *newest*: number of the last request sent. *in_flight*: requests that are in flight still.
        """
        if load > self.most:
            self._span = min(LONGEST_SPAN, 2 * self._span)
            self._try_later()
            return True
        if self.most < math.inf and serial > self._newest:
            self._doubt += 1.0
            if self._doubt >= MOST_DOUBT:
                self._give_up()
        if self._resting or not in_flight or load < 2:
            self._least = 0
        elif self._least and load >= self._least:
            self._proof = min(self._proof, PROOF * in_flight)
        else:
            self._least, self._first, self._proof = load, serial, PROOF * in_flight
        self._newest = newest
        self._note_idle()
        return False

    def _bind(self, most: int) -> None:
        self.most, self._least = most, 0
        self._try_later()

    def _try_later(self) -> None:
        self._good, self._needed, self._step, self._passed = 0, self._span, 1, 0

    def _raise(self, most: int) -> None:
        self.most, self._span = most, FIRST_SPAN
        self._good, self._needed, self._step, self._passed = 0, 0, min(2 * self._step, most), 0

    def _give_up(self) -> None:
        self.most, self._doubt, self._span = math.inf, 0.0, FIRST_SPAN
        self._resting, self._rest = self._rest, min(LONGEST_REST, 2 * self._rest)

    def forget(self) -> None:
        """Forget the bound: as many as anybody wants to send are taken."""
        self.most, self._least, self._doubt, self._span = math.inf, 0, 0.0, FIRST_SPAN
        self._note_idle()

    def _note_idle(self) -> None:
        self.is_idle = self.most == math.inf and not self._least and not self._resting
