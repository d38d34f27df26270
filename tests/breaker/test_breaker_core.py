"""The circuit as a pure state machine, and the traps that known breakers fall into."""

from __future__ import annotations

import math
import tracemalloc
from typing import get_args

import pytest
from breaker_circuits import circuit, enter, fail, feed, probe

from llmbatch.breaker.core import MIN_RETRY_AFTER, Circuit, SettleVerdict
from llmbatch.breaker.policy import BreakerPolicy

# Transitions.


def test_a_new_circuit_is_closed_and_lets_everything_through() -> None:
    """Calls pass, overlapping, each with a higher number than the one before."""
    subject = circuit()

    permits = [subject.acquire(0.0) for _ in range(100)]

    assert subject.is_closed
    assert (subject.failures, subject.reason, subject.forced) == (0, "", "")
    assert [permit.serial for permit in permits if permit and not permit.probe] == list(range(1, 101))


def test_consecutive_failures_open_it() -> None:
    """At the threshold, not before; a refusal costs no number."""
    subject = circuit(failure_threshold=3)

    fail(subject, 5.0, 2)
    assert (subject.state(5.0), subject.failures) == ("closed", 2)
    fail(subject, 5.0)

    assert (subject.state(5.0), subject.failures) == ("open", 3)
    assert subject.acquire(64.9) is None
    assert subject.serial == 3
    assert subject.reason == "3 calls in a row failed"
    assert subject.until == 65.0


def test_a_success_ends_a_streak() -> None:
    """Only failures with no success between count."""
    subject = circuit(failure_threshold=3)

    fail(subject, 0.0, 2)
    permit = subject.acquire(0.0)
    assert permit is not None
    subject.settle(permit, "success", 0.0)
    fail(subject, 0.0, 2)

    assert subject.state(0.0) == "closed"
    assert subject.failures == 2


def test_an_open_circuit_whose_time_is_over_is_half_open() -> None:
    """By itself, without anyone asking first; it is so in name only until a probe goes."""
    subject = circuit()
    fail(subject, 0.0, 2)

    assert subject.state(59.999) == "open"
    assert subject.state(60.0) == "half_open"
    assert subject.state(1e9) == "half_open"
    assert subject.phase == "open"


def test_half_open_admits_one_probe() -> None:
    """The second caller is refused until the first has settled."""
    subject = circuit()
    fail(subject, 0.0, 2)

    first = subject.acquire(60.0)

    assert first is not None
    assert first.probe
    assert subject.probing
    assert subject.phase == "half_open"
    assert [subject.acquire(60.0) for _ in range(49)] == [None] * 49


def test_a_good_probe_closes() -> None:
    """And everything starts over: failures, reason, window."""
    subject = circuit()
    fail(subject, 0.0, 2)

    probe(subject, 60.0, "success")

    assert subject.is_closed
    assert (subject.failures, subject.reason, subject.probing) == (0, "", False)


def test_several_good_probes_may_be_asked_for() -> None:
    """With ``success_threshold=3`` the third closes, one after another, without waiting."""
    subject = circuit(success_threshold=3)
    fail(subject, 0.0, 2)

    probe(subject, 60.0, "success")
    probe(subject, 60.0, "success")
    assert subject.state(60.0) == "half_open"
    probe(subject, 60.0, "success")

    assert subject.is_closed


def test_a_failed_probe_opens_again_and_forgets_good_ones() -> None:
    """Good probes count in a row."""
    subject = circuit(success_threshold=2)
    fail(subject, 0.0, 2)

    probe(subject, 60.0, "success")
    probe(subject, 61.0, "failure")
    assert subject.state(120.9) == "open"
    probe(subject, 121.0, "success")

    assert subject.state(121.0) == "half_open"


def test_exhausted_opens_at_once() -> None:
    """A spent account needs no second opinion."""
    subject = circuit(failure_threshold=100)
    permit = subject.acquire(0.0)
    assert permit is not None

    subject.settle(permit, "exhausted", 0.0)

    assert subject.state(0.0) == "open"


def test_throttled_is_pace_and_opens_nothing() -> None:
    """While closed it changes nothing: neither a failure nor a success."""
    subject = circuit()

    fail(subject, 0.0)
    for _ in range(50):
        permit = subject.acquire(0.0)
        assert permit is not None
        subject.settle(permit, "throttled", 0.0, retry_after=5.0)

    assert (subject.state(0.0), subject.failures) == ("closed", 1)


def test_a_throttled_probe_waits_again_without_growing_the_wait() -> None:
    """It says neither that the provider is up nor that it is down."""
    subject = circuit(first_recovery_timeout=2.0)
    fail(subject, 0.0, 2)

    probe(subject, 2.0, "throttled")

    assert subject.state(2.0) == "open"
    assert subject.retry_after(2.0) == 2.0


def test_trip_and_close_force_the_state() -> None:
    """From any state; calls that were out decide nothing any more."""
    subject = circuit()
    permit = subject.acquire(0.0)
    assert permit is not None

    subject.trip(0.0, "told so")
    assert (subject.state(0.0), subject.reason) == ("open", "told so")
    subject.close(1.0)
    subject.settle(permit, "failure", 1.0)

    assert (subject.state(1.0), subject.failures) == ("closed", 0)


@pytest.mark.parametrize("how", ["settle", "release"])
def test_a_permit_is_spent_once(how: str) -> None:
    """Settling or releasing a second time is an error that names the permit."""
    subject = circuit()
    permit = subject.acquire(0.0)
    assert permit is not None
    if how == "settle":
        subject.settle(permit, "success", 0.0)
    else:
        subject.release(permit)

    with pytest.raises(RuntimeError, match="the permit of call 1 was settled or released before"):
        subject.settle(permit, "failure", 0.0)
    with pytest.raises(RuntimeError, match="before"):
        subject.release(permit)

    assert subject.failures == 0


def test_a_ticket_tells_what_it_is() -> None:
    """Its repr shows call or probe, the number, and whether it is spent."""
    subject = circuit()
    call = enter(subject, 0.0)
    fail(subject, 0.0, 2)
    first = enter(subject, 60.0)
    assert (repr(call), repr(first)) == ("<PermitState call 1>", "<PermitState probe 4>")

    subject.release(call)
    subject.release(first)

    assert (repr(call), repr(first)) == ("<PermitState call 1 spent>", "<PermitState probe 4 spent>")


def test_a_probe_is_spent_once_as_any_call() -> None:
    """The error names it as what it is."""
    subject = circuit()
    fail(subject, 0.0, 2)
    permit = enter(subject, 60.0)
    subject.release(permit)

    with pytest.raises(RuntimeError, match=r"^the permit of probe 3 was settled or released before$"):
        subject.settle(permit, "failure", 60.0)

    assert subject.state(60.0) == "half_open"


# Trap: stale results.


@pytest.mark.parametrize("verdict", get_args(SettleVerdict))
def test_a_call_from_before_the_opening_decides_nothing_while_open(verdict: SettleVerdict) -> None:
    """Whatever it reports, the circuit stays open for as long as it was."""
    subject = circuit()
    old = subject.acquire(0.0)
    assert old is not None
    fail(subject, 0.0, 2)

    subject.settle(old, verdict, 30.0)

    assert subject.state(59.9) == "open"
    assert (subject.until, subject.failures) == (60.0, 2)


@pytest.mark.parametrize("verdict", get_args(SettleVerdict))
def test_a_call_from_before_the_opening_decides_nothing_while_half_open(verdict: SettleVerdict) -> None:
    """It neither closes nor opens, and the probe that is out keeps its place."""
    subject = circuit()
    old = subject.acquire(0.0)
    assert old is not None
    fail(subject, 0.0, 2)
    probing = subject.acquire(60.0)
    assert probing is not None

    subject.settle(old, verdict, 61.0)

    assert subject.state(61.0) == "half_open"
    assert subject.acquire(61.0) is None
    subject.settle(probing, "success", 62.0)
    assert subject.is_closed


@pytest.mark.parametrize("verdict", get_args(SettleVerdict))
def test_a_call_from_before_the_outage_decides_nothing_after_it(verdict: SettleVerdict) -> None:
    """Failures of the old outage do not open the circuit that closed since, and its successes clear no new streak."""
    subject = circuit()
    old = [subject.acquire(0.0) for _ in range(10)]
    fail(subject, 0.0, 2)
    probe(subject, 60.0, "success")
    fail(subject, 60.0)

    for permit in old:
        assert permit is not None
        subject.settle(permit, verdict, 61.0)

    assert (subject.state(61.0), subject.failures) == ("closed", 1)


def test_a_stale_answer_may_still_lengthen_the_wait() -> None:
    """A wait that the server names is kept to, whoever brings it; it never shortens one."""
    subject = circuit()
    first, second = subject.acquire(0.0), subject.acquire(0.0)
    assert first is not None
    assert second is not None
    fail(subject, 0.0, 2)

    subject.settle(first, "failure", 10.0, retry_after=5.0)
    assert subject.until == 60.0
    subject.settle(second, "failure", 10.0, retry_after=300.0)

    assert subject.until == 310.0


# Trap: cancelled probe.


def test_a_cancelled_probe_leaves_it_half_open() -> None:
    """The permit comes back at once, and the next caller probes."""
    subject = circuit()
    fail(subject, 0.0, 2)
    permit = subject.acquire(60.0)
    assert permit is not None

    subject.release(permit)

    assert subject.state(60.0) == "half_open"
    assert not subject.probing
    following = subject.acquire(60.0)
    assert following is not None
    assert following.probe


def test_a_cancelled_call_counts_nothing() -> None:
    """While closed it neither adds to a streak nor ends it."""
    subject = circuit()
    fail(subject, 0.0)
    permit = subject.acquire(0.0)
    assert permit is not None

    subject.release(permit)

    assert (subject.state(0.0), subject.failures) == ("closed", 1)


def test_releasing_an_old_call_frees_no_probe() -> None:
    """Only the probe's own release ends the probe."""
    subject = circuit()
    old = subject.acquire(0.0)
    assert old is not None
    fail(subject, 0.0, 2)
    subject.acquire(60.0)

    subject.release(old)

    assert subject.probing
    assert subject.acquire(60.0) is None


# Trap: hung probe.


def test_a_hung_probe_is_taken_over() -> None:
    """When the lease is over another caller probes; what the first one fails with then decides nothing."""
    subject = circuit()
    fail(subject, 0.0, 2)
    hung = subject.acquire(60.0)
    assert hung is not None
    assert subject.acquire(69.9) is None

    second = subject.acquire(70.0)

    assert second is not None
    assert not subject.settle(hung, "failure", 71.0)
    assert subject.state(71.0) == "half_open"
    assert subject.acquire(71.0) is None
    assert subject.settle(second, "success", 72.0)
    assert subject.is_closed


def test_cancelling_a_replaced_probe_frees_nothing() -> None:
    """The one that replaced it keeps its lease."""
    subject = circuit()
    fail(subject, 0.0, 2)
    hung = subject.acquire(60.0)
    assert hung is not None
    subject.acquire(70.0)

    subject.release(hung)

    assert subject.acquire(89.9) is None
    assert subject.acquire(90.0) is not None


def test_a_late_probe_that_nobody_replaced_still_counts() -> None:
    """The lease only allows a takeover; it does not void an answer."""
    subject = circuit()
    fail(subject, 0.0, 2)
    late = subject.acquire(60.0)
    assert late is not None

    subject.settle(late, "success", 500.0)

    assert subject.is_closed


def test_takeovers_back_off() -> None:
    """Each replacement holds twice as long as the one before, up to four times; a new outage starts over."""
    subject = circuit()
    fail(subject, 0.0, 2)
    now = 60.0
    leases = []
    for _ in range(4):
        latest = subject.acquire(now)
        assert latest is not None
        leases.append(subject.lease_until - now)
        now = subject.lease_until

    assert leases == [10.0, 20.0, 40.0, 40.0]
    assert latest is not None
    subject.settle(latest, "failure", now)
    subject.acquire(subject.until)
    assert subject.lease_until - subject.until == 10.0


def test_a_hundred_hung_probes_leave_the_wait_finite() -> None:
    """The doubling ends before it overflows."""
    subject = circuit()
    fail(subject, 0.0, 2)
    now = 60.0

    for _ in range(100):
        assert subject.acquire(now) is not None
        assert math.isfinite(subject.retry_after(now))
        now = subject.lease_until

    assert subject.acquire(now) is not None


def test_a_caller_may_bring_its_own_lease() -> None:
    """It replaces the policy's for this probe."""
    subject = circuit()
    fail(subject, 0.0, 2)

    subject.acquire(60.0, lease=125.0)

    assert subject.retry_after(60.0) == 125.0
    assert subject.acquire(184.9) is None
    assert subject.acquire(185.0) is not None


# Trap: neutral outcome.


def test_a_neutral_outcome_neither_adds_to_a_streak_nor_ends_it() -> None:
    """A refused request says nothing about the provider's health."""
    subject = circuit()

    fail(subject, 0.0)
    for _ in range(50):
        permit = subject.acquire(0.0)
        assert permit is not None
        subject.settle(permit, "neutral", 0.0)
    assert (subject.state(0.0), subject.failures) == ("closed", 1)
    fail(subject, 0.0)

    assert subject.state(0.0) == "open"


def test_three_neutral_probes_count_as_recovered() -> None:
    """One or two leave it half-open, so an input of nothing but refused requests still ends."""
    subject = circuit()
    fail(subject, 0.0, 2)

    probe(subject, 60.0, "neutral")
    probe(subject, 60.0, "neutral")
    assert subject.state(60.0) == "half_open"
    probe(subject, 60.0, "neutral")

    assert subject.is_closed


def test_a_failed_probe_forgets_neutral_ones() -> None:
    """Three are needed in one half-open spell."""
    subject = circuit()
    fail(subject, 0.0, 2)
    probe(subject, 60.0, "neutral")
    probe(subject, 60.0, "neutral")
    probe(subject, 60.0, "failure")

    probe(subject, 120.0, "neutral")
    probe(subject, 120.0, "neutral")

    assert subject.state(120.0) == "half_open"


def test_a_neutral_probe_is_no_recovery_when_refusals_opened_it() -> None:
    """It is the outage itself that is seen again: the probe failed, and the circuit opens anew."""
    subject = circuit()
    subject.trip(0.0, "5 rows refused", by_refusal=True)

    for _ in range(10):
        probe(subject, subject.until, "neutral")
        assert subject.state(subject.until - 0.1) == "open"
    probe(subject, subject.until, "success")

    assert subject.is_closed


def test_a_later_opening_by_failures_takes_neutral_probes_again() -> None:
    """What opened it is asked of each opening by itself."""
    subject = circuit()
    subject.trip(0.0, "5 rows refused", by_refusal=True)
    probe(subject, 60.0, "success")
    fail(subject, 60.0, 2)

    for _ in range(3):
        probe(subject, 120.0, "neutral")

    assert subject.is_closed


# Trap: retry_after and deadlines.


def test_retry_after_is_finite_and_above_zero_in_every_state() -> None:
    """Closed and free: the least. Open: the time left. Half-open: what the probe's lease leaves."""
    subject = circuit()
    assert subject.retry_after(0.0) == MIN_RETRY_AFTER == 0.05

    fail(subject, 0.0, 2)
    assert subject.retry_after(0.0) == 60.0
    assert subject.retry_after(59.0) == 1.0
    assert subject.retry_after(59.99) == MIN_RETRY_AFTER
    assert subject.retry_after(1e9) == MIN_RETRY_AFTER

    permit = subject.acquire(60.0)
    assert permit is not None
    assert subject.retry_after(60.0) == 10.0
    assert subject.retry_after(69.99) == MIN_RETRY_AFTER
    subject.release(permit)
    assert subject.retry_after(60.0) == MIN_RETRY_AFTER


def test_a_deadline_never_moves_earlier() -> None:
    """Neither a shorter hold, nor a shorter hint, nor opening again shortens a wait."""
    subject = circuit()
    fail(subject, 0.0, 2)

    subject.hold(500.0)
    for shorter in (499.0, 0.0, -math.inf, math.nan):
        subject.hold(shorter)
    assert subject.until == 500.0
    subject.trip(1.0, "again")

    assert subject.until == 500.0
    assert subject.acquire(499.9) is None
    assert subject.acquire(500.0) is not None


def test_a_hint_longer_than_the_open_time_is_kept_to() -> None:
    """Of the failure that opened it, and of a failed probe."""
    subject = circuit(failure_threshold=1)
    permit = subject.acquire(0.0)
    assert permit is not None

    subject.settle(permit, "failure", 0.0, retry_after=900.0)
    assert subject.until == 900.0
    probe(subject, 900.0, "failure", retry_after=70.0)

    assert subject.until == 970.0


def test_a_hint_shorter_than_the_open_time_shortens_nothing() -> None:
    """Zero, negative and garbage included."""
    subject = circuit(failure_threshold=1)
    permit = subject.acquire(0.0)
    assert permit is not None
    subject.settle(permit, "failure", 0.0, retry_after=1.0)

    for now, hint in ((60.0, 0.0), (120.0, -5.0), (180.0, math.nan)):
        assert subject.until == now
        probe(subject, now, "failure", retry_after=hint)

    assert subject.until == 240.0


def test_a_hold_told_while_closed_outlasts_the_next_opening() -> None:
    """The server named that time; an opening before it does not end earlier."""
    subject = circuit()

    subject.hold(200.0)
    assert subject.acquire(0.0) is not None
    fail(subject, 0.0, 2)

    assert subject.until == 200.0


# Trap: open time.


def test_the_open_time_grows_with_failed_probes_up_to_the_cap() -> None:
    """2, 4, 8 … 60 s."""
    subject = circuit(first_recovery_timeout=2.0)
    fail(subject, 0.0, 2)
    waits = []
    now = 0.0

    for _ in range(8):
        waits.append(subject.until - now)
        now = subject.until
        probe(subject, now, "failure")

    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_jitter_only_lengthens_the_open_time() -> None:
    """Each opening draws once."""
    draws = iter([0.0, 1.0, 0.5])
    policy = BreakerPolicy(failure_threshold=2, first_recovery_timeout=2.0, jitter=0.5)
    subject = Circuit(policy, chance=lambda: next(draws))

    fail(subject, 0.0, 2)
    assert subject.until == 2.0
    probe(subject, 2.0, "failure")
    assert subject.until == 2.0 + 6.0
    probe(subject, 8.0, "failure")

    assert subject.until == 8.0 + 10.0


def test_a_grown_open_time_stays_after_a_short_recovery() -> None:
    """A provider that falls over again within ``stable_time`` meets the wait it had reached."""
    subject = circuit(first_recovery_timeout=2.0, stable_time=30.0)
    fail(subject, 0.0, 2)
    probe(subject, 2.0, "failure")
    probe(subject, 6.0, "success")

    fail(subject, 35.9, 2)

    assert subject.until == 35.9 + 4.0


@pytest.mark.parametrize("stable", [30.0, 30.1, 1e9])
def test_a_grown_open_time_starts_over_after_a_stable_time(stable: float) -> None:
    """Closed for ``stable_time`` or longer: the next outage starts with the shortest wait."""
    subject = circuit(first_recovery_timeout=2.0, stable_time=30.0)
    fail(subject, 0.0, 2)
    probe(subject, 2.0, "failure")
    probe(subject, 6.0, "success")

    fail(subject, 6.0 + stable, 2)

    assert subject.until == 6.0 + stable + 2.0


def test_closing_may_start_over() -> None:
    """``close(start_over=True)`` forgets the grown wait at once."""
    subject = circuit(first_recovery_timeout=2.0)
    fail(subject, 0.0, 2)
    probe(subject, 2.0, "failure")
    subject.close(6.0, start_over=True)

    fail(subject, 7.0, 2)

    assert subject.until == 9.0


# Trap: counting. Distinct callers, and a rate beside the streak.


def test_one_caller_failing_again_and_again_opens_nothing() -> None:
    """A streak counts different callers: a poison row is its own problem."""
    subject = circuit(failure_threshold=2, failure_rate=0.5, minimum_calls=2, rate_window=10)

    for _ in range(50):
        permit = subject.acquire(0.0, "poison")
        assert permit is not None
        subject.settle(permit, "failure", 0.0)
    assert (subject.state(0.0), subject.failures) == ("closed", 1)
    permit = subject.acquire(0.0, "another")
    assert permit is not None
    subject.settle(permit, "failure", 0.0)

    assert subject.state(0.0) == "open"


def test_an_unnamed_call_is_never_taken_for_a_named_caller() -> None:
    """Call number 1 without a name and the caller named 1 are two."""
    subject = circuit()
    unnamed, named = subject.acquire(0.0), subject.acquire(0.0, 1)
    assert unnamed is not None
    assert named is not None

    subject.settle(unnamed, "failure", 0.0)
    subject.settle(named, "failure", 0.0)

    assert subject.failures == 2
    assert subject.state(0.0) == "open"


def test_a_failure_rate_opens_without_a_streak() -> None:
    """Half of the calls fail, never two in a row: the rate sees what the streak does not."""
    subject = circuit(failure_threshold=100, failure_rate=0.5, minimum_calls=10, rate_window=20)

    feed(subject, ".x" * 4 + ".")
    assert subject.is_closed
    feed(subject, "x")

    assert subject.state(0.0) == "open"
    assert subject.reason == "5 of the last 10 calls failed"


def test_a_rate_says_nothing_below_the_minimum_of_calls() -> None:
    """Nine failures of nine are no rate when ten calls are asked for."""
    subject = circuit(failure_threshold=100, failure_rate=0.1, minimum_calls=10, rate_window=20)

    feed(subject, "x" * 9)
    assert subject.is_closed
    feed(subject, "x")

    assert subject.state(0.0) == "open"


def test_a_rate_below_the_bound_opens_nothing() -> None:
    """A third of the calls failing, for long, with a bound of a half."""
    subject = circuit(failure_threshold=100, failure_rate=0.5, minimum_calls=10, rate_window=20)

    feed(subject, "..x" * 500)

    assert subject.is_closed


def test_the_window_forgets() -> None:
    """Failures count while they are among the last ``rate_window`` calls."""
    subject = circuit(failure_threshold=100, failure_rate=0.5, minimum_calls=10, rate_window=10)
    feed(subject, ".....xxxx." + ".....")

    feed(subject, "xxxx")
    assert subject.is_closed
    feed(subject, "x")

    assert subject.state(0.0) == "open"


@pytest.mark.parametrize(("rate", "calls"), [(0.07, 100), (0.14, 50), (0.55, 100), (1 / 3, 30), (0.29, 100)])
def test_a_rate_that_is_just_reached_opens(rate: float, calls: int) -> None:
    """Seven of a hundred are 0.07, though ``0.07 * 100`` is above 7 in floating point."""
    subject = circuit(failure_threshold=1000, failure_rate=rate, minimum_calls=calls, rate_window=calls)
    failures = round(rate * calls)

    feed(subject, "." * (calls - failures) + "x" * failures)

    assert subject.state(0.0) == "open"


def test_the_rate_counts_a_caller_once() -> None:
    """One poison row among many good calls, retried for ever, is no elevated rate."""
    subject = circuit(failure_threshold=100, failure_rate=0.3, minimum_calls=3, rate_window=10)
    feed(subject, "....")

    for _ in range(50):
        permit = subject.acquire(0.0, "poison")
        assert permit is not None
        subject.settle(permit, "failure", 0.0)

    assert subject.is_closed


@pytest.mark.parametrize(("rate", "pattern"), [(0.25, "xx"), (0.5, "...x")])
def test_the_window_starts_afresh_when_the_circuit_closes(rate: float, pattern: str) -> None:
    """Neither the calls nor the failures of the outage that is over are counted into the next rate."""
    subject = circuit(failure_threshold=100, failure_rate=rate, minimum_calls=4, rate_window=10)
    feed(subject, "xxxx")
    probe(subject, 60.0, "success")

    feed(subject, pattern)

    assert subject.is_closed


# No streak, growth, jitter.


def test_without_a_threshold_no_streak_opens() -> None:
    """Failures in a row are still told."""
    subject = circuit(failure_threshold=None)

    fail(subject, 0.0, 1000)

    assert subject.is_closed
    assert subject.failures == 1000


def test_without_a_threshold_a_streak_needs_no_more_memory_for_more_failures() -> None:
    """Five thousand failures of unnamed callers leave less than a byte each."""
    subject = circuit(failure_threshold=None)
    fail(subject, 0.0)

    tracemalloc.start()
    try:
        fail(subject, 0.0, 5_000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert subject.failures == 5_001
    assert held < 5_000


def test_without_a_threshold_a_spent_account_still_opens() -> None:
    """No rule needs to be in use for that."""
    subject = circuit(failure_threshold=None)

    subject.settle(enter(subject, 0.0), "exhausted", 0.0)

    assert subject.state(0.0) == "open"
    assert subject.reason == "the provider refuses the account"


def test_exhausted_counts_as_a_refusal() -> None:
    """Neutral probes do not close what a refusal opened."""
    subject = circuit(neutral_probes=1)
    subject.settle(enter(subject, 0.0), "exhausted", 0.0)

    probe(subject, 60.0, "neutral")

    assert subject.state(60.0) == "open"


def test_the_growth_of_the_open_time_may_be_chosen() -> None:
    """Thrice as long after each failed probe."""
    subject = circuit(first_recovery_timeout=1.0, growth=3.0)
    fail(subject, 0.0, 2)
    waits, now = [], 0.0

    for _ in range(5):
        waits.append(subject.until - now)
        now = subject.until
        probe(subject, now, "failure")

    assert waits == [1, 3, 9, 27, 60]


def test_jitter_lengthens_a_constant_open_time_too() -> None:
    """By at most its share; each opening draws once."""
    draws = iter([0.0, 1.0, 0.5])
    subject = Circuit(BreakerPolicy(failure_threshold=1, jitter=0.5), chance=lambda: next(draws))

    fail(subject, 0.0)
    assert subject.until == 60.0
    probe(subject, 60.0, "failure")
    assert subject.until == 60.0 + 90.0
    probe(subject, 150.0, "failure")

    assert subject.until == 150.0 + 75.0


def test_a_circuit_that_is_given_no_chance_adds_none() -> None:
    """Jitter or not, it opens for exactly as long."""
    subject = circuit(jitter=1.0)

    fail(subject, 0.0, 2)

    assert subject.until == 60.0


def test_the_open_time_stays_grown_through_openings_that_no_stable_time_parts() -> None:
    """Tripped while open, and while half-open: only closed time counts as stable."""
    subject = circuit(first_recovery_timeout=2.0, stable_time=0.0)
    fail(subject, 0.0, 2)
    probe(subject, 2.0, "failure")

    subject.trip(1000.0, "told so")
    assert subject.until == 1004.0
    enter(subject, 1004.0)
    subject.trip(2000.0, "told so")

    assert subject.until == 2004.0


def test_a_trip_by_failures_after_one_by_refusals_takes_neutral_probes() -> None:
    """What opened it last counts."""
    subject = circuit(neutral_probes=1)
    subject.trip(0.0, "5 rows refused", by_refusal=True)
    subject.trip(1.0, "told so")

    probe(subject, 61.0, "neutral")

    assert subject.is_closed


def test_an_open_time_may_be_short() -> None:
    """Below a second, as the first one and after a reset."""
    subject = circuit(recovery_timeout=0.25)

    fail(subject, 0.0, 2)
    assert subject.until == 0.25
    subject.reset(0.25)
    fail(subject, 0.25, 2)

    assert subject.until == 0.5


def test_what_neutral_probes_closed_may_open_again() -> None:
    """With the open time that it had reached: they started a stable time."""
    subject = circuit(first_recovery_timeout=2.0, stable_time=30.0, neutral_probes=1)
    fail(subject, 0.0, 2)
    probe(subject, 2.0, "failure")
    probe(subject, 6.0, "neutral")

    fail(subject, 20.0, 2)

    assert subject.until == 24.0


def test_the_thousandth_outage_is_as_the_first() -> None:
    """Nothing wears off."""
    subject = circuit(recovery_timeout=1.0)

    for outage in range(1000):
        now = outage * 10.0
        fail(subject, now, 2)
        assert (subject.state(now), subject.failures) == ("open", 2)
        probe(subject, now + 1.0, "success")

        assert subject.is_closed


@pytest.mark.parametrize(
    ("option", "verdict", "state"),
    [
        ("failure_threshold", "failure", "open"),
        ("success_threshold", "success", "closed"),
        ("neutral_probes", "neutral", "closed"),
        ("failed_probes", "failure", "open"),
    ],
)
def test_a_threshold_may_be_large(option: str, verdict: SettleVerdict, state: str) -> None:
    """One less than a thousand decides nothing."""
    subject = circuit(**{option: 1000})
    if option != "failure_threshold":
        subject.trip(0.0, "told so")
    before = subject.state(60.0)

    for _ in range(999):
        subject.settle(enter(subject, 60.0), verdict, 60.0)
    assert subject.state(60.0) == before
    subject.settle(enter(subject, 60.0), verdict, 60.0)

    assert subject.state(60.0) == state


def test_a_new_circuit_that_was_closed_opens_as_any_new_one() -> None:
    """For the first open time, though it has not been closed for a stable time."""
    subject = circuit(first_recovery_timeout=2.0)
    subject.close(0.0)

    fail(subject, 1.0, 2)

    assert subject.until == 3.0


def test_named_and_unnamed_callers_make_one_streak() -> None:
    """Each name counts once in it; a success ends it for both kinds."""
    subject = circuit(failure_threshold=5)

    for key in (None, "row 1", "row 2", "row 1", None):
        subject.settle(enter(subject, 0.0, key), "failure", 0.0)
    assert subject.failures == 4
    feed(subject, ".")
    assert subject.failures == 0
    subject.settle(enter(subject, 0.0, "row 1"), "failure", 0.0)

    assert subject.failures == 1


# What changes are told by.


def test_every_change_starts_a_generation() -> None:
    """Opening, probing, opening again, closing; ``changed_at`` tells when. Calls and holds start none."""
    subject = circuit()
    told = [(subject.generation, subject.changed_at)]

    fail(subject, 5.0)
    subject.hold(6.0)
    told.append((subject.generation, subject.changed_at))
    fail(subject, 7.0)
    told.append((subject.generation, subject.changed_at))
    out = enter(subject, 67.0)
    told.append((subject.generation, subject.changed_at))
    subject.settle(out, "failure", 68.0)
    told.append((subject.generation, subject.changed_at))
    probe(subject, 128.0, "success")
    told.append((subject.generation, subject.changed_at))

    assert told == [(0, -math.inf), (0, -math.inf), (1, 7.0), (2, 67.0), (3, 68.0), (5, 128.0)]


def test_a_ticket_shows_when_and_for_whom() -> None:
    """And of which generation it is."""
    subject = circuit()
    fail(subject, 0.0, 2)
    probe(subject, 60.0, "success")

    permit = enter(subject, 70.0, "row 7")

    assert (permit.key, permit.at, permit.probe, permit.generation) == ("row 7", 70.0, False, subject.generation)


def test_a_probes_ticket_shows_for_whom() -> None:
    """As any other does."""
    subject = circuit()
    fail(subject, 0.0, 2)

    permit = enter(subject, 60.0, "row 7")

    assert (permit.key, permit.at, permit.probe) == ("row 7", 60.0, True)


def test_a_ticket_is_current_while_what_it_reports_counts() -> None:
    """Until the circuit changes, or another probe takes over."""
    subject = circuit()
    call = enter(subject, 0.0)
    assert subject.is_current(call)
    fail(subject, 0.0, 2)
    assert not subject.is_current(call)

    first = enter(subject, 60.0)
    assert subject.is_current(first)
    second = enter(subject, 70.0)
    assert (subject.is_current(first), subject.is_current(second)) == (False, True)
    subject.settle(second, "success", 71.0)

    assert not subject.is_current(second)


def test_nothing_is_out_that_could_lose_a_lease() -> None:
    """Zero stands for that."""
    assert circuit().lease_until == 0.0


def test_a_clock_may_run_below_zero() -> None:
    """Any monotonic clock will do: the open time is as long as always."""
    subject = circuit()

    fail(subject, -1000.0, 2)
    assert subject.retry_after(-1000.0) == 60.0
    subject.reset(-990.0)
    subject.hold(-900.0)
    fail(subject, -980.0, 2)

    assert subject.retry_after(-980.0) == 80.0


def test_the_longest_open_time_is_finite() -> None:
    """Whatever the options are, ``retry_after`` is finite while nobody forces it."""
    subject = Circuit(BreakerPolicy(failure_threshold=1, recovery_timeout=1e308, jitter=1.0), chance=lambda: 1.0)

    fail(subject, 0.0)

    assert math.isfinite(subject.retry_after(0.0))
