"""Judge outcomes that are neither successes nor failures: refusals, throttling, and faults of this machine."""

from __future__ import annotations

import math
from dataclasses import replace

from llmbatch.core.calls import Outcome
from llmbatch.pace.backoff import retry_delay
from llmbatch.route.account import is_money
from llmbatch.route.calls import Call
from llmbatch.route.decisions import (
    Decision,
    Fail,
    ParkUntil,
    RetryAt,
)
from llmbatch.route.evidence import RowRecord, is_own_error
from llmbatch.route.failures import MOST_USUAL
from llmbatch.route.judging import OUTAGE_BY_CHECKS, Judging
from llmbatch.route.outage import probe_wait

__all__ = ["Refusing"]

MOST_REFUSING = 3
"""Times in a row that answers which prove no row may close the circuit; after that, refusals confirm an outage."""


class Refusing(Judging):
    """Judges refusals, throttling and local faults; see RouteState."""

    __slots__ = ()

    # Refusals.

    def _refused(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        if is_money(outcome):
            self._note_money(call)
        if call.probe:
            return self._probe_refused(call, outcome, now)
        self.circuit.settle(call.permit, "neutral", now)
        if call.kind != "row":
            return self._check_refused(outcome, now)
        if outcome.row_is_bad:
            return self._bad_row(call, outcome)
        if outcome.retry and not outcome.key_refused:
            return self._row_refused(call, outcome, now)
        record = self._note_failure(call, outcome)
        if outcome.key_refused:
            self.recent.key_refused_at = min(self.recent.key_refused_at, now)
        if outcome.retry_after is not None:
            self.throttle.note_wait(call.serial, now + outcome.retry_after)
        stop = self._should_stop(outcome)
        if stop is not None:
            self._stop = (3, stop)
        return self._judge_failure(call, record, now)

    def _bad_row(self, call: Call, outcome: Outcome) -> list[Decision]:
        self.evidence.forget(call.row)
        return [Fail(call.row, outcome)]

    def _row_refused(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        """Judge a refusal that may be retried, or an exception of a function: it says nothing about the route."""
        record = self.evidence.failed(call.row, call.serial, outcome)
        if is_own_error(outcome) and record.pending:
            record.pending.clear()
            self.evidence.unproven.pop(call.row, None)
            record.proven += 1
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        if outcome.scope == "row" and not self.history.ever:
            raised = sum(other.last.scope == "row" for other in self.evidence.records.values())
            ended = self.evidence.own_lost
            if raised + ended >= self._policy.failure_threshold and raised == len(self.evidence.records):
                self._stop = (3, outcome)
                return [*self._open("stop", now), ParkUntil(call.row)]
        return [self._after_failure(call.row, record, now)]

    def _should_stop(self, outcome: Outcome) -> Outcome | None:
        """Return the outcome to stop with if an operator must act: no money, or a route that never worked."""
        if is_money(outcome) and self.history.refusals.mean_the_account:
            return outcome
        if self.history.ever:
            return None
        if outcome.verdict == "account_refused" and outcome.certain and not self.evidence.newest_success:
            return outcome  # nor was the smallest request answered, which shows that key and model are right
        records = self.evidence.records
        lasts = [record.last for row in self.window.rows if (record := records.get(row)) is not None]
        refused = sum(last.verdict in ("rejected", "account_refused") for last in lasts)
        return outcome if refused >= self._policy.failure_threshold else None

    def _note_money(self, call: Call) -> None:
        """Count a refusal for money, unless its row failed before while others succeeded."""
        record = self.evidence.records.get(call.row)
        if record is None or not record.proven:
            self.history.refusals.add(call.row, call.serial, call.sent_at)

    def _check_refused(self, outcome: Outcome, now: float) -> list[Decision]:
        """Judge a health check that was refused while rows are held."""
        if is_money(outcome) and self._should_stop(outcome) is not None:
            self._stop = (3, outcome)
        if not self.circuit.is_closed or self._stop is not None:
            return []
        self.evidence.check_failed()
        if outcome.retry and outcome.status is not None and not outcome.key_refused and self.history.ever:
            # Refused at random, as rows are (400 json_validate_failed of Groq): an answer, and no sign of an outage.
            return self._check_refused_by_chance(now)
        refused = [record for record in self.evidence.unproven.values() if _is_refused(record)]
        if not refused:
            # An answer, but no proof that rows can succeed: rows that only fail wait as in an outage.
            return self._open("last rows", now)
        if not self.history.ever:
            self._stop = (3, outcome)
            return []
        return self._open("refusals", now)

    def _check_refused_by_chance(self, now: float) -> list[Decision]:
        """Judge a health check that met a refusal which may be chance: an outage only if far too many do in a row."""
        self.checks.note_failure(max(self.evidence.rate.cautious, MOST_USUAL))
        if self.checks.log_chance > OUTAGE_BY_CHECKS:
            return []
        return self._open("last rows", now, confirmed=True)

    def _probe_refused(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        outage = self.outage
        if outage is not None and call.kind == "ping":
            outage.note_ping(now, is_answer=not self.history.has_good, is_good=self.history.has_good)
        final = outcome.row_is_bad and call.kind == "row"
        if outage is None:
            self.circuit.settle(call.permit, "neutral", now)
            return self._bad_row(call, outcome) if final else self._stale_probe(call)
        if outcome.verdict == "account_refused" and self._should_stop(outcome) is not None:
            self._stop = (3, outcome)
        # Answers that refuse have closed the circuit before, and nothing has passed since.
        is_again = self.trust.pings >= MOST_REFUSING and self.history.ever
        disguised = (outage.cause in ("refusals", "stop") or is_again) and not final
        if disguised or outcome.verdict == "account_refused":
            self.circuit.settle(call.permit, "failure", now)
            decisions = self._probe_failed(call, outcome, now)
        else:
            # The provider answers, though it refuses this request: ask another one before long, unless such fail too.
            self.circuit.settle(call.permit, "neutral", now)
            outage.check_next = not self.trust.pings
            if call.kind == "ping" and outage.pinged == "answered" and outage.cause == "timeouts" and self.is_silent:
                self.history.reached = True
                return self._name_timeouts()
            decisions = self._bad_row(call, outcome) if final else [ParkUntil(call.row)] if call.kind == "row" else []
            if self.circuit.is_closed:
                decisions += self._recovered(Call(0, "ping", call.permit, call.timeout, call.sent_at), now)
            elif self.circuit.phase == "half_open":
                lasted = self._failing_for(outage, now) if self.trust.pings or outage.failed_checks else 0.0
                self.circuit.hold(
                    now + probe_wait(lasted, self._policy.recovery_timeout, 0.5, self._policy.probe_share)
                )
        return decisions

    # Throttling and local faults.

    def _throttled(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        self.circuit.settle(call.permit, "throttled", now)
        if call.kind != "row" and not call.probe and self.throttle.is_disproved(call.serial):
            self._push_back(call)
            return []
        if outcome.lacks_capacity:
            return self._without_capacity(call, outcome, now)
        is_row = call.kind == "row" and not call.probe and not outcome.is_withheld and self.circuit.is_closed
        if is_row and self.limit.on_refused(call.serial, call.load, self.circuit.serial, len(self.calls)):
            return self._beyond_bound(call, outcome, now)
        record = self.evidence.records.get(call.row) if call.kind == "row" else None
        if not call.probe and not outcome.is_withheld:
            self.evidence.throttled(call.row if call.kind == "row" else 0, call.serial)
        if record is not None and record.throttled and self.circuit.is_closed and not outcome.is_withheld:
            # Throttled while others succeed: it is too large for the limit, and no longer slows the route.
            record = self.evidence.failed(call.row, call.serial, _too_large(outcome))
            return [self._after_failure(call.row, record, now)]
        if outcome.retry_after is not None:
            self.throttle.note_wait(call.serial, now + outcome.retry_after)
        count = self.throttle.throttled(call.serial, now)
        if call.kind == "row":
            self.history.throttled[call.row] = self.label
        # Providers refuse quickly: where new rows are in flight, the next one, which takes its slot, will tell.
        disprovable = self._may_be_disproved(call) or self.calls.fresh > 0
        since, newest = max(self.evidence.newest_success, self.throttle.first - 1), self.circuit.serial
        if call.kind != "row" or call.probe or self.throttle.is_route_wide(since, newest, disprovable=disprovable):
            alone = count == 1 and not outcome.is_withheld
            return self._slow_down(call, outcome, now, disprovable=disprovable, alone=alone)
        if outcome.is_withheld:
            return [self._withheld(call, outcome, now)]
        if count > 1:
            self._push_back(call)
        record = self.evidence.failed(call.row, call.serial, outcome)
        if not self.circuit.is_closed:
            return [ParkUntil(call.row)]
        return [self._after_failure(call.row, record, now)]

    def _beyond_bound(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        """Send a row again that was refused beside more than the route takes at once; two named waits apply to all."""
        if outcome.retry_after is not None:
            self.throttle.note_wait(call.serial, now + outcome.retry_after)
        if self.throttle.confirmed_wait(disprovable=True) > now:
            return self._slow_down(call, outcome, now, disprovable=True, alone=False)
        return [self._send_later(call, outcome, now)]

    def _may_be_disproved(self, call: Call) -> bool:
        """Whether a call sent after *call* has succeeded, or is in flight and may."""
        return self.throttle.is_disproved(call.serial) or self.calls.newest > call.serial

    def note_cover(self, *, is_covered: bool) -> None:
        """Note whether other routes answer its rows while it lacks capacity: it is not given up for that."""
        self.throttle.is_covered = is_covered

    def _without_capacity(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        """Slow down for a tier that lacks capacity. It says nothing about the row, however often that meets it."""
        if outcome.retry_after is not None:
            self.throttle.note_wait(call.serial, now + outcome.retry_after)
        self.throttle.throttled(call.serial, now)
        disprovable = self._may_be_disproved(call)
        since, newest = self.evidence.newest_success, self.circuit.serial
        if call.kind != "row" or call.probe or self.throttle.is_route_wide(since, newest, disprovable=disprovable):
            return self._slow_down(call, outcome, now, disprovable=disprovable, alone=False)
        self._push_back(call)
        return [self._send_later(call, outcome, now)]

    def _send_later(self, call: Call, outcome: Outcome, now: float) -> Decision:
        """Send a row again that was refused for reasons that are not its own; nothing else waits."""
        if not self.circuit.is_closed:
            return ParkUntil(call.row)
        wait = outcome.retry_after
        if wait is None:
            wait = retry_delay(1.0, self._chance(f"capacity:{call.row}:{call.serial}"))
        return RetryAt(call.row, now + max(wait, outcome.min_backoff), outcome.code)

    def _withheld(self, call: Call, outcome: Outcome, now: float) -> Decision:
        """Send a row again that a circuit inside the function refused; that counts against nobody."""
        if not self.circuit.is_closed:
            return ParkUntil(call.row)
        return RetryAt(call.row, now + max(outcome.min_backoff, outcome.retry_after or 0.0), outcome.code)

    def _slow_down(self, call: Call, outcome: Outcome, now: float, *, disprovable: bool, alone: bool) -> list[Decision]:
        """Pause a throttled route. Counts against no row, except one that was throttled *alone*, if others succeed."""
        self._push_back(call)
        excused = self.evidence.excuse_throttled()
        if alone and call.kind == "row" and not call.probe:
            self.evidence.failed(call.row, call.serial, outcome)
        named = self.throttle.confirmed_wait(disprovable=disprovable, newest=self.calls.newest) - now
        wait = named
        if not math.isfinite(named):
            purpose = f"throttle:{self.circuit.serial}"
            wait = (
                outcome.retry_after
                if outcome.retry_after is not None
                else self.throttle.backoff(self._chance(purpose), now)
            )
        is_named = (math.isfinite(named) or outcome.retry_after is not None) and wait >= outcome.min_backoff
        wait = max(wait, outcome.min_backoff)
        decisions = self._pause(wait, now, outcome.code, is_named=is_named)
        decisions += [RetryAt(row, max(at, now + wait), outcome.code) for row, at in excused]
        if not self.circuit.is_closed:
            self.circuit.hold(now + wait)
        if call.kind != "row":
            return decisions
        back: Decision = RetryAt(call.row, now + max(wait, outcome.retry_after or 0.0), outcome.code)
        return [*decisions, back if self.circuit.is_closed else ParkUntil(call.row)]

    def _push_back(self, call: Call) -> None:
        self.limit.on_pushback(call.serial, self.circuit.serial)
        self._steady = 0.0

    def _local(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        self.circuit.release(call.permit)
        if not outcome.min_backoff:
            # All wait, and not this row alone.
            self.throttle.ramp_due = True
            if outcome.code != "no_network":
                self._push_back(call)  # out of handles or memory: lower the limit until more calls succeed again
        if call.kind != "row":
            return []
        at = now + outcome.min_backoff
        return [RetryAt(call.row, at, outcome.code) if self.circuit.is_closed else ParkUntil(call.row)]


def _is_refused(record: RowRecord) -> bool:
    return record.last.verdict in ("rejected", "account_refused")


def _too_large(outcome: Outcome) -> Outcome:
    """Return the outcome of a row that is too large for the route's limit."""
    message = f"throttled again and again while other rows passed: larger than the route's limit? ({outcome.message})"
    return replace(outcome, code="request_too_large", message=message)
