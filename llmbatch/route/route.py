"""One route (or one tenant of it) as a pure machine: calls in, answers in, decisions out.

It composes the circuit, the limit of requests in flight, the evidence against rows, the outage while there is one, and
named waits. It knows no clock, no loop and no queue: *now* is handed in, and the shell keeps the rows.

The cases, by the verdict of an answer:

* ``success``: all that was sent before it is judged.
* ``failure``: the row goes again after its backoff, is held for evidence, or is parked when the circuit opens.
* ``neutral``: a refusal. One that names the row's content ends the row; others are judged like failures. On a route
  that has never answered, enough of them stop the run.
* ``throttled``: the route's pace, or a row that is too large for the limit.
* ``exhausted``: no money ends the run; a refused key, model or address does where it has never worked.
* ``local``: this machine's fault: the row goes back, nobody is blamed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from llmbatch.breaker.core import Circuit, Ticket
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.pace.backoff import retry_delay
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.records import Outcome
from llmbatch.route.decisions import (
    CircuitMoved,
    Decision,
    Fail,
    GiveUpRoute,
    HoldForEvidence,
    OutageConfirmed,
    OutageOver,
    ParkUntil,
    PauseRoute,
    Requeue,
    RetryAt,
    StopRun,
    Succeed,
    Tell,
)
from llmbatch.route.evidence import Evidence, RowRecord
from llmbatch.route.failures import MOST_USUAL, FailureWindow, UsualRate
from llmbatch.route.law import FLOOR
from llmbatch.route.outage import Candidates, Cause, Outage, Probe, Trust, probe_wait
from llmbatch.route.throttle import Throttle

__all__ = ["Call", "CallKind", "RouteHistory", "RoutePolicy", "RouteState"]

CallKind = Literal["row", "ping", "good"]
"""A row of the input, the smallest request, or the request of a finished row sent once more."""

RAMP_START = 2.0
"""Requests in flight after a wait."""

CHECK_SECONDS = 1.0
"""Seconds without a good answer before a request is sent that no row waits for, and between two of them."""

OUTAGE_BY_CHECKS = math.log(1e-3)
"""Below this the failed checks are no chance."""

UNREACHABLE_SECONDS = 600.0
"""How long a route that has never answered is tried where no other bound is set."""

ALONE_SECONDS = 45.0
"""How long after the last good answer the rows that are left wait for evidence that nothing can bring any more."""

UNCERTAIN_REFUSALS = 3
"""Rows without money in a row that mean the account, where one such answer may mean that row."""

LONG_PING = 20.0
"""Seconds that the smallest request may take where every answer was slower than the time limit."""

SUCCEED: Sequence[Decision] = (Succeed(),)


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

    __slots__ = ("answered", "answered_before")

    def __init__(self, *, answered_before: Callable[[], bool] = lambda: False) -> None:
        self.answered = False
        """Whether the route has answered well in this run."""
        self.answered_before = answered_before
        """Whether it did in an earlier one."""

    @property
    def ever(self) -> bool:
        """Whether the route has ever answered well."""
        return self.answered or self.answered_before()


@dataclass(slots=True)
class Call:
    """One call that was let out. ``row`` is 0 where it carries none of the rows that wait."""

    row: int
    kind: CallKind
    ticket: Ticket
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


class RouteState:
    """State of one route: circuit, limit, evidence, outage and named waits. Not safe for concurrent use.

    *label* names it for people. *chance* draws from 0 to 1 for a purpose, the same for the same purpose. Every call
    that :meth:`admit` lets out comes back to :meth:`settle` or :meth:`cancelled`, once.
    """

    __slots__ = (
        "_chance",
        "_out",
        "_failed_checks",
        "_fresh_out",
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

    def __init__(
        self, label: str, policy: RoutePolicy, *, history: RouteHistory, chance: Callable[[str], float] = lambda _: 0.5
    ) -> None:
        self.label = label
        self.history = history
        self.circuit = Circuit(policy.breaker)
        self.limit = AdaptiveLimit(policy.concurrency)
        self.evidence = Evidence(policy.max_attempts)
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
        self.checking = False
        """Whether a request is out that no row waits for, to learn whether the route works."""
        self.checked_at = -math.inf
        """When the last such request came back."""
        self._policy = policy
        self._chance = chance
        self._out: set[int] = set()
        """The numbers of the calls in flight."""
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

    # What one can ask.

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

    def takes_calls(self, now: float) -> bool:
        """Whether ordinary calls may be sent at all."""
        throttle = self.throttle
        return self.circuit.is_closed and now >= throttle.not_before and self.dead is None and not throttle.given_up

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
        if self.window.rows and free > 0 and self.window.is_suspicious(self._fresh_out):
            free -= len(self.window.rows)
        return max(free, 0 if out else 1)

    def ramp(self) -> None:
        """A wait is over: start with few calls in flight instead of a stampede."""
        self.throttle.ramp_due = False
        self.limit.restart(RAMP_START)

    def retry_after(self, now: float) -> float:
        """Seconds until this route may take a row again: finite and above zero."""
        wait = self.throttle.not_before - now
        if not self.circuit.is_closed:
            wait = max(wait, self.circuit.retry_after(now))
        return max(wait, 0.05)

    def next_change(self, now: float) -> float | None:
        """When the route may take a call that it does not take now; None where only an answer can change that."""
        if self.dead is not None or self.throttle.given_up or self._stop is not None:
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
        if self._unreached is None:
            return False
        most = UNREACHABLE_SECONDS if self._policy.max_outage is None else self._policy.max_outage
        return now - self._unreached >= most

    @property
    def lost_at(self) -> float:
        """When :meth:`is_lost` becomes true if nothing changes; infinite where it does not."""
        if self._unreached is None:
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
            self.checking = True
        self._out.add(ticket.serial)
        return Call(row, kind, ticket, timeout, now, fresh)

    def cancelled(self, call: Call) -> None:
        """The call was cut off: it says nothing."""
        self._returned(call)
        self.circuit.release(call.ticket)

    def _returned(self, call: Call) -> None:
        self._out.discard(call.serial)
        self._fresh_out -= call.fresh
        if call.kind != "row":
            self.checking = False
        elif self.evidence.records:
            record = self.evidence.records.get(call.row)
            if record is not None:
                record.in_flight = False

    @property
    def probe_timeout(self) -> float:
        """Seconds that a probe may take: given up sooner than a call, but not before a slow model could answer."""
        outage, timeout = self.outage, self._policy.timeout
        if outage is not None and outage.cause == "timeouts" and not outage.turn:
            return max(timeout, LONG_PING)
        if self.slowest <= 0.0:
            return timeout
        hung = 0 if outage is None else outage.hung
        return min(timeout, max(10.0, 3.0 * self.slowest) * 2.0 ** min(hung, 10))

    @property
    def _probe_at(self) -> float:
        return self.circuit.lease_until if self.circuit.probing else self.circuit.until

    def next_probe(self, now: float, candidates: Candidates) -> Probe | None:
        """Who may probe now; None where it is not time yet, or nobody can."""
        if self.outage is None or self._stop is not None or self.dead is not None:
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
        """Whether so many rows fail that a finished row's request should tell what is wrong, before the circuit opens."""
        return (
            bool(self.window.rows)
            and not self.checking
            and now >= self.checked_at + CHECK_SECONDS
            and self.takes_calls(now)
            and self.window.is_doubtful(self._fresh_out)
        )

    def wants_check(self, now: float) -> bool:
        """Whether rows have failed that only another request can judge: none but such rows is in flight."""
        return (
            bool(self.evidence.unproven)
            and not self.checking
            and not self._fresh_out
            and self.takes_calls(now)
            and now >= self.check_at
        )

    # Answers.

    def settle(self, call: Call, outcome: Outcome, now: float) -> Sequence[Decision]:
        """What the call came to, and so what has to be done, in this order."""
        was = self.circuit.phase
        self._returned(call)
        if outcome.verdict == "success" and was == "closed" and call.kind == "row":
            decisions = self._row_succeeded(call, now)
            return decisions if not self._stop and self.circuit.phase == was else self._moved(was, decisions)
        if outcome.verdict not in ("success", "throttled"):
            self.message = outcome.message or outcome.code
        if call.kind != "row":
            self.checked_at = now
        if not self.history.answered:
            self._note_unreached(call, outcome, now)
        decisions = self._judge(call, outcome, now)
        if self._stop is not None and not self._out and not self.circuit.is_closed:
            decisions = [*decisions, self._give_up()]
        return self._moved(was, decisions)

    def _moved(self, was: Literal["closed", "open", "half_open"], decisions: Sequence[Decision]) -> Sequence[Decision]:
        now = self.circuit.phase
        return decisions if now == was else [CircuitMoved(was, now), *decisions]

    def _judge(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        match outcome.verdict:
            case "success":
                return self._succeeded(call, now)
            case "failure":
                return self._failed(call, outcome, now)
            case "neutral":
                return self._refused(call, outcome, now)
            case "throttled":
                return self._throttled(call, outcome, now)
            case "exhausted":
                return self._exhausted(call, outcome, now)
            case "local":
                return self._local(call, outcome, now)
            case _:
                assert_never(outcome.verdict)

    # Success.

    def _row_succeeded(self, call: Call, now: float) -> Sequence[Decision]:
        """The ordinary case, in few steps: a row's call succeeded while the circuit is closed."""
        serial = call.ticket.serial
        self.circuit.settle(call.ticket, "success", now)
        self._note_success(call, now)
        if not self.evidence.unproven and not self.window.rows:
            self.evidence.newest_success = max(self.evidence.newest_success, serial)
            self.window.prove(serial)
            return SUCCEED
        return [Succeed(), *self._prove(serial, now)]

    def _note_success(self, call: Call, now: float) -> None:
        self.history.answered = True
        self._succeeded_at = now
        self._failed_checks = 0.0
        self._unreached = None
        self.limit.on_success()
        self.throttle.prove(call.ticket.serial)
        if call.kind == "row":
            latency = now - call.sent_at
            self.slowest = latency if latency > self.slowest else max(latency, self.slowest * 0.995)
            if call.fresh:
                self._usual.add(0)
            self.evidence.succeeded(call.row)
            if self.trust.pings or self.trust.jumps or self.trust.mistaken:
                self.trust = Trust()

    def _succeeded(self, call: Call, now: float) -> list[Decision]:
        """A check, a probe, or a call from before the opening."""
        decisions: list[Decision] = [Succeed()] if call.kind == "row" else []
        was_open = not self.circuit.is_closed
        self.circuit.settle(call.ticket, "success", now)
        if call.kind == "ping":
            self.limit.on_success()
            if not was_open:
                return self._ping_passed(call, now)
            return self._probe_passed(call, now) if call.probe else decisions
        self._note_success(call, now)
        was_stopping, self._stop = self._stop is not None, None
        outage = self.outage
        if outage is None:
            return [*decisions, *self._prove(call.serial, now)]
        if call.probe:
            return [*decisions, *self._probe_passed(call, now)]
        if was_stopping or (not outage.confirmed and call.serial > outage.newest_failure):
            # It was sent after all that failed, or the route was never seen to work: the opening was a mistake.
            self.circuit.close(now)
            return [*decisions, *self._recovered(call, now)]
        return [*decisions, *self._prove(call.serial, now)]

    def _probe_passed(self, call: Call, now: float) -> list[Decision]:
        if self.circuit.is_closed:
            return self._recovered(call, now)
        if self.outage is not None and call.kind != "row":
            self.outage.check_next = True
        return []

    def _recovered(self, call: Call, now: float) -> list[Decision]:
        """The circuit has closed: after an outage, or because the opening was a mistake."""
        outage, self.outage = self.outage, None
        assert outage is not None  # noqa: S101 - an open circuit has one
        by_ping = call.kind == "ping"
        decisions: list[Decision] = []
        if outage.confirmed:
            self.evidence.void()
            self.window.clear(self.circuit.serial)
            self.limit.restart(RAMP_START)
            self._steady = 0.0
            decisions.append(OutageOver(outage.since))
        else:
            self.trust.mistaken = True
            self.limit.restart(max(RAMP_START, self._steady / 2))
            if by_ping:
                self.trust.pings += 1
                if not self.history.ever and self._unreached is None:
                    self._unreached = outage.since
                self.window.clear(self.circuit.serial)
                decisions += self._name_timeouts(outage)
            else:
                decisions += self._prove(call.serial, now)
        self.throttle.ramp_due = False
        return [*decisions, Requeue()]

    def _name_timeouts(self, outage: Outage) -> list[Decision]:
        """The smallest request passed, though every other call ran out of time."""
        if outage.cause != "timeouts":
            return []
        message = f"answers take longer than --timeout ({self._policy.timeout:g} s)"
        hint = "raise --timeout; nothing was marked as failed"
        if self.history.ever:
            return [Tell("warning", f"{self.label}: {message}", "raise --timeout, or such rows fail as timeout")]
        return [StopRun(3, f"{self.label}: {message}", hint)]

    def _prove(self, serial: int, now: float) -> list[Decision]:
        """A call succeeded: judge the rows whose failures it proves."""
        proven = self.window.prove(serial)
        if proven:
            self._usual.add(proven, proven)
        decisions: list[Decision] = []
        for row, record in self.evidence.prove(serial):
            if record.last is not None and record.last.verdict == "throttled":
                record.throttled = True
            decisions += self._after_proof(row, record, now)
        return decisions

    def _after_proof(self, row: int, record: RowRecord, now: float) -> list[Decision]:
        if record.in_flight:
            return []
        if self.evidence.is_spent(record):
            return [self._end(row, record)]
        if record.held and not record.pending:
            return [self._retry(row, record, now)]
        return []

    def _ping_passed(self, call: Call, now: float) -> list[Decision]:
        """The smallest request passed while rows are held that fail.

        It may vouch for fewer rows than it takes to open the circuit. More of them fail together: then that request
        says nothing about them, and they are deferred like the rows of any outage.
        """
        self.trust.vouched.update(self.evidence.unproven)
        if len(self.trust.vouched) < self._policy.failure_threshold:
            return self._prove(call.serial, now)
        if not self.history.ever and self._unreached is None:
            self._unreached = now
        self.trust.pings += 1
        return self._open("last rows", now)

    # Failure.

    def _failed(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        self.circuit.settle(call.ticket, "failure", now)
        if outcome.least_wait and not call.probe:
            self.limit.on_overload(call.serial, self.circuit.serial)
        if outcome.pause is not None:
            self.throttle.hear(call.serial, now + outcome.pause)
        if outcome.code == "unknown_host" and not self.history.ever:
            self._stop = (2, outcome)
        if call.probe:
            return self._probe_failed(call, outcome, now)
        if call.kind != "row":
            return self._check_failed(now)
        record = self._note_failure(call, outcome)
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        if self._stop is not None:
            return [*self._open("stop", now), ParkUntil(call.row)]
        if self.window.is_down(self._fresh_out, self._policy.failure_threshold):
            return [*self._open(self._cause(), now), ParkUntil(call.row)]
        return [*self._heed_waits(call, now), self._after_failure(call.row, record, outcome, now)]

    def _check_failed(self, now: float) -> list[Decision]:
        """A request that nothing speaks against failed while rows are held: by chance, or is it an outage?"""
        self._failed_checks += math.log(self.evidence.rate.cautious)
        if not self.circuit.is_closed or self._failed_checks > OUTAGE_BY_CHECKS:
            return []
        return self._open("last rows", now, confirmed=True)

    def _note_failure(self, call: Call, outcome: Outcome) -> RowRecord:
        known = self.evidence.records.get(call.row)
        if (known is None or not known.proven) and self.window.add(call.row, call.serial, self._usual.value):
            self._usual.add(1)
        record = self.evidence.failed(call.row, call.serial, outcome)
        if self.outage is not None:
            self.outage.newest_failure = max(self.outage.newest_failure, call.serial)
        return record

    def _after_failure(self, row: int, record: RowRecord, outcome: Outcome, now: float) -> Decision:
        if self.evidence.is_spent(record):
            return self._end(row, record)
        record.retry_at = now + self._backoff(row, record)
        if record.pending and (self.can_check or self.evidence.is_waiting(record)):
            record.held = True
            return HoldForEvidence(row)
        return self._retry(row, record, now)

    def _retry(self, row: int, record: RowRecord, now: float) -> RetryAt:
        record.held = False
        return RetryAt(row, max(now, record.retry_at), record.last.code if record.last is not None else "")

    def _backoff(self, row: int, record: RowRecord) -> float:
        last = record.last
        delay = retry_delay(self.evidence.backoff(record), self._chance(f"retry:{row}:{record.failures}"))
        if last is not None:
            delay = max(delay, last.least_wait, last.pause or 0.0)
        return delay

    def _end(self, row: int, record: RowRecord) -> Fail:
        self.evidence.forget(row)
        last = record.last
        assert last is not None  # noqa: S101 - a spent row has failed
        return Fail(row, last)

    def _heed_waits(self, call: Call, now: float) -> list[Decision]:
        """A failure named a wait: the route's, if another call confirms it and chance hardly explains the failures."""
        if not self.window.is_suspicious(self._fresh_out):
            return []
        return self._pause(self.throttle.confirmed(disprovable=True) - now, call, now, "")

    def _pause(self, wait: float, call: Call, now: float, code: str) -> list[Decision]:
        if not math.isfinite(wait) or wait <= 0 or not self.throttle.pause(now + wait):
            return []
        throttle = self.throttle
        if throttle.since is not None and now + wait - throttle.since >= self._policy.max_throttled:
            throttle.given_up = True
        return [PauseRoute(wait, code)]

    def _cause(self) -> Cause:
        records = self.evidence.records
        lasts = [record.last for row in self.window.rows if (record := records.get(row)) is not None]
        if lasts and all(last is not None and last.code == "timeout" for last in lasts):
            return "timeouts"
        refused = sum(last is not None and last.verdict in ("neutral", "exhausted") for last in lasts)
        return "refusals" if 2 * refused >= len(lasts) and refused else "failures"

    def _open(self, cause: Cause, now: float, *, confirmed: bool = False) -> list[Decision]:
        count = max(1, len(self.window.rows))
        rows = f"{count} {'row' if count == 1 else 'rows'}"
        reason = {
            "failures": f"{rows} in a row failed",
            "refusals": f"{rows} in a row refused",
            "timeouts": f"{rows} in a row took longer than the time limit",
            "last rows": "the last rows failed",
            "stop": "the first rows were refused",
        }[cause]
        self.outage = Outage(now, cause, self.window.newest, confirmed)
        self._steady = max(self._steady, self.limit.value)
        for record in self.evidence.records.values():
            record.held = False  # whatever waits on the route is parked
        self.circuit.trip(now, reason, by_refusal=cause in ("refusals", "stop"))
        self.circuit.hold(self.throttle.confirmed(disprovable=False))
        decisions: list[Decision] = []
        if confirmed:
            decisions.append(OutageConfirmed(now, self.reason))
        return decisions

    def _probe_failed(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        outage = self.outage
        decisions: list[Decision] = [ParkUntil(call.row)] if call.kind == "row" else []
        if outage is None:
            return decisions
        if outcome.code == "timeout":
            outage.hung += 1
        if not self.circuit.is_closed:
            wait = probe_wait(now - outage.since, self._policy.recovery_timeout, self._chance(f"probe:{outage.turn}"))
            self.circuit.hold(now + wait)
            if outcome.pause is not None:
                self.circuit.hold(now + outcome.pause)
        rate = self.evidence.rate.cautious
        news = outage.row_failed() if call.kind == "row" else outage.ping_failed(rate)
        if news and self._stop is None:
            decisions.append(OutageConfirmed(outage.since, self.reason))
            if outcome.auth and self.history.ever:
                message = f"{self.label} suddenly refuses the key ({outcome.message})"
                hint = "the key may have been revoked; waiting and probing in case it is an outage"
                decisions.append(Tell("warning", message, hint))
        return decisions

    # Refusal.

    def _refused(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        if call.probe:
            return self._probe_refused(call, outcome, now)
        self.circuit.settle(call.ticket, "neutral", now)
        if call.kind != "row":
            return self._check_refused(outcome, now)
        if outcome.final:
            self.evidence.forget(call.row)
            return [Fail(call.row, outcome)]
        if outcome.retry and not outcome.auth:
            return self._row_refused(call, outcome, now)
        record = self._note_failure(call, outcome)
        if outcome.pause is not None:
            self.throttle.hear(call.serial, now + outcome.pause)
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        stop = self._should_stop(outcome)
        if stop is not None:
            self._stop = (3, stop)
            return [*self._open("stop", now), ParkUntil(call.row)]
        if self.window.is_down(self._fresh_out, self._policy.failure_threshold):
            return [*self._open(self._cause(), now), ParkUntil(call.row)]
        return [*self._heed_waits(call, now), self._after_failure(call.row, record, outcome, now)]

    def _row_refused(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        """A refusal that asks to be tried again, or the row's own program error: it says nothing about the route."""
        record = self.evidence.failed(call.row, call.serial, outcome)
        if outcome.scope == "row" and record.pending:
            record.pending.clear()
            self.evidence.unproven.pop(call.row, None)
            record.proven += 1
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        if outcome.scope == "row" and not self.history.ever:
            raised = sum(
                other.last is not None and other.last.scope == "row" for other in self.evidence.records.values()
            )
            if raised >= self._policy.failure_threshold and raised == len(self.evidence.records):
                self._stop = (3, outcome)
                return [*self._open("stop", now), ParkUntil(call.row)]
        return [self._after_failure(call.row, record, outcome, now)]

    def _should_stop(self, outcome: Outcome) -> Outcome | None:
        """Whether refusals are the operator's matter: the route never worked, or the account has no money."""
        records = self.evidence.records
        lasts = [record.last for row in self.window.rows if (record := records.get(row)) is not None]
        if outcome.verdict == "exhausted" and outcome.scope == "key" and not outcome.auth:
            broke = sum(last is not None and last.verdict == "exhausted" for last in lasts)
            if broke >= UNCERTAIN_REFUSALS:
                return outcome
        if self.history.ever:
            return None
        if outcome.verdict == "exhausted" and outcome.certain:
            return outcome
        refused = sum(last is not None and last.verdict in ("neutral", "exhausted") for last in lasts)
        return outcome if refused >= self._policy.failure_threshold else None

    def _check_refused(self, outcome: Outcome, now: float) -> list[Decision]:
        """The smallest request, or a finished row's, was refused while rows are held."""
        if not self.circuit.is_closed:
            return []
        refused = [record for record in self.evidence.unproven.values() if _is_refused(record)]
        if not refused:
            # It is an answer all the same, but it proves nothing: rows that only fail wait as in an outage.
            return self._open("last rows", now)
        if not self.history.ever:
            self._stop = (3, outcome)
            return self._open("stop", now)
        return self._open("refusals", now, confirmed=True)

    def _probe_refused(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        outage = self.outage
        disguised = outage is not None and outage.cause in ("refusals", "stop")
        if outcome.final and call.kind == "row":
            disguised = False
        if disguised or outcome.verdict == "exhausted":
            self.circuit.settle(call.ticket, "failure", now)
            decisions = self._probe_failed(call, outcome, now)
        else:
            # The provider answers, though it refuses this request: ask another one before long.
            self.circuit.settle(call.ticket, "neutral", now)
            if outage is not None:
                outage.check_next = True
            decisions = [ParkUntil(call.row)] if call.kind == "row" else []
            if outcome.final and call.kind == "row":
                self.evidence.forget(call.row)
                decisions = [Fail(call.row, outcome)]
            if self.circuit.is_closed:
                decisions += self._recovered(Call(0, "ping", call.ticket, call.timeout, call.sent_at), now)
            elif self.circuit.phase == "half_open":
                self.circuit.hold(now + 1.0)
        if not self.history.ever and outcome.verdict == "exhausted" and outcome.certain:
            self._stop = (3, outcome)
        return decisions

    # The other verdicts.

    def _throttled(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        self.circuit.settle(call.ticket, "throttled", now)
        record = self.evidence.records.get(call.row) if call.kind == "row" else None
        if record is not None and record.throttled and self.circuit.is_closed:
            # It was throttled while others passed: it is too large for the limit, and sets no pace any more.
            record = self.evidence.failed(call.row, call.serial, _too_large(outcome))
            return [self._after_failure(call.row, record, outcome, now)]
        if outcome.pause is not None:
            self.throttle.hear(call.serial, now + outcome.pause)
        count = self.throttle.throttled(call.serial, now)
        disprovable = any(number > call.serial for number in self._out)
        sent = self.circuit.serial - self.evidence.newest_success
        if call.kind != "row" or call.probe or self.throttle.is_route_wide(sent, disprovable=disprovable):
            return self._slow_down(call, outcome, now, disprovable=disprovable, alone=count == 1)
        if count > 1:
            self._push_back(call)
        record = self.evidence.failed(call.row, call.serial, outcome)
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        return [self._after_failure(call.row, record, outcome, now)]

    def _slow_down(self, call: Call, outcome: Outcome, now: float, *, disprovable: bool, alone: bool) -> list[Decision]:
        """The route is throttled: pause it, and blame no row but one that was throttled *alone*, if others pass."""
        self._push_back(call)
        excused = self.evidence.excuse_throttled()
        if alone and call.kind == "row" and not call.probe:
            self.evidence.failed(call.row, call.serial, outcome)
        named = self.throttle.confirmed(disprovable=disprovable) - now
        wait = named
        if not math.isfinite(named):
            purpose = f"throttle:{self.circuit.serial}"
            wait = outcome.pause if outcome.pause is not None else self.throttle.backoff(self._chance(purpose), now)
        wait = max(wait, outcome.least_wait)
        decisions = self._pause(wait, call, now, outcome.code)
        decisions += [RetryAt(row, max(at, now + wait), outcome.code) for row, at in excused]
        if not self.circuit.is_closed:
            self.circuit.hold(now + wait)
        if call.kind != "row":
            return decisions
        back: Decision = RetryAt(call.row, now + max(wait, outcome.pause or 0.0), outcome.code)
        return [*decisions, back if self.circuit.is_closed else ParkUntil(call.row)]

    def _push_back(self, call: Call) -> None:
        self.limit.on_pushback(call.serial, self.circuit.serial)
        self._steady = 0.0

    def _exhausted(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        if outcome.scope != "key" or outcome.auth or not outcome.certain:
            # A key, a model or an address that worked before is judged like any refusal: by evidence.
            return self._refused(call, outcome, now)
        self.circuit.settle(call.ticket, "exhausted", now)
        self.dead = outcome
        if self.outage is None and not self.circuit.is_closed:
            self.outage = Outage(now, "stop", self.window.newest)
        stop = StopRun(3, f"{self.label} refuses the account: {outcome.message}", outcome.advice)
        return [*([ParkUntil(call.row)] if call.kind == "row" else []), stop]

    def _local(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        self.circuit.release(call.ticket)
        if outcome.code != "no_network":
            # No handles, no memory: fewer at once, until it turns out that more will do again.
            self._push_back(call)
        self.throttle.ramp_due = True
        if call.kind != "row":
            return []
        return [RetryAt(call.row, now) if self.circuit.is_closed else ParkUntil(call.row)]

    # The end of the input, and of patience.

    def judge_alone(self, now: float, rows_left: int) -> list[Decision]:
        """Nothing can bring evidence any more: no row is left but held ones, and the route has no smallest request.

        A few rows, or rows that failed before while others passed, are judged by their own attempts over growing waits.
        More of them may be the beginning of an outage.
        """
        held = {row: record for row, record in self.evidence.records.items() if record.held}
        few = rows_left < self._policy.failure_threshold
        if not few and not all(record.proven for record in held.values()):
            was = self.circuit.phase
            return list(self._moved(was, self._open("last rows", now)))
        return self._send_alone(held, now)

    def judge_parked(self, now: float) -> list[Decision]:
        """As :meth:`judge_alone` for an open circuit: every row that is left has failed, minutes have passed."""
        outage = self.outage
        if outage is None or not self.history.ever or now - outage.since < ALONE_SECONDS:
            return []
        was = self.circuit.phase
        self.outage = None
        self.circuit.close(now)
        self.window.clear(self.circuit.serial)
        self.limit.restart(RAMP_START)
        over: list[Decision] = [OutageOver(outage.since)] if outage.confirmed else []
        alone = self._send_alone(dict(self.evidence.records), now)
        return [CircuitMoved(was, "closed"), *over, *alone, Requeue()]

    def _send_alone(self, records: dict[int, RowRecord], now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for row, record in records.items():
            record.proven += len(record.pending)
            record.pending.clear()
            self.evidence.unproven.pop(row, None)
            record.sent_alone = True
            record.retry_at = now + self._backoff(row, record)
            if self.evidence.is_spent(record):
                decisions.append(self._end(row, record))
            else:
                decisions.append(self._retry(row, record, now))
        return decisions

    def forget(self, row: int) -> None:
        """The row ended for a reason of the shell's own."""
        self.evidence.forget(row)
        self.window.drop(row)

    def _note_unreached(self, call: Call, outcome: Outcome, now: float) -> None:
        """Keep since when a route that has never answered cannot even be reached."""
        if outcome.verdict == "failure" and (outcome.unreachable or outcome.code == "timeout"):
            if self._unreached is None:
                self._unreached = call.sent_at
        elif outcome.verdict not in ("local", "success"):
            self._unreached = None if not self.trust.pings else self._unreached

    def _give_up(self) -> Decision:
        """The route never worked, and refuses: only the operator can help."""
        assert self._stop is not None  # noqa: S101 - the caller has looked
        exit_code, outcome = self._stop
        self._stop = None
        self.dead = outcome
        hint = outcome.advice or "check the model, the parameters and the rows; `llmbatch check` reads them all"
        if exit_code == 2:
            return StopRun(2, f"{self.label}: {outcome.message}", outcome.advice or "check the address (--base-url)")
        message = f"{self.label} refused the first rows: {outcome.message}"
        if outcome.verdict == "exhausted" and outcome.scope == "key" and not outcome.auth:
            return StopRun(3, f"{self.label} refuses the account: {outcome.message}", hint)
        if outcome.scope in ("model", "provider"):
            return GiveUpRoute(outcome, message, hint)
        return StopRun(3, message, hint)


def _is_refused(record: RowRecord) -> bool:
    return record.last is not None and record.last.verdict in ("neutral", "exhausted")


def _too_large(outcome: Outcome) -> Outcome:
    """A row that is throttled alone is larger than the route's limit."""
    message = f"throttled again and again while other rows passed: larger than the route's limit? ({outcome.message})"
    return replace(outcome, code="request_too_large", message=message)
