"""State of one route, and the queries of the scheduler: what may be sent, and when. Outcomes are judged elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmbatch.breaker.core import Circuit
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.core.calls import Outcome
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.route.calls import OVERDUE_SECONDS, Call, CallKind, CallsInFlight
from llmbatch.route.decisions import Decision, Tell
from llmbatch.route.evidence import Evidence, is_own_error
from llmbatch.route.failures import MOST_USUAL, FailureWindow, UsualRate
from llmbatch.route.health import HealthChecks, RecentAnswers
from llmbatch.route.history import RouteHistory
from llmbatch.route.law import FLOOR
from llmbatch.route.outage import SHARE, Candidates, Outage, Probe, Trust
from llmbatch.route.throttle import Throttle

__all__ = ["RouteBase", "RoutePolicy"]

CHECK_SECONDS = 1.0
"""Seconds without a success before a health check is sent, and between two of them."""

FURTHER_ROWS = 4
"""Failed probes by rows from further ahead before a function's exceptions stop the run."""

UNREACHABLE_SECONDS = 600.0
"""Seconds after which a route that has never answered is given up, if no ``max_outage`` is set."""

LONG_PING = 20.0
"""Time limit of a health check, in seconds, if every call was slower than the usual limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """Options that a route's decisions depend on; see :class:`llmbatch.runner.options.RunOptions`."""

    concurrency: int
    max_attempts: int
    failure_threshold: int
    recovery_timeout: float
    success_threshold: int
    timeout: float
    is_auto: bool = False
    """Whether the limit starts low and searches for the best, up to ``concurrency``."""
    max_outage: float | None = None
    max_throttled: float = math.inf
    """Seconds to continue while every call is throttled."""
    probe_share: float = SHARE
    """Wait between probes, as a share of the time that the outage has lasted."""

    @property
    def breaker(self) -> BreakerPolicy:
        """Options of the circuit. Its own trip rule is off: :meth:`RouteState.settle` opens it."""
        return BreakerPolicy(
            failure_threshold=None,
            recovery_timeout=self.recovery_timeout,
            success_threshold=self.success_threshold,
            first_recovery_timeout=min(1.0, self.recovery_timeout),
            growth=1.0,
        )


class RouteBase:
    """Circuit, limit, evidence, outage and named waits of one route, and queries about them; see RouteState."""

    __slots__ = (
        "_chance",
        "_policy",
        "_steady",
        "_stop",
        "_unreached",
        "_usual",
        "calls",
        "checks",
        "circuit",
        "dead",
        "evidence",
        "history",
        "is_tenant",
        "label",
        "limit",
        "outage",
        "recent",
        "throttle",
        "trust",
        "window",
    )

    # Queries.

    def __init__(
        self,
        label: str,
        policy: RoutePolicy,
        *,
        history: RouteHistory,
        is_tenant: bool = False,
        chance: Callable[[str], float] = lambda _: 0.5,
    ) -> None:
        self.label = label
        self.history = history
        self.is_tenant = is_tenant
        """Whether this is one tenant of a route: then other tenants' answers and pings show little about it."""
        self.circuit = Circuit(policy.breaker)
        self.limit = AdaptiveLimit(policy.concurrency, is_auto=policy.is_auto)
        self.calls = CallsInFlight()
        self.evidence = Evidence(policy.max_attempts, self.calls)
        self.window = FailureWindow()
        self.throttle = Throttle()
        self.trust = Trust()
        self.outage: Outage | None = None
        """Set while the circuit is not closed."""
        self.dead: Outcome | None = None
        """Outcome because of which the route was given up; None while it is not."""
        self.recent = RecentAnswers()
        self.checks = HealthChecks()
        self._policy = policy
        self._chance = chance
        self._usual = UsualRate(FLOOR, 10.0, least=FLOOR, most=MOST_USUAL)
        """How often rows fail for the first time."""
        self._steady = 0.0
        """Highest limit when the circuit opened, since the route was last throttled."""
        self._stop: tuple[int, Outcome] | None = None
        """Exit code and outcome that stop the run once no call in flight can disprove them; None: no stop."""
        self._unreached: float | None = None
        """Since when a route that has never answered a row cannot be reached, or answers pings only; None: it does."""

    def __repr__(self) -> str:
        where = "dead" if self.dead is not None else self.circuit.phase
        return f"<RouteState {self.label} {where}, {len(self.calls)} in flight, limit {self.limit.value}>"

    @property
    def in_flight(self) -> int:
        """Number of calls in flight."""
        return len(self.calls)

    @property
    def is_closed(self) -> bool:
        """Whether the circuit is closed."""
        return self.circuit.is_closed

    @property
    def is_confirmed(self) -> bool:
        """Whether there is a confirmed outage, not only an opening that the next probe may disprove."""
        return self.outage is not None and self.outage.confirmed

    @property
    def is_stopping(self) -> bool:
        """Whether the route is given up as soon as no call in flight can disprove it."""
        return self._stop is not None

    @property
    def reason(self) -> str:
        """Why the circuit is open, with the last error message; empty while it is closed."""
        why = self.circuit.reason
        return f"{why}: {self.recent.error}" if why and self.recent.error else why

    @property
    def looks_further(self) -> bool:
        """Whether rows further ahead are tried before the run stops, as only the first rows may be bad.

        Applies to exceptions of a user's function: trying more rows does no harm to a provider.
        """
        if self._stop is None or self.outage is None or self.outage.failed_rows >= FURTHER_ROWS:
            return False
        outcome = self._stop[1]
        return is_own_error(outcome)

    @property
    def is_silent(self) -> bool:
        """Whether no row of this route is known to have been answered; of a tenant, no row of its own."""
        if self.is_tenant and self.recent.succeeded_at == -math.inf and not self.checks.available:
            return True
        return not self.history.ever

    @property
    def is_refused_alone(self) -> bool:
        """Whether the key is refused to this tenant only: others were answered since."""
        return self.recent.key_refused_at < self.history.good_sent_at

    @property
    def is_reached(self) -> bool:
        """Whether the route is known to answer something: a row, or the smallest request."""
        return self.history.ever or self.history.reached

    @property
    def may_ping(self) -> bool:
        """Whether the smallest request can show anything.

        Of a tenant it shows only whether the route answers, which counts while no row of the tenant ever was answered.
        """
        if not self.is_tenant:
            return True
        if self.outage is not None:
            return self.is_silent
        return self._unreached is not None and not self.is_reached

    def wants_ping(self, now: float) -> bool:
        """Whether the smallest request should be sent at once: nothing was ever answered, and a row took too long."""
        return (
            bool(self.history.slow)
            and not self.is_reached
            and not self.calls.checks
            and now >= self.checks.ended_at + CHECK_SECONDS
            and self.takes_calls(now)
        )

    def takes_calls(self, now: float) -> bool:
        """Whether calls other than probes may be sent."""
        throttle = self.throttle
        return (
            self.circuit.phase == "closed"
            and now >= throttle.not_before
            and self.dead is None
            and not throttle.given_up
        )

    def room(self, now: float) -> int:
        """Number of calls that may be sent now.

        While chance hardly explains the failures, slots of failed calls stay free until a later call succeeds. So an
        outage meets few calls beyond those in flight when it begins.
        """
        if not self.takes_calls(now):
            return 0
        if self.throttle.ramp_due:
            self.ramp()
        out = len(self.calls)
        free = self.limit.value - out
        failed = self.window.rows
        if failed and free > 0 and self.window.is_suspicious(self.calls.fresh):
            free -= len(failed)
        return max(free, 0 if out else 1)

    def ramp(self) -> None:
        """Begin a ramp after a wait: few calls more than are in flight."""
        self.throttle.ramp_due = False
        self.limit.resume(len(self.calls))

    def plan_ramp(self) -> None:
        """Ramp up before the next call: the process was paused, or this machine was at fault."""
        self.throttle.ramp_due = True

    def allow_checks(self) -> None:
        """Note that health checks can be sent from now on."""
        self.checks.available = True

    def retry_after(self, now: float) -> float:
        """Seconds until the route may take a row again: finite, at least 0.05."""
        wait = self.throttle.not_before - now
        if not self.circuit.is_closed:
            wait = max(wait, self.circuit.retry_after(now))
        return max(wait, 0.05)

    def next_change(self, now: float) -> float | None:
        """When the route may take a call that it does not take now; None if only an answer can change that."""
        if self.dead is not None or self.throttle.given_up or (self._stop is not None and not self.looks_further):
            return None
        if not self.circuit.is_closed:
            return max(self._probe_at, self.throttle.not_before)
        return self.throttle.not_before if self.throttle.not_before > now else None

    def is_idle(self, now: float) -> bool:
        """Whether the route can be dropped: only its learned limit would be lost."""
        return (
            not self.calls
            and not self.evidence.records
            and self.circuit.is_closed
            and now >= self.throttle.not_before
            and self.dead is None
            and not self.throttle.given_up
        )

    def is_lost(self, now: float) -> bool:
        """Whether a route that has never answered has been tried long enough to give it up."""
        return now >= self.lost_at

    @property
    def lost_at(self) -> float:
        """When :meth:`is_lost` becomes true if nothing changes; infinity if it does not.

        A tenant is not lost while the provider answers others.
        """
        since = self._unreached
        if since is None or self.history.ever:
            return math.inf
        if self.is_tenant:
            since = max(since, self.history.heard_at)
        return since + (UNREACHABLE_SECONDS if self._policy.max_outage is None else self._policy.max_outage)

    def explain(self, row: int | None = None) -> str:
        """Describe the evidence against *row*, or how often attempts of good rows fail here, in a phrase for humans."""
        if row is not None:
            return self.evidence.explain(row)
        return f"{self.evidence.rate.value:.1%} of attempts of good rows fail"

    # Calls.

    def admit(self, row: int, now: float, *, kind: CallKind = "row", timeout: float) -> Call | None:
        """Admit one call; None if the circuit refuses it. *row* is 0 for a health check. *timeout* is in seconds."""
        permit = self.circuit.acquire(now, row, lease=timeout + OVERDUE_SECONDS)
        if permit is None:
            return None
        record = self.evidence.records.get(row) if self.evidence.records else None
        if record is not None:
            record.in_flight = True
            record.held = False
        if permit.probe and self.outage is not None:
            self.outage.turn += 1
            self.outage.check_next = False
        if kind != "row" and self.throttle.ramp_due and self.circuit.is_closed:
            self.ramp()  # it is the first call after a wait
        call = Call(row, kind, permit, timeout, now, record is None and kind == "row", len(self.calls) + 1)
        self.calls.add(call)
        self.history.in_flight += 1
        return call

    def probe_timeout(self, kind: CallKind = "row") -> float:
        """Time limit of a probe in seconds: shorter than that of a call, but long enough for a slow model."""
        outage, timeout = self.outage, self._policy.timeout
        if self.recent.slowest <= 0.0:
            # Latency is unknown. If every call timed out, a longer limit for health checks may show why.
            longer = kind != "row" and outage is not None and outage.cause == "timeouts"
            return max(timeout, LONG_PING) if longer else timeout
        hung = 0 if outage is None else outage.hung
        return min(timeout, max(10.0, 3.0 * self.recent.slowest) * 2.0 ** min(hung, 10))

    @property
    def _probe_at(self) -> float:
        return self.circuit.lease_until if self.circuit.probing else self.circuit.until

    def next_probe(self, now: float, candidates: Candidates) -> Probe | None:
        """Choose the next probe; None if it is too early, or nothing can probe."""
        if self.outage is None or self.dead is not None or (self._stop is not None and not self.looks_further):
            return None
        if now < self.throttle.not_before or now < self._probe_at:
            return None
        if self.checks.ping_misleads and candidates.good:
            candidates = replace(candidates, ping=False)
        probe = self.outage.next_probe(self.trust, candidates)
        if probe is not None and probe.kind == "fresh":
            self.trust.jumps += 1
        return probe

    @property
    def check_at(self) -> float:
        """Earliest time of the next health check."""
        return max(self.checks.ended_at, self.recent.succeeded_at) + CHECK_SECONDS

    def wants_early_check(self, now: float) -> bool:
        """Whether so many rows fail that the request of a finished row should be sent, before the circuit opens."""
        return (
            bool(self.window.rows)
            and not self.calls.checks
            and now >= self.checks.ended_at + CHECK_SECONDS
            and self.takes_calls(now)
            and self.window.is_doubtful(self.calls.fresh)
        )

    def wants_check(self, now: float) -> bool:
        """Whether a health check should be sent, because no call in flight could prove the failed rows."""
        if not self.evidence.unproven or self.calls.checks or not self.takes_calls(now) or now < self.check_at:
            return False
        return not self.calls.fresh or self.calls.newest < self.evidence.newest_unproven

    def prefers_check(self, last: Outcome | None, now: float) -> bool:
        """Whether a health check goes before a row whose *last* call was throttled: the row may be alone with that."""
        return last is not None and last.verdict == "throttled" and self.checks.available and self.wants_check(now)

    @property
    def _most_unreached(self) -> str:
        """How long a route that has never answered is tried, in words."""
        bound = self._policy.max_outage
        return f"{UNREACHABLE_SECONDS / 60:g} minutes" if bound is None else f"--max-outage {bound:g} s"

    def _warn_once(self, message: str, hint: str) -> list[Decision]:
        """Warn that the route has never answered, once for all of its tenants."""
        told = f"{self.history.name or self.label} {message}"
        if told in self.history.told:
            return []
        self.history.told.add(told)
        return [Tell("warning", told, f"{hint}, for {self._most_unreached} at most")]

    def _name_silence(self, call: Call) -> list[Decision]:
        """Warn that not even a ping was ever answered."""
        hint = "is the address right, and is the server up? if it is only slow at first, raise --timeout"
        return self._warn_once(
            f"has never answered, not even the smallest request within {call.timeout:g} s",
            f"{hint} ({self._policy.timeout:g} s); still trying",
        )
