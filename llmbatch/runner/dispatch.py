"""Which row goes next.

Order: one probe for a route whose circuit is open, then rows that wait for their turn (requeued or due retries),
in turn with new ones from the input, then a canary where only evidence is missing. Reading is pulled by free places,
so rows in memory depend on the concurrency alone.

Everything here is synchronous: nothing is awaited between choosing a row and taking its permit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from llmbatch.breaker.core import Ticket
from llmbatch.errors import MalformedRowError
from llmbatch.events import (
    CallSent,
    CircuitChanged,
    Event,
)
from llmbatch.pace.tokens import TokenBudget
from llmbatch.records import Caller, Malformed, Outcome, Request, Result, Row
from llmbatch.runner.intake import Intake
from llmbatch.runner.lane import Lane
from llmbatch.runner.lanes import Lanes
from llmbatch.runner.options import RunOptions
from llmbatch.runner.outlet import Outlet, deferred_result
from llmbatch.runner.ports import Sink, Source
from llmbatch.runner.waiting import Waiting, patience
from llmbatch.runner.work import Place, Work

__all__ = ["Dispatch", "Job"]

TURN = 256
"""Rows handled at most before the event loop gets a turn."""

LEAST_ROOM = 64
"""Rows that may wait at least, however low the concurrency."""


@dataclass(slots=True)
class Job:
    """One call that has its permit. ``work`` is None for a canary."""

    lane: Lane
    work: Work | None
    request: Request
    permit: Ticket
    timeout: float
    reserved: int
    sent_at: float


class Dispatch:
    """Chooses the calls of one run. Belongs to one event loop; not safe for concurrent use."""

    def __init__(
        self,
        caller: Caller,
        source: Source,
        sink: Sink,
        options: RunOptions,
        *,
        now: Callable[[], float],
        emit: Callable[[Event], None],
        answered_before: Callable[[str], bool],
        seed: int,
    ) -> None:
        self.options = options
        self.now = now
        self.emit = emit
        self.lanes = Lanes(options, seed=seed)
        self.troubled: dict[Lane, None] = {}
        """Routes whose circuit is not closed."""
        self.machine_until = 0.0
        """Nothing is sent before: this machine is at fault."""
        self.machine_since: float | None = None
        """Since when, None while it is not."""
        self._caller = caller
        self._outlet = Outlet(sink, source, now=now, emit=emit)
        self.intake = Intake(source, self._outlet, now=now)
        self.waiting = Waiting(options, emit=emit, end=self.fail, seed=seed)
        self._answered_before = answered_before
        self._tokens = TokenBudget(options.tpm, now()) if options.tpm else None
        self._tokens_until = 0.0
        self._last_call = now()
        places = options.concurrency
        # Enough rows must be able to fail, and wait, for the circuit to see a route fail, and for a handful of bad rows
        # not to keep the good ones out.
        self._most_elsewhere = max(2 * places, places + options.failure_threshold, LEAST_ROOM)
        self._most_parked = max(1000, 20 * places)

    # What goes next.

    def take(self) -> Job | None:
        """The next call, with its permit, or None when nothing may go now (see :meth:`next_wake`)."""
        now = self.now()
        if now < self.machine_until or self._outlet.congested:
            return None
        self.waiting.settle(now)
        if self.troubled:
            for lane in list(self.troubled):
                job = self._probe(lane, now)
                if job is not None:
                    return job
        work = self._next_work(now)
        if work is not None:
            return self._issue(work, now)
        return self._seek_evidence(now)

    def _next_work(self, now: float) -> Work | None:
        if self.waiting.queued:
            for lane in list(self.waiting.queued):
                if not lane.is_ready(now):
                    continue
                # New rows in turn with waiting ones: fresh successes clear a streak that poison rows would keep.
                if lane.prefer_new:
                    lane.prefer_new = False
                    work = self._read(now)
                    if work is not None:
                        return work
                lane.prefer_new = True
                return self.waiting.next_of(lane)
        return self._read(now)

    def _read(self, now: float, wanted: Lane | None = None) -> Work | None:
        """The next new row that may go; with *wanted*, the next one of that route, as a probe."""
        for _ in range(TURN):
            if self.intake.ended or not (self.may_read(now) if wanted is None else self._has_room()):
                return None
            item = self.intake.pull()
            if item is None:
                return None
            if isinstance(item, Malformed):
                self._outlet.finish_malformed(item, item.code, item.message)
                continue
            work = self._admit(item)
            if work is None:
                continue
            lane = work.lane
            if lane is wanted or lane.is_ready(now):
                return work
            if lane.circuit.is_closed and lane.dead is None:
                self.waiting.enqueue(work)
            else:
                self.waiting.park(work, now, avoided=True)
        self.intake.hungry = True
        return None

    def may_read(self, now: float) -> bool:
        """Whether a new row could be used: some route takes rows and not too many wait already."""
        if self.intake.ended or not self._has_room():
            return False
        if self.lanes.may_differ:
            # The next row may be another tenant's, whose circuit is closed.
            return True
        failing_fast = self.options.on_outage == "fail"
        for lane in self.lanes:
            if lane.is_ready(now) or (failing_fast and not lane.circuit.is_closed and lane.dead is None):
                return True
        return not self.lanes

    def _has_room(self) -> bool:
        parked = elsewhere = 0
        for lane in self.lanes:
            here = len(lane.parked)
            parked += here
            elsewhere += lane.live - lane.inflight - here
        return elsewhere < self._most_elsewhere and parked < self._most_parked

    def _admit(self, row: Row) -> Work | None:
        try:
            request = self._caller.prepare(row)
        except MalformedRowError as error:
            self._outlet.finish_malformed(row, error.code, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - a missing key or model: the run cannot go on
            self.intake.fail(error)
            return None
        lane = self.lanes.lane_of(row, request.route, self.now())
        lane.live += 1
        return Work(row, request, lane)

    def _issue(self, work: Work, now: float, *, probe_timeout: float | None = None) -> Job | None:
        lane = work.lane
        if not self._afford(work.request.tokens, now):
            self.waiting.give_back(work, now)
            return None
        timeout = self.options.timeout if probe_timeout is None else probe_timeout
        permit = lane.circuit.acquire(now, work.row.number, lease=timeout + 5.0)
        if permit is None:
            self.waiting.park(work, now, avoided=True)
            return None
        lane.parked.pop(work.row.number, None)
        work.place = Place.FLYING
        work.attempts += 1
        if not lane.known.answered:
            lane.known.template = work.request
        return self._send(lane, work, work.request, permit, timeout, now)

    def _issue_canary(self, lane: Lane, request: Request, now: float) -> Job | None:
        if not self._afford(request.tokens, now):
            return None
        timeout = lane.probe_timeout(self.options.timeout)
        permit = lane.circuit.acquire(now, "canary", lease=timeout + 5.0)
        if permit is None:
            return None
        lane.canary_out = True
        return self._send(lane, None, request, permit, timeout, now)

    def _send(self, lane: Lane, work: Work | None, request: Request, permit: Ticket, timeout: float, now: float) -> Job:
        reserved = 0
        if self._tokens is not None:
            reserved = request.tokens
            self._tokens.reserve(reserved, now)
        lane.inflight += 1
        self._last_call = now
        number, attempt = (work.row.number, work.attempts) if work is not None else (0, 1)
        self.emit(CallSent(now, lane.label, number, attempt, permit.probe))
        return Job(lane, work, request, permit, timeout, reserved, now)

    def _afford(self, tokens: int, now: float) -> bool:
        if self._tokens is None:
            return True
        wait = self._tokens.wait(tokens, now)
        self._tokens_until = now + wait
        return wait == 0.0

    def settle_tokens(self, job: Job, outcome: Outcome | None, now: float) -> None:
        """Correct the reservation by what the provider counted; a refused call used nothing."""
        if self._tokens is None:
            return
        used = 0
        if outcome is not None and outcome.verdict == "success":
            usage = outcome.usage
            used = job.reserved if usage is None else usage.input_tokens + usage.output_tokens
        self._tokens.settle(job.reserved, used, now)

    # Probes and canaries.

    def _probe(self, lane: Lane, now: float) -> Job | None:
        circuit = lane.circuit
        if circuit.is_closed or lane.verdict_pending is not None or self.is_blocked(lane, now):
            return None
        if now < lane.not_before or self._probe_at(lane) > now:
            return None
        was = circuit.phase
        timeout = lane.probe_timeout(self.options.timeout)
        work = None if self._prefers_canary(lane, now) else lane.best_probe() or self._read(now, wanted=lane)
        if work is not None:
            job = self._issue(work, now, probe_timeout=timeout)
        else:
            job = self._probe_by_canary(lane, now, timeout)
        if job is not None and circuit.phase != was:
            self._announce(lane, was, now)
        return job

    def _prefers_canary(self, lane: Lane, now: float) -> bool:
        """Whether rows would say little: a canary passed just before, or one row after the other may be bad."""
        if now < lane.canary_first_until or (self._is_impatient(lane, now) and self._owes_canary(lane)):
            return True
        return (lane.opened_by_refusal or self.intake.ended) and lane.probes_failed % 4 == 3

    def _owes_canary(self, lane: Lane) -> bool:
        """Whether a run that will not wait has yet to find out that this is an outage, and no row's fault."""
        return not lane.canary_failed and self.knows_canary(lane)

    def _is_impatient(self, lane: Lane, now: float) -> bool:
        """Whether the run will have waited for long enough before many more probes."""
        if self.options.on_outage == "defer":
            return True
        if self.options.max_outage is None or lane.outage_since is None:
            return False
        waited = now + lane.probe_timeout(self.options.timeout) - lane.outage_since
        return waited >= self.options.max_outage / 3

    def _probe_by_canary(self, lane: Lane, now: float, timeout: float) -> Job | None:
        request = self._canary(lane)
        if request is not None:
            return self._issue_canary(lane, request, now)
        suspect = lane.any_suspect()
        return None if suspect is None else self._issue(suspect, now, probe_timeout=timeout)

    def _probe_at(self, lane: Lane) -> float:
        return lane.circuit.lease_until if lane.circuit.probing else lane.circuit.until

    def _canary(self, lane: Lane) -> Request | None:
        # A canary names no tenant. It shows that the provider answers, so that what is refused is the tenant's own; of
        # calls that fail, for this tenant alone, it says nothing.
        if lane.known.template is None or (lane.label != lane.route.label and not lane.is_refused):
            return None
        return self._caller.canary(lane.known.template)

    def knows_canary(self, lane: Lane) -> bool:
        """Whether the route can be tried without a row."""
        return self._canary(lane) is not None

    def _seek_evidence(self, now: float) -> Job | None:
        """A canary for rows that only wait to learn whether the provider works."""
        for lane in self.lanes:
            if not lane.held or lane.canary_out or not self._lacks_evidence(lane, now):
                continue
            if not lane.takes_calls(now) or now < lane.evidence_at:
                continue
            request = self._canary(lane)
            if request is None:
                self._judge_without_canary(lane, now)
                continue
            return self._issue_canary(lane, request, now)
        return None

    def _lacks_evidence(self, lane: Lane, now: float) -> bool:
        # Only held rows are left of the route, and no other traffic will soon bring evidence; or so many are held, on a
        # route that was seen to work, that they leave no places to others.
        if now < lane.vouched_until and len(lane.held) >= self.options.failure_threshold:
            return True
        if lane.inflight or lane.queue or lane.live > len(lane.held):
            return False
        return self.intake.ended or not self.may_read(now) or now - self._last_call >= 1.0

    def _judge_without_canary(self, lane: Lane, now: float) -> None:
        """A function in place of a provider cannot be tried without a row: decide by what is known."""
        for work in list(lane.held.values()):
            if work.refusal is not None:
                self.fail(work, work.refusal[1], now)
            elif lane.live == 1 and lane.known.answered and work.last is not None:
                # One row that fails again and again, on a route that works, is that row's problem.
                self.fail(work, work.last, now)
            elif work.charged or work.elevated:
                # It failed before while others did well.
                work.charged += len(work.pending)
                work.pending.clear()
                lane.unproved.pop(work.row.number, None)
                if work.is_spent(self.options.max_attempts) and work.last is not None:
                    self.fail(work, work.last, now)
                else:
                    self.waiting.retry(work, now)
            else:
                lane.circuit.trip(now, "nothing but failures is left to go by")
                self.follow(lane, "closed", now)
                return

    # The circuit moved.

    def follow(self, lane: Lane, was: Literal["closed", "open", "half_open"], now: float) -> None:
        """Do what a change of the circuit since *was* asks for, and tell it."""
        phase = lane.circuit.phase
        if phase == was:
            return
        if phase == "closed":
            self.troubled.pop(lane, None)
            lane.outage_since = None
            lane.opened_by_refusal = lane.opened_by_streak = False
            lane.verdict_pending = None
            lane.probes_failed = lane.hung_probes = 0
            lane.canary_failed = False
            lane.limit.restart()
            self._announce(lane, was, now)
            self.waiting.requeue(lane, now)
            return
        self._announce(lane, was, now)
        if was == "closed":
            self.troubled[lane] = None
            lane.outage_since = now
            self.waiting.park_waiting(lane, now)

    def _announce(self, lane: Lane, was: Literal["closed", "open", "half_open"], now: float) -> None:
        phase = lane.circuit.phase
        wait = 0.0 if phase == "closed" else lane.retry_after(now)
        self.emit(CircuitChanged(now, lane.label, was, phase, lane.reason, wait))

    def has_answered(self, lane: Lane) -> bool:
        """Whether the route ever answered well, in this run or in the lines of an earlier one."""
        known = lane.known
        if not known.answered and known.answered_before is None:
            known.answered_before = self._answered_before(lane.route.label)
        return known.answered or known.answered_before is True

    def is_blocked(self, lane: Lane, now: float) -> bool:
        """Whether the route will not be tried again in this run."""
        if lane.dead is not None or lane.given_up:
            return True
        options = self.options
        if options.on_outage == "defer":
            is_down = not lane.circuit.is_closed and not self._owes_canary(lane)
            return is_down or lane.not_before - now > options.recovery_timeout
        if options.max_outage is None or lane.outage_since is None:
            return False
        return now - lane.outage_since >= options.max_outage

    # Rows end.

    def succeed(self, work: Work, outcome: Outcome, now: float) -> None:
        """The row has its answer."""
        work.lane.known.template = work.request
        self._outlet.finish(work, outcome, "success", now)

    def fail(self, work: Work, outcome: Outcome, now: float) -> None:
        """The row ends with an error."""
        self.waiting.discard(work)
        self._outlet.finish(work, outcome, "failed", now)

    def deferred(self) -> Iterator[Result]:
        """The rows that still wait, as results, in order of their numbers."""
        now = self.now()
        machine = self.why_stuck() if self.machine_since is not None else ""
        for work, retry_after in self.waiting.every(self.lanes, now):
            yield deferred_result(work, max(retry_after, self.machine_until - now), machine)

    # When to look again, and when there is nothing left.

    def next_wake(self, now: float) -> float | None:
        """The time at which something may go that may not go now; None where only news can change that."""
        times = [time for time in (self.machine_until, self._tokens_until) if time > now]
        times.append(self.waiting.next_retry)
        if self.machine_since is not None:
            times.append(self.machine_since + patience(self.options))
        for lane in self.lanes:
            if lane.outage_since is not None and self.options.max_outage is not None:
                times.append(lane.outage_since + self.options.max_outage)
            if self.is_blocked(lane, now):
                continue
            if not lane.circuit.is_closed:
                if lane.verdict_pending is None:
                    times.append(max(self._probe_at(lane), lane.not_before))
            elif lane.live or lane.inflight == 0:
                times.append(lane.not_before)
                if lane.held and not lane.inflight:
                    times.append(max(lane.evidence_at, self._last_call + 1.0))
        return min((time for time in times if now < time < math.inf), default=None)

    def is_finished(self) -> bool:
        """Whether every row that will come has its line."""
        return self.intake.ended and not any(lane.live for lane in self.lanes)

    def is_stuck(self, now: float) -> bool:
        """Whether all that is left waits for routes that will not be tried again in this run."""
        if any(lane.inflight for lane in self.lanes):
            return False
        if self.machine_since is not None and now - self.machine_since >= patience(self.options):
            return True
        if self.may_read(now):
            return False
        lanes = [lane for lane in self.lanes if lane.live]
        return bool(lanes) and all(self.is_blocked(lane, now) for lane in lanes)

    def why_stuck(self) -> str:
        """The reason for people, when the run is stuck and no route is dead."""
        if self.machine_since is not None:
            return "this machine cannot send anything"
        for lane in self.lanes:
            if not lane.circuit.is_closed:
                return f"{lane.label} is in an outage: {lane.reason}"
        waits = ", ".join(lane.label for lane in self.lanes if lane.live)
        return f"{waits} asks to wait longer than this run will"
