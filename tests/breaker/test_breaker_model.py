"""Random steps against a model so plain that one can see that it is right.

The model keeps everything that happened in lists and works out each answer from them anew. It was written from what
the options and methods promise, not from the code; it shares nothing with it but the options.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llmbatch.breaker.core import Circuit, SettleVerdict
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy


@dataclass(eq=False)
class Call:
    """A call that the model let in."""

    caller: object
    """Who made it; an unnamed call is a caller of its own."""
    began: float
    era: int
    is_probe: bool = False
    lease_end: float = math.inf
    is_over: bool = False
    """Settled, given back, or replaced by another probe."""
    is_replaced: bool = False


@dataclass(eq=False)
class Answer:
    """What a call came to that was not stale."""

    call: Call
    verdict: str
    at: float
    is_slow: bool


@dataclass
class Model:
    """One circuit, told in lists."""

    policy: BreakerPolicy
    chance: float
    mode: str = "closed"
    forced: str = ""
    reason: str = ""
    changes: list[float] = field(default_factory=list)
    """When the mode changed. A call from before the last change is stale."""
    closings: list[float] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """Every call that was let in."""
    answers: list[Answer] = field(default_factory=list)
    """Of the calls of the time since the circuit closed last, without those of probes."""
    probe_answers: list[Answer] = field(default_factory=list)
    """Of the probes of this half-open spell."""
    takeovers: list[Call] = field(default_factory=list)
    """Probes of this spell that lost their lease to another."""
    setbacks: list[float] = field(default_factory=list)
    """When failed probes opened it again, since the open time last started over."""
    deadlines: list[float] = field(default_factory=lambda: [-math.inf])
    """Every time before which no probe may go."""
    refusals_opened: bool = False
    by_hand: bool = False
    """Whether an operator opened it, so that its reason says nothing once a probe fails."""
    forced_until: float = -math.inf
    would_open: bool = False
    """Whether it would have opened, had it not been disabled."""
    given_up: list[tuple[object, int]] = field(default_factory=list)
    """Callers of calls that were given up when they were overdue, and how many answers had come by then."""
    inherited: int = 0
    """Failures in a row that an earlier process saw."""
    story: list[str] = field(default_factory=list)
    """What happened, in kinds, to show that random steps reach all of it."""

    # What one can ask.

    @property
    def era(self) -> int:
        return len(self.changes)

    def earliest(self) -> float:
        """When a probe may go."""
        return max([*self.deadlines, self.forced_until] if self.forced == "open" else self.deadlines)

    def state(self, now: float) -> str:
        if self.mode == "open" and now >= self.earliest():
            return "half_open"
        return self.mode

    def out(self) -> list[Call]:
        """The calls that have not come back and are not stale."""
        return [call for call in self.calls if call.era == self.era and not call.is_over]

    def streak(self) -> set[object]:
        callers: set[object] = set()
        for answer in reversed(self.answers):
            if answer.verdict == "success":
                break
            if answer.verdict == "failure":
                callers.add(answer.call.caller)
        return callers

    def failures(self) -> int:
        """Those of an earlier process belong to the streak until a call is good."""
        broken = any(answer.verdict == "success" for answer in self.answers)
        return len(self.streak()) + (0 if broken else self.inherited)

    def counts(self, now: float) -> tuple[int, int, int] | None:
        """What stands in the window at *now*."""
        if self.policy.failure_rate is None and self.policy.slow_call_rate is None:
            return None
        window = [one for one in self.window() if self.is_in_sight(one, now)]
        return len(window), sum(one.verdict == "failure" for one in window), sum(one.is_slow for one in window)

    def successes_would_open(self, now: float) -> bool:
        """Whether some more good calls would do, and nothing else."""
        counts, rate = self.counts(now), self.policy.failure_rate
        if counts is None or rate is None or self.policy.rate_seconds is not None:
            return False
        calls, failed, _ = counts
        more = range(1, self.policy.minimum_calls + 1)
        return any(calls + good >= self.policy.minimum_calls and failed / (calls + good) >= rate for good in more)

    def window(self) -> list[Answer]:
        """The calls that the rates look back on: a caller's failure is not noted again while it stands there."""
        noted: list[Answer] = []
        for answer in self.answers:
            if answer.verdict not in ("success", "failure"):
                continue
            noted = [one for one in noted if self.is_in_sight(one, answer.at)]
            failed = [one.call.caller for one in noted if one.verdict == "failure"]
            if answer.verdict == "failure" and answer.call.caller in failed:
                continue
            noted.append(answer)
            if self.policy.rate_seconds is None:
                noted = noted[-self.policy.rate_window :]
        return noted

    def is_in_sight(self, answer: Answer, now: float) -> bool:
        """At least ``rate_seconds``, and then to the end of the tenth part that the call stands in."""
        if self.policy.rate_seconds is None:
            return True
        tenth = self.policy.rate_seconds / 10
        in_sight = math.floor(now / tenth) - math.floor(answer.at / tenth) <= 10
        assert in_sight or now - answer.at > self.policy.rate_seconds
        assert not in_sight or now - answer.at < self.policy.rate_seconds * 1.1
        return in_sight

    def high_rate(self) -> str:
        """The rate that is too high, in words."""
        window = self.window()
        failed = [answer for answer in window if answer.verdict == "failure"]
        slow = [answer for answer in window if answer.is_slow]
        if len(window) < self.policy.minimum_calls:
            return ""
        span = f"the last {len(window)} calls"
        if self.policy.rate_seconds is not None:
            span = f"{len(window)} calls in {self.policy.rate_seconds:g} s"
        if self.policy.failure_rate is not None and len(failed) / len(window) >= self.policy.failure_rate:
            return f"{len(failed)} of {span} failed"
        if self.policy.slow_call_rate is not None and len(slow) / len(window) >= self.policy.slow_call_rate:
            return f"{len(slow)} of {span} took over {self.policy.slow_call_duration:g} s"
        return ""

    def stall(self, now: float) -> str:
        """The calls that have been unanswered for too long while nothing else did, in words."""
        timeout = self.policy.stall_timeout
        if timeout is None:
            return ""
        overdue = {call.caller for call in self.out() if now - call.began > timeout}
        given_up = {
            caller
            for caller, heard_before in self.given_up
            if all(answer.verdict == "failure" for answer in self.answers[heard_before:])
        }
        if given_up and len(overdue) < self.policy.stall_calls <= len(overdue | given_up):
            self.story.append("a stall of calls that were given up")
        overdue |= given_up
        heard = [answer for answer in self.answers if answer.verdict != "failure" and now - answer.at <= timeout]
        if len(overdue) < self.policy.stall_calls:
            return ""
        if heard:
            self.story.append("a stall that an answer speaks against")
            return ""
        # It opens as soon as there are enough, and tells no more.
        many = self.policy.stall_calls
        return f"{'a call has' if many == 1 else f'{many} calls have'} been unanswered for {timeout:g} s"

    def is_slow(self, call: Call, now: float) -> bool:
        return self.policy.slow_call_rate is not None and now - call.began > self.policy.slow_call_duration

    def wait(self, now: float) -> float:
        if self.mode == "closed":
            return 0.0
        ends = [self.earliest()]
        leases = [call.lease_end for call in self.out()]
        if len(leases) >= self.policy.probes:
            ends.append(min(leases))
        return max(0.0, max(ends) - now)

    # What changes it.

    def acquire(self, caller: object, now: float, lease: float | None) -> Call | None:
        call = Call(caller, now, self.era)
        if self.mode == "closed" and (why := self.stall(now)):
            self.trip(now, why, kind="a stall, seen by one who asks")
        if self.mode == "closed":
            self.calls.append(call)
            return call
        if now < self.earliest():
            self.story.append(f"refused: {'forced' if self.forced else self.mode}")
            return None
        if self.mode == "open":
            self.story += ["a time of forcing that is over"] * bool(self.forced)
            self.forced = ""
            self.change("half_open", now)
            self.probe_answers, self.takeovers = [], []
        if len(self.out()) >= self.policy.probes:
            first = min(self.out(), key=lambda probe: probe.lease_end)
            if now < first.lease_end:
                self.story.append("refused: all probes out")
                return None
            self.story.append("takeover" if self.policy.probes == 1 else "takeover of one of several")
            first.is_over = first.is_replaced = True
            self.takeovers.append(first)
        call.is_probe, call.era = True, self.era
        length = self.policy.recovery_timeout if self.policy.probe_lease is None else self.policy.probe_lease
        if lease is not None:
            length = lease
        call.lease_end = now + length * min(2 ** len(self.takeovers), 4)
        if len(self.takeovers) > 2:
            self.story.append("the longest lease")
        self.calls.append(call)
        if len(self.out()) > 1:
            self.story.append("several probes at once")
        return call

    def settle(self, call: Call, verdict: str, now: float, hint: float | None) -> bool:
        """Whether it counted."""
        is_stale = call.era != self.era or call.is_over
        call.is_over = True
        if hint is not None:
            self.story.append(f"{'stale' if is_stale else 'current'} hint while {self.mode}")
            self.story += ["capped hint"] * (hint > self.policy.longest_hint)
            self.deadlines.append(now + min(hint, self.policy.longest_hint))
        answer = Answer(call, verdict, now, self.is_slow(call, now))
        if call.era == self.era and call.is_replaced and self.is_answer(answer):
            self.story.append(f"a replaced probe that counts: {verdict}")
            is_stale = False
        if is_stale:
            self.story += [f"stale: {verdict}", f"stale while {self.forced or self.mode}"]
            return False
        if self.mode == "closed":
            self.answers.append(answer)
            self.judge_call(answer, now)
            if not self.forced and self.mode == "closed" and hint is not None and self.opens_for(hint):
                least_wait = min(hint, self.policy.longest_hint)
                why = f"the server asked for a wait of {least_wait:g} s"
                self.trip(now, why, kind="a wait that the server named", wait=least_wait)
            elif self.forced and hint is not None and self.opens_for(hint):
                self.trip(now, f"the server asked for a wait of {min(hint, self.policy.longest_hint):g} s")
        else:
            self.probe_answers.append(answer)
            self.judge_probe(answer, now, hint)
        return True

    def opens_for(self, hint: float) -> bool:
        least = self.policy.open_on_retry_after
        return least is not False and hint > 0 and (least is True or min(hint, self.policy.longest_hint) >= least)

    def is_answer(self, answer: Answer) -> bool:
        """Whether it shows that the provider works."""
        if answer.verdict == "neutral":
            return not self.refusals_opened
        return answer.verdict == "success" and not answer.is_slow

    def judge_call(self, answer: Answer, now: float) -> None:
        """Exhausted at once, else by the streak, else by a rate, else by a stall."""
        threshold, count = self.policy.failure_threshold, self.failures()
        if answer.verdict == "exhausted":
            self.trip(now, "the provider refuses the account", by_refusal=True, kind="exhausted")
            return
        if answer.verdict == "failure" and threshold is not None and count >= threshold:
            self.trip(now, "a call failed" if count == 1 else f"{count} calls in a row failed", kind="streak")
            return
        # A rate is looked at whenever a call may have changed it.
        if answer.verdict in ("success", "failure") and (why := self.high_rate()):
            self.story += ["a rate that a good call completes"] * (answer.verdict == "success" and not answer.is_slow)
            rate = "failure rate" if why.endswith("failed") else "slow rate"
            self.trip(now, why, kind=f"{rate}, {'count' if self.policy.rate_seconds is None else 'time'} window")
            return
        self.tell_of_window(answer)
        if why := self.stall(now):
            self.trip(now, why, kind="a stall, seen by one who answers")

    def tell_of_window(self, answer: Answer) -> None:
        if self.policy.failure_rate is None and self.policy.slow_call_rate is None:
            return
        window, noted = self.window(), [one for one in self.answers if one.verdict in ("success", "failure")]
        if answer.verdict == "failure" and answer not in window:
            self.story.append("a failure that is noted already")
        if noted and noted[0] not in window:
            self.story.append(
                f"a call that the {'count' if self.policy.rate_seconds is None else 'time'} window forgot"
            )

    def judge_probe(self, answer: Answer, now: float, hint: float | None = None) -> None:
        """One verdict after another, as far as this spell has heard them."""
        verdict = answer.verdict
        good = [one for one in self.probe_answers if one.verdict == "success" and not one.is_slow]
        neutral = [one for one in self.probe_answers if one.verdict == "neutral"]
        if answer in good:
            if len(good) >= self.policy.success_threshold:
                self.story.append("closed by good probes")
                self.close(now, start_over=False)
        elif answer in neutral and not self.refusals_opened:
            if len(neutral) >= self.policy.neutral_probes:
                self.story.append("closed by neutral probes")
                self.close(now, start_over=False)
        elif verdict == "throttled":
            self.story.append("opened again: throttled")
            if hint is not None and self.opens_for(hint):
                self.story.append("a throttled probe that opens for a named wait")
                self.open_again(now, min(hint, self.policy.longest_hint))
            else:
                self.open_again(now)
        else:
            kind = "slow" if verdict == "success" else verdict
            if verdict == "exhausted":
                self.refusals_opened = True
            failed = [one for one in self.probe_answers if self.is_failed_probe(one)]
            if verdict == "exhausted" or len(failed) >= self.policy.failed_probes:
                self.setbacks.append(now)
                self.story.append(f"opened again: {kind}")
                self.open_again(now)
            else:
                self.story.append(f"a failed probe that decides nothing yet: {kind}")

    def is_failed_probe(self, answer: Answer) -> bool:
        """Throttled is none, and exhausted none that leaves it half-open."""
        if answer.verdict == "neutral":
            return self.refusals_opened
        return answer.verdict == "failure" or (answer.verdict == "success" and answer.is_slow)

    def release(self, call: Call, now: float | None) -> None:
        was_out, timeout = call in self.out(), self.policy.stall_timeout
        call.is_over = True
        if not was_out:
            return
        kind = "probe" if call.is_probe else "call"
        self.story.append(f"a {kind} given back")
        if now is None or timeout is None or now - call.began <= timeout:
            return
        self.story.append(f"an overdue {kind} given up")
        if call.is_probe:
            failed = Answer(call, "failure", now, is_slow=False)
            self.probe_answers.append(failed)
            self.judge_probe(failed, now)
            return
        self.given_up.append((call.caller, len(self.answers)))
        if why := self.stall(now):
            self.trip(now, why, kind="a stall, seen by one who gives up")

    def hold(self, until: float) -> None:
        self.deadlines.append(until)

    def pause(self, now: float, seconds: float, reason: str) -> None:
        if self.mode != "closed" or self.forced:
            self.hold(now + seconds)
        elif seconds > 0:
            self.trip(now, reason, kind="paused", wait=seconds)
            self.by_hand = True

    def trip(
        self, now: float, reason: str, *, by_refusal: bool = False, kind: str = "told to", wait: float | None = None
    ) -> None:
        if self.forced:
            if self.forced == "disabled" and not self.would_open:
                self.would_open, self.reason = True, reason
                self.story.append(f"would have opened: {kind}")
            return
        self.story.append(f"opened: {kind}")
        if self.mode == "closed" and (not self.closings or now - self.closings[-1] >= self.policy.stable_time):
            self.story += ["the open time starts over"] * bool(self.setbacks)
            self.setbacks = []
        self.refusals_opened, self.by_hand = by_refusal, False
        self.open(now, reason, wait)

    def open_again(self, now: float, wait: float | None = None) -> None:
        self.story += ["opened again, after an operator"] * self.by_hand
        reason = "a probe failed" if self.by_hand else self.reason
        self.by_hand = False
        self.open(now, reason, wait)

    def open(self, now: float, reason: str, named: float | None = None) -> None:
        stretch = 1 + self.policy.jitter * self.chance
        wait = self.policy.recovery_timeout * stretch
        if self.policy.first_recovery_timeout is not None:
            wait = self.policy.first_recovery_timeout
            for _ in self.setbacks:
                wait *= self.policy.growth
            # The most that is drawn stays below the bound.
            most = self.policy.recovery_timeout / (1 + self.policy.jitter)
            self.story.append("an open time at its bound" if wait > most else "an open time below its bound")
            wait = min(wait, most) * stretch
        if named is not None:
            wait = named
        if max(self.deadlines) > now + wait:
            self.story.append("an opening that a longer wait outlasts")
        self.deadlines.append(now + wait)
        self.change("open", now)
        self.reason = reason

    def close(self, now: float, *, start_over: bool) -> None:
        self.change("closed", now)
        self.forced = self.reason = ""
        self.would_open, self.inherited = False, 0
        self.closings.append(now)
        self.answers = []
        if start_over:
            self.setbacks = []

    def force_open(self, now: float, reason: str, seconds: float) -> None:
        self.change("open", now)
        self.forced, self.reason, self.forced_until = "open", reason, now + seconds
        self.by_hand, self.refusals_opened = True, False

    def disable(self, now: float) -> None:
        if self.forced != "disabled":
            self.close(now, start_over=False)
            self.forced = "disabled"

    def reset(self, now: float) -> None:
        self.close(now, start_over=True)
        self.deadlines = [-math.inf]

    def restart(self, now: float) -> None:
        """Another process goes on: nothing is out, and what is counted is numbers."""
        self.story.append(f"a restart while {self.state(now)}{', ' * bool(self.forced)}{self.forced}")
        if self.state(now) == "half_open":
            self.mode = "open"
        if self.forced == "open" and now >= self.forced_until:
            self.forced = ""
        self.inherited, self.answers, self.calls, self.given_up = self.failures(), [], [], []
        self.changes = self.changes[-1:]
        self.deadlines = [-math.inf, *(end for end in self.deadlines if end > now)]

    def change(self, mode: str, now: float) -> None:
        self.story.append(f"{self.mode} to {mode}")
        self.mode = mode
        self.changes.append(now)
        self.given_up = []


@st.composite
def policies(draw: st.DrawFn) -> BreakerPolicy:
    """Each rule about as often used as not, and often alone, for together the quickest hides the others."""
    rules = draw(st.sets(st.sampled_from(["streak", "failures", "slow", "stall"]), min_size=1, max_size=2))
    # All times are sums of powers of two, so that no rounding parts the circuits.
    recovery = draw(st.sampled_from([10.0, 60.0]))
    return BreakerPolicy(
        failure_threshold=draw(st.integers(1, 4)) if "streak" in rules else draw(st.sampled_from([None, 50])),
        failure_rate=draw(st.sampled_from([0.3, 0.5, 1.0])) if "failures" in rules else None,
        slow_call_rate=draw(st.sampled_from([0.3, 0.5, 1.0])) if "slow" in rules else None,
        slow_call_duration=draw(st.sampled_from([1.0, 2.5])),
        rate_window=draw(st.integers(4, 7)),
        rate_seconds=draw(st.sampled_from([None, None, 5.0, 20.0])),
        minimum_calls=draw(st.integers(1, 4)),
        stall_timeout=draw(st.sampled_from([2.5, 10.0])) if "stall" in rules else None,
        stall_calls=draw(st.integers(1, 3)),
        recovery_timeout=recovery,
        first_recovery_timeout=draw(st.sampled_from([None, 1.0, 2.5, recovery])),
        growth=draw(st.sampled_from([1.0, 1.5, 2.0, 10.0])),
        jitter=draw(st.sampled_from([0.0, 0.25, 1.0])),
        stable_time=draw(st.sampled_from([0.0, 5.0, 40.0])),
        longest_hint=draw(st.sampled_from([50.0, 86_400.0])),
        success_threshold=draw(st.integers(1, 3)),
        failed_probes=draw(st.integers(1, 3)),
        probes=draw(st.sampled_from([1, 1, 2, 3])),
        probe_lease=draw(st.sampled_from([None, 3.0, 10.0])),
        neutral_probes=draw(st.integers(1, 3)),
        open_on_retry_after=draw(st.sampled_from([False, False, True, 3.0, 60.0])),
    )


verdicts = st.sampled_from(["success", "failure", "failure", "neutral", "throttled", "exhausted"])
"""Failures twice, for without them nothing opens."""
kind_verdicts = st.sampled_from(["success", "success", "failure", "failure", "neutral", "throttled"])
callers = st.sampled_from([None, None, None, 1, 2, "canary"])
steps = st.sampled_from([0.25, 0.5, 1.0, 2.5, 8.0, 10.0, 60.0, 500.0])
hints = st.none() | st.sampled_from([-5.0, 0.0, 3.0, 70.0, math.nan, math.inf])
which = st.integers(0, 1000)

seen: Counter[str] = Counter()
"""What happened in all stories of the last run."""


class CircuitAgainstModel(RuleBasedStateMachine):
    """Two circuits are told the same; one is the real one."""

    focus: dict[str, Any]

    @initialize(policy=policies(), chance=st.sampled_from([0.0, 0.5, 1.0]), now=st.sampled_from([100.0, -1000.0]))
    def start(self, policy: BreakerPolicy, chance: float, now: float) -> None:
        policy = policy.replace(**self.focus)
        self.now = now
        self.real = Circuit(policy, chance=lambda: chance)
        self.model = Model(policy, chance)
        self.out: list[tuple[PermitState, Call]] = []
        self.spent: list[PermitState] = []
        self.doors: list[tuple[int, int]] = []
        """Generations of the real one, with the model's, in which a call passed without a permit."""
        self.last_until = -math.inf
        self.last_serial = 0
        self.unnamed = 0

    def teardown(self) -> None:
        if hasattr(self, "model"):
            seen.update(self.model.story)

    def a_caller(self) -> tuple[str, int]:
        """One whom nobody has heard of."""
        self.unnamed += 1
        return "unnamed", self.unnamed

    # Calls with a permit.

    def let_in(self, caller: object, lease: float | None = None) -> bool:
        call = self.model.acquire(self.a_caller() if caller is None else caller, self.now, lease)
        permit = self.real.acquire(self.now, caller, lease=lease)

        assert (permit is None) == (call is None), f"{permit} but the model says {call}"
        if permit is None or call is None:
            return False
        assert permit.probe == call.is_probe
        assert permit.key == caller
        assert permit.at == self.now
        assert permit.serial == self.last_serial + 1
        self.last_serial = permit.serial
        self.out.append((permit, call))
        return True

    def take(self, number: int) -> tuple[PermitState, Call]:
        """One of the calls that are out."""
        permit, call = self.out.pop(number % len(self.out))
        self.spent.append(permit)
        return permit, call

    def come_back(self, number: int, verdict: SettleVerdict, hint: float | None = None) -> None:
        permit, call = self.take(number)
        hint_heard = None if hint is not None and math.isnan(hint) else hint
        counted = self.model.settle(call, verdict, self.now, hint_heard)
        assert self.real.settle(permit, verdict, self.now, retry_after=hint) == counted

    @rule(caller=callers, lease=st.none() | st.just(5.0))
    def acquire(self, caller: object, lease: float | None) -> None:
        self.let_in(caller, lease)

    @rule(
        names=st.lists(callers, min_size=3, max_size=5),
        seconds=st.sampled_from([1.0, 2.5, 3.0, 10.0, 11.0, 60.0]),
        verdict=st.sampled_from([None, "success", "failure"]),
    )
    def several_go_and_time_passes(self, names: list[object], seconds: float, verdict: SettleVerdict | None) -> None:
        """And then perhaps the latest has an answer."""
        let_in = [self.let_in(caller) for caller in names]
        self.now += seconds
        if verdict is not None and any(let_in):
            self.come_back(-1, verdict)

    @precondition(lambda self: self.out)
    @rule(number=which, verdict=verdicts, hint=hints)
    def settle(self, number: int, verdict: SettleVerdict, hint: float | None) -> None:
        self.come_back(number, verdict, hint)

    @precondition(lambda self: self.out)
    @rule(verdict=kind_verdicts, hint=hints)
    def settle_the_latest(self, verdict: SettleVerdict, hint: float | None) -> None:
        self.come_back(-1, verdict, hint)

    @precondition(lambda self: self.out)
    @rule(number=which, is_timed=st.sampled_from([True, True, True, False]))
    def release(self, number: int, is_timed: bool) -> None:
        permit, call = self.take(number)
        now = self.now if is_timed else None
        self.model.release(call, now)
        self.real.release(permit, now)

    @precondition(lambda self: self.out)
    @rule(many=st.integers(1, 3), seconds=st.sampled_from([0.0, 2.75, 10.5]))
    def callers_give_up(self, many: int, seconds: float) -> None:
        """After a while, the latest first."""
        self.now += seconds
        for _ in range(min(many, len(self.out))):
            permit, call = self.take(-1)
            self.model.release(call, self.now)
            self.real.release(permit, self.now)
            self.they_agree()

    @precondition(lambda self: self.spent)
    @rule(number=which, how=st.sampled_from(["settle", "release"]))
    def spend_again(self, number: int, how: str) -> None:
        """It is refused, and changes nothing."""
        permit = self.spent[number % len(self.spent)]
        if how == "settle":
            with pytest.raises(RuntimeError, match="settled or released before"):
                self.real.settle(permit, "failure", self.now, retry_after=1e6)
        else:
            with pytest.raises(RuntimeError, match="settled or released before"):
                self.real.release(permit, self.now)

    @rule(
        pattern=st.text(alphabet=".x12gs", min_size=1, max_size=12) | st.sampled_from(["ssss", "xxxx", "........x"]),
        seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0]),
    )
    def calls_come_and_go(self, pattern: str, seconds: float) -> None:
        """Each settled before the next: good ones, failures, those of two callers, good ones of a caller, slow ones."""
        for letter in pattern:
            if not self.let_in({"1": 1, "2": 2, "g": 1}.get(letter)):
                break
            self.now += 3.0 if letter == "s" else 0.0
            self.come_back(-1, "failure" if letter in "x12" else "success")
            self.they_agree()
            self.now += seconds

    @precondition(lambda self: self.model.mode != "closed")
    @rule(answers=st.lists(verdicts | st.sampled_from(["slow", "neutral"]), min_size=1, max_size=4))
    def probes_come_and_go(self, answers: list[str]) -> None:
        """As soon as they may, each settled before the next."""
        for verdict in answers:
            self.go_to_the_moment_that_was_named()
            if self.let_in(None):
                self.now += 3.0 if verdict == "slow" else 0.0
                self.come_back(-1, "success" if verdict == "slow" else verdict)  # type: ignore[arg-type]
            self.they_agree()

    @precondition(lambda self: self.model.mode != "closed")
    @rule(times=st.integers(1, 7))
    def probes_hang(self, times: int) -> None:
        for _ in range(times):
            self.go_to_the_moment_that_was_named()
            self.let_in(None)
            self.they_agree()

    # Calls without one.

    @precondition(lambda self: self.model.mode == "closed" and not self.model.policy.times_calls)
    @rule()
    def pass_the_door(self) -> None:
        self.doors.append((self.real.generation, self.model.era))

    @precondition(lambda self: self.doors)
    @rule(number=which, count=st.integers(0, 9))
    def succeed(self, number: int, count: int) -> None:
        """As many as passed; nine is more than any window of calls holds."""
        generation, era = self.doors.pop(number % len(self.doors))
        for _ in range(count or 1):
            self.model.settle(Call(self.a_caller(), self.now, era), "success", self.now, None)
        if count:
            self.real.succeed(generation, self.now, count)
        else:
            self.real.succeed(generation, self.now)

    @precondition(lambda self: self.doors)
    @rule(number=which, verdict=verdicts, hint=hints)
    def end_otherwise(self, number: int, verdict: SettleVerdict, hint: float | None) -> None:
        generation, era = self.doors.pop(number % len(self.doors))
        permit, call = self.real.make_permit(generation, self.now), Call(self.a_caller(), self.now, era)
        assert permit.serial == self.last_serial + 1
        assert (permit.key, permit.at, permit.probe) == (None, self.now, False)
        self.last_serial = permit.serial
        self.out.append((permit, call))
        self.come_back(-1, verdict, hint)

    # Whoever drives it, and operators. What is forced stays so until it is reset or forced otherwise.

    @rule(ahead=st.sampled_from([-10.0, 0.0, 2.0, 30.0, 200.0]))
    def hold(self, ahead: float) -> None:
        self.model.hold(self.now + ahead)
        self.real.hold(self.now + ahead)

    @rule(seconds=st.sampled_from([-10.0, 0.0, 2.0, 30.0, 200.0, math.nan]))
    def pause(self, seconds: float) -> None:
        if not math.isnan(seconds):
            self.model.pause(self.now, seconds, "on hold")
        self.real.pause(self.now, seconds, "on hold")

    @rule()
    def restart(self) -> None:
        """What an earlier process knew is all that the next one knows."""
        chance = self.model.chance
        memory = self.real.memory(self.now)
        self.real = Circuit(self.model.policy, chance=lambda: chance)
        self.real.restore(memory, self.now)
        self.model.restart(self.now)
        self.out, self.doors, self.spent = [], [], []
        self.last_serial, self.last_until = 0, -math.inf

    @rule(by_refusal=st.booleans())
    def trip(self, by_refusal: bool) -> None:
        self.model.trip(self.now, "told so", by_refusal=by_refusal)
        self.real.trip(self.now, "told so", by_refusal=by_refusal)

    @precondition(lambda self: not self.model.forced)
    @rule(how=st.sampled_from(["close", "start over", "reset", "open", "open for a time", "disable", "disable"]))
    def somebody_meddles(self, how: str) -> None:
        if how in ("close", "start over"):
            self.model.close(self.now, start_over=how == "start over")
            self.real.close(self.now, start_over=how == "start over")
        else:
            self.force(how)

    @precondition(lambda self: self.model.forced)
    @rule(how=st.sampled_from(["reset", "reset", "open", "open for a time", "disable"]))
    def force(self, how: str) -> None:
        if how == "open":
            self.model.force_open(self.now, "for repairs", math.inf)
            self.real.force_open(self.now, "for repairs")
        elif how == "open for a time":
            self.model.force_open(self.now, "for a moment", 30.0)
            self.real.force_open(self.now, "for a moment", 30.0)
        elif how == "disable":
            self.model.disable(self.now)
            self.real.disable(self.now)
        else:
            self.model.reset(self.now)
            self.real.reset(self.now)
            self.last_until = -math.inf

    # Time.

    @rule(seconds=steps)
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def go_to_the_moment_that_was_named(self) -> None:
        """Waiting as told lets the next caller in, but where an operator holds it open. At least a sixteenth."""
        if self.real.retry_after(self.now) == math.inf:
            return
        self.now += max(self.real.retry_after(self.now), 0.0625)
        if self.model.mode != "closed":
            assert self.real.state(self.now) == "half_open"
            assert self.real.wait(self.now) == 0.0

    # What must hold after every step.

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "real"):
            return
        real, model, now = self.real, self.model, self.now
        assert real.state(now) == model.state(now)
        assert real.phase == model.mode
        assert real.is_closed == (model.mode == "closed")
        assert real.forced == model.forced
        assert real.reason == model.reason
        assert real.failures == model.failures()
        assert real.would_have_opened == model.would_open
        assert real.condition == (model.mode, model.forced, model.would_open)
        assert real.is_forced(now) == (
            model.forced == "disabled" or (model.forced == "open" and now < model.forced_until)
        )
        assert real.window(now) == model.counts(now)
        assert real.generation == model.era
        assert real.changed_at == max(model.changes, default=-math.inf)
        assert real.wait(now) == pytest.approx(model.wait(now), rel=1e-9, abs=1e-9)
        assert real.retry_after(now) == pytest.approx(max(model.wait(now), 0.05), rel=1e-9, abs=1e-9)

    @invariant()
    def what_is_stale_is_no_longer_current(self) -> None:
        if hasattr(self, "real"):
            for permit, call in self.out:
                assert self.real.is_current(permit) == (call in self.model.out())

    @invariant()
    def probes_agree(self) -> None:
        if not hasattr(self, "real"):
            return
        leases = [call.lease_end for call in self.model.out() if call.is_probe]
        assert self.real.probing == bool(leases)
        assert len(leases) <= self.model.policy.probes
        if leases:
            assert self.real.lease_until == min(leases)

    @invariant()
    def what_is_quiet_leaves_nothing_to_note(self) -> None:
        if hasattr(self, "real") and self.model.mode == "closed":
            has_rate = self.model.policy.failure_rate is not None or self.model.policy.slow_call_rate is not None
            assert self.real.is_quiet == (not self.model.failures() and not has_rate)

    @invariant()
    def a_success_is_awaited_that_may_open_or_end_a_streak(self) -> None:
        if hasattr(self, "real") and self.model.mode == "closed" and not self.model.would_open:
            expected = self.model.failures() > 0 or self.model.successes_would_open(self.now)
            assert self.real.awaits_success == expected

    @invariant()
    def waits_are_finite_and_never_shrink(self) -> None:
        """But where an operator forced something, and at a reset."""
        if not hasattr(self, "real"):
            return
        if not self.model.forced:
            assert 0.05 <= self.real.retry_after(self.now) < math.inf
            assert self.real.until >= self.last_until
            self.last_until = self.real.until
        if self.model.mode != "closed" and not self.model.forced:
            assert self.real.until == pytest.approx(max(self.model.deadlines), rel=1e-9)


KINDS = (
    *(f"opened: {kind}" for kind in ("streak", "exhausted", "told to")),
    *(f"opened: {rate} rate, {kind} window" for rate in ("failure", "slow") for kind in ("count", "time")),
    *(f"opened: a stall, seen by one who {does}" for does in ("asks", "answers", "gives up")),
    *(f"opened: {why}" for why in ("paused", "a wait that the server named")),
    *(f"would have opened: {why}" for why in ("streak", "exhausted", "told to")),
    "a stall of calls that were given up",
    *(f"an overdue {kind} given up" for kind in ("call", "probe")),
    *(f"a replaced probe that counts: {verdict}" for verdict in ("success", "neutral")),
    "a rate that a good call completes",
    "a throttled probe that opens for a named wait",
    "opened again, after an operator",
    "a time of forcing that is over",
    *(f"a restart while {state}" for state in ("closed", "open", "half_open", "open, open", "closed, disabled")),
    *(f"opened again: {why}" for why in ("failure", "slow", "neutral", "throttled", "exhausted")),
    *(f"a failed probe that decides nothing yet: {why}" for why in ("failure", "slow", "neutral")),
    *(f"closed by {kind} probes" for kind in ("good", "neutral")),
    *(f"{old} to {new}" for old in ("closed", "open", "half_open") for new in ("closed", "open")),
    "open to half_open",
    *(f"refused: {why}" for why in ("open", "half_open", "all probes out", "forced")),
    *(f"{whose} hint while {mode}" for whose in ("stale", "current") for mode in ("closed", "half_open")),
    "stale hint while open",
    "capped hint",
    "an opening that a longer wait outlasts",
    *(f"an open time {where} its bound" for where in ("at", "below")),
    "the open time starts over",
    *(f"stale: {verdict}" for verdict in get_args(SettleVerdict)),
    *(f"stale while {mode}" for mode in ("closed", "open", "half_open", "disabled")),
    *(f"a {kind} given back" for kind in ("call", "probe")),
    "takeover",
    "takeover of one of several",
    "several probes at once",
    "the longest lease",
    "a stall that an answer speaks against",
    "a failure that is noted already",
    *(f"a call that the {kind} window forgot" for kind in ("count", "time")),
)
"""Each transition, each reason and each corner that the rules have."""


FOCI: tuple[dict[str, Any], ...] = (
    {},
    *(
        {"failure_threshold": 50, rate: 0.5, "rate_seconds": seconds}
        for rate in ("failure_rate", "slow_call_rate")
        for seconds in (None, 20.0)
    ),
    {"failure_threshold": 50, "stall_timeout": 2.5},
    {"failure_threshold": 3, "first_recovery_timeout": 1.0, "growth": 2.0, "stable_time": 5.0},
)
"""Options that are the same in all stories of a part, so that each rule has its share of them."""


def tell_stories(number: int, focus: dict[str, Any], part: int = 0, *, shrink: bool = True) -> None:
    machine = type("Focused", (CircuitAgainstModel,), {"focus": focus})
    if settings().derandomize:
        seed(part)(machine)  # which would be the same for each part
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(machine, settings=settings(max_examples=number, stateful_step_count=50, phases=phases))


@pytest.mark.hypothesis
@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("stories", [20, pytest.param(60, marks=pytest.mark.long)])
def test_any_story_goes_as_the_model_says(stories: int) -> None:
    """Any steps in any order, by any policy; all kinds of things happen in them.

    Slow, for only hundreds of stories of many steps get into all the corners.
    """
    seen.clear()

    for part, focus in enumerate(FOCI * 3):
        tell_stories(stories, focus, part)
        # Other options or another seed may need more of them to reach each kind.
        if focus is FOCI[-1] and all(seen[kind] for kind in KINDS):
            break

    if settings().derandomize:  # in a hunt so few random stories may miss one
        assert [kind for kind in KINDS if not seen[kind]] == []


@pytest.mark.hypothesis
@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.long
def test_a_few_stories_go_as_the_model_says() -> None:
    """What the mutation run asks: some of the stories above. Slow as they are, though less.

    A story that goes wrong is not made shorter: there are thousands of mutants.
    """
    for focus in FOCI:
        tell_stories(12, focus, shrink=False)
