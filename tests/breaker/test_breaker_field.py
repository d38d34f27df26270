"""Faults that users of this breaker and of others reported, each rebuilt; the name says the fault."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, HintedError, down, fine, half_opened, opened, raising, refused, state_of, trip

from llmbatch.breaker import BreakerMetrics, BreakerRegistry, CircuitBreaker, CircuitOpenError, Judgement, StateChanged


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Half-open, with calls that outlast their leases.


@pytest.mark.parametrize(
    ("workers", "seconds", "options"),
    [
        (40, 250.0, {"recovery_timeout": 60.0}),
        (40, 600.0, {"recovery_timeout": 60.0}),
        (40, 30.0, {"recovery_timeout": 5.0}),
        (40, 250.0, {"recovery_timeout": 60.0, "first_recovery_timeout": 2.0}),
        (40, 600.0, {"recovery_timeout": 60.0, "success_threshold": 3}),
        (40, 600.0, {"recovery_timeout": 60.0, "probes": 3}),
    ],
)
def test_half_open_never_closed_when_good_calls_outlast_their_leases(
    clock: Clock, workers: int, seconds: float, options: dict[str, Any]
) -> None:
    """Workers that call as often as they are let in, for two hours; each call is good."""
    breaker = opened(clock, **options)
    clock.advance(60.0)
    ends: list[tuple[float, Any]] = []

    until = clock.now + 7200.0
    while state_of(breaker) != "closed" and clock.now < until:
        while ends and ends[0][0] <= clock.now:
            ends.pop(0)[1].settle()
        while len(ends) < workers and state_of(breaker) != "closed":
            try:
                ends.append((clock.now + seconds, breaker.acquire()))
            except CircuitOpenError:
                break
        clock.advance(1.0)

    assert state_of(breaker) == "closed"


def test_half_open_never_closed_when_refused_requests_outlast_their_leases(clock: Clock) -> None:
    """Neutral answers count like good ones: three of them say that the provider works."""
    breaker = half_opened(clock)
    permits = []
    for _ in range(4):
        permits.append(breaker.acquire())
        clock.advance(240.0)

    for permit in permits[:3]:
        permit.settle("neutral")

    assert state_of(breaker) == "closed"


def test_a_late_failure_of_a_replaced_probe_opens_nothing(clock: Clock) -> None:
    """Another one is out that may do better."""
    breaker = half_opened(clock)
    hung = breaker.acquire()
    clock.advance(60.0)
    second = breaker.acquire()

    hung.settle("failure")

    assert state_of(breaker) == "half_open"
    second.settle()
    assert state_of(breaker) == "closed"


# Time-outs of the callers.


async def _hang() -> None:
    await asyncio.Event().wait()


async def _give_up(breaker: CircuitBreaker, clock: Clock, seconds: float, times: int) -> int:
    """Hanging calls, all at once, that their callers cancel after *seconds*; returns how many were made."""
    tasks = [asyncio.ensure_future(breaker.async_call(_hang)) for _ in range(times)]
    await asyncio.sleep(0)
    clock.advance(seconds)
    made = sum(not task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return made


@pytest.mark.parametrize("wave", [1, 5, 10, 50])
async def test_hanging_calls_under_the_callers_own_timeout_never_opened(clock: Clock, wave: int) -> None:
    """Fifty, in waves or one after the other: five unanswered for longer than ``stall_timeout`` are a stall."""
    breaker = CircuitBreaker(stall_timeout=3.0, clock=clock)

    made = [await _give_up(breaker, clock, 5.0, wave) for _ in range(50 // wave)]

    assert state_of(breaker) != "closed"
    assert "5 calls have been unanswered for 3 s" in breaker.explain().reason
    assert sum(made) < 50 or wave == 50


async def test_cancelled_calls_that_were_not_overdue_open_nothing(clock: Clock) -> None:
    """Nor does one overdue call, with answers between."""
    breaker = CircuitBreaker(stall_timeout=3.0, clock=clock)

    for _ in range(20):
        await _give_up(breaker, clock, 3.0, 5)
    for _ in range(20):
        await _give_up(breaker, clock, 5.0, 4)
        breaker.call(fine)

    assert state_of(breaker) == "closed"


async def test_a_probe_that_its_caller_gave_up_let_the_next_one_hang(clock: Clock) -> None:
    """Half-open: with a stall rule, a probe that was cancelled when it was overdue has failed."""
    breaker = half_opened(clock, stall_timeout=3.0)

    await _give_up(breaker, clock, 3.0, 1)
    assert state_of(breaker) == "half_open"
    await _give_up(breaker, clock, 5.0, 1)

    assert state_of(breaker) == "open"


# Rates that a success completes.


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_failure_rate_that_a_success_completes_was_not_looked_at(clock: Clock, seconds: float | None) -> None:
    """Three failures and two successes, of five: the last one opens it."""
    breaker = CircuitBreaker(
        None, failure_rate=0.5, minimum_calls=5, rate_window=5, rate_seconds=seconds, name="p", clock=clock
    )
    for _ in range(3):
        with pytest.raises(DownError):
            breaker.call(down)
    breaker.call(fine)
    assert state_of(breaker) == "closed"

    assert breaker.call(fine) == "fine"

    assert state_of(breaker) == "open"
    assert "3 of" in refused(breaker).reason


@pytest.mark.parametrize("seconds", [None, 600.0])
def test_a_slow_rate_that_a_quick_call_completes_was_not_looked_at(clock: Clock, seconds: float | None) -> None:
    """Three slow calls and two quick ones, of five."""
    breaker = CircuitBreaker(
        None,
        slow_call_rate=0.5,
        slow_call_duration=10.0,
        minimum_calls=5,
        rate_window=5,
        rate_seconds=seconds,
        clock=clock,
    )
    for _ in range(3):
        breaker.call(lambda: clock.advance(20.0))
    breaker.call(fine)
    assert state_of(breaker) == "closed"

    breaker.call(fine)

    assert state_of(breaker) == "open"


def test_a_rate_that_rises_as_old_successes_leave_was_not_looked_at(clock: Clock) -> None:
    """Ten good calls, then a failure in ten seconds: once the good ones are out of sight, half of the rest failed."""
    breaker = CircuitBreaker(None, failure_rate=0.5, minimum_calls=2, rate_seconds=60.0, clock=clock)
    for _ in range(10):
        breaker.call(fine)
    clock.advance(50.0)
    with pytest.raises(DownError):
        breaker.call(down)
    clock.advance(20.0)

    breaker.call(fine)

    assert state_of(breaker) == "open"


# Set by hand.


def _events(breaker: CircuitBreaker) -> list[StateChanged]:
    told: list[StateChanged] = []
    breaker.add_listener(told.append)
    return told


def test_disabling_stopped_counting_and_was_not_told(clock: Clock) -> None:
    """Calls count on; one event says that it would have opened, and disabling and resetting are events too."""
    breaker = CircuitBreaker(failure_threshold=3, name="p", clock=clock)
    told = _events(breaker)

    breaker.disable()
    breaker.disable()
    for _ in range(10):
        with pytest.raises(DownError):
            breaker.call(down)

    assert (breaker.state, breaker.failures, breaker.is_forced) == ("closed", 10, True)
    assert [(event.old, event.new, event.forced, event.would_open, event.reason) for event in told] == [
        ("closed", "closed", "disabled", False, ""),
        ("closed", "closed", "disabled", True, "3 calls in a row failed"),
    ]
    assert str(told[1]) == "circuit p is disabled and would have opened: 3 calls in a row failed"
    assert "it would have opened: 3 calls in a row failed" in str(breaker.explain())
    breaker.reset()
    assert [(event.new, event.forced, event.would_open) for event in told[2:]] == [("closed", "", False)]
    trip(breaker)
    assert told[-1].new == "open"


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_disabled_circuit_says_too_when_a_success_completes_a_rate(clock: Clock, seconds: float | None) -> None:
    """Once."""
    breaker = CircuitBreaker(None, failure_rate=0.5, minimum_calls=5, rate_window=5, rate_seconds=seconds, clock=clock)
    told = _events(breaker)
    breaker.disable()
    for fn in (down, down, down, fine, fine, fine):
        try:
            breaker.call(fn)
        except DownError:
            continue

    assert [event.would_open for event in told] == [False, True]
    assert breaker.window is not None
    assert (breaker.window.calls, breaker.window.failed) == ((5, 2) if seconds is None else (6, 3))


def test_forcing_open_twice_was_told_as_a_change(clock: Clock) -> None:
    """From open to open."""
    breaker = CircuitBreaker(name="p", clock=clock)
    told = _events(breaker)

    breaker.force_open("deploy")
    breaker.force_open("deploy again")

    assert [(event.old, event.new, event.forced) for event in told] == [("closed", "open", "open")]
    assert str(told[0]) == "circuit p is open until it is reset: deploy"
    assert refused(breaker).reason == "deploy again"


def test_another_end_of_a_forced_opening_was_not_told(clock: Clock) -> None:
    """For good, then for a time, then longer; the same end again is no change."""
    breaker = CircuitBreaker(name="p", clock=clock)
    told = _events(breaker)

    breaker.force_open("deploy")
    breaker.force_open("deploy", for_seconds=30.0)
    breaker.force_open("deploy", for_seconds=30.0)
    clock.advance(20.0)
    breaker.force_open("still", for_seconds=30.0)
    breaker.force_open("for good")

    assert [str(event).partition(" is ")[2] for event in told] == [
        "open until it is reset: deploy",
        "open: deploy; next probe in 30.0 s",
        "open: still; next probe in 30.0 s",
        "open until it is reset: for good",
    ]
    assert [(event.old, event.new, event.forced) for event in told[1:]] == [("open", "open", "open")] * 3


def test_forcing_open_again_after_its_time_was_not_told(clock: Clock) -> None:
    """It was about to be probed, and is not."""
    breaker = CircuitBreaker(clock=clock)
    breaker.force_open("deploy", for_seconds=30.0)
    clock.advance(40.0)
    told = _events(breaker)

    breaker.force_open("deploy", for_seconds=30.0)

    assert [event.retry_after for event in told] == [30.0]


def test_forcing_an_open_circuit_is_told_as_forced(clock: Clock) -> None:
    """And resetting it once."""
    breaker = opened(clock)
    told = _events(breaker)

    breaker.force_open("deploy")
    breaker.reset()

    assert [(event.old, event.new, event.forced) for event in told] == [
        ("open", "open", "open"),
        ("open", "closed", ""),
    ]


def test_a_circuit_could_not_be_forced_open_for_a_time(clock: Clock) -> None:
    """It ends by itself: half-open, and a good probe closes it."""
    breaker = CircuitBreaker(name="p", clock=clock)
    told = _events(breaker)

    breaker.force_open("deploy", for_seconds=30.0)
    assert (refused(breaker).retry_after, breaker.is_forced) == (30.0, True)
    assert repr(breaker) == "<CircuitBreaker p open, retry in 30.0 s>"
    clock.advance(30.0)
    assert (breaker.state, breaker.is_forced) == ("half_open", False)
    breaker.call(fine)

    assert state_of(breaker) == "closed"
    assert [(event.old, event.new, event.forced) for event in told] == [
        ("closed", "open", "open"),
        ("open", "half_open", ""),
        ("half_open", "closed", ""),
    ]


def test_a_probe_that_fails_after_forcing_opens_it_for_a_reason_of_its_own(clock: Clock) -> None:
    """Not the operator's; for the usual time."""
    breaker = CircuitBreaker(recovery_timeout=60.0, clock=clock)
    breaker.force_open("deploy", for_seconds=30.0)
    clock.advance(30.0)

    with pytest.raises(DownError):
        breaker.call(down)

    error = refused(breaker)
    assert (error.reason, error.retry_after) == ("a probe failed", 60.0)


def test_forcing_open_for_a_time_shortens_no_wait_that_the_server_named(clock: Clock) -> None:
    """And forcing again replaces the time, not that wait."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    with pytest.raises(HintedError):
        breaker.call(raising(HintedError(500.0)))

    breaker.force_open("deploy")
    breaker.force_open("deploy", for_seconds=30.0)

    assert breaker.retry_after == 500.0
    clock.advance(30.0)
    assert not breaker.is_forced
    assert state_of(breaker) == "open"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), True, "30"])
def test_forcing_open_for_no_time_is_refused(clock: Clock, seconds: Any) -> None:
    """Nothing changes."""
    breaker = CircuitBreaker(clock=clock)

    with pytest.raises(ValueError, match="for_seconds"):
        breaker.force_open(for_seconds=seconds)

    assert state_of(breaker) == "closed"


def test_a_hold_while_closed_stopped_nothing(clock: Clock) -> None:
    """It refuses until then, and probes."""
    breaker = CircuitBreaker(name="p", clock=clock)
    told = _events(breaker)

    breaker.hold(30.0)

    error = refused(breaker)
    assert (error.retry_after, error.reason) == (30.0, "on hold for 30 s")
    assert [(event.old, event.new, event.retry_after) for event in told] == [("closed", "open", 30.0)]
    clock.advance(30.0)
    breaker.call(fine)
    assert state_of(breaker) == "closed"


def test_a_probe_that_fails_after_a_hold_opens_it_for_a_reason_of_its_own(clock: Clock) -> None:
    """However short the hold was."""
    breaker = CircuitBreaker(recovery_timeout=60.0, clock=clock)
    breaker.hold(0.5)
    assert breaker.retry_after == 0.5
    clock.advance(0.5)

    with pytest.raises(DownError):
        breaker.call(down)

    error = refused(breaker)
    assert (error.reason, error.retry_after) == ("a probe failed", 60.0)


def test_a_hold_while_disabled_stops_nothing(clock: Clock) -> None:
    """An operator said so; the wait holds for an opening after a reset no more."""
    breaker = CircuitBreaker(clock=clock)
    breaker.disable()

    breaker.hold(30.0)

    assert breaker.call(fine) == "fine"


# Asking.


def test_the_window_could_not_be_asked(clock: Clock) -> None:
    """Counts and rates, with and without the lock, in a snapshot too."""
    breaker = CircuitBreaker(None, failure_rate=0.9, rate_window=10, minimum_calls=10, clock=clock)
    empty = breaker.window
    assert empty is not None
    assert (empty.calls, empty.failure_rate, empty.slow_call_rate) == (0, None, None)
    for fn in (fine, down, fine, fine):
        try:
            breaker.call(fn)
        except DownError:
            continue

    window = breaker.window
    assert window is not None
    assert (window.calls, window.failed, window.slow) == (4, 1, 0)
    assert (window.failure_rate, window.slow_call_rate) == (0.25, 0.0)
    assert breaker.explain().window == window
    assert "calls in the window: 4, failed: 1, slow: 0" in str(breaker.explain())


def test_the_window_forgets_what_is_too_old_when_asked(clock: Clock) -> None:
    """Also if no call comes; without a rate there is none."""
    breaker = CircuitBreaker(None, failure_rate=0.9, rate_seconds=60.0, clock=clock)
    breaker.call(fine)
    clock.advance(600.0)

    assert breaker.window is not None
    assert breaker.window.calls == 0
    assert CircuitBreaker(clock=clock).window is None


# Judging, copies, listeners.


def test_a_cancelled_future_counted_as_a_failure(clock: Clock) -> None:
    """``concurrent.futures.CancelledError`` is an Exception, unlike asyncio's."""
    breaker = CircuitBreaker(1, judge_error=lambda _: "failure", clock=clock)
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.cancel()

    with pytest.raises(concurrent.futures.CancelledError):
        breaker.call(future.result)

    assert (breaker.state, breaker.failures) == ("closed", 0)


@pytest.mark.parametrize("do", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("make", [CircuitBreaker, BreakerRegistry, BreakerMetrics])
def test_a_copy_shared_the_state_or_failed_without_saying_why(
    make: Callable[[], object], do: Callable[[object], object]
) -> None:
    """It says what to do instead."""
    with pytest.raises(TypeError, match=r"cannot be copied or pickled.*; (create another|numbers\(\))"):
        do(make())


async def _async_listener(event: object) -> None:
    raise AssertionError(event)


def _generator_listener(event: object) -> Iterator[object]:
    yield event


class _Asynchronous:
    async def __call__(self, event: object) -> None:
        raise AssertionError(event)

    async def method(self, event: object) -> None:
        raise AssertionError(event)


@pytest.mark.parametrize(
    "listener",
    [
        _async_listener,
        functools.partial(_async_listener),
        _Asynchronous(),
        functools.partial(_Asynchronous()),
        _Asynchronous().method,
        _generator_listener,
    ],
)
@pytest.mark.parametrize("make", [CircuitBreaker, BreakerRegistry])
def test_an_async_listener_was_taken_and_never_awaited(make: Callable[[], Any], listener: Any) -> None:
    """Refused at once, also before a registry has any breaker."""
    with pytest.raises(TypeError, match="nothing awaits it"):
        make().add_listener(listener)


@pytest.mark.parametrize("listener", [None, "print", 3])
def test_a_listener_that_cannot_be_called_was_taken(listener: Any) -> None:
    """The message shows it."""
    with pytest.raises(TypeError, match="must be a function of one event"):
        CircuitBreaker().add_listener(listener)


def test_a_wrapped_async_listener_was_never_heard_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be told from a plain function until it runs: then that is logged, once, and no warning is left."""
    breaker = CircuitBreaker(1, clock=clock)
    breaker.add_listener(lambda event: _async_listener(event))  # type: ignore[arg-type]
    future: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    breaker.add_listener(lambda event: future)  # type: ignore[arg-type]

    trip(breaker)
    breaker.reset()
    future.get_loop().close()

    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "nothing awaits it" in caplog.text


# Registries.


def test_metrics_kept_the_names_of_evicted_circuits(small_heap: None) -> None:
    """A thousand keys through a registry of 50; the report had 5,000."""
    metrics = BreakerMetrics()
    breakers: BreakerRegistry[int] = BreakerRegistry(capacity=50)
    breakers.add_listener(metrics, calls=True)

    for key in range(1000):
        breakers[key].call(fine)

    assert metrics.names() == [str(key) for key in range(950, 1000)]


def test_metrics_keep_what_is_still_in_use_or_has_a_namesake(small_heap: None) -> None:
    """An evicted breaker that somebody holds counts on, and is forgotten when it is gone."""
    metrics = BreakerMetrics()
    breakers: BreakerRegistry[int] = BreakerRegistry(lambda key: CircuitBreaker(name=str(key % 10)), capacity=2)
    breakers.add_listener(metrics, calls=True)
    breakers.add_listener(lambda event: None)
    held = breakers[1]
    held.call(fine)
    for key in (2, 3, 12, 13):
        breakers[key].call(fine)

    held.call(fine)
    assert metrics.numbers("1").ended == {"success": 2}
    assert metrics.numbers("2").ended == {"success": 2}
    del held
    breakers.discard(13)
    breakers.items()

    assert metrics.names() == ["2"]


def test_a_listener_whose_forget_raises_is_logged(small_heap: None, caplog: pytest.LogCaptureFixture) -> None:
    """And breaks nothing."""

    class Grudge(BreakerMetrics):
        __slots__ = ()

        def forget(self, name: str) -> None:
            raise LookupError(name)

    breakers: BreakerRegistry[int] = BreakerRegistry(capacity=1)
    breakers.add_listener(Grudge())

    assert breakers[1].name == "1"
    assert breakers[2].name == "2"

    assert "raised on forget of circuit '1'" in caplog.text


def test_harmless_circuits_pushed_an_open_one_out(clock: Clock) -> None:
    """One open, then a hundred keys with a failure each: the open one stays."""
    breakers: BreakerRegistry[object] = BreakerRegistry(lambda _: CircuitBreaker(5, clock=clock), capacity=10)
    trip(breakers["outage"])

    for key in range(100):
        with pytest.raises(DownError):
            breakers[key].call(down)

    assert breakers["outage"].state == "open"
    assert len(breakers) == 10


def test_when_all_are_open_the_longest_unused_goes_and_those_set_by_hand_last(clock: Clock) -> None:
    """The bound holds whatever happens; and a closed one goes first however many open ones are older."""
    breakers: BreakerRegistry[object] = BreakerRegistry(lambda _: CircuitBreaker(1, clock=clock), capacity=203)
    breakers["forced"].force_open()
    for key in range(200):
        trip(breakers[key])
    breakers["closed"].call(fine)
    breakers["disabled"].disable()

    trip(breakers["new"])
    assert "closed" not in breakers
    trip(breakers["newer"])

    assert 0 not in breakers
    assert all(key in breakers for key in ("forced", "disabled", "new", "newer", 1))


# Waits that the server names.


class _RateLimitedError(Exception):
    retry_after = 60.0


@pytest.mark.parametrize("least", [True, 60, 10.0])
def test_fifty_callers_that_were_told_to_wait_called_all_the_same(clock: Clock, least: bool | float) -> None:
    """A bare breaker: with ``open_on_retry_after`` the first 429 opens it for as long as it says."""
    made = 0

    def limited() -> None:
        nonlocal made
        made += 1
        raise _RateLimitedError

    breaker = CircuitBreaker(
        open_on_retry_after=least, recovery_timeout=5.0, judge_error=lambda _: "throttled", clock=clock
    )
    for _ in range(50):
        with pytest.raises((_RateLimitedError, CircuitOpenError)):
            breaker.call(limited)

    assert made == 1
    error = refused(breaker)
    assert (error.retry_after, error.reason) == (60.0, "the server asked for a wait of 60 s")
    clock.advance(60.0)
    assert state_of(breaker) == "half_open"


@pytest.mark.parametrize("least", [False, 61.0])
def test_a_named_wait_opens_nothing_unless_asked_for(clock: Clock, least: bool | float) -> None:
    """The default, and a wait below the least."""
    breaker = CircuitBreaker(open_on_retry_after=least, judge_error=lambda _: "throttled", clock=clock)

    for _ in range(50):
        with pytest.raises(_RateLimitedError):
            breaker.call(raising(_RateLimitedError()))

    assert state_of(breaker) == "closed"


@pytest.mark.parametrize("verdict", ["success", "neutral", "failure"])
def test_any_answer_may_name_the_wait(clock: Clock, verdict: Any) -> None:
    """Also a good one; a day at most. A wait of nothing opens nothing."""
    said = Judgement(verdict, retry_after=0.0)
    breaker = CircuitBreaker(open_on_retry_after=True, judge_result=lambda _: said, clock=clock)
    breaker.call(fine)
    assert state_of(breaker) == "closed"

    said = Judgement(verdict, retry_after=1e9)
    breaker.call(fine)

    assert breaker.retry_after == 86_400.0


def test_a_probe_that_is_told_to_wait_waits_for_just_as_long(clock: Clock) -> None:
    """Not for ``recovery_timeout`` too."""
    breaker = CircuitBreaker(
        open_on_retry_after=True, recovery_timeout=600.0, judge_error=lambda _: "throttled", clock=clock
    )
    for seconds, waits in ((60.0, 60.0), (60.0, 60.0), (0.5, 0.5), (0.0, 600.0)):
        with pytest.raises(HintedError):
            breaker.call(raising(HintedError(seconds)))
        assert breaker.retry_after == waits
        clock.advance(waits)


def test_a_short_wait_opens_for_as_short(clock: Clock) -> None:
    """Any wait above nothing."""
    breaker = CircuitBreaker(open_on_retry_after=True, clock=clock)

    with pytest.raises(HintedError):
        breaker.call(raising(HintedError(0.5)))

    assert breaker.retry_after == 0.5


def test_a_disabled_circuit_only_says_that_a_named_wait_would_open_it(clock: Clock) -> None:
    """As with any other rule."""
    breaker = CircuitBreaker(open_on_retry_after=True, clock=clock)
    told = _events(breaker)
    breaker.disable()

    with pytest.raises(_RateLimitedError):
        breaker.call(raising(_RateLimitedError()))

    assert state_of(breaker) == "closed"
    assert told[-1].would_open


# Other event loops.


def test_waiting_outside_asyncio_said_only_that_no_loop_runs() -> None:
    """As a trio task would: calls work, waiting says what to do."""
    breaker = CircuitBreaker(name="p")

    async def answer() -> int:
        return 3

    call = breaker.async_call(answer)
    with pytest.raises(StopIteration) as stopped:
        call.send(None)
    assert stopped.value.value == 3
    with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync"):
        breaker.wait_ready().send(None)
