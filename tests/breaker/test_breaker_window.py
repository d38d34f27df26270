"""What the rates look back on, by count and by time, and the circuits that they open."""

from __future__ import annotations

import tracemalloc
from collections.abc import Hashable

import pytest
from breaker_circuits import circuit, enter, fail, feed, last
from breaker_clock import Clock

from llmbatch.breaker.core import Circuit, SettleVerdict
from llmbatch.breaker.window import CountWindow, TimeWindow

Window = CountWindow | TimeWindow


def told(window: Window) -> tuple[int, int, int]:
    return window.calls, window.failed, window.slow


def note(window: Window, now: float, key: Hashable = None, *, failed: bool = False, slow: bool = False) -> None:
    window.add(now, key, failed=failed, slow=slow)


WINDOWS = [lambda: CountWindow(5), lambda: TimeWindow(10.0)]


@pytest.fixture(params=WINDOWS, ids=["count", "time"])
def window(request: pytest.FixtureRequest) -> Window:
    """Of five calls, or of ten seconds; empty."""
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture
def clock() -> Clock:
    """Of a test of its own."""
    return Clock()


# Both windows.


def test_a_new_window_is_empty(window: Window) -> None:
    """No calls, none failed, none slow."""
    assert told(window) == (0, 0, 0)


def test_a_call_may_be_good_failed_slow_or_both(window: Window) -> None:
    """A slow failure counts as a failure and as slow."""
    note(window, 0.0)
    note(window, 0.0, failed=True)
    note(window, 0.0, slow=True)
    note(window, 0.0, failed=True, slow=True)

    assert told(window) == (4, 2, 2)


def test_a_named_callers_failure_is_noted_once(window: Window) -> None:
    """Not even as slow is it noted again; another caller's is."""
    for slow in (False, True, False):
        note(window, 0.0, "poison", failed=True, slow=slow)
    assert told(window) == (1, 1, 0)

    note(window, 0.0, "another", failed=True, slow=True)

    assert told(window) == (2, 2, 1)


def test_unnamed_callers_are_all_different(window: Window) -> None:
    """Each of their failures counts."""
    for _ in range(3):
        note(window, 0.0, failed=True)

    assert told(window) == (3, 3, 0)


def test_a_named_callers_good_calls_are_all_noted(window: Window) -> None:
    """Before and after a failure of the same caller; only failures count once."""
    note(window, 0.0, "poison")
    note(window, 0.0, "poison", failed=True)
    note(window, 0.0, "poison")

    assert told(window) == (3, 1, 0)


def test_a_cleared_window_is_a_new_one(window: Window) -> None:
    """It forgets who failed, too."""
    note(window, 0.0, "poison", failed=True, slow=True)

    window.clear()
    assert told(window) == (0, 0, 0)
    note(window, 0.0, "poison", failed=True)

    assert told(window) == (1, 1, 0)


# By count.


def test_a_count_window_holds_its_size() -> None:
    """The oldest call goes when one more comes, with all that it was."""
    window = CountWindow(3)
    note(window, 0.0, failed=True, slow=True)
    note(window, 0.0, failed=True)
    note(window, 0.0, slow=True)
    assert told(window) == (3, 2, 2)

    told_then = []
    for _ in range(4):
        note(window, 0.0)
        told_then.append(told(window))

    assert told_then == [(3, 1, 1), (3, 0, 1), (3, 0, 0), (3, 0, 0)]


def test_a_count_window_knows_no_time() -> None:
    """A call of long ago counts as one of now."""
    window = CountWindow(3)

    note(window, 0.0, failed=True)
    note(window, 1e9)

    assert told(window) == (2, 1, 0)


def test_a_caller_whose_failure_left_a_count_window_may_fail_again() -> None:
    """While it stands there it is noted once."""
    window = CountWindow(2)
    note(window, 0.0, "poison", failed=True)
    note(window, 0.0)
    note(window, 0.0, "poison", failed=True)
    assert told(window) == (2, 1, 0)

    note(window, 0.0)
    assert told(window) == (2, 0, 0)
    note(window, 0.0, "poison", failed=True)

    assert told(window) == (2, 1, 0)


def test_a_good_call_that_leaves_a_count_window_takes_nobody_elses_failure_along() -> None:
    """Nor its own caller's: the failure that stands there is still noted once."""
    window = CountWindow(3)
    note(window, 0.0, "poison")
    note(window, 0.0, "poison", failed=True)
    note(window, 0.0)
    note(window, 0.0)
    assert told(window) == (3, 1, 0)

    note(window, 0.0, "poison", failed=True)

    assert told(window) == (3, 1, 0)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 10**9])
def test_good_calls_may_be_noted_many_at_once(count: int) -> None:
    """As if each had been noted by itself, at the price of the window at most."""
    window = CountWindow(3)
    note(window, 0.0, failed=True)
    note(window, 0.0, failed=True)

    window.add_successes(count)

    assert told(window) == (min(2 + count, 3), max(0, min(2, 3 - count)), 0)


# By time.


def test_a_time_window_holds_any_number_of_calls() -> None:
    """Ten thousand within its time."""
    window = TimeWindow(10.0)

    for number in range(10_000):
        note(window, 100.0 + number / 1000, failed=number % 2 == 0, slow=number % 4 == 0)

    assert told(window) == (10_000, 5_000, 2_500)


def test_a_time_window_needs_no_more_memory_for_more_calls() -> None:
    """Five thousand calls of one moment leave less than a byte each."""
    window = TimeWindow(10.0)
    note(window, 1000.0)

    tracemalloc.start()
    try:
        for _ in range(5_000):
            note(window, 1005.0, failed=True, slow=True)
        own = tracemalloc.Filter(inclusive=True, filename_pattern="*breaker*")  # no thread of another test
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces)
    finally:
        tracemalloc.stop()

    assert window.calls == 5_001
    assert held < 5_000


@pytest.mark.parametrize("seconds", [10.0, 2.5, 37.5, 0.03])
@pytest.mark.parametrize("start", [100.0, 100.25, 100.99, -7.5])
@pytest.mark.parametrize(("ages", "is_held"), [(0.0, True), (0.99, True), (1.0, True), (1.1, False), (1e9, False)])
def test_a_time_window_holds_a_call_for_its_time_and_at_most_a_tenth_longer(
    seconds: float, start: float, ages: float, is_held: bool
) -> None:
    """Whenever the call came; what is in between may be held or not."""
    window = TimeWindow(seconds)
    note(window, start, failed=True, slow=True)

    note(window, start + seconds * ages)

    assert told(window) == ((2, 1, 1) if is_held else (1, 0, 0))


def test_a_time_window_forgets_whole_tenths() -> None:
    """Calls of the same tenth go together, those of the next one stay."""
    window = TimeWindow(10.0)
    for at in (100.0, 100.9, 101.0, 102.5):
        note(window, at, failed=True, slow=True)

    note(window, 110.99)
    assert told(window) == (5, 4, 4)
    note(window, 111.0)
    assert told(window) == (4, 2, 2)
    note(window, 112.0)
    assert told(window) == (4, 1, 1)
    note(window, 112.9)

    assert told(window) == (5, 1, 1)


def test_a_time_window_forgets_all_after_a_long_silence() -> None:
    """Everything that is too old goes at once."""
    window = TimeWindow(10.0)
    for at in range(100, 111):
        note(window, float(at), failed=True, slow=True)
    assert told(window) == (11, 11, 11)

    note(window, 500.0, slow=True)

    assert told(window) == (1, 0, 1)


def test_a_caller_whose_failure_left_a_time_window_may_fail_again() -> None:
    """While it stands there it is noted once, and that does not keep it there."""
    window = TimeWindow(10.0)
    note(window, 100.0, "poison", failed=True)
    note(window, 105.0, "another", failed=True)
    note(window, 110.0, "poison", failed=True)
    assert told(window) == (2, 2, 0)

    note(window, 111.0, "poison", failed=True)
    note(window, 111.0, "another", failed=True)

    assert told(window) == (2, 2, 0)


def test_a_repeated_failure_too_makes_a_time_window_forget() -> None:
    """It is not noted itself, but what is too old goes."""
    window = TimeWindow(10.0)
    note(window, 100.0, slow=True)
    note(window, 105.0, "poison", failed=True)

    note(window, 112.0, "poison", failed=True)

    assert told(window) == (1, 1, 0)


@pytest.mark.parametrize("seconds", [5e-324, 1e-309])
def test_a_time_window_may_be_as_short_as_its_option(seconds: float) -> None:
    """Absurd, but above 0: it holds what comes at the same moment."""
    window = TimeWindow(seconds)

    note(window, 1000.0)

    assert window.calls == 1


# Rates over a time.


def test_a_failure_rate_over_a_time_opens() -> None:
    """However many calls there are; the reason tells the time."""
    subject = circuit(failure_threshold=None, failure_rate=0.5, rate_seconds=20.0, minimum_calls=4, rate_window=1)

    feed(subject, "....x", now=0.0)
    feed(subject, "xx", now=19.0)
    assert subject.is_closed
    feed(subject, "x", now=20.0)

    assert subject.state(20.0) == "open"
    assert subject.reason == "4 of 8 calls in 20 s failed"


def test_failures_that_are_too_old_open_nothing() -> None:
    """They are forgotten after ``rate_seconds``, and a tenth."""
    subject = circuit(failure_threshold=None, failure_rate=1.0, rate_seconds=20.0, minimum_calls=3)

    for now in (0.0, 11.0, 22.0, 33.0, 44.0, 55.0):
        feed(subject, "x", now=now)
    assert subject.is_closed
    feed(subject, "x", now=56.0)

    assert subject.state(56.0) == "open"


def test_a_rate_over_a_time_needs_the_minimum_of_calls() -> None:
    """So many within the time."""
    subject = circuit(failure_threshold=None, failure_rate=0.1, rate_seconds=20.0, minimum_calls=5)

    feed(subject, "xxxx")
    assert subject.is_closed
    feed(subject, "x")

    assert subject.state(0.0) == "open"


def test_a_time_window_starts_afresh_when_the_circuit_closes() -> None:
    """Calls of the outage that is over are not counted into the next rate."""
    subject = circuit(failure_threshold=None, failure_rate=0.5, rate_seconds=600.0, minimum_calls=4)
    feed(subject, "xxxx")
    subject.settle(enter(subject, 60.0), "success", 60.0)

    feed(subject, "...", now=61.0)
    feed(subject, "xx", now=61.0)

    assert subject.is_closed


# When a rate is looked at, and what stands in the window.


def test_a_good_call_may_complete_a_rate() -> None:
    """The rate is too high already when the last call that it needs ends well."""
    subject = circuit(failure_threshold=None, failure_rate=0.25, minimum_calls=3, rate_window=10)

    feed(subject, "xx")
    assert subject.is_closed
    feed(subject, ".")

    assert subject.reason == "2 of the last 3 calls failed"


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_failure_that_is_noted_already_opens_nothing(seconds: float | None) -> None:
    """One caller failing again and again is its own problem: nothing has happened that the rate had not seen."""
    subject = circuit(failure_threshold=None, failure_rate=0.5, rate_seconds=seconds, minimum_calls=3)

    subject.settle(enter(subject, 0.0, "poison"), "failure", 0.0)
    feed(subject, ".")
    subject.settle(enter(subject, 0.0, "poison"), "failure", 0.0)

    assert subject.is_closed
    assert subject.window(0.0) == (2, 1, 0)


@pytest.mark.parametrize("verdict", ["neutral", "throttled"])
def test_what_says_nothing_about_the_provider_stands_in_no_window(verdict: SettleVerdict, clock: Clock) -> None:
    """Neither as a call nor as a slow one."""
    subject = circuit(failure_threshold=None, failure_rate=1.0, slow_call_rate=0.5, minimum_calls=2, rate_window=10)

    for _ in range(20):
        last(subject, clock, 100.0, verdict)
    assert subject.is_closed
    feed(subject, "xx", now=clock.now)

    assert subject.reason == "2 of the last 2 calls failed"


def test_a_streak_opens_before_a_rate_is_looked_at() -> None:
    """Where both hold, the reason is the streak."""
    subject = circuit(failure_threshold=2, failure_rate=0.5, minimum_calls=2, rate_window=10)

    feed(subject, "xx")

    assert subject.reason == "2 calls in a row failed"


def test_a_single_failure_that_opens_is_told_as_one() -> None:
    """No "1 calls"."""
    subject = circuit(failure_threshold=1)

    fail(subject, 0.0)

    assert subject.reason == "a call failed"


# Slow calls.


def slowly(**options: object) -> Circuit:
    """Opens when half of at least four calls took over 10 s."""
    return circuit(
        **{"failure_threshold": None, "slow_call_rate": 0.5, "slow_call_duration": 10.0, "minimum_calls": 4} | options
    )


def test_slow_calls_open(clock: Clock) -> None:
    """Though all of them end well; the reason tells how slow."""
    subject = slowly()

    for seconds in (0.0, 1.0, 11.0):
        last(subject, clock, seconds)
    assert subject.is_closed
    last(subject, clock, 12.5)

    assert subject.state(clock.now) == "open"
    assert subject.reason == "2 of the last 4 calls took over 10 s"


def test_the_reason_of_slow_calls_tells_the_time_that_was_looked_at(clock: Clock) -> None:
    """A time window counts slow calls too."""
    subject = slowly(rate_seconds=600.0, slow_call_duration=0.5)

    for seconds in (0.0, 0.1, 1.0, 2.0):
        last(subject, clock, seconds)

    assert subject.reason == "2 of 4 calls in 600 s took over 0.5 s"


def test_a_call_is_slow_that_took_longer_than_the_bound(clock: Clock) -> None:
    """Exactly as long is not slow."""
    subject = slowly(slow_call_rate=0.04, minimum_calls=1)

    for _ in range(20):
        last(subject, clock, 10.0)
    assert subject.is_closed
    last(subject, clock, 10.001)

    assert subject.state(clock.now) == "open"


def test_a_call_is_timed_from_when_it_was_let_in() -> None:
    """Not from when the circuit began."""
    subject = slowly(slow_call_rate=1.0, minimum_calls=1)
    permit = enter(subject, 1000.0)

    subject.settle(permit, "success", 1009.0)

    assert subject.is_closed


def test_without_a_slow_call_rate_nothing_is_slow(clock: Clock) -> None:
    """However long the calls take."""
    subject = circuit(failure_rate=0.5, minimum_calls=4, slow_call_duration=1.0)

    for _ in range(20):
        last(subject, clock, 1e6)

    assert subject.is_closed


def test_a_slow_failed_call_is_both(clock: Clock) -> None:
    """Either rate counts it."""
    by_failures = slowly(failure_rate=0.5, slow_call_rate=1.0)
    by_slowness = slowly(failure_rate=1.0, slow_call_rate=0.5)

    for subject in (by_failures, by_slowness):
        last(subject, clock, 0.0)
        last(subject, clock, 0.0)
        last(subject, clock, 20.0, "failure")
        assert subject.is_closed
        last(subject, clock, 20.0, "failure")

    assert by_failures.reason == "2 of the last 4 calls failed"
    assert by_slowness.reason == "2 of the last 4 calls took over 10 s"


def test_slow_calls_that_succeed_count_as_no_failures(clock: Clock) -> None:
    """Only the slow-call rate sees them."""
    subject = slowly(failure_rate=0.1, slow_call_rate=1.0)

    for _ in range(20):
        last(subject, clock, 0.0)
        last(subject, clock, 20.0)

    assert subject.is_closed
    assert subject.failures == 0


def test_a_slow_call_has_the_failure_rate_looked_at_too(clock: Clock) -> None:
    """The window has come to mean something, and this call is none of the good ones."""
    subject = slowly(failure_rate=0.5, slow_call_rate=1.0)

    for verdict in ("failure", "failure", "success"):
        last(subject, clock, 0.0, verdict)
    last(subject, clock, 20.0)

    assert subject.reason == "2 of the last 4 calls failed"


def test_slow_calls_below_the_rate_open_nothing(clock: Clock) -> None:
    """A third of them, for long, with a bound of a half."""
    subject = slowly()

    for _ in range(100):
        for seconds in (0.0, 0.0, 20.0):
            last(subject, clock, seconds)

    assert subject.is_closed


def test_slow_calls_leave_the_window(clock: Clock) -> None:
    """They count while they are among the last ``rate_window`` calls."""
    subject = slowly(rate_window=4, minimum_calls=4)
    for seconds in (0.0, 0.0, 20.0, 0.0):
        last(subject, clock, seconds)

    for seconds in (0.0, 0.0, 20.0, 0.0):
        last(subject, clock, seconds)
    assert subject.is_closed
    last(subject, clock, 20.0)

    assert subject.state(clock.now) == "open"
