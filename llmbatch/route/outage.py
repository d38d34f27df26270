"""Track an open circuit: since when, why, how its probes ended, and what probes next.

First a fresh row probes, then the smallest request (ping). A ping that passes while rows fail is no longer enough to
close the circuit again and again. Fresh rows come from further and further ahead in the input, so that no block of bad
rows holds a run up; parked rows take turns with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from llmbatch.core.calls import record

__all__ = ["Candidates", "Cause", "Outage", "Probe", "Trust", "probe_wait"]

Cause = Literal["failures", "refusals", "timeouts", "last rows", "stop", "elsewhere"]
"""Why a circuit was opened; ``elsewhere``: another process has opened it."""

ProbeKind = Literal["fresh", "parked", "ping", "good"]

CONFIRMING_ROWS, MANY_CONFIRMING_ROWS = 4, 12
"""Failed probes by rows that confirm an outage: if no health check can be sent, and if one can."""

CONFIRMING_CHANCE = 0.02
"""Chance of the failed health checks, 0 to 1, below which an opening is an outage."""

JUMPS = (0, 64, 1024)
"""Rows to skip in the input before the first, second and later fresh probes."""

SHARE = 0.1
"""Wait between probes, as a share of the time that the outage has lasted."""

SHORTEST = 1.0
"""Shortest wait between probes, in seconds."""


@record
class Candidates:
    """What can probe: a row that was never sent, a parked row, the smallest request, a finished row's request."""

    fresh: bool
    parked: bool
    ping: bool
    good: bool
    untried: bool = True
    """Whether some parked row has never failed."""

    @property
    def checks(self) -> bool:
        """Whether a health check can probe."""
        return self.ping or self.good


@record
class Probe:
    """The next probe. *jump*: number of fresh rows to skip first."""

    kind: ProbeKind
    jump: int = 0


@dataclass(slots=True)
class Trust:
    """How far pings are trusted, and how far ahead fresh rows probe. Starts over after each row that succeeds."""

    pings: int = 0
    """How often in a row a ping alone has closed the circuit."""
    jumps: int = 0
    """Number of probes by fresh rows."""
    false_opening: bool = False
    """Whether the next probe disproved the last opening."""
    since: float | None = None
    """When the first opening began that a ping alone has closed; no row has succeeded since. None: there was none."""
    proven_by_ping: set[int] = field(default_factory=set)
    """Rows whose failures were proven by pings alone."""


@dataclass(slots=True)
class Outage:
    """One opening of a circuit."""

    since: float
    cause: Cause
    newest_failure: int
    confirmed: bool = False
    """Whether probes confirmed an outage. Before that it is neither counted nor announced."""
    failed_rows: int = 0
    """Failed probes by rows."""
    chance: float = 1.0
    """Chance that all failed health checks failed by ordinary random errors, 0 to 1."""
    failed_checks: int = 0
    """Failed health checks; pings and finished rows' requests take turns."""
    hung: int = 0
    """Probes that timed out."""
    pinged: Literal["no", "answered", "silent"] = "no"
    """How the last ping ended: ``silent`` if that means that the provider is down."""
    answered_since: float = math.inf
    """Since when all pings were answered; infinite if the last one was not, or another request was asked since."""
    pinged_good: bool = False
    """Whether the last ping was a request that has succeeded before, as another tenant's."""
    turn: int = 0
    """Probes sent."""
    can_ask_good: bool = False
    """Whether the request of a finished row can be sent."""
    good_failed: bool = False
    """Whether one has failed. Until then pings confirm nothing where one can be sent: they may always fail."""
    can_check: bool = False
    """Whether health checks can be sent; then it takes many failed rows to confirm an outage without one."""
    only_failed_rows: bool = False
    """Whether only rows that have failed can probe, so that no probe can tell an outage from bad rows."""
    is_silent: bool = False
    """Whether no row of the route was ever answered. If all took too long, the smallest request may show why."""
    check_next: bool = False
    """Whether a health check probes next: the refusal of a row was no clear answer, or one more success is needed."""

    def note_ping(self, now: float, *, is_answer: bool, is_good: bool) -> None:
        """Note how a ping ended: with what only a provider that is up answers, or not. *is_good*: see pinged_good."""
        # Until a good request is known, errors count as answers; they say nothing once it is asked.
        since = self.answered_since if is_good is self.pinged_good else math.inf
        self.pinged_good = is_good
        self.answered_since = min(since, now) if is_answer else math.inf
        self.pinged = "answered" if is_answer else "silent"

    def row_failed(self) -> bool:
        """Count a failed probe by a row; return whether that confirms the outage."""
        self.failed_rows += 1
        enough = MANY_CONFIRMING_ROWS if self.can_check else CONFIRMING_ROWS
        return self._confirm(self.failed_rows >= enough and not self.only_failed_rows)

    def check_failed(self, rate: float, *, is_good: bool) -> bool:
        """Count a failed health check (by chance at *rate*, 0 to 1); return whether that confirms the outage.

        *is_good*: it was a finished row's request.
        """
        self.failed_checks += 1
        self.chance *= rate
        self.good_failed = self.good_failed or is_good
        self.check_next = self.can_ask_good and not self.good_failed
        return self._confirm(yes=self.chance < CONFIRMING_CHANCE and not self.check_next)

    def _confirm(self, yes: bool) -> bool:
        news = yes and not self.confirmed
        self.confirmed = self.confirmed or yes
        return news

    def next_probe(self, trust: Trust, candidates: Candidates) -> Probe | None:
        """Choose the next probe among *candidates*; None if there are none."""
        self.can_check = candidates.checks
        self.can_ask_good = candidates.good
        self.only_failed_rows = not (candidates.checks or candidates.fresh or candidates.untried)
        checks = self._checks(trust)
        for kind in (*checks, *self._order(trust)) if self.check_next else self._order(trust):
            if getattr(candidates, kind):
                if kind != "fresh":
                    return Probe(kind)
                return Probe("fresh", JUMPS[min(trust.jumps, len(JUMPS) - 1)])
        return None

    def _checks(self, trust: Trust) -> tuple[ProbeKind, ...]:
        """The two health checks, the one whose turn it is first."""
        return ("good", "ping") if trust.pings or self.failed_checks % 2 else ("ping", "good")

    def _order(self, trust: Trust) -> tuple[ProbeKind, ...]:
        """All four kinds of probes, the one whose turn it is first."""
        checks = self._checks(trust)
        if self.cause in ("timeouts", "stop") and not self.turn and (self.is_silent or not trust.pings):
            return (*checks, "fresh", "parked")
        if trust.false_opening and not self.turn:
            # The last opening was disproved, and no row has succeeded since: probe with what disproved it.
            return ("good", "fresh", "parked", "ping")
        if trust.pings and (self.turn + 1) % (4 << min(trust.pings, 4)) == 0:
            # Now and then, more and more rarely: perhaps only bad rows are left.
            return ("ping", "good", "parked", "fresh")
        if self.turn % 2 == 1 and not (trust.pings and self.turn % 4 == 3):
            # Pings alone must not close the circuit again and again while rows fail.
            return (*checks, "fresh", "parked") if not trust.pings else ("good", "fresh", "parked", "ping")
        if self.turn % 4 == 2:
            return ("parked", "fresh", *checks)
        return ("fresh", "parked", *checks)


def probe_wait(lasted: float, longest: float, chance: float, share: float = SHARE) -> float:
    """Seconds until the next probe of an outage that has lasted *lasted* seconds; *chance*: a random draw, 0 to 1.

    A *share* of that time, from 1 s to *longest*, less up to a tenth, so that many runs do not probe at once.
    """
    wait = max(min(SHORTEST, longest), min(longest, share * lasted))
    return wait * (1.0 - 0.1 * chance) if wait > SHORTEST else wait
