"""What becomes of a row, its route and the run when an attempt has come back.

The cases, by the outcome's verdict:

* ``success`` — the row ends well; all that was sent before on the route is judged (:meth:`Lane.prove`).
* ``failure`` — the row goes again after a backoff, waits for evidence, or is parked when the circuit opened.
* ``neutral`` — a refusal. It ends the row at once only if it names the row's own content; else once a later call
  succeeds. Many at once, with no success, are an outage in disguise, or, on a route that never answered, an
  operator's matter.
* ``throttled`` — pace, not outage: the route pauses and gets fewer requests in flight; the row just goes again.
* ``exhausted`` — money ends the run; a refused key, model or base URL does so where it never worked.
* ``local`` — this machine's fault: everything pauses, nobody is blamed.

Synchronous throughout; every permit is settled or released here exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import assert_never

from llmbatch.events import CallEnded, LimitChanged, Notice, Throttled
from llmbatch.pace.backoff import retry_delay
from llmbatch.records import Outcome
from llmbatch.runner.dispatch import Dispatch, Job
from llmbatch.runner.lane import Lane
from llmbatch.runner.work import PATIENCE, Place, Work

__all__ = ["Verdicts"]

NEUTRAL_CANARIES = 3
"""Refused canaries that count as an answer: the provider is up, it merely does not like this request."""

LONGEST_OUTAGE = 24 * 3600.0
"""How long rows with nothing against them probe, where no canary can stand in for them, before they are to blame."""

FEW_BAD = 0.2
"""So many of the recent attempts may come from bad rows; in an outage more fail."""

VOUCHED_SECONDS = 600.0
"""How long after a good probe refusals are the rows' own before they are the route's; each one starts it anew."""


class Verdicts:
    """Applies outcomes. *halt* ends the run: exit code and reason."""

    def __init__(self, dispatch: Dispatch, *, halt: Callable[[int, str, str], None], seed: int) -> None:
        self._dispatch = dispatch
        self._halt = halt
        self._seed = seed
        self._options = dispatch.options
        self._machine_level = 0

    def settle(self, job: Job, outcome: Outcome) -> None:
        """The call of *job* came back as *outcome*."""
        dispatch, lane, work = self._dispatch, job.lane, job.work
        now = dispatch.now()
        was = lane.circuit.phase
        limit = lane.limit.value
        lane.inflight -= 1
        if work is None:
            lane.canary_out = False
        else:
            work.latency = now - job.sent_at
        dispatch.settle_tokens(job, outcome, now)
        self._tell(job, outcome, now)
        if outcome.verdict not in ("success", "throttled"):
            lane.trouble = outcome.message or outcome.code
        if outcome.verdict != "local":
            self._machine_level = 0
            dispatch.machine_since = None
        match outcome.verdict:
            case "success":
                self._success(job, outcome, now)
            case "failure":
                self._failure(job, outcome, now)
            case "neutral":
                self._refusal(job, outcome, now)
            case "throttled":
                self._throttled(job, outcome, now)
            case "exhausted":
                self._exhausted(job, outcome, now)
            case "local":
                self._local(job, outcome, now)
            case _:
                assert_never(outcome.verdict)
        if outcome.pause is not None and outcome.verdict != "throttled" and lane.dead is None:
            dispatch.waiting.pause(lane, outcome.pause, now)
        if lane.circuit.phase != was:
            dispatch.follow(lane, was, now)
        if not lane.inflight:
            self._look_at_what_is_left(lane, now)
        if lane.limit.value != limit:
            dispatch.emit(LimitChanged(now, lane.label, lane.limit.value))

    def cancelled(self, job: Job) -> None:
        """The call of *job* was cut off: it says nothing."""
        dispatch, lane = self._dispatch, job.lane
        now = dispatch.now()
        lane.inflight -= 1
        if job.work is None:
            lane.canary_out = False
        lane.circuit.release(job.permit)
        dispatch.settle_tokens(job, None, now)
        self._tell(job, None, now)

    def _tell(self, job: Job, outcome: Outcome | None, now: float) -> None:
        usage = outcome.usage if outcome is not None else None
        self._dispatch.emit(
            CallEnded(
                now,
                job.lane.label,
                job.work.row.number if job.work is not None else 0,
                job.permit.probe,
                outcome.verdict if outcome is not None else None,
                outcome.code if outcome is not None else "",
                outcome.message if outcome is not None else "",
                outcome.status if outcome is not None else None,
                now - job.sent_at,
                usage.input_tokens if usage is not None else 0,
                usage.output_tokens if usage is not None else 0,
            )
        )

    # Success.

    def _success(self, job: Job, outcome: Outcome, now: float) -> None:
        dispatch, lane, work = self._dispatch, job.lane, job.work
        circuit, serial = lane.circuit, job.permit.serial
        open_before = not circuit.is_closed
        circuit.settle(job.permit, "success", now)
        lane.known.answered = True
        lane.throttles = lane.neutral_canaries = 0
        lane.throttled_since = None
        while lane.throttled_calls and lane.throttled_calls[0] < serial:
            lane.throttled_calls.popleft()
        lane.limit.on_success()
        if work is not None:
            lane.note_latency(now - job.sent_at)
            lane.recent.add(work.row.number, False)
            dispatch.succeed(work, outcome, now)
        if job.permit.probe:
            if open_before and circuit.is_closed:
                self._recovered(lane, serial, by_canary=work is None, now=now)
            return
        if lane.doubted:
            lane.doubted = False
            for held in lane.void_refusals():
                dispatch.waiting.retry(held, now)
        self._prove(lane, serial, now)
        lane.verdict_pending = None
        if not circuit.is_closed and not lane.probes_failed and self._was_mistaken(lane, serial):
            circuit.close(now, start_over=True)

    def _was_mistaken(self, lane: Lane, serial: int) -> bool:
        """Whether the success of call *serial*, sent before the circuit opened, shows that it need not have."""
        if lane.opened_by_streak:
            return serial > lane.newest_failure
        return lane.opened_by_refusal and lane.refusals < self._options.failure_threshold

    def _recovered(self, lane: Lane, serial: int, *, by_canary: bool, now: float) -> None:
        """A probe closed the circuit. Was it an outage, or did only bad rows fail?

        Refusals that opened it are void: the surge may have ended while it was open. Rows that are refused again soon
        are judged with the circuit closed. Failures are void too, but for one case: a canary that passes at the first
        try, with nothing but suspects waiting, shows that the provider was up all along.
        """
        if lane.opened_by_refusal or lane.is_confirmed or not by_canary:
            lane.void()
        self._prove(lane, serial, now)
        if lane.opened_by_refusal or by_canary:
            lane.vouched_until = now + VOUCHED_SECONDS
        if by_canary:
            lane.canary_first_until = now + max(60.0, self._options.recovery_timeout)
            # The failed probes that made the wait grow were the rows' own fault, or are history.
            lane.circuit.close(now, start_over=True)

    def _prove(self, lane: Lane, serial: int, now: float) -> None:
        if not lane.unproved:
            lane.newest_success = max(lane.newest_success, serial)
            return
        ended, again = lane.prove(serial, self._options.max_attempts)
        for work, outcome in ended:
            self._dispatch.fail(work, outcome, now)
        for work in again:
            self._dispatch.waiting.retry(work, now)

    # Failure.

    def _failure(self, job: Job, outcome: Outcome, now: float) -> None:
        lane, work = job.lane, job.work
        circuit = lane.circuit
        was_closed = circuit.is_closed
        circuit.settle(job.permit, "failure", now, retry_after=outcome.pause)
        if outcome.least_wait and not job.permit.probe:
            lane.limit.on_overload(job.permit.serial, circuit.serial)
        if job.permit.probe:
            self._probe_failed(job, outcome, now)
        elif work is None:
            if was_closed:
                lane.canary_failed = True
                circuit.trip(now, "the last rows failed, and so did a canary")
        else:
            lane.newest_failure = max(lane.newest_failure, job.permit.serial)
            lane.recent.add(work.row.number, True)
            self._count_failure(work, job.permit.serial, outcome, now)
            if circuit.is_closed and not self._only_bad_left(lane) and lane.is_failing():
                lane.opened_by_streak = True
                lane.opened_by_refusal = lane.is_mostly_refused
                reason = f"{self._options.failure_threshold} rows in a row failed"
                circuit.trip(now, reason, by_refusal=lane.opened_by_refusal)

    def _probe_failed(self, job: Job, outcome: Outcome, now: float) -> None:
        lane, work = job.lane, job.work
        lane.probes_failed += 1
        if outcome.code == "timeout":
            lane.hung_probes += 1
        if work is None:
            lane.canary_failed = True
            return
        work.attempts -= 1
        work.probe_failures += 1
        work.last = outcome
        if self._is_worn_out(work, now):
            self._dispatch.fail(work, outcome, now)
        else:
            # Parked, unless a call of before the opening has closed the circuit in the meantime.
            self._dispatch.waiting.give_back(work, now)

    def _is_worn_out(self, work: Work, now: float) -> bool:
        # Without a canary nothing but rows can tell whether the route works; none is tried for ever, but
        # for longer than outages last.
        if self._dispatch.knows_canary(work.lane):
            return False
        if self._only_bad_left(work.lane):
            work.charged += 1
        most = self._options.max_attempts
        if work.is_spent(most):
            return True
        since = work.lane.outage_since
        tried = work.attempts + work.probe_failures
        return tried >= PATIENCE * most and since is not None and now - since >= LONGEST_OUTAGE

    def _count_failure(self, work: Work, serial: int, outcome: Outcome, now: float) -> None:
        lane = work.lane
        work.failures += 1
        work.last = outcome
        if self._only_bad_left(lane):
            # Nothing will ever prove it; the row failed before while others did well, and that has to do.
            work.charged += 1
            if work.is_spent(self._options.max_attempts):
                self._dispatch.fail(work, outcome, now)
            else:
                self._dispatch.waiting.retry(work, now)
            return
        # A conflict hardly speaks against the row.
        lane.remember_failure(work, serial, lightly=outcome.verdict == "neutral")
        if self._waits_for_evidence(work, serial, now) and not self._needs_evidence(work):
            self._dispatch.waiting.retry(work, now)

    def _needs_evidence(self, work: Work) -> bool:
        """Whether the row has failed so often, with no success since, that another attempt would teach nothing."""
        most = self._options.max_attempts
        if len(work.pending) >= most and self._dispatch.knows_canary(work.lane):
            return True
        return work.would_be_spent(most)

    def _waits_for_evidence(self, work: Work, serial: int, now: float) -> bool:
        """Judge call *serial* by what is known already; whether the row is now held, on a closed circuit."""
        lane, waiting = work.lane, self._dispatch.waiting
        waiting.hold(work)
        if lane.newest_success > serial:
            self._prove(lane, lane.newest_success, now)
        if work.place is Place.HELD and not lane.circuit.is_closed:
            waiting.park(work, now, avoided=False)
        return work.place is Place.HELD

    # Refusal.

    def _refusal(self, job: Job, outcome: Outcome, now: float) -> None:
        dispatch, lane, work = self._dispatch, job.lane, job.work
        serial = job.permit.serial
        if outcome.retry and not outcome.auth:
            # A conflict (409) asks to be tried again: for the route that is a failure like any other.
            self._failure(job, outcome, now)
            return
        if job.permit.probe:
            self._probe_refused(job, outcome, now)
            return
        lane.circuit.settle(job.permit, "neutral", now)
        if work is None:
            self._canary_refused(lane, serial, outcome, now)
            return
        work.last = outcome
        if outcome.final:
            dispatch.fail(work, outcome, now)
            return
        work.failures += 1
        lane.remember_refusal(work, serial, outcome)
        if self._waits_for_evidence(work, serial, now) or work.place is Place.PARKED:
            self._suspect_route(lane, outcome, now)

    def _probe_refused(self, job: Job, outcome: Outcome, now: float) -> None:
        lane, work = job.lane, job.work
        in_disguise = lane.opened_by_refusal or outcome.verdict == "exhausted"
        lane.circuit.settle(job.permit, "failure" if in_disguise else "neutral", now)
        if in_disguise:
            lane.probes_failed += 1
            lane.canary_failed = lane.canary_failed or work is None
        if work is not None:
            work.last = outcome
            if outcome.final:
                self._dispatch.fail(work, outcome, now)
                return
            work.attempts -= 1
            work.probe_failures += 1
            lane.remember_refusal(work, job.permit.serial, outcome)
            self._dispatch.waiting.give_back(work, now)
        if lane.circuit.is_closed:
            # Refusals, but answers: the provider is up. Whether it refuses these requests or all, a success will tell.
            lane.doubted = True
            self._recovered(lane, job.permit.serial, by_canary=False, now=now)
        certain = outcome.verdict == "exhausted" or lane.refusals >= self._options.failure_threshold
        if certain and not self._dispatch.has_answered(lane):
            lane.verdict_pending = outcome

    def _canary_refused(self, lane: Lane, serial: int, outcome: Outcome, now: float) -> None:
        if lane.refusals:
            lane.vouched_until = 0.0
            self._close_route(lane, outcome, now)
            return
        lane.neutral_canaries += 1
        lane.evidence_at = now + 1.0
        if lane.neutral_canaries >= NEUTRAL_CANARIES:
            lane.neutral_canaries = 0
            self._prove(lane, serial, now)

    def _suspect_route(self, lane: Lane, outcome: Outcome, now: float) -> None:
        """Rows are refused and nothing succeeded since: is it the rows, or the route?"""
        if not lane.circuit.is_closed and lane.verdict_pending is not None:
            return
        if now < lane.vouched_until:
            lane.vouched_until = now + VOUCHED_SECONDS
            return
        many = lane.is_refusing()
        at_once = outcome.verdict == "exhausted" and not self._dispatch.has_answered(lane)
        if many or at_once:
            self._close_route(lane, outcome, now)

    def _close_route(self, lane: Lane, outcome: Outcome, now: float) -> None:
        answered = self._dispatch.has_answered(lane)
        if not answered:
            # Calls in flight may still show that the route works; only then is it decided.
            lane.verdict_pending = outcome
        elif outcome.auth and lane.circuit.is_closed:
            message = f"{lane.label} suddenly refuses the key ({outcome.message})"
            hint = "the key may have been revoked; waiting and probing in case it is an outage"
            self._dispatch.emit(Notice(now, "warning", message, hint))
        if lane.circuit.is_closed:
            lane.opened_by_refusal = True
            count = lane.refusals
            lane.circuit.trip(now, f"{count} {'row' if count == 1 else 'rows'} refused", by_refusal=True)

    # The other verdicts.

    def _throttled(self, job: Job, outcome: Outcome, now: float) -> None:
        dispatch, lane, work = self._dispatch, job.lane, job.work
        lane.circuit.settle(job.permit, "throttled", now, retry_after=outcome.pause)
        lane.limit.on_pushback(job.permit.serial, lane.circuit.serial)
        lane.throttled_calls.append(job.permit.serial)
        if lane.throttled_since is None:
            lane.throttled_since = now
        wait = outcome.pause
        if wait is None:
            if now >= lane.not_before:
                lane.throttles += 1
            chance = Random(f"{self._seed}:throttle:{lane.label}:{lane.throttles}").random()
            wait = retry_delay(lane.throttles, chance, longest=60.0)
        wait = max(wait, outcome.least_wait)
        if work is not None:
            work.last = outcome
            if job.permit.probe:
                work.attempts -= 1
            dispatch.waiting.give_back(work, now)
        if now + wait > lane.not_before:
            dispatch.emit(Throttled(now, lane.label, wait, outcome.code))
        dispatch.waiting.pause(lane, wait, now)

    def _exhausted(self, job: Job, outcome: Outcome, now: float) -> None:
        lane, work = job.lane, job.work
        if outcome.scope != "key" or outcome.auth:
            # A key, a model or an address that worked before is judged like any refusal: by evidence.
            self._refusal(job, outcome, now)
            return
        lane.circuit.settle(job.permit, "exhausted", now)
        lane.dead = outcome
        if work is not None:
            work.last = outcome
            work.attempts -= 1
            self._dispatch.waiting.park(work, now, avoided=False)
        self._halt(3, f"{lane.label} refuses the account: {outcome.message}", outcome.advice)

    def _local(self, job: Job, outcome: Outcome, now: float) -> None:
        dispatch, lane, work = self._dispatch, job.lane, job.work
        lane.circuit.release(job.permit)
        if outcome.code != "no_network":
            # No handles, no memory: fewer at once, until it turns out that more will do again.
            lane.limit.on_pushback(job.permit.serial, lane.circuit.serial)
        if work is not None:
            work.attempts -= 1
            dispatch.waiting.give_back(work, now)
        if now < dispatch.machine_until:
            return
        if dispatch.machine_since is None:
            dispatch.machine_since = now
        wait = min(self._options.recovery_timeout, 2.0**self._machine_level)
        self._machine_level = min(self._machine_level + 1, 30)
        dispatch.machine_until = now + wait
        hint = outcome.advice or "nothing is lost: the rows go again"
        dispatch.emit(Notice(now, "warning", f"this machine: {outcome.message}; trying again in {wait:.0f} s", hint))

    # What is left.

    def _look_at_what_is_left(self, lane: Lane, now: float) -> None:
        """Nothing of the route is in flight any more: does what is left decide anything?"""
        if lane.dead is not None:
            return
        if lane.verdict_pending is not None and not lane.circuit.is_closed:
            self._give_up(lane, lane.verdict_pending, now)
        elif lane.circuit.is_closed and self._is_failing_tail(lane):
            was = lane.circuit.phase
            lane.circuit.trip(now, f"the last {lane.live} rows all failed")
            self._dispatch.follow(lane, was, now)

    def _is_failing_tail(self, lane: Lane) -> bool:
        # A single row is its own problem; it is judged with the help of a canary, and the circuit stays closed.
        if not self._dispatch.intake.ended or not 2 <= lane.live < self._options.failure_threshold:
            return False
        if not lane.all_live_failed():
            return False
        return not self._only_bad_left(lane)

    def _only_bad_left(self, lane: Lane) -> bool:
        """Whether every row that is left has failed before others did well, on a route that knows no canary.

        An opening could then not tell bad rows from a bad route; they use up their attempts instead. Many rows that
        failed while most others did too have seen an outage begin rather than being bad.
        """
        if not self._dispatch.intake.ended or len(lane.known_bad) < lane.live or self._dispatch.knows_canary(lane):
            return False
        is_few = lane.live <= 2 * self._options.failure_threshold or lane.recent.failing < FEW_BAD
        return is_few or all(lane.known_bad.values())

    def _give_up(self, lane: Lane, outcome: Outcome, now: float) -> None:
        """The route never answered and refuses: only the operator can help."""
        lane.dead = outcome
        self._dispatch.waiting.park_waiting(lane, now)
        advice = outcome.advice or "check the model, the parameters and the rows; `llmbatch check` reads them all"
        if outcome.scope in ("model", "provider") and len(self._dispatch.lanes) > 1:
            self._dispatch.emit(Notice(now, "error", f"{lane.label}: {outcome.message}", advice))
            return
        self._halt(3, f"{lane.label} refused the first rows: {outcome.message}", advice)
