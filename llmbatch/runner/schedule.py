"""Choose the next call: a probe, a queued row, a new row, or a health check.

Order: one probe per route whose circuit is open, alternating with all else; then queued rows, alternating with new rows
from the input; then health checks for rows that wait for evidence only.

Synchronous: nothing is awaited between choosing a row and acquiring its permit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmbatch.core.calls import Outcome, Request
from llmbatch.core.events import CallSent, Event
from llmbatch.core.ports import Provider, Sink, Source
from llmbatch.core.rows import Result
from llmbatch.route.decisions import CircuitMoved
from llmbatch.route.outage import Candidates
from llmbatch.route.route import CallKind
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.backlog import Backlog
from llmbatch.runner.budgets import Budgets
from llmbatch.runner.context import RunContext
from llmbatch.runner.control import RunControl
from llmbatch.runner.costs import Costs
from llmbatch.runner.earlier import NOTHING_EARLIER, EarlierRuns
from llmbatch.runner.finish import Finisher
from llmbatch.runner.followers import Followers
from llmbatch.runner.health_requests import HealthRequests
from llmbatch.runner.left_over import all_wait, deferred_results, held_until, why_stuck
from llmbatch.runner.machine_fault import Machine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.other_routes import borrow
from llmbatch.runner.pending import PendingRow, RowState, RunRoute
from llmbatch.runner.reading import Reading
from llmbatch.runner.routes import Routes, max_wait_without_progress
from llmbatch.runner.routing import Routing
from llmbatch.runner.settle import Settler
from llmbatch.runner.unshared import Channel, NoPeers
from llmbatch.runner.wake import next_wake

__all__ = ["Scheduler"]

LONG_BUDGET_WAIT = 30.0
"""Wait for a quota, in seconds, from which rows are parked or go elsewhere instead of staying queued."""


class Scheduler:
    """Chooses the calls of one run. Belongs to one event loop; not safe for concurrent use.

    *halt* ends the run with an exit code, a reason and a hint.
    """

    def __init__(
        self,
        provider: Provider,
        source: Source,
        sink: Sink,
        options: RunOptions,
        *,
        now: Callable[[], float],
        emit: Callable[[Event], None],
        halt: Callable[[int, str, str], None],
        seed: int,
        earlier: EarlierRuns = NOTHING_EARLIER,
        costs: Costs | None = None,
        channel: Channel | None = None,
    ) -> None:
        changed: Callable[[RunRoute], None] = lambda route: self._run.peers.changed(route, now())  # noqa: E731
        routes = Routes(options, seed=seed, answered_before=earlier.answered, on_change=changed)
        routing = Routing(routes, is_paused=lambda route: route in self._run.backlog.paused)
        self._run = RunContext(
            options=options,
            provider=provider,
            source=source,
            sink=sink,
            routes=routes,
            routing=routing,
            followers=Followers(),
            backlog=Backlog(
                emit=emit, on_wait=lambda row: self.reading.bodies.drop_body(row), find_other=routing.other
            ),
            finisher=Finisher(sink, source, now=now, emit=emit, require_finish=options.require_finish),
            machine=Machine(longest=options.recovery_timeout),
            costs=costs or Costs(),
            now=now,
            emit=emit,
            halt=halt,
        )
        self.reading = reading = Reading(self._run)
        self._settler = Settler(self._run, on_drop=reading.bodies.drop, others=lambda: reading.may_have_others)
        self.reading.settle_with(park=self._settler.defer, fail_row=self._settler.fail_unsent)
        self._checks = HealthRequests(self._run, earlier.good_rows)
        self._budgets = Budgets(options, now(), emit=emit, requests_today=earlier.requests_today)
        self.control = RunControl(self._run, self._budgets)
        self._probed = False  # whether the last call was a probe
        self._unanswered: dict[RunRoute, None] = {}
        """Routes that have never answered and whose rows took too long: the smallest request may show why."""
        if channel is not None:
            from llmbatch.runner.sharing import Peers

            self._run.peers = peers = Peers(self._run, channel, apply=self._settler.apply, seed=seed)
            self._budgets.share(peers.group, now())

    def __repr__(self) -> str:
        return f"<Scheduler {self._run.routes!r} {self._run.backlog!r}>"

    # Other processes.

    @property
    def is_alone(self) -> bool:
        """Whether nothing is shared with other processes."""
        return type(self._run.peers) is NoPeers

    def hear(self) -> None:
        """Apply what other processes told."""
        self._run.peers.hear(self._run.now())

    # The next call.

    def take(self) -> Attempt | None:
        """Return the next call, with its permit; None if nothing may be sent now (see :meth:`next_wake`)."""
        run = self._run
        now = run.now()
        is_held = run.machine.rows and self.reading.is_over and held_until(run) <= now
        if now < run.machine.until or run.sink.congested or is_held:
            return None
        if run.backlog.retrying or run.backlog.paused:
            run.backlog.release_due(now)
        if self.reading.jumping is not None:
            self.reading.jump_on(now)
        # Probes of many routes must not take all slots: after each, other calls go first.
        was_probed, self._probed = self._probed, False
        if was_probed or not run.open:
            return self._next_call(now) or self._next_probe(now)
        return self._next_probe(now) or self._next_call(now)

    def _next_probe(self, now: float) -> Attempt | None:
        for route in list(self._run.open):
            attempt = self._probe(route, now)
            if attempt is None:
                self._run.peers.unused(route, now)
            else:
                self._run.open[route] = self._run.open.pop(route)  # the others have their turn first
                self._probed = True
                return attempt
        return None

    def _next_call(self, now: float) -> Attempt | None:
        attempt = self._ask(now) if self._unanswered else None
        if (was_over := self.reading.ended and self.reading.is_over) and attempt is None:
            attempt = self._check(now)
        if attempt is not None:
            return attempt
        pending = self._next_row(now)
        if pending is not None:
            return self._issue(pending, now, self._run.options.timeout)
        return None if was_over else self._check(now)  # the input may have ended just now

    def _next_row(self, now: float) -> PendingRow | None:
        if (backlog := self._run.backlog).queued:
            for route in (each for each in list(backlog.queued) if each.queue):
                head, has_room = route.queue[0], route.room(now) > 0
                if head.routes and not (has_room and route.is_first):
                    relief = self._run.routing.relief(head, now, has_room=has_room)
                    if relief is not None:
                        backlog.move(head, relief, now, first=True)
                        return backlog.next_of(relief)
                if not has_room:
                    continue
                if route.state.prefers_check(route.queue[0].last, now):
                    continue
                # Alternate new rows with queued ones, which may be bad; retries beyond their budget wait for new ones.
                is_beyond = route.queue[0].is_retry and not route.retries.allows(now)
                if route.prefer_new or is_beyond:
                    route.prefer_new = False
                    if (pending := self.reading.next_row(now)) is not None:
                        return pending
                    if not route.queue or not route.room(now):
                        continue
                route.prefer_new = True
                return backlog.next_of(route)
        return self.reading.next_row(now)

    def _issue(self, pending: PendingRow, now: float, timeout: float) -> Attempt | None:
        run, route, row = self._run, pending.route, pending.row.number
        request = pending.request or self.reading.bodies.request_of(pending)
        if request is None or not self._afford(route, request, now):
            self._give_back(pending)
            return None
        state = route.state
        was = state.circuit.phase
        call = state.admit(row, now, timeout=timeout)
        if call is None:
            self._give_back(pending)
            return None
        if pending.state is RowState.PARKED:
            route.parked.pop(row, None)
        pending.state = RowState.IN_FLIGHT
        pending.attempts += 1
        if route.template is None:
            route.template = self._checks.template(request)
            if self._checks.ping(route) is not None or self._checks.good(route) is not None:
                state.allow_checks()
        if pending.is_retry or not route.retries.is_full:
            route.retries.count(now, is_retry=pending.is_retry)
        attempt, permit = Attempt(call, route, pending, request), call.permit
        if state.circuit.phase != was:
            self._settler.tell_circuit(route, CircuitMoved(was, state.circuit.phase), now)
        self._budgets.reserve(attempt, now)
        if run.costs.cap is not None:
            run.costs.reserve(attempt, run.costs.cap)
        is_repair = pending.follow_ups > 0 and not pending.is_retry
        run.emit(CallSent(now, state.label, row, pending.attempts, permit.probe, permit.serial, is_repair))
        return attempt

    def _give_back(self, pending: PendingRow) -> None:
        """Return a row that was not sent to the front of its queue, or park it."""
        if pending.state in (RowState.PARKED, RowState.DONE):
            return
        if pending.route.state.is_closed and pending.route not in self._run.backlog.paused:
            queue = pending.route.queue
            pending.route.prefer_new = False  # it keeps its turn
            self._run.backlog.enqueue(pending, first=not queue or pending.row.number < queue[0].row.number)
        else:
            self._settler.defer(pending, self._run.now())

    def _issue_check(self, route: RunRoute, kind: CallKind, request: Request, now: float) -> Attempt | None:
        if not self._afford(route, request, now):
            return None
        state = route.state
        was = state.circuit.phase
        call = state.admit(0, now, kind=kind, timeout=state.probe_timeout(kind))
        if call is None:
            return None
        if state.circuit.phase != was:
            self._settler.tell_circuit(route, CircuitMoved(was, state.circuit.phase), now)
        attempt = Attempt(call, route, None, request)
        self._budgets.reserve(attempt, now)
        if self._run.costs.cap is not None:
            self._run.costs.reserve(attempt, self._run.costs.cap)
        self._run.emit(CallSent(now, state.label, 0, 1, call.probe, call.serial))
        return attempt

    def _afford(self, route: RunRoute, request: Request, now: float) -> bool:
        """Whether the cost cap and the rate limits allow the request now; if not, its route waits, or the run stops."""
        if (costs := self._run.costs).cap is not None and not costs.allows(route.route, request, halt=self._run.halt):
            return False
        if (wait := self._budgets.wait(route.route, request, now)).seconds <= 0.0:
            route.limited_by = None
            return True
        route.limited_by = wait
        if wait.is_quota and wait.seconds >= LONG_BUDGET_WAIT and route.state.is_closed:
            decisions = route.state.pause(wait.seconds, now, str(wait), is_named=wait.is_reported)
            self._settler.apply(route, decisions, now)
        elif route.state.is_closed:
            route.budget_until = now + wait.seconds
        else:
            route.budget_until = now + min(wait.seconds, LONG_BUDGET_WAIT)
        return False

    # Probes and health checks.

    def _probe(self, route: RunRoute, now: float) -> Attempt | None:
        run, state = self._run, route.state
        due = state.next_change(now)
        if due is None or due > now or self.is_blocked(route, now):
            return None
        if self.reading.is_over and not route.unfinished and not route.skipped and not borrow(run, route, now):
            return None
        candidates = Candidates(
            fresh=self.reading.could_read_for(route),
            parked=run.backlog.probe_at(route) <= now,
            ping=self._checks.ping(route) is not None,
            good=self._checks.good(route) is not None,
            untried=self._run.backlog.has_untried(route),
        )
        alone = self.reading.is_over and not candidates.untried and 0 < route.unfinished == len(route.parked)
        if alone and not candidates.good and (state.is_tenant or not candidates.ping):
            many = len(route.parked) > 2 * run.options.failure_threshold
            probed = [(row, pending.last) for row, pending in route.parked.items() if pending.last is not None]
            decisions = state.judge_parked(now, probed, many=many, can_ping=candidates.ping)
            if decisions:
                self._settler.apply(route, decisions, now)
                return None
        if not run.peers.may_probe(route, now):
            return None
        probe = state.next_probe(now, candidates)
        if probe is None:
            return None
        if probe.kind == "ping" or probe.kind == "good":
            request = self._checks.ping(route) if probe.kind == "ping" else self._checks.good(route)
            return None if request is None else self._issue_check(route, probe.kind, request, now)
        pending = None
        if probe.kind == "fresh":
            # Rows that are skipped wait here, or else at another route: they have gone on there anyway.
            jump = 0 if run.routing.is_covered(route) else min(probe.jump, self.reading.most_skipped(route))
            self.reading.lend_to_probe(jump + 1)
            pending = self.reading.next_of(route, now, jump)
        if pending is None:
            pending = run.backlog.best_probe(route, 0 if state.outage is None else state.outage.turn, now)
        return None if pending is None else self._issue(pending, now, state.probe_timeout())

    def _ask(self, now: float) -> Attempt | None:
        """Return the smallest request for a route that has never answered, as soon as a row took too long."""
        for route in list(self._unanswered):
            del self._unanswered[route]
            if route.state.wants_ping(now) and (ping := self._checks.ping(route)) is not None:
                return self._issue_check(route, "ping", ping, now)
        return None

    def _check(self, now: float) -> Attempt | None:
        """Return a health check for a route with unproven failures, or judge its last rows; None if none is due."""
        for route in list(self._run.routes):  # looking up a finished row may add a route
            state = route.state
            if not state.evidence.unproven:
                continue
            if not (wanted := state.wants_check(now)) and not state.wants_early_check(now):
                continue
            if (good := self._checks.good(route)) is not None:
                return self._issue_check(route, "good", good, now)
            if not wanted:
                continue
            if (ping := self._checks.ping(route)) is not None:
                return self._issue_check(route, "ping", ping, now)
            reading, all_held = self.reading, self._all_held(route)
            if reading.is_over_for(route) or (reading.is_held and all_held and not reading.lend()):
                judge = state.judge_alone if all_held else state.judge_throttled
                self._settler.apply(route, judge(now, route.unfinished), now)
        return None

    def _all_held(self, route: RunRoute) -> bool:
        return sum(record.held for record in route.state.evidence.records.values()) == route.unfinished

    # Answers.

    def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Apply the *outcome* of a call."""
        now, route = self._run.now(), attempt.route
        if attempt.reserved or attempt.number or outcome.limits or outcome.verdict == "throttled":
            self._budgets.settle(attempt, outcome, now)
        cost, at_risk = self._run.costs.settle(attempt, outcome)
        route.budget_until = 0.0  # what it did not use may be enough
        if outcome.verdict == "success" and attempt.pending and len(attempt.request.body) < route.good_bytes:
            self._checks.keep(route, attempt.request)
        self._settler.settle(attempt, outcome, now, cost, at_risk)
        if outcome.code == "timeout" and route.unfinished and route.state.wants_ping(now):
            self._unanswered[route] = None

    def cancelled(self, attempt: Attempt) -> None:
        """Release a call that was canceled; it is not counted."""
        now = self._run.now()
        self._budgets.settle(attempt, None, now)
        self._settler.cancelled(attempt, now, self._run.costs.settle(attempt, None)[1])

    # When to try again, and when nothing is left to do.

    def is_blocked(self, route: RunRoute, now: float) -> bool:
        """Whether nothing more is sent to the route in this run."""
        state, options = route.state, self._run.options
        if state.dead is not None or state.throttle.given_up or state.is_lost(now):
            return True
        if options.on_outage == "defer":
            return state.is_confirmed or state.is_mute or state.throttle.not_before - now > options.recovery_timeout
        if options.max_outage is None or state.outage is None:
            return False
        return now - state.outage.since >= options.max_outage

    def next_wake(self, now: float) -> float | None:
        """When something may be sent that may not be sent now; None if only an answer can change that."""
        return next_wake(self._run, now, is_blocked=lambda route: self.is_blocked(route, now))

    def is_finished(self) -> bool:
        """Whether all rows have been read and finished."""
        return self.reading.is_over and not self._run.backlog.rows

    def is_stuck(self, now: float) -> bool:
        """Whether all rows left wait for what this run does not wait for; see all_wait."""
        run, since, had_ended = self._run, self._run.machine.since, self.reading.ended
        if any(route.state.in_flight for route in run.routes):
            return False
        if since is not None and now - since >= max_wait_without_progress(run.options):
            return True
        if self.reading.may_read(now) and not self.reading.is_held:
            self.reading.needs_input |= had_ended  # another pass has begun, and nothing else may wake the run
            return False
        is_held = self.reading.is_over and held_until(run) <= now
        return is_held or all_wait(run, now, is_blocked=lambda route: self.is_blocked(route, now))

    def why_stuck(self) -> str:
        """Why the run is stuck, for humans; meaningful if it is stuck and no route is dead."""
        return why_stuck(self._run)

    def given_up(self) -> tuple[str, str] | None:
        """Why the first route was given up, and the hint; None if no route was."""
        return next(iter(self._settler.given_up.items()), None)

    def deferred(self) -> Iterator[Result]:
        """Results for the rows in memory that still wait, sorted by row number."""
        return deferred_results(self._run)
