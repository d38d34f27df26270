"""How many requests may be in flight: a limit that gives way when told to slow down, and ramps after an outage.

Additive increase, multiplicative decrease with slow start, as TCP Reno has them (RFC 5681), one request for one
segment: below ``slow_start`` a success adds 1 (which doubles the limit every round trip), above it ``1 / limit``. After
a few round trips in which nothing was refused it grows faster and faster, as CUBIC does (RFC 9438), or a limit that
gave way to slow answers would take hours to come back.

A refusal (429, or 503 and 529 for overload) takes the limit back to what the provider still carries, the good part of
the last answers, as TCP Westwood does (Mascolo et al. 2001), to half of it at most; a 429 by a tenth at least. But some
providers answer a part of the requests with overload whatever the load, and giving way to those would keep the limit
low for ever: where a part *p* is refused, halving for each leaves ``sqrt(1.5 / p)`` in flight (Mathis et al. 1997). So
of overloads only those count that are more than half the limit met too.

Pure: it counts answers and knows no time.
"""

from __future__ import annotations

__all__ = ["AdaptiveLimit"]

RAMP_START = 2.0

TOLERANCE = 0.03
"""The part of the requests that may be refused as overload before the limit gives way."""

LEAST_SPAN = 20.0
"""Answers over which the refused part is averaged, at least; else a round trip of them."""

LONG_SPAN = 200
"""Answers over which is averaged what is refused at limits of one size."""

HELPS = 0.7
"""Half the limit helps if it brings this part of the good answers or more. Where a share of the calls is refused
whatever the load, it brings half."""

CAUTIOUS = 3
"""Round trips without a refusal in which it grows by one each; in those after, the growth doubles."""


class AdaptiveLimit:
    """The limit of one route, from 1 to *ceiling*; starts at the ceiling."""

    __slots__ = (
        "_answers",
        "_before",
        "_cut_at",
        "_growth",
        "_has_refused",
        "_refused",
        "_slow_start",
        "_trips",
        "_usual",
        "_value",
        "ceiling",
    )

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._value = float(ceiling)
        self._slow_start = float(ceiling)
        self._cut_at = 0
        self._before = self._value
        self._growth = 1.0
        """What a round trip without a refusal adds."""
        self._trips = 0.0
        octaves = ceiling.bit_length()
        self._answers = [0] * octaves
        """Answers while the limit was 1, 2 to 3, 4 to 7, …"""
        self._usual = [0.0] * octaves
        """The part of the latest of them that was refused."""
        self._refused = 0.0
        self._has_refused = False
        """Whether anything was ever refused: until then all shares are 0."""

    @property
    def value(self) -> int:
        """Requests that may be in flight now."""
        return int(self._value)

    def on_success(self) -> None:
        """An answer was good: grow."""
        self._note(refused=0)
        if self._value < self.ceiling:
            part = 1.0 / self._value
            self._value += 1.0 if self._value < self._slow_start else part * self._growth
            self._value = min(self._value, float(self.ceiling))
            self._trips += part
            if self._trips >= CAUTIOUS + 1:
                self._trips -= 1.0
                self._growth *= 2.0

    def on_overload(self, serial: int, newest: int) -> None:
        """Call number *serial* was one too many: give way by what is refused, once for all calls up to *newest*."""
        self._note(refused=1)
        excess = self._refused - 1.25 * self._usual_share() - TOLERANCE
        if excess > 0:
            self._give_way(max(0.5, 1.0 - excess), serial, newest)

    def on_pushback(self, serial: int, newest: int) -> None:
        """The provider asked call number *serial* to slow down: as an overload, and by a tenth at least."""
        self._note(refused=1)
        self._give_way(min(0.9, max(0.5, 1.0 - self._refused)), serial, newest)

    def restart(self, start: float = RAMP_START) -> None:
        """The circuit closed: ramp up from *start* instead of stampeding."""
        self._value = min(start, float(self.ceiling))
        self._slow_start = float(self.ceiling)
        self._refused = 0.0
        self._growth, self._trips = 1.0, 0.0

    def _note(self, *, refused: int) -> None:
        octave, usual = int(self._value).bit_length() - 1, self._usual
        answers = self._answers[octave]
        if answers < LONG_SPAN:
            self._answers[octave] = answers = answers + 1
        if refused:
            self._has_refused = True
        elif not self._has_refused:
            return
        self._refused += (refused - self._refused) / max(LEAST_SPAN, self._value)
        usual[octave] += (refused - usual[octave]) / answers
        # Under less load no more is refused than under this one.
        if answers == LONG_SPAN:
            for lower in range(octave):
                usual[lower] = min(usual[lower], usual[octave])

    def _usual_share(self) -> float:
        """The part that is refused at half the limit too, as far as is known: giving way does not help against it."""
        octave = self.value.bit_length() - 1
        lower = octave - 1
        if lower < 0 or self._answers[lower] < LONG_SPAN / 4:
            return 0.0
        here = max(self._refused, self._usual[octave] if self._answers[octave] >= LONG_SPAN / 4 else 0.0)
        if 0.5 * (1.0 - self._usual[lower]) >= HELPS * (1.0 - here):
            return 0.0
        return self._usual[lower]

    def _give_way(self, factor: float, serial: int, newest: int) -> None:
        if serial > self._cut_at:
            self._cut_at = newest
            self._before = self._value
        self._value = min(self._value, max(1.0, self._before * factor))
        self._growth, self._trips = 1.0, 0.0
        self._slow_start = self._value
