"""Everything a run knows about one circuit: itself, its pace, its waiting rows, and the evidence against them.

Pure bookkeeping and decisions; it awaits nothing and sends nothing. The rule it keeps (docs/evidence.md):
a failure or a refusal speaks against the *row* only once a call sent *later* on the same route has succeeded. Until
then it speaks against the route.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from llmbatch.breaker.core import Circuit
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.records import Outcome, Request, Route
from llmbatch.runner.recent import Recent
from llmbatch.runner.work import Place, Work

__all__ = ["ELEVATED", "Known", "Lane"]

ELEVATED = 0.02
"""Share of other rows failing from which a row's own failures no longer count against it."""

NEARLY_ALL = 0.8
FAIR_PART = 0.2
"""Shares of the calls sent since the first failure that have failed, with no success among them."""

EXCUSES = 3
"""How often an outage that only this row's failure announced is taken for one."""


class Known:
    """What is known of a route, whichever of its circuits learned it."""

    __slots__ = ("answered", "answered_before", "template")

    def __init__(self) -> None:
        self.answered = False
        """Whether the route has ever answered well in this run."""
        self.answered_before: bool | None = None
        """Whether it did in an earlier one; None: not looked up yet."""
        self.template: Request | None = None
        """A request that the route takes, for canaries."""


class Lane:
    """One circuit of a run: a route, or one tenant's part of it. *label* names it for people."""

    def __init__(
        self,
        route: Route,
        policy: BreakerPolicy,
        *,
        label: str,
        known: Known,
        concurrency: int,
        failure_threshold: int,
        chance: Callable[[], float],
    ) -> None:
        self.route = route
        self.label = label
        self.known = known
        self.circuit = Circuit(policy, chance=chance)
        self.limit = AdaptiveLimit(concurrency)
        self.recent = Recent(max(200, 5 * concurrency))
        self._threshold = failure_threshold
        self.queue: deque[Work] = deque()
        self.parked: dict[int, Work] = {}
        self.held: dict[int, Work] = {}
        self.unproved: dict[int, Work] = {}
        """Rows with failures or refusals that no later success has proven yet."""
        self.known_bad: dict[int, bool] = {}
        """Unfinished rows with failures that were proven, and whether one of them came while others did well."""
        self.live = 0
        """Unfinished rows of this route that were read."""
        self.inflight = 0
        self.not_before = 0.0
        """Nothing is sent before: the provider named this time, or throttled."""
        self.throttles = 0
        self.throttled_calls: deque[int] = deque(maxlen=1000)
        """The numbers of throttled calls that no later one has succeeded: they say nothing of health."""
        self.newest_success = 0
        """The highest number of a call that succeeded."""
        self.verdict_pending: Outcome | None = None
        """Set when first refusals closed the route until calls in flight have come back."""
        self.dead: Outcome | None = None
        """Set when only the operator can help."""
        self.throttled_since: float | None = None
        """Since when nothing but throttling has come back."""
        self.given_up = False
        """Set when throttling has lasted longer than the run will wait."""
        self.outage_since: float | None = None
        self.probes_failed = 0
        """Probes that have failed since the circuit opened."""
        self.opened_by_refusal = False
        self.opened_by_streak = False
        self.newest_failure = 0
        """The highest number of a call that failed, probes left out."""
        self.vouched_until = 0.0
        """Until then refused rows are doubted before the route: a probe showed that it works."""
        self.canary_first_until = 0.0
        """Until then a canary, which passed before, says more than the rows that fail."""
        self.trouble = ""
        """What the last answer that was not good said."""
        self.canary_out = False
        self.neutral_canaries = 0
        self.evidence_at = 0.0
        """No canary for evidence before."""
        self.slowest = 0.0
        """The slowest good answer lately, seconds, fading."""
        self.canary_failed = False
        """Whether a canary has failed since the circuit opened: then it is an outage, and no row's fault."""
        self.hung_probes = 0
        self.doubted = False
        """Whether the circuit was closed by refused probes: no outage of that kind is over before a call succeeds."""
        self.prefer_new = False

    def __repr__(self) -> str:
        return f"<Lane {self.label} live {self.live} in flight {self.inflight} parked {len(self.parked)}>"

    @property
    def reason(self) -> str:
        """Why the circuit is open, with what the provider last said; empty while it is closed."""
        why = self.circuit.reason
        return f"{why}: {self.trouble}" if why and self.trouble else why

    def is_idle(self, now: float) -> bool:
        """Whether nothing would be lost but a learned pace if this were forgotten."""
        return (
            not (self.live or self.inflight or self.known_bad)
            and self.circuit.is_closed
            and not self.circuit.failures
            and now >= self.not_before
            and self.dead is None
            and not self.given_up
        )

    @property
    def is_confirmed(self) -> bool:
        """Whether a probe or a canary has failed, so that the outage is one."""
        return self.probes_failed > 0 or self.canary_failed

    @property
    def is_refused(self) -> bool:
        """Whether refusals, and no failures, are what is wrong."""
        return self.opened_by_refusal or any(work.refusal is not None for work in self.held.values())

    # Readiness.

    def is_ready(self, now: float) -> bool:
        """Whether a call may be sent at once.

        A place whose call failed is not filled again before a later call has succeeded: when an outage begins, no more
        than what was in flight, and what it takes to be sure, meets it.
        """
        if self.held and len(self.held) >= self._threshold and now < self.vouched_until:
            return False  # a canary first: is it these rows, or the route after all?
        free = self.limit.value - len(self.unproved) - self.inflight
        return (free > 0 or not self.inflight) and self.takes_calls(now)

    def takes_calls(self, now: float) -> bool:
        """Whether ordinary calls may be sent at all."""
        return self.circuit.is_closed and now >= self.not_before and self.dead is None and not self.given_up

    def hold(self, until: float) -> None:
        """Send nothing before *until*, circuit or not."""
        if until > self.not_before:
            self.not_before = until
        self.circuit.hold(until)

    def retry_after(self, now: float) -> float:
        """Seconds until this route may take a row again: finite and above zero."""
        wait = self.not_before - now
        if not self.circuit.is_closed:
            wait = max(wait, self.circuit.retry_after(now))
        return max(wait, 0.05)

    # Evidence.

    def is_elevated(self, row: int) -> bool:
        """Whether rows other than *row* fail more often than one row's fault explains."""
        return self.recent.others_failing(row) >= ELEVATED

    def prove(self, serial: int, max_attempts: int) -> tuple[list[tuple[Work, Outcome]], list[Work]]:
        """Call number *serial* succeeded: judge all that was sent before it.

        Returns the rows that end as failed, each with the outcome that ends it, and the held rows that may go again.
        """
        self.newest_success = max(self.newest_success, serial)
        ended: list[tuple[Work, Outcome]] = []
        again: list[Work] = []
        for work in list(self.unproved.values()):
            outcome = self._judge(work, serial, max_attempts)
            if not work.pending and work.refusal is None:
                del self.unproved[work.row.number]
            if outcome is not None and work.place is not Place.FLYING:
                ended.append((work, outcome))
            elif work.place is Place.HELD and not work.pending and work.refusal is None:
                again.append(work)
        return ended, again

    def _judge(self, work: Work, serial: int, max_attempts: int) -> Outcome | None:
        still: list[tuple[int, bool]] = []
        elevated_now = self.is_elevated(work.row.number)
        for number, elevated in work.pending:
            if number > serial:
                still.append((number, elevated))
            elif elevated or elevated_now:
                work.elevated += 1
            else:
                work.charged += 1
        work.pending = still
        if work.refusal is not None and work.refusal[0] < serial:
            _, refused = work.refusal
            work.refusal = None
            if not refused.retry:
                return refused
            # A key refused for one row while others pass is that row's failed attempt, not a verdict.
            if elevated_now:
                work.elevated += 1
            else:
                work.charged += 1
        if work.charged or work.elevated:
            self.known_bad[work.row.number] = work.charged > 0
        if work.charged + work.elevated >= 2:
            self.recent.excuse(work.row.number)
        return work.last if work.is_spent(max_attempts) else None

    def remember_failure(self, work: Work, serial: int, *, lightly: bool = False) -> None:
        """A failed attempt, not proven yet; *lightly*: to be counted as under elevated errors, whatever the rest."""
        work.pending.append((serial, lightly or self.is_elevated(work.row.number)))
        self.unproved[work.row.number] = work

    def remember_refusal(self, work: Work, serial: int, outcome: Outcome) -> None:
        """A refusal, not proven yet."""
        work.refusal = (serial, outcome)
        self.unproved[work.row.number] = work

    def void(self) -> None:
        """The outage is over: nothing of it counts against a row.

        But a row that was excused several times by openings which no failed probe confirmed may well have caused
        them; its failures stay unproved, for the success that ended this one to judge.
        """
        confirmed = self.probes_failed > 0
        for number, work in list(self.unproved.items()):
            work.refusal = None
            if work.pending and not confirmed:
                work.voids += 1
                if work.voids > EXCUSES:
                    continue
            work.pending.clear()
            del self.unproved[number]

    def void_refusals(self) -> list[Work]:
        """Drop the refusals alone; returns the held rows that may go again."""
        again: list[Work] = []
        for number, work in list(self.unproved.items()):
            if work.refusal is None:
                continue
            work.refusal = None
            if not work.pending:
                del self.unproved[number]
                if work.place is Place.HELD:
                    again.append(work)
        return again

    @property
    def refusals(self) -> int:
        """Rows whose refusal no later success has proven."""
        return sum(1 for work in self.unproved.values() if work.refusal is not None)

    def all_live_failed(self) -> bool:
        """Whether every unfinished row of the route has failed with no success since."""
        return sum(1 for work in self.unproved.values() if work.pending) >= self.live

    def is_failing(self) -> bool:
        """Whether as many different rows as the threshold says failed with no success between.

        Order of arrival alone would mislead: of a wave of calls the quick failures come back first, and when an outage
        begins, slow successes of calls sent before it come between. So either the failures follow each other and are a
        fair part of the calls sent since the first of them, or they are nearly all of those.
        """
        failed, sent = self._since_first_trouble()
        if failed < self._threshold:
            return False
        return failed >= NEARLY_ALL * sent or (self.circuit.failures >= self._threshold and failed >= FAIR_PART * sent)

    @property
    def is_mostly_refused(self) -> bool:
        """Whether most of the rows that came to grief since the last success were refused."""
        return 2 * self.refusals >= len(self.unproved)

    def is_refusing(self) -> bool:
        """Whether as many rows as the threshold says were refused, and nearly all calls since the first failed."""
        if self.refusals < self._threshold:
            return False
        failed, sent = self._since_first_trouble()
        return failed >= NEARLY_ALL * sent

    def _since_first_trouble(self) -> tuple[int, int]:
        """Rows whose failure or refusal nothing has proven yet, and the calls sent since the first of them."""
        latest = [
            work.refusal[0] if work.refusal is not None else work.pending[-1][0]
            for work in self.unproved.values()
            if work.refusal is not None or work.pending
        ]
        first = min(latest, default=self.circuit.serial)
        throttled = sum(number >= first for number in self.throttled_calls)
        return len(latest), self.circuit.serial - first + 1 - throttled

    def forget(self, work: Work) -> None:
        """The row is done: drop every trace."""
        number = work.row.number
        for rows in (self.parked, self.held, self.unproved, self.known_bad):
            if rows:
                rows.pop(number, None)
        self.live -= 1

    # Probing.

    def best_probe(self) -> Work | None:
        """The least suspected parked row, if there is one without grounds against it."""
        best: Work | None = None
        for work in self.parked.values():
            if work.is_suspect:
                continue
            if not work.pending:
                return work
            if best is None or len(work.pending) < len(best.pending):
                best = work
        return best

    def any_suspect(self) -> Work | None:
        """The suspect that has probed least, for routes that know no canary."""
        return min(self.parked.values(), key=lambda work: (work.probe_failures, work.row.number), default=None)

    def probe_timeout(self, timeout: float) -> float:
        """How long a probe may take: sooner given up than a call, but never before a slow model could answer."""
        if self.slowest <= 0.0:
            return timeout
        return min(timeout, max(10.0, 3.0 * self.slowest) * 2.0 ** min(self.hung_probes, 10))

    def note_latency(self, seconds: float) -> None:
        """A good answer took this long."""
        self.slowest = max(seconds, self.slowest * 0.995)
