"""Judge failures by the successes since: failed rows, the opening of the circuit, and its recovery."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from llmbatch.core.calls import Outcome
from llmbatch.pace.backoff import retry_delay
from llmbatch.pace.limit import RAMP_START
from llmbatch.route.base import RouteBase
from llmbatch.route.calls import Call
from llmbatch.route.decisions import (
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
    Tell,
)
from llmbatch.route.evidence import RowRecord, is_of_no_api, what_no_api_answers
from llmbatch.route.health import FADE
from llmbatch.route.outage import Cause, Outage, Trust, probe_wait

__all__ = ["Judging"]

OUTAGE_BY_CHECKS = math.log(1e-3)
"""Logarithm of the chance below which failed health checks mean an outage."""

LONG_NAMED_WAIT = 60.0
"""Seconds of a named wait that count as time without an answer, where nothing was ever answered."""


class Judging(RouteBase):
    """Judges failures by the successes since; see RouteState."""

    __slots__ = ()

    # Successes.

    def _note_success(self, call: Call, now: float) -> None:
        history, permit = self.history, call.permit
        history.answered = True
        history.slow.clear()
        if history.refusals:
            history.refusals.prove(call.sent_at)
        history.failing.clear()
        throttled = history.throttled
        if throttled:
            for row in [row for row, label in throttled.items() if label == self.label]:
                del throttled[row]
        recent = self.recent
        recent.succeeded_at, recent.key_refused_at = now, math.inf
        history.good_sent_at = max(history.good_sent_at, call.sent_at)
        self.checks.log_chance = 0.0
        self._unreached = None
        serial = permit.serial
        self.throttle.prove(serial)
        if call.kind == "row":
            seconds = now - call.sent_at
            self.limit.on_success(serial, newest=self.circuit.serial, seconds=seconds, load=call.load, now=now)
            recent.slowest = seconds if seconds > recent.slowest else max(seconds, recent.slowest * FADE)
            self.evidence.succeeded(call.row, serial, probe=permit.probe)
            if call.fresh:
                self._usual.add(0)
            trust = self.trust
            if trust.pings or trust.proven_by_ping or trust.jumps or trust.false_opening:
                self.trust = Trust()
        else:
            self.limit.on_success(serial)
            if not permit.probe:
                self.evidence.check_passed(serial)

    def _prove(self, serial: int, now: float) -> list[Decision]:
        """Judge the rows whose failures the success of call *serial* proves."""
        proven = self.window.prove(serial)
        if proven:
            self._usual.add(proven, proven)
        decisions: list[Decision] = []
        for row, record in self.evidence.prove(serial):
            if record.last.verdict == "throttled":
                record.note_throttled(now)
            decisions += self._after_proof(row, record, now)
        return decisions

    def _after_proof(self, row: int, record: RowRecord, now: float) -> list[Decision]:
        if record.in_flight:
            return []
        if self.evidence.may_end(record, now):
            return [self._end(row, record)]
        if record.held and not record.pending:
            return [self._retry(row, record, now)]
        return []

    def _ping_passed(self, call: Call, now: float) -> list[Decision]:
        """Judge a ping that succeeded while rows that failed are held.

        Pings prove the failures of fewer rows than it takes to open the circuit. If more rows fail, also of those in
        flight, pings say nothing, and the circuit opens as in an outage. Of a tenant's rows they say nothing at all.
        """
        self.history.reached = True
        self.history.failing.clear()
        if self.is_tenant:
            self._unreached = None
            return []
        self.trust.proven_by_ping.update(self.evidence.unproven)
        if len(self.trust.proven_by_ping) < self._policy.failure_threshold:
            self.evidence.check_passed(call.serial)
            self._unreached = None  # it answers, so its rows are judged
            return self._prove(min(call.serial, self.evidence.newest_unproven + 1), now)  # not those in flight
        if self.is_silent and self._are_slow(self.evidence.unproven.values()):
            return self._name_timeouts()
        if not self.history.ever and self._unreached is None:
            self._unreached = now
        self.trust.pings += 1
        return self._open("last rows", now)

    # Failures.

    def _failed(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        self.circuit.settle(call.permit, "failure", now)
        if outcome.min_backoff and not call.probe:
            self.limit.on_overload(call.serial, self.circuit.serial)
        elif outcome.code == "timeout" and call.kind == "row" and not call.probe:
            self.limit.on_timeout(call.serial, self.circuit.serial, good=self.recent.slowest / self._policy.timeout)
        if outcome.retry_after is not None:
            self.throttle.note_wait(call.serial, now + outcome.retry_after)
            self.circuit.hold(now + outcome.retry_after if not self.circuit.is_closed else -math.inf)
        if call.probe and self.outage is None:
            return self._stale_probe(call)
        if outcome.code == "unknown_host" and not self.history.ever:
            self._stop = (2, outcome)
        if call.probe:
            return self._probe_failed(call, outcome, now)
        if call.kind != "row":
            # A wait that no later call in flight could disprove applies to the route.
            disprovable = self.calls.newest > call.serial
            named = -math.inf if outcome.retry_after is None else self.throttle.confirmed_wait(disprovable=disprovable)
            return [*self._pause(named - now, now, ""), *self._check_failed(outcome, now)]
        return self._judge_failure(call, self._note_failure(call, outcome), now)

    def _judge_failure(self, call: Call, record: RowRecord, now: float) -> list[Decision]:
        """Judge a failure of a row that has been noted: it may stop the run or open the circuit."""
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        if self._stop is not None:
            return [*self._open("stop", now), ParkUntil(call.row)]
        if self.window.is_down(self.calls.fresh, self._policy.failure_threshold):
            return [*self._open(self._cause(), now), ParkUntil(call.row)]
        if self.is_lost(now):
            return [*self._open("last rows", now, confirmed=True), ParkUntil(call.row)]  # it may go on elsewhere
        are_many = record.sent_alone and self.history.fail_together(self._policy.failure_threshold)
        if are_many and self.evidence.is_spent(record):
            records = self.evidence.records.values()
            if self.is_silent and len(records) >= self._policy.failure_threshold and self._are_slow(records):
                return [*self._name_timeouts(), ParkUntil(call.row)]
            if self.evidence.doubt_few() or (record.last.key_refused and not self.is_refused_alone):
                return [*self._open("last rows", now), ParkUntil(call.row)]
        return [*self._heed_waits(record, now), self._after_failure(call.row, record, now)]

    def _check_failed(self, outcome: Outcome, now: float) -> list[Decision]:
        """Judge a health check that failed with *outcome* while rows are held: by chance, or because of an outage."""
        if self._stop is not None:
            return []
        self.evidence.check_failed()
        self.checks.note_failure(self.evidence.rate.cautious)
        # Where no tenant was ever answered, not even a ping, each need not find that out anew.
        is_silent = not self.is_reached and self.history.fail_together(self._policy.failure_threshold)
        is_clear = self.checks.log_chance <= OUTAGE_BY_CHECKS or is_silent or self.is_lost(now)
        if not self.circuit.is_closed or not is_clear:
            return []
        unproven = self.evidence.unproven
        may_be_all = len(unproven) >= self._policy.failure_threshold or outcome.code == "timeout"
        slow = may_be_all and self.is_silent and self._are_slow(unproven.values())
        return self._open("timeouts" if slow else "last rows", now, confirmed=True)

    def _note_failure(self, call: Call, outcome: Outcome) -> RowRecord:
        self.history.note_failure(call.row, outcome, self._policy.failure_threshold)
        known = self.evidence.records.get(call.row)
        if (known is None or not known.proven) and self.window.add(call.row, call.serial, self._usual.value):
            self._usual.add(1)
        record = self.evidence.failed(call.row, call.serial, outcome)
        if self.outage is not None:
            self.outage.newest_failure = max(self.outage.newest_failure, call.serial)
        return record

    def _after_failure(self, row: int, record: RowRecord, now: float) -> Decision:
        if self.evidence.may_end(record, now):
            return self._end(row, record)
        record.retry_at = now + max(self._backoff(row, record, now), record.last.retry_after or 0.0)
        if record.pending and (self.checks.available or self.evidence.is_waiting(record)):
            record.held = True
            return HoldForEvidence(row)
        return self._retry(row, record, now)

    def _retry(self, row: int, record: RowRecord, now: float) -> RetryAt:
        record.held = False
        return RetryAt(row, max(now, record.retry_at), record.last.code)

    def _backoff(self, row: int, record: RowRecord, now: float) -> float:
        delay = retry_delay(self.evidence.backoff(record), self._chance(f"retry:{row}:{record.failures}"))
        return max(min(delay, self.evidence.time_left(record, now)), record.last.min_backoff)

    def _end(self, row: int, record: RowRecord) -> Fail:
        self.history.throttled.pop(row, None)
        return Fail(row, record.last, record.sent_alone, self.evidence.ended(row))

    # Openings, probes and named waits.

    def _cause(self) -> Cause:
        records = self.evidence.records
        failed = [record for row in self.window.rows if (record := records.get(row)) is not None]
        if self._are_slow(failed):
            return "timeouts"
        lasts = [record.last for record in failed]
        refused = sum(last.verdict in ("rejected", "account_refused") for last in lasts)
        return "refusals" if 2 * refused >= len(lasts) and refused else "failures"

    @staticmethod
    def _are_slow(records: Iterable[RowRecord]) -> bool:
        """Whether there are rows, and all of them took longer than the time limit at their last attempt."""
        codes = {record.last.code for record in records}
        return codes == {"timeout"}

    def _open(self, cause: Cause, now: float, *, confirmed: bool = False) -> list[Decision]:
        count = len(self.window.rows)
        rows = f"{count} rows in a row" if count > 1 else "1 row"
        first = "the first rows" if count > 1 else "the first row"
        refused = f"{first} {'were' if count > 1 else 'was'} refused"
        reason = {
            "failures": f"{rows} failed",
            "refusals": f"{rows} refused",
            "timeouts": f"{rows} took longer than the time limit",
            "last rows": "the last rows failed",
            "stop": f"{first} failed" if self._stop is not None and self._stop[0] == 2 else refused,
        }[cause]
        self._begin_outage(
            Outage(now, cause, self.window.newest, confirmed, is_silent=cause == "timeouts" and self.is_silent)
        )
        self.circuit.trip(now, reason, by_refusal=cause in ("refusals", "stop"))
        self.circuit.hold(self.throttle.confirmed_wait(disprovable=False))
        decisions: list[Decision] = []
        if confirmed:
            lasts = [record.last for record in self.evidence.records.values()]
            decisions += self._confirmed(now, lasts)
        return decisions

    def _begin_outage(self, outage: Outage) -> None:
        self.outage = outage
        self._steady = max(self._steady, self.limit.value)
        for record in self.evidence.records.values():
            record.held = False  # all waiting rows of the route are parked

    def _stale_probe(self, call: Call) -> list[Decision]:
        """Park the row of a probe that lost its lease and ended after the circuit had closed; it is not counted."""
        return [ParkUntil(call.row)] if call.kind == "row" else []

    def _probe_failed(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        outage = self.outage
        assert outage is not None  # noqa: S101 - an open circuit has one
        decisions: list[Decision] = [ParkUntil(call.row)] if call.kind == "row" else []
        if call.kind == "ping":
            is_silent = outcome.status is None or is_of_no_api(outcome) or self.history.has_good
            outage.note_ping(now, is_answer=not is_silent, is_good=self.history.has_good)
        if outcome.code == "timeout":
            outage.hung += 1
            if call.kind != "row" and outage.turn == 1 and not self.history.ever:
                decisions += self._name_silence(call)
        elif outage.cause == "timeouts":
            outage.cause = "failures"  # it rests on time-outs alone no longer
        chance, policy = self._chance(f"probe:{outage.turn}"), self._policy
        wait = probe_wait(self._failing_for(outage, now), policy.recovery_timeout, chance, policy.probe_share)
        self.circuit.hold(now + max(wait, outcome.retry_after or 0.0))
        if self._stop is not None:
            outage.failed_rows += call.kind == "row"
            return decisions
        rate, is_good = self.evidence.rate.cautious, call.kind == "good"
        if outage.row_failed() if call.kind == "row" else outage.check_failed(rate, is_good=is_good):
            decisions += self._confirmed(outage.since, [outcome])
        return decisions

    def _failing_for(self, outage: Outage, now: float) -> float:
        """Seconds since a row last succeeded, across openings that pings alone have closed."""
        return now - (outage.since if self.trust.since is None else self.trust.since)

    def _probe_passed(self, call: Call, now: float) -> list[Decision]:
        if self.circuit.is_closed:
            return self._recovered(call, now)
        if self.outage is not None and call.kind != "row":
            self.outage.check_next = True
        return []

    def _recovered(self, call: Call, now: float) -> list[Decision]:
        """Recover after the circuit has closed: an outage has ended, or the opening was a mistake."""
        outage, self.outage = self.outage, None
        assert outage is not None  # noqa: S101 - an open circuit has one
        by_ping = call.kind == "ping"
        self.checks.ping_misleads = call.kind == "good" and (self.checks.ping_misleads or outage.pinged != "no")
        self.history.reached = self.history.reached or by_ping
        self.trust.pings += by_ping
        if by_ping and self.trust.since is None:
            self.trust.since = outage.since
        decisions: list[Decision] = []
        if outage.confirmed:
            self.evidence.void()
            self.window.clear(self.circuit.serial)
            self.limit.restart(RAMP_START, self.circuit.serial, forget=outage.cause == "timeouts")
            self._steady = 0.0
            decisions.append(OutageOver(outage.since))
            if by_ping and self.trust.pings > 1 and outage.cause == "timeouts" and self.is_silent:
                # The last such answer ended an outage, and again the rows took too long.
                return [*decisions, *self._name_timeouts()]
        else:
            self.trust.false_opening = True
            # If a named wait has ended meanwhile, traffic ramps up as after any wait.
            steady = RAMP_START if self.throttle.ramp_due else max(RAMP_START, self._steady / 2)
            self.limit.restart(steady, self.circuit.serial, forget=False)
            if by_ping:
                if not self.history.ever and self._unreached is None:
                    self._unreached = now
                self.window.clear(self.circuit.serial)
                if was_silent := self.checks.log_chance:
                    # Before the opening a ping failed as the rows did: the route was silent, and is no longer.
                    self.checks.log_chance = 0.0
                    self.evidence.void()
                if outage.cause == "timeouts" and not (was_silent and self.trust.pings == 1):
                    decisions += self._name_timeouts()
                if self.dead is not None:
                    return decisions
            else:
                decisions += self._prove(call.serial, now)
        self.throttle.ramp_due = False
        return [*decisions, Requeue()]

    def _confirmed(self, since: float, lasts: Sequence[Outcome]) -> list[Decision]:
        """An outage, perhaps of the key; where none or no API was ever reached, more often a wrong address."""
        outage = OutageConfirmed(since, self.reason)
        refused = [last.message for last in lasts if last.key_refused]
        if self.history.ever and 2 * len(refused) > len(lasts):
            hint = "the key may have been revoked; waiting and probing in case it is an outage"
            return [outage, Tell("warning", f"{self.label} suddenly refuses the key ({refused[-1]})", hint)]
        if self._unreached is None or self.history.ever:
            return [outage]
        is_other = bool(lasts) and all(is_of_no_api(last) for last in lasts)
        if not is_other and not all(last.unreachable for last in lasts):
            return [outage]
        if is_other:
            message = f"has never answered as an API does, but with {what_no_api_answers(lasts[-1])}"
            return [outage, *self._warn_once(message, "is the address right (--base-url)? still trying")]
        hint = "is the address right, and is the server up? still trying"
        return [outage, *self._warn_once("has never answered", hint)]

    @property
    def is_mute(self) -> bool:
        """Whether nothing was ever answered: the first rows took too long, and so did the smallest request."""
        outage = self.outage
        return outage is not None and outage.is_silent and outage.pinged == "silent" and not self.history.ever

    def _name_timeouts(self) -> list[Decision]:
        """Give the route up if pings are answered but its rows never were in time; else warn."""
        message = f"answers take longer than --timeout ({self._policy.timeout:g} s)"
        if not self.is_silent:
            return [Tell("warning", f"{self.label}: {message}", "raise --timeout, or such rows fail as timeout")]
        hint = "raise --timeout; nothing was marked as failed"
        # If no tenant was ever answered, they all have the same trouble, which is told once.
        label = self.label if self.history.ever or not self.history.name else self.history.name
        self.dead = Outcome("account_refused", code="timeout", message=f"{label}: {message}", hint=hint)
        return [GiveUpRoute(self.dead, self.dead.message, hint)]

    def _heed_waits(self, record: RowRecord, now: float) -> list[Decision]:
        """Pause the route for a wait that failures named, if two calls named it and chance hardly explains them.

        Rows that are judged by their own attempts alone do not tell whether it is chance: they obey.
        """
        if not record.sent_alone and not self.window.is_suspicious(self.calls.fresh):
            return []
        return self._pause(self.throttle.confirmed_wait(disprovable=True) - now, now, "")

    def _pause(
        self, wait: float, now: float, code: str, *, is_named: bool = True, is_refusal: bool = True
    ) -> list[Decision]:
        throttle = self.throttle
        begins = max(now, throttle.not_before)
        if not math.isfinite(wait) or wait <= 0 or not throttle.pause(now + wait):
            return []
        if self._unreached is not None:
            self._unreached += max(0.0, now + wait - begins - LONG_NAMED_WAIT)
        if throttle.is_covered:
            throttle.since = None
        elif throttle.since is not None and now + wait - throttle.since >= self._policy.max_throttled:
            throttle.given_up = True
        return [PauseRoute(wait, code, is_named, is_refusal)]
