"""How a simulated provider fares over time: phases of health and sickness in a row.

Pure data and one lookup. What this module does not do: keep time, draw lots or make answers; the provider does
(:mod:`llmbatch.sim.provider`), and its clock starts at the first request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from llmbatch.errors import UsageError

__all__ = ["SCENARIOS", "Behaviour", "Phase", "Scenario", "find_scenario"]

Behaviour = Literal[
    "fine",  # answers well
    "down",  # answers every request with one of `statuses` (503)
    "refuse",  # closes the connection without an answer
    "hang",  # takes the request and never answers
    "slow",  # answers well, `stall` seconds late
    "throttle",  # answers a `share` of the requests with 429, and names a wait if `retry_after` is set
    "errors",  # answers a `share` of the requests with one of `statuses` (500)
    "unauthorized",  # refuses every key with 401
    "bad_request",  # refuses every request with 400
    "quota",  # says that the money is spent: 429 insufficient_quota
]

_DOWN: frozenset[Behaviour] = frozenset({"down", "refuse", "hang", "unauthorized", "bad_request", "quota"})


@dataclass(frozen=True, slots=True)
class Phase:
    """A time of one behaviour.

    Raises :class:`~llmbatch.errors.UsageError` for a value out of range.
    """

    seconds: float
    """How long it lasts, above 0; infinity for the rest of time."""
    behaviour: Behaviour = "fine"
    share: float = 1.0
    """Which part of the requests ``throttle`` and ``errors`` hit, 0 to 1, drawn for each request."""
    stall: float = 30.0
    """Seconds before the first byte of a ``slow`` answer, at least 0."""
    retry_after: float | None = None
    """Seconds that a 429 or 5xx asks to wait, above 0; None: it names none."""
    statuses: tuple[int, ...] = ()
    """What ``down`` and ``errors`` answer with, 400 to 599, drawn for each request; empty: 503 and 500."""

    def __post_init__(self) -> None:
        if self.behaviour not in get_args(Behaviour):
            raise UsageError(
                f"behaviour is {self.behaviour!r}, which is unknown", hint=f"one of: {', '.join(get_args(Behaviour))}"
            )
        if not self.seconds > 0:
            raise UsageError(f"seconds is {self.seconds!r}, must be above 0")
        if not 0 <= self.share <= 1:
            raise UsageError(f"share is {self.share!r}, must be 0 to 1")
        if not 0 <= self.stall < math.inf:
            raise UsageError(f"stall is {self.stall!r}, must be 0 or more seconds")
        if self.retry_after is not None and not 0 < self.retry_after < math.inf:
            raise UsageError(f"retry_after is {self.retry_after!r}, must be above 0")
        if not all(400 <= status <= 599 for status in self.statuses):
            raise UsageError(f"statuses is {self.statuses!r}, must be 400 to 599 each")

    @property
    def is_down(self) -> bool:
        """Whether no request at all can succeed now."""
        return self.behaviour in _DOWN

    def compressed(self, speed: float) -> Phase:
        """The same phase passing *speed* times faster: its length, stall and hint are that much shorter."""
        hint = None if self.retry_after is None else self.retry_after / speed
        return replace(self, seconds=self.seconds / speed, stall=self.stall / speed, retry_after=hint)


_FINE_FOR_EVER = Phase(math.inf, "fine")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Phases in a row, then fine for ever; with ``repeat`` they start again instead.

    ``latency`` is the median of a good answer in seconds, where the scenario wants another than the provider's.
    Raises :class:`~llmbatch.errors.UsageError` if a repeating scenario has no end to repeat from.
    """

    name: str
    phases: tuple[Phase, ...]
    description: str
    repeat: bool = False
    latency: float | None = None

    def __post_init__(self) -> None:
        if self.repeat and not 0 < self.length < math.inf:
            raise UsageError(f"scenario {self.name} repeats, but lasts {self.length:g} s")

    @property
    def length(self) -> float:
        """Seconds until the last phase ends; may be infinite."""
        return sum(phase.seconds for phase in self.phases)

    def at(self, elapsed: float) -> Phase:
        """The phase *elapsed* seconds after the start. A phase begins at its first instant and excludes its last."""
        left = elapsed % self.length if self.repeat else elapsed
        for phase in self.phases:
            if left < phase.seconds:
                return phase
            left -= phase.seconds
        # Rounding may leave a repeating scenario a hair past its last phase.
        return self.phases[-1] if self.repeat else _FINE_FOR_EVER

    def compressed(self, speed: float) -> Scenario:
        """The same scenario passing *speed* times faster; latencies of good answers stay.

        Raises:
            UsageError: *speed* is not a number above 0.
        """
        if not 0 < speed < math.inf:
            raise UsageError(f"speed is {speed!r}, must be a number above 0")
        return self if speed == 1 else replace(self, phases=tuple(phase.compressed(speed) for phase in self.phases))


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady", (), "answers well, always"),
        Scenario(
            "outage",
            (Phase(3, "fine"), Phase(12, "down")),
            "fine for 3 s, down for 12 s (503), then fine",
            latency=0.4,
        ),
        Scenario(
            "flash",
            (Phase(3, "fine"), Phase(4, "down", statuses=(530,))),
            "fine for 3 s, a gateway's 530 for 4 s, answered at once, then fine",
        ),
        Scenario(
            "brownout",
            (Phase(3, "fine"), Phase(15, "slow", stall=8)),
            "fine for 3 s, then for 15 s every answer comes 8 s late, then fine",
        ),
        Scenario(
            "partial",
            (Phase(3, "fine"), Phase(20, "errors", share=0.25, statuses=(500, 502, 503))),
            "fine for 3 s, 25 % errors for 20 s, then fine",
        ),
        Scenario(
            "flapping", (Phase(3, "fine"), Phase(3, "down")), "good and bad in turns of 3 s, for ever", repeat=True
        ),
        Scenario(
            "overload",
            (Phase(3, "fine"), Phase(6, "throttle", share=0.7, retry_after=2), Phase(6, "throttle", share=0.7)),
            "fine for 3 s, 429 that names a wait for 6 s, 429 that names none for 6 s, then fine",
        ),
        Scenario(
            "disguised",
            (Phase(3, "fine"), Phase(10, "bad_request")),
            "fine for 3 s, an outage dressed as 400 for 10 s, then fine",
        ),
        Scenario(
            "refused",
            (Phase(3, "fine"), Phase(10, "refuse")),
            "fine for 3 s, connections closed without an answer for 10 s, then fine",
        ),
        Scenario("quota", (Phase(3, "fine"), Phase(math.inf, "quota")), "fine for 3 s, then the money is spent"),
        Scenario("bad-key", (Phase(math.inf, "unauthorized"),), "refuses every key, always"),
    )
}
"""The built-in scenarios by name."""


def find_scenario(name: str) -> Scenario:
    """The built-in scenario of that name; a leading ``sim/`` is ignored.

    Raises:
        UsageError: there is none; the hint lists those there are.
    """
    scenario = SCENARIOS.get(name.removeprefix("sim/"))
    if scenario is None:
        raise UsageError(f"scenario {name!r} is unknown", hint=f"one of: {', '.join(SCENARIOS)}")
    return scenario
