"""An open circuit: since when, why, what the probes said, and who probes next.

Exists only while the circuit is not closed. First a fresh row probes, then the smallest request; while rows fail and
that one passes, it is no longer asked alone. Fresh rows come from further and further ahead in the input, so that no
block of bad rows holds a run up; parked rows take turns with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Candidates", "Cause", "Outage", "Probe", "Trust", "probe_wait"]

Cause = Literal["failures", "refusals", "timeouts", "last rows", "stop"]

ProbeKind = Literal["fresh", "parked", "ping", "good"]

CONFIRMING_ROWS, MANY_CONFIRMING_ROWS = 4, 12
"""Failed probes by rows that confirm an outage: where no smallest request can be asked, and where it can."""

CONFIRMING_CHANCE = 0.02
"""An opening is an outage once the failed checks are less likely than this."""

JUMPS = (0, 64, 1024)
"""Rows passed over before a fresh one probes, growing while such probes fail."""

SHARE = 0.1
"""The wait between probes, as a share of the time the outage has lasted."""

SHORTEST = 1.0
"""The shortest wait between probes, in seconds."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could probe: a row that was never sent, a parked one, the smallest request, a finished row's request."""

    fresh: bool
    parked: bool
    ping: bool
    good: bool
    untried: bool = True
    """Whether a parked row has never failed."""

    @property
    def checks(self) -> bool:
        """Whether the route can be tried without a row that waits."""
        return self.ping or self.good


@dataclass(frozen=True, slots=True)
class Probe:
    """Who probes: *jump* is the number of fresh rows to pass over first."""

    kind: ProbeKind
    jump: int = 0


@dataclass(slots=True)
class Trust:
    """How far the smallest request is believed, and how far ahead fresh rows probe; anew after each good row."""

    pings: int = 0
    """How often in a row the smallest request alone has closed the circuit."""
    jumps: int = 0
    """How often fresh rows have probed."""
    false_opening: bool = False
    """Whether the last opening was a mistake."""
    since: float | None = None
    """When the first of the openings began that the smallest request alone has closed; no row has passed since."""
    proven_by_ping: set[int] = field(default_factory=set)
    """Rows whose failures counted on the word of the smallest request alone."""


@dataclass(slots=True)
class Outage:
    """One opening of a circuit."""

    since: float
    cause: Cause
    newest_failure: int
    confirmed: bool = False
    """Whether a probe showed that it is an outage. Until then it is not counted, and not announced."""
    failed_rows: int = 0
    chance: float = 1.0
    """How likely it is that the requests which nothing speaks against failed by the usual errors alone."""
    failed_checks: int = 0
    """Requests that nothing speaks against and that failed, the smallest and a finished row's: they take turns."""
    hung: int = 0
    turn: int = 0
    """Probes sent."""
    can_check: bool = False
    """Whether a request that nothing speaks against can be sent; then only many rows confirm an outage without it."""
    only_failed_rows: bool = False
    """Whether only rows can probe that have failed, so that no probe can tell an outage from bad rows."""
    check_next: bool = False
    """Whether a request that nothing speaks against probes next: a row's refusal said too little, or one more good
    probe is needed."""

    def row_failed(self) -> bool:
        """A row's probe failed. Whether that confirms the outage."""
        self.failed_rows += 1
        enough = MANY_CONFIRMING_ROWS if self.can_check else CONFIRMING_ROWS
        return self._confirm(self.failed_rows >= enough and not self.only_failed_rows)

    def ping_failed(self, rate: float) -> bool:
        """A request that nothing speaks against failed, as happens with *rate* by chance. Whether that confirms it."""
        self.failed_checks += 1
        self.chance *= rate
        return self._confirm(yes=self.chance < CONFIRMING_CHANCE)

    def _confirm(self, yes: bool) -> bool:
        news = yes and not self.confirmed
        self.confirmed = self.confirmed or yes
        return news

    def next_probe(self, trust: Trust, candidates: Candidates) -> Probe | None:
        """Who probes next, of those who can; None where nobody can."""
        self.can_check = candidates.checks
        self.only_failed_rows = not (candidates.checks or candidates.fresh or candidates.untried)
        checks = self._checks(trust)
        for kind in (*checks, *self._order(trust)) if self.check_next else self._order(trust):
            if getattr(candidates, kind):
                if kind != "fresh":
                    return Probe(kind)
                return Probe("fresh", JUMPS[min(trust.jumps, len(JUMPS) - 1)])
        return None

    def _checks(self, trust: Trust) -> tuple[ProbeKind, ...]:
        """The smallest request and a finished row's, the one first that is to be asked."""
        return ("good", "ping") if trust.pings or self.failed_checks % 2 else ("ping", "good")

    def _order(self, trust: Trust) -> tuple[ProbeKind, ...]:
        """All four kinds, the one whose turn it is first."""
        checks = self._checks(trust)
        if self.cause in ("timeouts", "stop") and not self.turn and not trust.pings:
            return (*checks, "fresh", "parked")
        if trust.false_opening and not self.turn:
            # The last opening was a mistake, and no row has passed since: ask what told so.
            return ("good", "fresh", "parked", "ping")
        if trust.pings and (self.turn + 1) % (4 << min(trust.pings, 4)) == 0:
            # Now and then, ever more seldom: it may be that only bad rows are left.
            return ("ping", "good", "parked", "fresh")
        if self.turn % 2 == 1 and not (trust.pings and self.turn % 4 == 3):
            # The smallest request alone does not close the circuit again and again while rows fail.
            return (*checks, "fresh", "parked") if not trust.pings else ("good", "fresh", "parked", "ping")
        if self.turn % 4 == 2:
            return ("parked", "fresh", *checks)
        return ("fresh", "parked", *checks)


def probe_wait(lasted: float, longest: float, chance: float) -> float:
    """Seconds until the next probe of an outage that has lasted for *lasted* seconds; *chance* is a draw, 0 to 1.

    A tenth of that time, from one second to *longest*, less up to a tenth so that many runs do not probe at once.
    """
    wait = max(min(SHORTEST, longest), min(longest, SHARE * lasted))
    return wait * (1.0 - 0.1 * chance) if wait > SHORTEST else wait
