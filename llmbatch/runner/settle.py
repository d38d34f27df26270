"""Apply the decisions of a route to rows, routes and the run, in one ``match``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Literal, assert_never

from llmbatch.core.calls import Outcome, Usage
from llmbatch.core.events import (
    CallEnded,
    CircuitChanged,
    LimitChanged,
    Notice,
    OutageEnded,
    OutageStarted,
    RowJudged,
    Throttled,
)
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
from llmbatch.route.evidence import is_own_error
from llmbatch.route.route import SUCCEED, Call, RouteState
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.context import RunContext
from llmbatch.runner.other_routes import LONG_WAIT, has_left, is_tried_elsewhere
from llmbatch.runner.pending import PendingRow, RowState, RunRoute
from llmbatch.runner.routes import is_disproved

__all__ = ["Settler"]

_ZERO, _UNKNOWN = Decimal(0), Decimal("NaN")


class Settler:
    """Applies outcomes and decisions. *on_drop* is called for each row that ends without its request in memory.

    *others* tells whether rows of routes that are not known yet may follow in the input.
    """

    def __init__(
        self, run: RunContext, *, on_drop: Callable[[PendingRow], None], others: Callable[[], bool] = lambda: False
    ) -> None:
        self._run = run
        self._on_drop = on_drop
        self._others = others
        self._promoted: list[PendingRow] = []
        """Followers of rows that failed, which are about to be sent themselves."""
        self.given_up: dict[str, str] = {}
        """What was told when routes were given up, each with its hint; the run ends with the first."""

    def settle(
        self,
        attempt: Attempt,
        outcome: Outcome,
        now: float,
        cost: Decimal | None = None,
        at_risk: Decimal = _ZERO,
    ) -> None:
        """Pass the *outcome* of a call to its route, emit CallEnded, and apply what the route decides.

        *cost*: of the call, US$; None if unknown. *at_risk*: what a call without an answer may have cost.
        """
        run, route, pending = self._run, attempt.route, attempt.pending
        state, call, verdict = route.state, attempt.call, outcome.verdict
        limit = state.limit.value
        usage, permit, seconds = outcome.usage, call.permit, now - call.sent_at
        run.emit(
            CallEnded(
                now,
                state.label,
                0 if pending is None else pending.row.number,
                permit.probe,
                verdict,
                outcome.code,
                outcome.message,
                outcome.status,
                seconds,
                0 if usage is None else usage.input_tokens,
                0 if usage is None else usage.output_tokens,
                permit.serial,
                cost,
                at_risk,
            )
        )
        if verdict == "local":
            outcome = self._machine_failed(state, call, outcome, now)
        elif run.machine.since is not None or run.machine.rows:
            run.machine.works(0 if pending is None else pending.row.number, call.sent_at)
        if pending is not None:
            pending.latency = seconds
            if cost is None and verdict == "success":
                cost = _UNKNOWN
            if cost is not None:
                pending.cost = cost if pending.cost is None else pending.cost + cost
            pending.last = outcome
            if outcome.retry_after is not None:
                pending.not_before = now + outcome.retry_after
            if verdict != "success" and (permit.probe or verdict == "local" or outcome.is_withheld):
                pending.attempts -= 1
                pending.probes += permit.probe
        if verdict == "throttled":
            state.note_cover(is_covered=outcome.lacks_capacity and run.routing.is_covered(route))
        if outcome.lacks_capacity and route.backups:
            # Rows that it has no room for go to the next route until it has regained its pace.
            route.ramps_to = max(route.ramps_to, limit)
        if permit.probe:
            run.peers.settling(attempt)
        decisions = state.settle(call, outcome, now)
        if decisions is SUCCEED and pending is not None:
            self._succeed(pending, outcome, now)  # the usual case, kept fast
        else:
            self.apply(route, decisions, now, pending, lacks_capacity=outcome.lacks_capacity)
        if permit.probe:
            run.peers.settled(attempt, outcome, now)
        if state.limit.value != limit:
            run.emit(LimitChanged(now, state.label, state.limit.value, state.limit.reason))

    def cancelled(self, attempt: Attempt, now: float, at_risk: Decimal = _ZERO) -> None:
        """Release a call that was canceled, and apply what its route decides."""
        if attempt.call.probe:
            self._run.peers.settling(attempt)
        decisions = attempt.route.state.cancelled(attempt.call)
        row = 0
        if attempt.pending is not None:
            attempt.pending.state = RowState.HELD
            row = attempt.pending.row.number
        state, probe, seconds = attempt.route.state, attempt.call.probe, now - attempt.call.sent_at
        serial = attempt.call.serial
        self._run.emit(
            CallEnded(now, state.label, row, probe, None, "", "", None, seconds, 0, 0, serial, None, at_risk)
        )
        self.apply(attempt.route, decisions, now)
        if probe:
            self._run.peers.settled(attempt, None, now)

    def apply(
        self,
        route: RunRoute,
        decisions: Iterable[Decision],
        now: float,
        pending: PendingRow | None = None,
        *,
        lacks_capacity: bool = False,
    ) -> None:
        """Apply *decisions* in order, which follow from a call of *pending*; *lacks_capacity*: of the route's tier."""
        rows = self._run.backlog.rows
        for decision in decisions:
            match decision:
                case Succeed():
                    if pending is not None and pending.last is not None:
                        self._succeed(pending, pending.last, now)
                case Fail(row, outcome, is_alone, why):
                    if not (is_alone and is_tried_elsewhere(self._run, rows[row], now)):
                        if why:
                            self._run.emit(RowJudged(now, route.state.label, row, outcome.code, why))
                        self._end(rows[row], outcome, "failed", now)
                case RetryAt(row, at, code):
                    self._retry(rows[row], at, code, now)
                case HoldForEvidence(row):
                    self._hold(rows[row], now)
                case ParkUntil(row):
                    self._park(rows[row], now)
                case Requeue():
                    self._run.backlog.requeue(route, now)
                case CircuitMoved():
                    self._follow(route, decision, now)
                case OutageConfirmed(since, reason):
                    wait, to = route.state.retry_after(now), self._run.routing.cover(route)
                    self._run.emit(OutageStarted(now, route.state.label, since, reason, wait, to))
                    self._fail_parked(route, now)
                case OutageOver(since):
                    self._run.emit(OutageEnded(now, route.state.label, since, now - since))
                case PauseRoute():
                    self._pause(route, decision, now, lacks_capacity=lacks_capacity)
                case StopRun(exit_code, reason, hint):
                    self._stop(route, exit_code, reason, hint, now)
                case GiveUpRoute():
                    self._give_up(route, decision, now)
                case Tell(level, message, hint):
                    self._run.emit(Notice(now, level, message, hint))
                case _:
                    assert_never(decision)

    # Rows.

    def _succeed(self, pending: PendingRow, outcome: Outcome, now: float) -> None:
        """Finish the row, or queue the follow-up request of its answer."""
        if outcome.follow_up is None:
            self._end(pending, outcome, "failed" if outcome.row_is_bad else "success", now)
            return
        used, spent = outcome.usage or Usage(0, 0), pending.earlier_usage or Usage(0, 0)
        pending.earlier_usage = Usage(spent.input_tokens + used.input_tokens, spent.output_tokens + used.output_tokens)
        pending.request, pending.is_retry = outcome.follow_up, False
        pending.follow_ups += 1
        pending.request.follow_ups = pending.follow_ups
        if pending.route.state.is_closed:
            self._run.backlog.enqueue(pending, first=True)
        else:
            self._park(pending, now)

    def fail_unsent(self, pending: PendingRow, outcome: Outcome, now: float) -> None:
        """Fail a waiting row that can be no request any more; it says nothing about its route."""
        pending.route.state.forget(pending.row.number)
        self._end(pending, outcome, "failed", now)

    def _end(self, pending: PendingRow, outcome: Outcome, status: Literal["success", "failed"], now: float) -> None:
        if pending.request is None:
            self._on_drop(pending)
        self._run.backlog.drop(pending)
        self._run.finisher.finish(pending, outcome, status, now)
        if self._run.followers.leaders:
            self._end_followers(pending, outcome, status, now)

    def _end_followers(
        self, leader: PendingRow, outcome: Outcome, status: Literal["success", "failed"], now: float
    ) -> None:
        """Answer the rows with equal requests too, or send the next of them, or all, if the leader failed."""
        run, route = self._run, leader.route
        is_cut = run.options.require_finish and outcome.finish_reason == "length"
        if status == "success" and not is_cut:
            rows, were_skipped = run.followers.release(leader)
            for row in rows:
                row.route = route
                run.finisher.finish(row, replace(outcome, is_cached=True), "success", now)
        else:
            rows, were_skipped = run.followers.promote(leader)
            for row in rows:
                run.routing.renew(row, now)
                run.backlog.add(row)
            is_outermost = not self._promoted  # else the loop below goes on, as the leader was ended in it
            self._promoted.extend(rows)
            while is_outermost and self._promoted:
                self._park(self._promoted[0], now)
                del self._promoted[0]
        route.skipped = route.skipped or were_skipped

    def _retry(self, pending: PendingRow, at: float, code: str, now: float) -> None:
        backlog, state = self._run.backlog, pending.route.state
        if pending.state in (RowState.QUEUED, RowState.RETRYING):
            return
        if not state.is_closed or state.throttle.given_up or state.dead is not None:
            self._park(pending, now)
        elif has_left(self._run, pending, now):
            return
        elif at <= now:
            pending.is_retry = True
            backlog.enqueue(pending, first=True)
        else:
            backlog.retry_at(pending, at, now, code)

    def _hold(self, pending: PendingRow, now: float) -> None:
        """Hold the row for evidence, or let it go on elsewhere where its route waits long."""
        backlog, route = self._run.backlog, pending.route
        if route.state.dead is not None:
            self._park(pending, now)
        elif not (pending.may_move and route in backlog.paused and backlog.divert(pending, now)):
            backlog.hold(pending)

    def _park(self, pending: PendingRow, now: float) -> None:
        """Park the row; queue it instead if its circuit has closed meanwhile, or end it with ``--on-outage fail``."""
        state = pending.route.state
        if state.is_closed and state.dead is None and not state.throttle.given_up:
            self._run.backlog.enqueue(pending)
            return
        self.defer(pending, now, avoided=False)

    def defer(self, pending: PendingRow, now: float, *, avoided: bool = True) -> None:
        """Move a row whose route takes none, park it, or end it; *avoided*: it would otherwise have been sent now."""
        backlog = self._run.backlog
        if not backlog.divert(pending, now) and not self._ends_in_outage(pending, now):
            backlog.park(pending, now, avoided=avoided)

    def _ends_in_outage(self, pending: PendingRow, now: float) -> bool:
        """With ``--on-outage fail``, end the row if there is a confirmed outage; return whether it ended."""
        state = pending.route.state
        if self._run.options.on_outage != "fail" or not state.is_confirmed or state.dead is not None:
            return False
        reason = f"the circuit for {state.label} is open: {state.reason}"
        last = pending.last
        state.forget(pending.row.number)
        self._end(pending, last or Outcome("failure", code="circuit_open", message=reason), "failed", now)
        return True

    def _fail_parked(self, route: RunRoute, now: float) -> None:
        if self._run.options.on_outage == "fail":
            for pending in list(route.parked.values()):
                self._ends_in_outage(pending, now)

    # Routes.

    def _follow(self, route: RunRoute, moved: CircuitMoved, now: float) -> None:
        self.tell_circuit(route, moved, now)
        self._run.peers.moved(route, moved, now)
        if moved.new == "closed":
            self._run.open.pop(route, None)
            self._run.backlog.divert_parked(route.backups, now)
        elif moved.old == "closed":
            self._run.open[route] = None
            if route.backups:
                route.ramps_to = route.state.limit.value
            self._run.backlog.park_waiting(route, now)

    def tell_circuit(self, route: RunRoute, moved: CircuitMoved, now: float) -> None:
        """Emit CircuitChanged."""
        state = route.state
        wait = 0.0 if moved.new == "closed" else state.retry_after(now)
        usual = state.explain() if moved.old == "closed" else ""
        self._run.emit(CircuitChanged(now, state.label, moved.old, moved.new, state.reason, wait, usual))

    def _pause(self, route: RunRoute, pause: PauseRoute, now: float, *, lacks_capacity: bool) -> None:
        """Park or move the rows of a route whose wait is long, or any wait for capacity that another one has.

        Short waits are a long one where nothing has passed between them.
        """
        backlog, state = self._run.backlog, route.state
        goes_elsewhere = lacks_capacity and bool(route.backups)
        since = state.throttle.since
        if not goes_elsewhere:
            route.ramps_to = 0  # this is its pace now
            goes_elsewhere = bool(route.backups) and since is not None and now - since >= LONG_WAIT
        if pause.is_refusal:
            route.limited_by = None
        self._run.emit(Throttled(now, state.label, pause.seconds, pause.code, pause.is_named, pause.is_refusal))
        self._run.peers.paused(route, pause)
        if not state.is_closed:
            return
        if state.throttle.given_up:
            backlog.park_waiting(route, now)
        elif pause.seconds >= LONG_WAIT or goes_elsewhere:
            backlog.park_waiting(route, now)
            backlog.pause(route)

    def _give_up(self, route: RunRoute, decision: GiveUpRoute, now: float) -> None:
        self._leave(route, now)
        if len(self._run.routes) == 1 and not self._others():
            self._run.halt(3, decision.message, decision.hint)
        else:
            self._tell_given_up(route, decision.message, decision.hint, now)

    def _stop(self, route: RunRoute, exit_code: int, reason: str, hint: str, now: float) -> None:
        """Stop the run, or give up the account that was refused if others may take rows: other accounts, fallbacks."""
        # A fallback of the same account finds out by itself: a gateway may refuse a key for one model.
        account, dead = route.route.account, route.state.dead
        if exit_code == 3 and dead is not None and is_disproved(dead, route, self._run.routes):
            self._leave(route, now)
            self._tell_given_up(route, reason, hint, now)
            return
        others = [other for other in self._run.routes if other.route.account != account and other.state.dead is None]
        is_key = dead is not None and dead.verdict == "account_refused" and dead.scope == "key"
        spared = [other for other in route.backups if other.state.dead is None]
        may_follow = dead is not None and exit_code == 3 and not is_own_error(dead) and self._others()
        may_follow = may_follow and not self._run.routes.has_tenants  # the next tenant's model is mostly the same
        if dead is None or not (spared or (is_key and others) or may_follow):
            self._run.halt(exit_code, reason, hint)
            return
        for other in self._run.routes:
            if other is route or (is_key and other.route.account == account and other not in spared):
                other.state.give_up(dead)
                self._leave(other, now)
        self._tell_given_up(route, reason, hint, now)

    def _leave(self, route: RunRoute, now: float) -> None:
        """Move the rows of a route that was given up, or park them until another one takes them."""
        self._run.backlog.park_waiting(route, now)
        self._run.backlog.divert_parked((route,), now)

    def _tell_given_up(self, route: RunRoute, message: str, hint: str, now: float) -> None:
        if message in self.given_up:
            return
        self.given_up[message] = hint
        others = ", ".join(other.state.label for other in route.backups if self._run.routing.takes(other))
        if others:
            self._run.emit(Notice(now, "warning", f"{message}; its rows go to {others}", hint))
        else:
            self._run.emit(Notice(now, "error", message, hint))

    def _machine_failed(self, state: RouteState, call: Call, outcome: Outcome, now: float) -> Outcome:
        outcome, notice = self._run.machine.failed(state, call, outcome, now)
        if notice is not None:
            self._run.emit(notice)
        if not outcome.min_backoff and notice is not None:
            for route in self._run.routes:
                route.state.plan_ramp()
        return outcome
