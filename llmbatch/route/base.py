"""What is known of one route, and what may be sent: the questions that a scheduler asks. It judges no answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmbatch.breaker.core import Circuit, PermitState
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.core.calls import Outcome
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.route.account import AccountRefusals
from llmbatch.route.evidence import Evidence
from llmbatch.route.failures import MOST_USUAL, FailureWindow, UsualRate
from llmbatch.route.law import FLOOR
from llmbatch.route.outage import Candidates, Outage, Probe, Trust
from llmbatch.route.throttle import Throttle

__all__ = ["Call", "CallKind", "RouteBase", "RouteHistory", "RoutePolicy"]

CallKind = Literal["row", "ping", "good"]
"""A row of the input, the smallest request, or the request of a finished row sent once more."""

RAMP_START = 2.0
"""Requests in flight after a wait."""

CHECK_SECONDS = 1.0
"""Seconds without a good answer before a request is sent that no row waits for, and between two of them."""

FURTHER_ROWS = 4
"""Rows from further ahead that have to raise too before a function's own exceptions stop the run."""

UNREACHABLE_SECONDS = 600.0
"""How long a route that has never answered is tried where no other bound is set."""

LONG_PING = 20.0
"""Seconds that the smallest request may take where every answer was slower than the time limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """The options that a route's decisions depend on; see :class:`llmbatch.runner.options.RunOptions`."""

    concurrency: int
    max_attempts: int
    failure_threshold: int
    recovery_timeout: float
    success_threshold: int
    timeout: float
    max_outage: float | None = None
    max_throttled: float = math.inf
    """Seconds to go on while nothing but throttling comes back."""

    @property
    def breaker(self) -> BreakerPolicy:
        """The circuit's own options: it opens by :meth:`RouteState.settle` alone, which knows what is in flight."""
        return BreakerPolicy(
            failure_threshold=None,
            recovery_timeout=self.recovery_timeout,
            success_threshold=self.success_threshold,
            first_recovery_timeout=min(1.0, self.recovery_timeout),
            growth=1.0,
        )


class RouteHistory:
    """What is known of a route, whichever of its tenants learned it."""

    __slots__ = ("answered", "answered_before", "refusals", "throttled")

    def __init__(self, *, answered_before: Callable[[], bool] = lambda: False) -> None:
        self.answered = False
        """Whether the route has answered well in this run."""
        self.answered_before = answered_before
        """Whether it did in an earlier one."""
        self.refusals = AccountRefusals()
        self.throttled: dict[int, str] = {}
        """Rows that were throttled since a call of their tenant succeeded last, each with its tenant's label."""

    @property
    def ever(self) -> bool:
        """Whether the route has ever answered well."""
        return self.answered or self.answered_before()


@dataclass(slots=True)
class Call:
    """One call that was let out. ``row`` is 0 where it carries none of the rows that wait."""

    row: int
    kind: CallKind
    ticket: PermitState
    timeout: float
    sent_at: float
    fresh: bool = False
    """Whether its row had never failed."""

    @property
    def serial(self) -> int:
        """The call's number on its route."""
        return self.ticket.serial

    @property
    def probe(self) -> bool:
        """Whether it tries an open circuit."""
        return self.ticket.probe


class RouteBase:
    """Circuit, limit, evidence, outage and named waits of one route, and what follows from them; see RouteState."""

    __slots__ = (
        "_chance",
        "_failed_checks",
        "_fresh_out",
        "_out",
        "_policy",
        "_steady",
        "_stop",
        "_succeeded_at",
        "_unreached",
        "_usual",
        "can_check",
        "checked_at",
        "checking",
        "circuit",
        "dead",
        "evidence",
        "history",
        "label",
        "limit",
        "message",
        "outage",
        "slowest",
        "throttle",
        "trust",
        "window",
    )

    # What one can ask.

    def __init__(
        self, label: str, policy: RoutePolicy, *, history: RouteHistory, chance: Callable[[str], float] = lambda _: 0.5
    ) -> None:
        self.label = label
        self.history = history
        self.circuit = Circuit(policy.breaker)
        self.limit = AdaptiveLimit(policy.concurrency)
        self._out: dict[int, None] = {}
        """The numbers of the calls in flight, the oldest first."""
        self.evidence = Evidence(policy.max_attempts, self._out)
        self.window = FailureWindow()
        self.throttle = Throttle()
        self.trust = Trust()
        self.outage: Outage | None = None
        """Set while the circuit is not closed."""
        self.dead: Outcome | None = None
        """Set when only the operator can help."""
        self.message = ""
        """What the last answer that was not good said."""
        self.slowest = 0.0
        """The slowest good answer lately, in seconds, fading."""
        self.can_check = False
        """Whether a request can be sent that carries no row of the input, to learn whether the route works."""
        self.checking = 0
        """Requests in flight that no row waits for, to learn whether the route works."""
        self.checked_at = -math.inf
        """When the last such request came back."""
        self._policy = policy
        self._chance = chance
        self._usual = UsualRate(FLOOR, 10.0, least=FLOOR, most=MOST_USUAL)
        """How often rows fail that never failed before."""
        self._steady = 0.0
        """The highest limit at an opening since the provider last asked to slow down."""
        self._fresh_out = 0
        """Calls in flight that carry rows which never failed."""
        self._succeeded_at = -math.inf
        """When the last call succeeded."""
        self._failed_checks = 0.0
        """The logarithm of the chance that the latest checks, all of which failed, did so by the usual errors."""
        self._stop: tuple[int, Outcome] | None = None
        """Exit code and answer that stop the run, once nothing in flight can disprove it."""
        self._unreached: float | None = None
        """Since when a route that has never answered a row cannot be reached, or answers the smallest request only."""

    def __repr__(self) -> str:
        where = "dead" if self.dead is not None else self.circuit.phase
        return f"<RouteState {self.label} {where}, {len(self._out)} in flight, limit {self.limit.value}>"

    @property
    def in_flight(self) -> int:
        """Calls that have not come back."""
        return len(self._out)

    @property
    def is_closed(self) -> bool:
        """Whether ordinary calls may go, were it for the circuit alone."""
        return self.circuit.is_closed

    @property
    def is_confirmed(self) -> bool:
        """Whether there is an outage, and not only an opening that the next probe may disprove."""
        return self.outage is not None and self.outage.confirmed

    @property
    def is_stopping(self) -> bool:
        """Whether the route is about to be given up, once nothing in flight can disprove it."""
        return self._stop is not None

    @property
    def reason(self) -> str:
        """Why the circuit is open, with what the provider last said; empty while it is closed."""
        why = self.circuit.reason
        return f"{why}: {self.message}" if why and self.message else why

    @property
    def looks_further(self) -> bool:
        """Whether rows further ahead are tried before the run stops: the function may be right, and its first rows bad.

        What a function raises of its own is its rows' fault, not that of a provider which has to be spared.
        """
        if self._stop is None or self.outage is None or self.outage.failed_rows >= FURTHER_ROWS:
            return False
        outcome = self._stop[1]
        return outcome.scope == "row" and outcome.status is None and outcome.retry

    def takes_calls(self, now: float) -> bool:
        """Whether ordinary calls may be sent at all."""
        throttle = self.throttle
        return (
            self.circuit.phase == "closed"
            and now >= throttle.not_before
            and self.dead is None
            and not throttle.given_up
        )

    def room(self, now: float) -> int:
        """Calls that may be sent now.

        While chance hardly explains what has failed, the slot of a failed call is not filled again before a later call
        has succeeded: when an outage begins, no more than what was in flight, and what it takes to be sure, meets it.
        """
        if not self.takes_calls(now):
            return 0
        if self.throttle.ramp_due:
            self.ramp()
        out = len(self._out)
        free = self.limit.value - out
        failed = self.window.rows
        if failed and free > 0 and self.window.is_suspicious(self._fresh_out):
            free -= len(failed)
        return max(free, 0 if out else 1)

    def ramp(self) -> None:
        """A wait is over: add few calls to those in flight instead of a stampede."""
        self.throttle.ramp_due = False
        self.limit.resume(len(self._out))

    def retry_after(self, now: float) -> float:
        """Seconds until this route may take a row again: finite and above zero."""
        wait = self.throttle.not_before - now
        if not self.circuit.is_closed:
            wait = max(wait, self.circuit.retry_after(now))
        return max(wait, 0.05)

    def next_change(self, now: float) -> float | None:
        """When the route may take a call that it does not take now; None where only an answer can change that."""
        if self.dead is not None or self.throttle.given_up or (self._stop is not None and not self.looks_further):
            return None
        if not self.circuit.is_closed:
            return max(self._probe_at, self.throttle.not_before)
        return self.throttle.not_before if self.throttle.not_before > now else None

    def is_idle(self, now: float) -> bool:
        """Whether nothing but a learned pace would be lost if this were forgotten."""
        return (
            not self._out
            and not self.evidence.records
            and self.circuit.is_closed
            and now >= self.throttle.not_before
            and self.dead is None
            and not self.throttle.given_up
        )

    def is_lost(self, now: float) -> bool:
        """Whether a route that has never answered has been tried for long enough."""
        if self._unreached is None or self.history.ever:
            return False
        most = UNREACHABLE_SECONDS if self._policy.max_outage is None else self._policy.max_outage
        return now - self._unreached >= most

    @property
    def lost_at(self) -> float:
        """When :meth:`is_lost` becomes true if nothing changes; infinite where it does not."""
        if self._unreached is None or self.history.ever:
            return math.inf
        return self._unreached + (UNREACHABLE_SECONDS if self._policy.max_outage is None else self._policy.max_outage)

    def explain(self, row: int | None = None) -> str:
        """Why *row* is where it is, or how the route is, in a phrase for people."""
        if row is not None:
            return self.evidence.explain(row)
        rate = f"{self.evidence.rate.value:.1%} of attempts of good rows fail"
        if self.outage is None:
            return rate
        kind = "outage" if self.outage.confirmed else "not confirmed yet"
        return f"circuit open ({kind}): {self.reason}; before, {rate}"

    # Calls.

    def admit(self, row: int, now: float, *, kind: CallKind = "row", timeout: float) -> Call | None:
        """Let one call out, or None where the circuit refuses it."""
        ticket = self.circuit.acquire(now, row, lease=timeout + 5.0)
        if ticket is None:
            return None
        record = self.evidence.records.get(row) if self.evidence.records else None
        if record is not None:
            record.in_flight = True
            record.held = False
        fresh = record is None and kind == "row"
        self._fresh_out += fresh
        if ticket.probe and self.outage is not None:
            self.outage.turn += 1
            self.outage.check_next = False
        if kind != "row":
            if self.throttle.ramp_due and self.circuit.is_closed:
                self.ramp()  # it is the first call after a wait
            self.checking += 1
        self._out[ticket.serial] = None
        return Call(row, kind, ticket, timeout, now, fresh)

    def _returned(self, call: Call) -> None:
        self._out.pop(call.ticket.serial, None)
        self._fresh_out -= call.fresh
        if call.kind != "row":
            self.checking -= 1
        elif self.evidence.records:
            record = self.evidence.records.get(call.row)
            if record is not None:
                record.in_flight = False

    def probe_timeout(self, kind: CallKind = "row") -> float:
        """Seconds that a probe may take: given up sooner than a call, but not before a slow model could answer."""
        outage, timeout = self.outage, self._policy.timeout
        if self.slowest <= 0.0:
            # Nobody knows how long answers take: where all were slower than the limit, a longer one may tell.
            longer = kind != "row" and outage is not None and outage.cause == "timeouts"
            return max(timeout, LONG_PING) if longer else timeout
        hung = 0 if outage is None else outage.hung
        return min(timeout, max(10.0, 3.0 * self.slowest) * 2.0 ** min(hung, 10))

    @property
    def _probe_at(self) -> float:
        return self.circuit.lease_until if self.circuit.probing else self.circuit.until

    def next_probe(self, now: float, candidates: Candidates) -> Probe | None:
        """Who may probe now; None where it is not time yet, or nobody can."""
        if self.outage is None or self.dead is not None or (self._stop is not None and not self.looks_further):
            return None
        if now < self.throttle.not_before or now < self._probe_at:
            return None
        probe = self.outage.next_probe(self.trust, candidates)
        if probe is not None and probe.kind == "fresh":
            self.trust.jumps += 1
        return probe

    @property
    def check_at(self) -> float:
        """No check is sent before."""
        return max(self.checked_at, self._succeeded_at) + CHECK_SECONDS

    def doubts(self, now: float) -> bool:
        """Whether so many rows fail that a finished row's request should tell, before the circuit opens."""
        return (
            bool(self.window.rows)
            and not self.checking
            and now >= self.checked_at + CHECK_SECONDS
            and self.takes_calls(now)
            and self.window.is_doubtful(self._fresh_out)
        )

    def wants_check(self, now: float) -> bool:
        """Whether rows have failed that only another request can judge: none in flight can, were it to succeed."""
        if not self.evidence.unproven or self.checking or not self.takes_calls(now) or now < self.check_at:
            return False
        return not self._fresh_out or max(self._out) < self.evidence.newest_unproven
