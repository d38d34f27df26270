"""State machine of one route (or one tenant of it): outcomes of calls in, decisions out.

Composes the circuit, the concurrency limit, the evidence against rows, the outage while there is one, and named waits.
Pure: the caller passes *now* and keeps the rows.

Cases, by the verdict of an outcome:

* ``success``: failures of calls sent before it are judged.
* ``failure``: the row is resent after its backoff, held for evidence, or parked if the circuit opens.
* ``rejected``: a refusal that names the row's content ends the row; others are judged like failures. On a route that
  has never answered, enough of them stop the run.
* ``throttled``: slows the route, or marks a row that is too large for the limit.
* ``account_refused``: no money ends the run, once it cannot be a single row; a refused key, model or address does so on
  a route that has never worked.
* ``local``: this machine is at fault; the row is resent and nothing counts against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, assert_never

from llmbatch.core.calls import Outcome
from llmbatch.pace.limit import RAMP_START
from llmbatch.route.account import is_money
from llmbatch.route.base import RoutePolicy
from llmbatch.route.calls import OVERDUE_SECONDS, Call, CallKind
from llmbatch.route.decisions import (
    CircuitMoved,
    Decision,
    GiveUpRoute,
    OutageOver,
    Requeue,
    StopRun,
    Succeed,
)
from llmbatch.route.evidence import RowRecord, is_of_no_api, is_own_error
from llmbatch.route.history import RouteHistory
from llmbatch.route.outage import probe_wait
from llmbatch.route.sharing import Sharing

__all__ = ["Call", "CallKind", "RouteHistory", "RoutePolicy", "RouteState"]

ALONE_SECONDS = 45.0
"""Seconds after the last success until the last rows are judged by their own attempts, without other evidence."""

MANY_ALONE_SECONDS = 180.0
"""The same if they are so many that an outage is more likely."""

MOSTLY = 0.9
"""Share of the last rows that have failed before while others succeeded, if the others may be judged with them."""

SUCCEED: Sequence[Decision] = (Succeed(),)


class RouteState(Sharing):
    """State of one route: circuit, limit, evidence, outage and named waits. Not safe for concurrent use.

    *label* is the displayed name. *chance* returns a random draw, 0 to 1, for a purpose; the same for the same purpose.
    Pass every call that :meth:`admit` returns to :meth:`settle` or :meth:`cancelled`, exactly once.
    """

    __slots__ = ()

    # Outcomes.

    def settle(self, call: Call, outcome: Outcome, now: float) -> Sequence[Decision]:
        """Count the outcome of *call*; return the decisions to apply, in order."""
        was = self.circuit.phase
        self._returned(call)
        if outcome.verdict == "success" and was == "closed" and call.kind == "row" and self.dead is None:
            return self._row_succeeded(call, now)
        if outcome.verdict not in ("success", "throttled"):
            self.recent.error = outcome.message or outcome.code
        if call.kind != "row":
            self.checks.ended_at = now
        if not self.history.answered:
            self._note_unreached(call, outcome, now)
        decisions = self._judge(call, outcome, now)
        if self._stop is not None:
            if self.circuit.is_closed:
                decisions += self._open("stop", now)
            decisions += self._given_up()
        return self._moved(was, decisions)

    def cancelled(self, call: Call) -> Sequence[Decision]:
        """Release a canceled call; return decisions, as it may have been the last call that could disprove a stop."""
        self._returned(call)
        self.circuit.release(call.permit)
        return self._given_up()

    def _returned(self, call: Call) -> None:
        self.calls.remove(call)
        self.history.in_flight -= 1
        if call.kind == "row" and self.evidence.records:
            record = self.evidence.records.get(call.row)
            if record is not None:
                record.in_flight = False

    def _moved(self, was: Literal["closed", "open", "half_open"], decisions: Sequence[Decision]) -> Sequence[Decision]:
        now = self.circuit.phase
        return decisions if now == was else [CircuitMoved(was, now), *decisions]

    def _judge(self, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        match outcome.verdict:
            case "success":
                return self._succeeded(call, now)
            case "failure":
                return self._failed(call, outcome, now)
            case "rejected" | "account_refused":
                return self._refused(call, outcome, now)
            case "throttled":
                return self._throttled(call, outcome, now)
            case "local":
                return self._local(call, outcome, now)
            case _:
                assert_never(outcome.verdict)

    def _row_succeeded(self, call: Call, now: float) -> Sequence[Decision]:
        """The usual case, kept fast: a row succeeded while the circuit is closed."""
        serial = call.permit.serial
        self.circuit.settle(call.permit, "success", now)
        self._note_success(call, now)
        if not self.evidence.unproven and not self.window.rows:
            if serial > self.evidence.newest_success:
                self.evidence.newest_success = serial
            self.window.prove(serial)
            return SUCCEED
        return [Succeed(), *self._prove(serial, now)]

    def _succeeded(self, call: Call, now: float) -> list[Decision]:
        """Judge the success of a health check, of a probe, or of a call sent before the circuit opened."""
        decisions: list[Decision] = [Succeed()] if call.kind == "row" else []
        if self.dead is not None:
            self.circuit.release(call.permit)  # in flight when the route was given up, which stays so
            self.evidence.forget(call.row)
            return decisions
        if call.kind == "ping" and call.probe and self._shows_the_route_only(now):
            self.circuit.release(call.permit)
            self.circuit.hold(now + probe_wait(0.0, self._policy.recovery_timeout, 0.0))
            return decisions
        was_open = not self.circuit.is_closed
        self.circuit.settle(call.permit, "success", now)
        if call.kind == "ping":
            self.limit.on_success(call.permit.serial)
            if not was_open:
                return self._ping_passed(call, now)
            if not call.probe:
                return decisions
            self.history.refusals.prove(call.sent_at)
            self._stop = None
            return self._probe_passed(call, now)
        never = not self.history.ever
        self._note_success(call, now)
        was_stopping = self._take_stop_back() and never
        outage = self.outage
        if outage is None:
            return [*decisions, *self._prove(call.serial, now)]
        if call.probe:
            return [*decisions, *self._probe_passed(call, now)]
        was_mistaken = was_stopping and outage.cause == "stop"
        if was_mistaken or (not outage.confirmed and call.serial > outage.newest_failure):
            # Sent after all calls that failed, or the first success of the route: the opening was a mistake.
            self.circuit.close(now)
            return [*decisions, *self._recovered(call, now)]
        return [*decisions, *self._prove(call.serial, now)]

    def _shows_the_route_only(self, now: float) -> bool:
        """Note that a probing ping was answered; whether that shows nothing about the rows of a tenant."""
        outage = self.outage
        if outage is None:
            return False
        outage.note_ping(now, is_answer=True, is_good=self.history.has_good)
        self.history.reached = True
        known = self.history.ever or (outage.cause == "failures" and self.trust.pings > 0)
        return self.is_tenant and known and outage.cause != "timeouts"

    def _take_stop_back(self) -> bool:
        """Cancel a stop that a success disproves; return whether it does. Money may have run out since the call."""
        if self._stop is None or self.history.refusals.mean_the_account:
            return False
        self._stop = None
        return True

    def _note_unreached(self, call: Call, outcome: Outcome, now: float) -> None:
        """Track since when a route that has never answered cannot be reached."""
        since = max(call.sent_at, now - call.timeout)
        if self._unreached is not None and since - call.sent_at > OVERDUE_SECONDS:
            self._unreached = max(self._unreached, since)  # this process was stopped meanwhile
        if outcome.verdict == "throttled" and outcome.status is None and not outcome.is_withheld:
            # Not an answer of the provider's: a function's exception, which was judged so.
            self.recent.error = outcome.message or outcome.code
            if self._unreached is None:
                self._unreached = since
        elif outcome.verdict == "failure" and (outcome.status is None or is_of_no_api(outcome)):
            if self.history.reached and call.kind == "row" and outcome.code == "timeout":
                return  # pings are answered, so its rows take too long
            if self._unreached is None:
                self._unreached = since
        elif outcome.verdict not in ("local", "success") and not self.trust.pings:
            self._unreached = None
            self.history.heard_at = now

    def _given_up(self) -> list[Decision]:
        """Give the route up if an operator must act and no call in flight can disprove it."""
        if self._stop is None or self.calls or self.looks_further:
            return []
        (exit_code, outcome), self._stop = self._stop, None
        if is_money(outcome):
            is_disproved = self.history.ever and not self.history.refusals.mean_the_account
        else:
            is_sure = outcome.status is not None and self.history.all_meet(outcome, self._policy.failure_threshold)
            is_disproved = self.history.ever or (self.history.in_flight > 0 and not is_sure)
        if is_disproved:
            return []  # by a call of another tenant, or it may be: the next probe tells
        return [self._give_up(exit_code, outcome)]

    def _give_up(self, exit_code: int, outcome: Outcome) -> Decision:
        self.dead = outcome
        hint = outcome.hint or "check the model, the parameters and the rows; `llmbatch check` reads them all"
        if exit_code == 2:
            return StopRun(2, f"{self.label}: {outcome.message}", outcome.hint or "check the address (--base-url)")
        if is_own_error(outcome) and outcome.hint:
            message = f"{self.label} raised an exception for each of the first rows: {outcome.hint}"
            return StopRun(3, message, "correct the function, or take out the rows that it cannot handle")
        message = f"{self.label} refused the first rows: {outcome.message}"
        if outcome.verdict == "account_refused" and outcome.scope == "key" and not outcome.key_refused:
            return StopRun(3, f"{self.label} refuses the account: {outcome.message}", hint)
        if outcome.scope in ("model", "provider"):
            return GiveUpRoute(outcome, message, hint)
        return StopRun(3, message, hint)

    # The last rows of the input.

    def judge_alone(self, now: float, rows_left: int) -> list[Decision]:
        """Judge held rows when no other evidence can come: only held rows are left, and no health check can be sent.

        A few rows, or rows that failed before while others succeeded (and a few others among many), are judged by their
        own attempts over growing waits. More rows may be the beginning of an outage, and open the circuit.
        """
        held = {row: record for row, record in self.evidence.records.items() if record.held}
        if _all_lack_money(record.last for record in held.values()):
            return list(self._stop_alone(next(iter(held.values())).last, now))
        is_slow = self.is_silent and self._are_slow(held.values())
        most = self._policy.failure_threshold
        few = rows_left < most
        if is_slow and len(self.history.slow) >= most:
            few = False  # the smallest request may pass meanwhile
        if self.history.fail_together(most):
            few = False  # of all tenants together, there are many
            refused = [
                record.last for record in held.values() if record.last.verdict in ("rejected", "account_refused")
            ]
            if not self.history.ever and len(refused) == len(held) and self.history.is_prompt:
                return list(self._stop_alone(refused[0], now))
        is_lost = self._unreached is not None and not self.is_reached
        unproven = [row for row, record in held.items() if not record.proven]
        is_mostly_proven = len(unproven) < most and len(held) - len(unproven) >= MOSTLY * len(held)
        is_mostly_proven = is_mostly_proven and not is_slow and not self.is_tenant
        if is_lost or (unproven and not few and not is_mostly_proven):
            was = self.circuit.phase
            return list(self._moved(was, self._open("timeouts" if is_slow else "last rows", now)))
        self.evidence.few.update(held if few else unproven)
        return self._send_alone(held, now)

    def judge_throttled(self, now: float, rows_left: int) -> list[Decision]:
        """As :meth:`judge_alone`, if all rows that are left are throttled and no health check can be sent.

        After three minutes of nothing but throttling, a few rows (over all tenants) are judged by their own attempts.
        """
        since, records = self.throttle.since, self.evidence.records
        if since is None or not self.history.ever or now - since < MANY_ALONE_SECONDS:
            return []
        throttled = sum(record.last.verdict == "throttled" for record in records.values())
        if throttled < rows_left or len(self.history.throttled) >= self._policy.failure_threshold:
            return []
        for record in records.values():
            record.note_throttled(now)
        return self._send_alone(dict(records), now)

    def judge_parked(
        self, now: float, probed: Iterable[tuple[int, Outcome]] = (), *, many: bool = False, can_ping: bool = False
    ) -> list[Decision]:
        """As :meth:`judge_alone`, for an open circuit: every row that is left has failed, and minutes have passed.

        *probed*: parked rows with their last outcomes; rows that failed only as probes count one failure. *many*: so
        many that an outage is more likely, which gets more time. *can_ping*: the smallest request can tell whether the
        route answers at all; until it has done so for as long, that is an outage.
        """
        outage = self.outage
        patience = MANY_ALONE_SECONDS if many else ALONE_SECONDS
        if outage is None or not self.history.ever or now - outage.since < patience:
            return []
        if can_ping and (outage.pinged != "answered" or now - outage.answered_since < patience):
            return []
        if can_ping and outage.pinged_good is not self.history.has_good:
            return []  # errors were taken for answers, as nothing better was known to ask
        answers = dict(probed)
        lasts = answers | {row: record.last for row, record in self.evidence.records.items()}
        if any(last.verdict == "local" for last in lasts.values()):
            return []  # never sent: this machine was at fault
        if _all_lack_money(lasts.values()):
            return list(self._stop_alone(next(iter(lasts.values())), now))
        are_many = len(lasts) >= self._policy.failure_threshold
        if are_many and self.is_silent and all(last.code == "timeout" for last in lasts.values()):
            return self._name_timeouts()
        for row, outcome in answers.items():
            if row not in self.evidence.records:
                self.evidence.failed(row, self.circuit.serial, outcome)
        was = self.circuit.phase
        self.outage = None
        self.circuit.close(now)
        self.window.clear(self.circuit.serial)
        self.limit.restart(RAMP_START, self.circuit.serial)
        over: list[Decision] = [OutageOver(outage.since)] if outage.confirmed else []
        self.evidence.few.clear()
        alone = self._send_alone(dict(self.evidence.records), now)
        return [CircuitMoved(was, "closed"), *over, *alone, Requeue()]

    def _stop_alone(self, outcome: Outcome, now: float) -> Sequence[Decision]:
        """Stop the run: the account has no money, as every row that is left was told."""
        was = self.circuit.phase
        opened = self._open("stop", now) if self.circuit.is_closed else []
        return self._moved(was, [*opened, self._give_up(3, outcome)])

    def _send_alone(self, records: dict[int, RowRecord], now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for row, record in records.items():
            record.proven += len(record.pending)
            record.pending.clear()
            self.evidence.unproven.pop(row, None)
            record.sent_alone = True
            if record.in_flight:
                continue  # its answer will tell
            record.retry_at = max(record.retry_at, now + self._backoff(row, record, now))
            if self.evidence.may_end(record, now):
                decisions.append(self._end(row, record))
            else:
                decisions.append(self._retry(row, record, now))
        return decisions

    def pause(self, wait: float, now: float, why: str, *, is_named: bool) -> list[Decision]:
        """Send nothing for *wait* seconds because of a rate limit; *is_named*: one that the provider reported."""
        return self._pause(wait, now, why, is_named=is_named, is_refusal=False)

    def change_concurrency(self, concurrency: int) -> None:
        """Allow *concurrency* requests in flight from now on, or with ``auto`` at most."""
        self.limit.change_ceiling(concurrency, self.circuit.serial)

    def excuse(self, seconds: float) -> None:
        """The run was paused for *seconds*: ramp up, and do not count them against a route that was never reached."""
        self.plan_ramp()
        if self._unreached is not None:
            self._unreached += seconds

    def give_up(self, outcome: Outcome) -> None:
        """Send nothing more: *outcome* of another route concerns the account of this one too."""
        self.dead = outcome

    def forget(self, row: int) -> None:
        """Forget a row that the runner ended for another reason."""
        self.evidence.forget(row)
        self.window.drop(row)


def _all_lack_money(lasts: Iterable[Outcome]) -> bool:
    """Whether there is an outcome, and all of them say for certain that the account has no money."""
    lasts = list(lasts)
    return bool(lasts) and all(is_money(last) and last.certain for last in lasts)
