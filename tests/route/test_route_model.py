"""Random stories of a route against a model so plain that one can see that it is right.

Calls go, come back in any order as anything, are cut off or hang; rows are kept as a run keeps them. After each step
the model is asked what speaks against whom, and the rules that hold at any time are looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from route_model import Model
from route_states import (
    BAD_ROW,
    CONFLICT,
    FAILED,
    GOOD,
    KEY_REFUSED,
    MAYBE_NO_MONEY,
    NO_HANDLES,
    NO_MONEY,
    RAISED,
    REFUSED,
    THROTTLED,
    TIMEOUT,
    TRY_AGAIN,
    UNKNOWN_HOST,
    UNREACHABLE,
    Story,
    waiting,
)

from llmbatch.core.calls import Outcome
from llmbatch.route.calls import Call, CallKind
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
)
from llmbatch.route.outage import Candidates

OUTCOMES = {
    "good": GOOD,
    "failed": FAILED,
    "timeout": TIMEOUT,
    "unreachable": UNREACHABLE,
    "unknown host": UNKNOWN_HOST,
    "waits": waiting(FAILED, 20.0),
    "refused": REFUSED,
    "bad row": BAD_ROW,
    "conflict": CONFLICT,
    "raised": RAISED,
    "try again": TRY_AGAIN,
    "key": KEY_REFUSED,
    "money": NO_MONEY,
    "money?": MAYBE_NO_MONEY,
    "throttled": THROTTLED,
    "throttled, waits": waiting(THROTTLED, 7.0),
    "machine": NO_HANDLES,
}
COMMON = ("good", "good", "good", "failed", "failed", "failed", "refused", "throttled", "timeout")
outcomes = st.sampled_from(COMMON) | st.sampled_from([name for name in OUTCOMES if name != "money"])
endings = st.sampled_from(list(OUTCOMES))
which = st.integers(0, 1000)

seen: Counter[str] = Counter()
"""What happened in all stories of the last run."""


class RouteAgainstModel(RuleBasedStateMachine):
    """One route, its rows as a run keeps them, and the model."""

    @initialize(
        ever=st.booleans(),
        can_check=st.booleans(),
        threshold=st.integers(2, 5),
        attempts=st.integers(1, 4),
        successes=st.sampled_from([1, 1, 2]),
        concurrency=st.sampled_from([3, 40]),
    )
    def start(
        self, ever: bool, can_check: bool, threshold: int, attempts: int, successes: int, concurrency: int
    ) -> None:
        self.told = Story(
            ever=ever,
            can_check=can_check,
            failure_threshold=threshold,
            max_attempts=attempts,
            success_threshold=successes,
            concurrency=concurrency,
        )
        self.route = self.told.route
        self.threshold = threshold
        self.model = Model(attempts)
        self.out: list[Call] = []
        self.where: dict[int, str] = {}
        """Each unfinished row: queued, retrying, held, parked or flying."""
        self.due: dict[int, float] = {}
        """When a row may go again."""
        self.named: dict[int, float] = {}
        """When the wait is over that the row's last answer named."""
        self.phase = "closed"
        self.refused_probes = 0
        """Refused probes since the opening."""
        self.confirmed = False
        """Whether the outage was told."""
        self.rows = 0

    # Calls.

    def let_out(self, row: int, kind: CallKind = "row") -> bool:
        """Whether the circuit lets a call out, as it has to or must not."""
        route, now = self.route, self.told.now
        probing = [call for call in self.out if call.probe and route.circuit.is_current(call.permit)]
        leased = [call for call in probing if now < call.sent_at + 65.0]
        call = route.admit(row, now, kind=kind, timeout=60.0)
        if call is None:
            assert self.phase != "closed"
            return False
        assert call.probe == (self.phase != "closed")
        assert not (call.probe and leased), "two probes at once"
        assert call.fresh == (kind == "row" and row not in self.model.rows())
        assert all(call.serial > other.serial for other in self.out)
        if self.phase == "open":
            self.phase = "half_open"
        self.out.append(call)
        if row:
            self.where[row] = "flying"
        return True

    @rule()
    def a_new_row_goes(self) -> None:
        """If there is room."""
        if self.route.room(self.told.now):
            self.rows += 1
            assert self.let_out(self.rows)

    @rule(count=st.integers(2, 8))
    def several_go(self, count: int) -> None:
        """New ones."""
        for _ in range(count):
            self.a_new_row_goes()

    @rule(number=which)
    def a_row_goes_again(self, number: int) -> None:
        """One whose time has come."""
        now = self.told.now
        ready = [
            row
            for row, where in self.where.items()
            if where == "queued" or (where == "retrying" and self.due[row] <= now)
        ]
        if ready and self.route.room(now):
            assert self.let_out(ready[number % len(ready)])

    @rule(kind=st.sampled_from(["ping", "good"]))
    def a_check_goes(self, kind: CallKind) -> None:
        """Where the route wants one."""
        if self.route.wants_check(self.told.now) or (kind == "good" and self.route.wants_early_check(self.told.now)):
            assert self.let_out(0, kind)

    @precondition(lambda self: self.phase != "closed")
    @rule(fresh=st.booleans(), ping=st.booleans(), good=st.booleans(), soon=st.booleans(), number=which)
    def a_probe_goes(self, fresh: bool, ping: bool, good: bool, soon: bool, number: int) -> None:
        """Whoever's turn it is, as soon as one may."""
        due = self.route.next_change(self.told.now)
        if due is None:
            assert self.route.dead is not None or self.route.is_stopping
            return
        if soon:
            self.told.now = max(self.told.now, due)
        parked = [row for row, where in self.where.items() if where == "parked"]
        untried = any(row not in self.model.rows() for row in parked)
        choice = Candidates(fresh=fresh, parked=bool(parked), ping=ping, good=good, untried=untried)
        probe = self.route.next_probe(self.told.now, choice)
        if probe is None:
            assert self.told.now < due or not (fresh or parked or ping or good)
            return
        assert getattr(choice, probe.kind)
        assert self.told.now >= due
        if probe.kind == "ping" or probe.kind == "good":
            assert self.let_out(0, probe.kind)
        elif probe.kind == "parked":
            assert self.let_out(parked[number % len(parked)])
        else:
            self.rows += 1
            assert self.let_out(self.rows)
        seen[f"probe: {probe.kind}"] += 1

    @precondition(lambda self: self.phase != "closed")
    @rule(
        names=st.lists(outcomes, min_size=1, max_size=5) | st.sampled_from([["failed"] * 5, ["timeout"] * 9]),
        fresh=st.booleans(),
        checks=st.booleans(),
        end=st.sampled_from(["", "", "good"]),
    )
    def probes_come_and_go(self, names: list[str], fresh: bool, checks: bool, end: str) -> None:
        """Each as soon as it may, and back before the next."""
        for name in [*names, *([end] if end else [])]:
            out = len(self.out)
            if self.phase != "closed":
                self.a_probe_goes(fresh, checks, False, True, 0)
            if len(self.out) > out:
                self.come(self.out[-1], OUTCOMES[name])
                self.they_agree()

    @precondition(lambda self: self.phase == "closed")
    @rule(name=st.sampled_from(["failed", "timeout", "refused", "waits", "unreachable", "key", "money?"]))
    def rows_come_back_alike_until_it_opens(self, name: str) -> None:
        """New ones, each back before the next."""
        for _ in range(8):
            out = len(self.out)
            self.a_new_row_goes()
            if len(self.out) > out:
                self.come(self.out[-1], OUTCOMES[name])
                self.they_agree()

    def they_agree(self) -> None:
        self.the_model_agrees()
        self.the_route_is_consistent()
        self.held_rows_are_not_forgotten()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0, 70.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.told.now += seconds

    @precondition(lambda self: self.out)
    @rule(number=which, name=outcomes)
    def a_call_comes_back(self, number: int, name: str) -> None:
        self.come(self.out[number % len(self.out)], OUTCOMES[name])

    @precondition(lambda self: self.out)
    @rule(names=st.lists(outcomes, min_size=2, max_size=6))
    def the_oldest_come_back(self, names: list[str]) -> None:
        """One after the other."""
        for name in names[: len(self.out)]:
            self.come(self.out[0], OUTCOMES[name])

    @precondition(lambda self: self.out)
    @rule(name=outcomes)
    def all_come_back_alike(self, name: str) -> None:
        """The newest first."""
        for call in reversed(list(self.out)):
            self.come(call, OUTCOMES[name])

    @precondition(lambda self: self.out)
    @rule(number=which, name=endings)
    def a_call_comes_back_as_anything(self, number: int, name: str) -> None:
        self.come(self.out[number % len(self.out)], OUTCOMES[name])

    @precondition(lambda self: self.out)
    @rule(number=which)
    def a_call_is_cut_off(self, number: int) -> None:
        """It says nothing; its row goes again, or is parked."""
        call = self.out.pop(number % len(self.out))
        decisions = self.route.cancelled(call)
        if call.row:
            self.where[call.row] = "queued" if self.phase == "closed" else "parked"
        self.carry_out(decisions, None)

    # Rows that are left.

    @rule()
    def the_last_rows_are_judged(self) -> None:
        """All are held, and nothing else can tell."""
        if not self.where or set(self.where.values()) != {"held"} or self.out:
            return
        self.alone({row for row, where in self.where.items() if where == "held"}, parked=False)

    @precondition(lambda self: self.phase != "closed")
    @rule()
    def parked_rows_are_judged(self) -> None:
        """All have failed, nothing is in flight."""
        rows, due = set(self.where), self.route.next_change(self.told.now)
        if not self.out and rows and rows <= self.model.rows() and due is not None:
            self.told.now = max(self.told.now, due)
            self.alone(rows, parked=True)

    def alone(self, rows: set[int], *, parked: bool) -> None:
        before = {row: self.model.against(row) for row in rows}
        if parked:
            decisions = self.route.judge_parked(self.told.now)
            assert bool(decisions) == (self.route.is_closed or self.route.dead is not None)
        else:
            is_lost = self.route.lost_at < math.inf and not self.route.is_reached  # it has never answered anything
            decisions = self.route.judge_alone(self.told.now, len(rows))
            many = len(rows) >= self.threshold and not all(one.proven for one in before.values())
            assert self.route.dead is not None or (many or is_lost) == (not self.route.is_closed)
        if self.route.is_closed:
            self.model.note("alone", *self.model.rows() if parked else rows)
            seen["judged alone"] += 1
        self.carry_out(decisions, None)

    # Answers.

    def come(self, call: Call, outcome: Outcome) -> None:
        """It comes back; the model hears it too, and what follows is carried out."""
        if (
            outcome.verdict == "account_refused"
            and outcome.certain
            and outcome.scope == "key"
            and not outcome.key_refused
        ):
            seen["no money"] += 1
        model, now, row = self.model, self.told.now, call.row
        self.out.remove(call)
        closed, dead = self.phase == "closed", self.route.dead
        pending = {other for other in model.rows() if model.against(other).pending}
        newest = max((number for other in pending for number in model.against(other).pending), default=0)
        vouched = model.vouched_for() if call.kind == "ping" else set()
        stopping = self.route.is_stopping or (outcome is UNKNOWN_HOST and not self.told.history.ever)
        decisions = self.told.come(call, outcome)
        again = any(isinstance(decision, CircuitMoved) and decision.new == "closed" for decision in decisions)
        model.note("answered", serial=call.serial, word="" if call.kind == "ping" else outcome.verdict)
        if outcome.verdict != "success" and outcome.verdict != "local" and row:
            self.named[row] = now + (outcome.retry_after or 0.0)
        self.refused_probes += call.probe and outcome.verdict == "rejected"

        if outcome.verdict == "success":
            if call.kind == "row":
                model.note("done", row, serial=call.serial, word="probe" if call.probe else "success")
                assert sum(isinstance(decision, Succeed) for decision in decisions) == 1
            if call.kind == "ping":
                if closed:
                    assert (len(vouched) < self.threshold) == self.route.is_closed
                    model.note("answered", word="ping asks")
                    if self.route.is_closed:
                        model.note("check", serial=call.serial)
                        model.note("proof", serial=min(call.serial, newest + 1))
            elif (closed or not call.probe or again) and not any(isinstance(one, OutageOver) for one in decisions):
                model.note("proof", serial=call.serial)
                if call.kind == "good" and not call.probe:
                    model.note("check", serial=call.serial)
        elif call.kind != "row" and not call.probe and outcome.verdict == "failure" and not stopping:
            model.note("check", serial=call.serial, word="failed")
        elif not outcome.row_is_bad and self.counts(call, outcome, closed=closed):
            model.note("failed", row, serial=call.serial, word=outcome.verdict)
            if outcome.verdict == "rejected" and outcome.retry and outcome.scope == "row" and outcome.status is None:
                model.note("own", row)
        if any(isinstance(decision, OutageOver) for decision in decisions):
            model.note("void")
        if dead is not None:
            assert self.route.dead is not None
        self.carry_out(decisions, call, pending)

    def counts(self, call: Call, outcome: Outcome, *, closed: bool) -> bool:
        """Whether the answer is a failure of its row: none of a probe's is."""
        model = self.model
        if outcome.verdict == "local":
            return False
        if outcome.verdict != "throttled":
            return bool(call.row) and not call.probe
        if closed and model.against(call.row).too_large:
            model.story[-1] = model.story[-1].__class__("answered")  # it sets no pace
            return True
        others = model.throttled()
        sent = self.route.circuit.serial - model.newest_success()
        ways = math.comb(max(sent, len(others)), len(others)) * 0.02 ** len(others)
        own = bool(call.row) and not call.probe
        may_pass = any(o.serial > call.serial or o.fresh for o in self.out)
        disprovable = self.route.throttle.is_disproved(call.serial) or may_pass
        if own and disprovable and ways >= 1e-3:
            return True
        model.note("excused")
        seen["throttled as a route"] += 1
        return own and len(others) == 1

    # Decisions.

    def carry_out(self, decisions: Sequence[Decision], call: Call | None, pending: set[int] | None = None) -> None:
        """As a run would, and each has to fit where its row is."""
        now = self.told.now
        own = 0
        ended: list[int] = []
        for decision in decisions:
            seen[type(decision).__name__] += 1
            match decision:
                case CircuitMoved(old, new):
                    self.follow(old, new, call)
                case Succeed():
                    assert call is not None
                    self.finish(call.row)
                    own += 1
                case Fail(row, outcome):
                    if not outcome.row_is_bad:
                        ended.append(row)
                        against = self.model.against(row)
                        assert against.proven >= self.least(row), "failed too early"
                        self.model.note("done", row, word="failed")
                    elif self.model.against(row).since is not None:
                        self.model.note("done", row, word="final")
                    own += self.is_own(row, call)
                    self.finish(row)
                case RetryAt(row, at, _):
                    assert at >= now
                    at_last = max(at, self.route.throttle.not_before)
                    assert at_last >= self.named.get(row, now), "sooner than its provider asked"
                    own += self.is_own(row, call)
                    assert self.where[row] != "retrying"
                    self.where[row], self.due[row] = "retrying" if self.route.is_closed else "parked", at
                case HoldForEvidence(row):
                    own += self.is_own(row, call)
                    assert self.route.is_closed
                    self.where[row] = "held"
                case ParkUntil(row):
                    own += self.is_own(row, call)
                    self.where[row] = "queued" if self.phase == "closed" else "parked"
                case Requeue():
                    if self.phase == "closed":
                        self.where.update({row: "queued" for row, where in self.where.items() if where == "parked"})
                case OutageConfirmed():
                    assert not self.confirmed, "told twice"
                    assert self.route.is_confirmed
                    self.confirmed = True
                case OutageOver():
                    assert self.confirmed, "told to be over, and never to have begun"
                    self.confirmed = False
                case PauseRoute(seconds, _):
                    assert seconds > 0
                    assert self.route.throttle.not_before == pytest.approx(now + seconds)
                    self.model.note("answered", word="pause")
                case GiveUpRoute(_, reason, _) if "--timeout" in reason:
                    assert not self.told.history.ever
                case StopRun() | GiveUpRoute():
                    assert self.route.dead is not None
                    assert not self.route.takes_calls(now + 1e9)
                case _:
                    pass
        assert own == (call is not None and call.kind == "row"), "each row call has one decision for its row"
        # What was proven now, of a row that waits, has ended it if that was enough.
        for row in pending or ():
            against = self.model.against(row)
            if self.where.get(row) in ("held", "parked", "queued", "retrying") and against.since is not None:
                newly = not against.pending and against.proven
                enough = against.proven > self.most(row)
                assert not (newly and enough) or row in ended or self.route.evidence.records[row].in_flight

    def least(self, row: int) -> int:
        """Failures without which a row may not end: what is known of the rate may be a thirtieth old."""
        return max(self.model.least, math.ceil(self.model.needed(row, jumped=False, oldest=self.oldest()) * 0.95 - 0.5))

    def oldest(self) -> int | None:
        """The number of the oldest call in flight."""
        return min((call.serial for call in self.out), default=None)

    def most(self, row: int) -> int:
        """Failures with which it has to have ended."""
        return max(self.model.least, math.ceil(self.model.needed(row, jumped=True, oldest=self.oldest()) * 1.05 + 0.5))

    def is_own(self, row: int, call: Call | None) -> bool:
        """Whether it is the row of the call that came back; others have to be waiting."""
        assert row in self.where, "a row that has ended"
        if call is not None and call.kind == "row" and row == call.row:
            return True
        assert self.where[row] != "flying", "another row's call is out"
        return False

    def finish(self, row: int) -> None:
        del self.where[row]
        self.due.pop(row, None)
        self.named.pop(row, None)

    def follow(self, old: str, new: str, call: Call | None) -> None:
        assert old == self.phase
        assert new != old
        self.phase = new
        assert self.route.circuit.phase == new
        if old == "closed":
            self.where.update({row: "parked" for row, where in self.where.items() if where != "flying"})
            self.refused_probes = 0
        if new == "open" and old == "half_open":
            assert call is None or call.probe
        seen[f"{old} to {new}"] += 1

    # What holds at any time.

    @invariant()
    def the_model_agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = self.model.rows()
        assert set(self.route.evidence.records) == rows
        for row in rows:
            record, against = self.route.evidence.records[row], self.model.against(row)
            assert (record.proven, record.pending) == (against.proven, against.pending)
            assert (record.sent_alone, record.throttled) == (against.alone, against.too_large)
            assert self.least(row) <= self.route.evidence.needed(record) <= self.most(row)
            assert record.in_flight == (self.where.get(row) == "flying")
            assert record.held == (self.where.get(row) == "held")
            assert self.route.explain(row).startswith(f"failed {record.proven} of ")
        assert set(self.route.evidence.unproven) == {row for row in rows if self.model.against(row).pending}

    @invariant()
    def the_route_is_consistent(self) -> None:
        if not hasattr(self, "model"):
            return
        route, now = self.route, self.told.now
        assert route.circuit.phase == self.phase
        assert (route.outage is None) == route.is_closed
        assert route.in_flight == len(self.out)
        assert not route.is_stopping or self.out or route.looks_further
        assert not route.is_stopping or not route.is_closed
        assert route.takes_calls(now) or route.room(now) == 0
        assert route.room(now) <= max(1, route.limit.value)
        assert route.is_confirmed == self.confirmed
        assert route.explain() == f"{route.evidence.rate.value:.1%} of attempts of good rows fail"
        if route.takes_calls(now) and not self.out:
            assert route.room(now) >= 1
        if not route.is_closed and route.dead is None and not route.is_stopping:
            due = route.next_change(now)
            assert due is not None
            assert due < math.inf
        assert route.retry_after(now) >= 0.05

    @invariant()
    def held_rows_are_not_forgotten(self) -> None:
        """While the circuit is closed, something can tell: a call in flight, or a check that will be wanted."""
        if not hasattr(self, "model"):
            return
        route, now = self.route, self.told.now
        if "held" not in self.where.values() or route.dead is not None:
            return
        assert route.is_closed
        assert all(route.evidence.records[row].pending for row, where in self.where.items() if where == "held")
        if not self.out and not route.throttle.given_up:
            assert route.wants_check(max(now, route.check_at, route.throttle.not_before))


def run(stories: int, steps: int = 40, machine: type[RouteAgainstModel] = RouteAgainstModel) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=stories,
            stateful_step_count=steps,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow  # up to some seconds of CPU
@pytest.mark.long
@pytest.mark.hypothesis
def test_a_few_stories_go_as_the_model_says() -> None:
    """Short and fixed: what a mutant has to get past."""
    run(8, 20)


@pytest.mark.hypothesis
@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("stories", [130, pytest.param(200, marks=pytest.mark.long)])
def test_many_stories_go_as_the_model_says(stories: int) -> None:
    """Thousands of steps, and random steps reach each decision. Slow: the model reads the whole story at every step."""
    seen.clear()

    run(stories)

    if not settings().derandomize:
        return  # a hunt: so few random stories may miss one
    for what in (
        *("Succeed", "Fail", "RetryAt", "HoldForEvidence", "ParkUntil", "Requeue", "CircuitMoved", "OutageConfirmed"),
        *("OutageOver", "PauseRoute", "judged alone", "throttled as a route"),
        *("probe: fresh", "probe: parked", "probe: ping", "closed to open", "half_open to closed"),
    ):
        assert seen[what], f"no story came to {what}"
    assert seen["StopRun"] + seen["GiveUpRoute"], "no story came to a stop"
