"""Random steps against a model so plain that one can see that it is right.

The model keeps everything that happened in lists and works out each answer from them anew. It was written from what
the options and methods promise, not from the code; it shares nothing with it but the options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from llmbatch.breaker.core import Circuit, Permit, Verdict
from llmbatch.breaker.policy import BreakerPolicy

CHANCE = 0.5


@dataclass
class Call:
    """A call that the model let in."""

    caller: object
    era: int
    is_probe: bool


@dataclass
class Model:
    """One circuit, told in lists."""

    policy: BreakerPolicy
    mode: str = "closed"
    era: int = 0
    """Counts changes of mode; a call of another era is stale."""
    answers: list[tuple[object, str]] = field(default_factory=list)
    """Who answered what since the circuit closed last, calls of that time only."""
    probe_answers: list[str] = field(default_factory=list)
    """What probes answered in this half-open spell."""
    failed_probes: list[float] = field(default_factory=list)
    """When probes failed, since the wait last started over."""
    deadlines: list[float] = field(default_factory=lambda: [0.0])
    """Every time before which no probe may go."""
    probe: Call | None = None
    lease_end: float = 0.0
    replaced: list[Call] = field(default_factory=list)
    """Probes of this spell that lost their lease to another."""
    refusals_opened: bool = False
    closed_at: float | None = None

    def state(self, now: float) -> str:
        if self.mode == "open" and now >= max(self.deadlines):
            return "half_open"
        return self.mode

    def streak(self) -> set[object]:
        callers: set[object] = set()
        for caller, verdict in reversed(self.answers):
            if verdict == "success":
                break
            if verdict == "failure":
                callers.add(caller)
        return callers

    def window(self) -> list[tuple[object, str]]:
        """The calls that the rate looks back on: a caller's failure is not noted again while it stands there."""
        noted: list[tuple[object, str]] = []
        for caller, verdict in self.answers:
            if verdict == "success" or (verdict == "failure" and (caller, verdict) not in noted):
                noted = [*noted, (caller, verdict)][-self.policy.rate_window :]
        return noted

    def rate_is_high(self) -> bool:
        window = self.window()
        failures = [entry for entry in window if entry[1] == "failure"]
        if self.policy.failure_rate is None or len(window) < self.policy.minimum_calls:
            return False
        return len(failures) / len(window) >= self.policy.failure_rate

    def retry_after(self, now: float) -> float:
        wait = 0.0
        if self.mode == "open":
            wait = max(self.deadlines) - now
        elif self.mode == "half_open" and self.probe is not None:
            wait = self.lease_end - now
        return max(wait, 0.05)

    def acquire(self, caller: object, now: float, lease: float | None) -> Call | None:
        if self.state(now) == "open":
            return None
        if self.state(now) == "closed":
            return Call(caller, self.era, is_probe=False)
        if self.mode == "open":
            self.mode = "half_open"
            self.era += 1
            self.probe_answers, self.replaced, self.probe = [], [], None
        if self.probe is not None:
            if now < self.lease_end:
                return None
            self.replaced.append(self.probe)
        self.probe = Call(caller, self.era, is_probe=True)
        length = self.policy.probe_lease if lease is None else lease
        for _ in self.replaced:
            length *= 2
        self.lease_end = now + length
        return self.probe

    def settle(self, call: Call, verdict: str, now: float, hint: float | None) -> None:
        if call.era == self.era and self.mode == "closed":
            self.answers.append((call.caller, verdict))
            if verdict == "exhausted":
                self.trip(now, by_refusal=True)
            elif verdict == "failure" and (len(self.streak()) >= self.policy.failure_threshold or self.rate_is_high()):
                self.trip(now, by_refusal=False)
        elif call is self.probe:
            self.probe = None
            self.probe_answers.append(verdict)
            self.judge_probe(verdict, now)
        if hint is not None and self.mode == "open":
            self.deadlines.append(now + hint)

    def judge_probe(self, verdict: str, now: float) -> None:
        if verdict == "success":
            if self.probe_answers.count("success") >= self.policy.success_threshold:
                self.close(now, start_over=False)
        elif verdict == "neutral" and not self.refusals_opened:
            if self.probe_answers.count("neutral") >= self.policy.neutral_probes:
                self.close(now, start_over=False)
        else:
            if verdict != "throttled":
                self.failed_probes.append(now)
            self.open(now)

    def release(self, call: Call) -> None:
        if call is self.probe:
            self.probe = None

    def trip(self, now: float, *, by_refusal: bool) -> None:
        if self.mode == "closed" and (self.closed_at is None or now - self.closed_at >= self.policy.stable_time):
            self.failed_probes = []
        self.refusals_opened = by_refusal
        self.open(now)

    def open(self, now: float) -> None:
        wait = self.policy.recovery_timeout
        if self.policy.first_recovery_timeout is not None:
            wait = self.policy.first_recovery_timeout
            for _ in self.failed_probes:
                wait *= 2
            wait = min(wait * (1 + self.policy.jitter * CHANCE), self.longest_wait())
        self.deadlines.append(now + wait)
        self.mode = "open"
        self.era += 1
        self.probe = None

    def longest_wait(self) -> float:
        """The cap leaves room for the most jitter."""
        return self.policy.recovery_timeout / (1 + self.policy.jitter) * (1 + self.policy.jitter * CHANCE)

    def close(self, now: float, *, start_over: bool) -> None:
        self.mode = "closed"
        self.era += 1
        self.answers = []
        self.probe = None
        self.closed_at = now
        if start_over:
            self.failed_probes = []


policies = st.builds(
    BreakerPolicy,
    failure_threshold=st.sampled_from([1, 2, 3, 50]),
    recovery_timeout=st.sampled_from([8.0, 60.0]),
    success_threshold=st.integers(1, 3),
    first_recovery_timeout=st.sampled_from([None, 1.0, 2.5]),
    jitter=st.sampled_from([0.0, 0.25, 1.0]),
    failure_rate=st.sampled_from([None, 0.3, 0.5, 1.0]),
    rate_window=st.integers(4, 7),
    minimum_calls=st.integers(1, 4),
    probe_lease=st.sampled_from([3.0, 10.0]),
    stable_time=st.sampled_from([0.0, 5.0, 40.0]),
    neutral_probes=st.integers(1, 3),
)
verdicts = st.sampled_from(["success", "failure", "failure", "neutral", "throttled", "exhausted"])
"""Failures twice, for without them nothing opens."""
steps = st.sampled_from([0.25, 1.0, 2.5, 8.0, 10.0, 60.0, 500.0])
hints = st.none() | st.sampled_from([-5.0, 0.0, 3.0, 70.0, math.nan])


class CircuitAgainstModel(RuleBasedStateMachine):
    """Two circuits are told the same; one is the real one."""

    calls: Bundle[tuple[Permit, Call]] = Bundle("calls")

    @initialize(policy=policies)
    def start(self, policy: BreakerPolicy) -> None:
        self.now = 100.0
        self.real = Circuit(policy, chance=lambda: CHANCE)
        self.model = Model(policy)
        self.last_until = self.real.until
        self.last_serial = 0
        self.unnamed = 0

    @rule(target=calls, caller=st.sampled_from([None, None, 1, 2, "canary"]), lease=st.none() | st.just(5.0))
    def acquire(self, caller: object, lease: float | None) -> object:
        self.unnamed += 1
        call = self.model.acquire(("unnamed", self.unnamed) if caller is None else caller, self.now, lease)
        permit = self.real.acquire(self.now, caller, lease=lease)

        assert (permit is None) == (call is None), f"{permit} but the model says {call}"
        if permit is None or call is None:
            return multiple()
        assert permit.probe == call.is_probe
        assert permit.serial == self.last_serial + 1
        self.last_serial = permit.serial
        return permit, call

    @rule(pair=consumes(calls), verdict=verdicts, hint=hints)
    def settle(self, pair: tuple[Permit, Call], verdict: Verdict, hint: float | None) -> None:
        permit, call = pair
        self.model.settle(call, verdict, self.now, None if hint is not None and math.isnan(hint) else hint)
        self.real.settle(permit, verdict, self.now, retry_after=hint)

    @rule(pattern=st.text(alphabet=".x", min_size=1, max_size=8))
    def calls_come_and_go(self, pattern: str) -> None:
        """Good ones and failures, each settled before the next."""
        for letter in pattern:
            pair = self.acquire(None, None)
            if isinstance(pair, tuple):
                self.settle(pair, "failure" if letter == "x" else "success", None)
            self.they_agree()

    @rule(pair=consumes(calls))
    def release(self, pair: tuple[Permit, Call]) -> None:
        permit, call = pair
        self.model.release(call)
        self.real.release(permit)

    @rule(by_refusal=st.booleans())
    def trip(self, by_refusal: bool) -> None:
        self.model.trip(self.now, by_refusal=by_refusal)
        self.real.trip(self.now, "told so", by_refusal=by_refusal)

    @rule(start_over=st.booleans())
    def close(self, start_over: bool) -> None:
        self.model.close(self.now, start_over=start_over)
        self.real.close(self.now, start_over=start_over)

    @rule(ahead=st.sampled_from([-10.0, 0.0, 2.0, 30.0, 200.0]))
    def hold(self, ahead: float) -> None:
        self.model.deadlines.append(self.now + ahead)
        self.real.hold(self.now + ahead)

    @rule(seconds=steps)
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def advance_to_the_moment_that_was_named(self) -> None:
        """Waiting exactly as told lets the next caller in, unless it was told the least wait."""
        wait = self.real.retry_after(self.now)
        self.now += wait
        if self.model.mode != "closed":
            assert self.real.state(self.now) == "half_open"

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.real.state(self.now) == self.model.state(self.now)
        assert self.real.is_closed == (self.model.mode == "closed")
        assert self.real.failures == len(self.model.streak())
        assert self.real.probing == (self.model.probe is not None)
        assert math.isclose(self.real.retry_after(self.now), self.model.retry_after(self.now), rel_tol=1e-9)

    @invariant()
    def waits_are_finite_and_never_shrink(self) -> None:
        if not hasattr(self, "real"):
            return
        assert 0.05 <= self.real.retry_after(self.now) < math.inf
        assert self.real.until >= self.last_until
        self.last_until = self.real.until


# Slow, for only hundreds of stories of many steps get into the corners.
CircuitAgainstModel.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestCircuitAgainstModel = pytest.mark.slow(CircuitAgainstModel.TestCase)
