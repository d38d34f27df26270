"""The traps that known circuit breakers fell into, one by one, from the outside.

Each was seen in a published library. What needs more cases than one stands in the file of its subject.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import pickle
import threading
import traceback
import weakref
from collections import Counter

import pytest
from breaker_clock import Clock
from breaker_provider import (
    DownError,
    HintedError,
    RefusedError,
    down,
    down_later,
    fine,
    fine_later,
    half_opened,
    opened,
    raising,
    refused,
    trip,
)
from breaker_threads import PATIENCE, run_threads

from llmbatch.breaker import BreakerEvent, CircuitBreaker, CircuitOpenError, StateChanged


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Stale results.


@pytest.mark.parametrize("error", [None, DownError()], ids=["success", "failure"])
async def test_trap_stale_result_of_a_call_from_before_the_outage(clock: Clock, error: Exception | None) -> None:
    """A call that was let in while closed ends while half-open: it decides nothing, either way."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()
        if error is not None:
            raise error

    early = asyncio.create_task(breaker.async_call(slow))
    await asyncio.sleep(0)
    trip(breaker)
    clock.advance(60.0)

    gate.set()
    await asyncio.wait([early])

    assert (breaker.state, breaker.failures) == ("half_open", 1)
    assert await breaker.async_call(fine_later) == "fine"
    assert breaker.state == "closed"


def test_trap_stale_success_does_not_close_an_open_circuit(clock: Clock) -> None:
    """Nor does one that ends while open shorten the wait."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)

    def slow() -> str:
        trip(breaker)
        clock.advance(10.0)
        return "late"

    assert breaker.call(slow) == "late"

    assert (breaker.state, breaker.retry_after) == ("open", 50.0)


def test_trap_stale_failure_does_not_open_the_circuit_that_has_recovered(clock: Clock) -> None:
    """A call from before the outage fails after it: the new spell starts from nothing."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)

    def slow() -> None:
        trip(breaker)
        clock.advance(60.0)
        breaker.call(fine)
        raise DownError

    with pytest.raises(DownError):
        breaker.call(slow)

    assert (breaker.state, breaker.failures) == ("closed", 0)


# Cancelled probe.


async def test_trap_cancelled_probe_stays_half_open(clock: Clock) -> None:
    """Cancelled twenty times, it counts neither as failure nor as success, and each time the next may probe."""
    breaker = half_opened(clock)

    for _ in range(20):
        task = asyncio.create_task(breaker.async_call(asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert breaker.state == "half_open"

    assert await breaker.async_call(fine_later) == "fine"
    assert breaker.state == "closed"


async def test_trap_probe_cancelled_by_a_timeout_around_it(clock: Clock) -> None:
    """``asyncio.timeout`` around the call is a cancellation to it."""
    breaker = half_opened(clock)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await breaker.async_call(asyncio.Event().wait)

    assert breaker.state == "half_open"
    assert breaker.acquire().is_probe


# Hung probe.


def test_trap_hung_probe_is_taken_over(clock: Clock) -> None:
    """Days of hanging cost leases, not the circuit: each takeover waits twice as long, up to four times."""
    breaker = half_opened(clock, probe_lease=10.0)
    hung = [breaker.acquire()]
    waits: list[float] = []

    for _ in range(7):
        waits.append(refused(breaker).retry_after)
        clock.advance(waits[-1])
        hung.append(breaker.acquire())
    hung[0].settle("failure")
    hung[3].settle("throttled")

    assert waits == [10.0, 20.0, 40.0, 40.0, 40.0, 40.0, 40.0]
    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    hung[-1].settle("success")
    assert breaker.state == "closed"


# Neutral outcome.


def test_trap_neutral_outcome_does_not_reset_the_streak(clock: Clock) -> None:
    """Refused requests between failures are no sign of health, and none of sickness."""
    breaker = CircuitBreaker(3, clock=clock, count_error=DownError)

    for error in (DownError(), RefusedError(), DownError(), RefusedError(), RefusedError(), RefusedError()):
        with pytest.raises(type(error)):
            breaker.call(raising(error))
    assert (breaker.state, breaker.failures) == ("closed", 2)
    with pytest.raises(DownError):
        breaker.call(down)

    assert breaker.is_open()


def test_trap_neutral_outcome_of_one_probe_does_not_close(clock: Clock) -> None:
    """Three in a row do, or an input of nothing but refused requests would never end."""
    breaker = half_opened(clock, count_error=DownError)
    states: list[str] = []

    for _ in range(3):
        with pytest.raises(RefusedError):
            breaker.call(raising(RefusedError()))
        states.append(breaker.state)

    assert states == ["half_open", "half_open", "closed"]


def test_trap_neutral_outcome_where_a_refusal_opened_the_circuit(clock: Clock) -> None:
    """Then another refusal is no sign of recovery, however many; a good answer is."""
    breaker = CircuitBreaker(60, 60.0, clock=clock)
    breaker.acquire().settle("exhausted")

    for _ in range(10):
        clock.advance(60.0)
        breaker.acquire().settle("neutral")
        assert breaker.state != "closed"
    clock.advance(60.0)
    breaker.acquire().settle()

    assert breaker.state == "closed"


# Admission.


async def test_trap_admission_of_fifty_tasks_to_a_half_open_circuit(clock: Clock) -> None:
    """The permit is taken before the first await: one call is made."""
    breaker = half_opened(clock)
    made: list[int] = []

    async def ask(number: int) -> int:
        made.append(number)
        await asyncio.sleep(0.001)
        return number

    results = await asyncio.gather(*(breaker.async_call(ask, number) for number in range(50)), return_exceptions=True)

    assert made == [0]
    assert Counter(type(result) for result in results) == {int: 1, CircuitOpenError: 49}


def test_trap_admission_of_fifty_threads_to_a_half_open_circuit(clock: Clock) -> None:
    """The same with threads that come at one moment."""
    breaker = half_opened(clock)
    together, rejected = threading.Barrier(50, timeout=PATIENCE), threading.Semaphore(0)
    outcomes: list[str] = []

    def ask() -> None:
        for _ in range(49):
            assert rejected.acquire(timeout=PATIENCE)

    def caller() -> None:
        together.wait()
        try:
            breaker.call(ask)
            outcomes.append("made")
        except CircuitOpenError:
            outcomes.append("refused")
            rejected.release()

    run_threads(*[caller] * 50)

    assert Counter(outcomes) == {"made": 1, "refused": 49}


# Lock during the call.


@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_trap_lock_during_the_call(clock: Clock, state: str) -> None:
    """Ten calls are inside at once, in two forms, and others may ask meanwhile."""
    breaker = CircuitBreaker(clock=clock) if state == "closed" else half_opened(clock, probes=20)
    inside = threading.Barrier(11, timeout=PATIENCE)

    def ask() -> None:
        inside.wait()
        inside.wait()

    def block() -> None:
        with breaker.acquire():
            ask()

    def look() -> None:
        inside.wait()
        _ = (breaker.state, breaker.failures, breaker.retry_after, repr(breaker), breaker.explain())
        inside.wait()

    run_threads(look, *[lambda: breaker.call(ask)] * 5, *[block] * 5)

    assert breaker.state == "closed"


# A sync breaker around async code.


async def test_trap_sync_call_of_async_code(clock: Clock) -> None:
    """It would count the making of a coroutine as success: a TypeError that names the way out, and nothing counted."""
    breaker = CircuitBreaker(1, clock=clock)

    for fn in (down_later, functools.partial(down_later), lambda: down_later()):
        with pytest.raises(TypeError, match=r"use async_call\(\)"):
            breaker.call(fn)  # type: ignore[unused-coroutine]

    assert (breaker.state, breaker.failures) == ("closed", 0)


# Rejections.


def test_trap_rejections_do_not_grow_and_hold_nothing(clock: Clock) -> None:
    """Each is fresh and picklable, with two frames, without the failure that opened the circuit, and soon gone."""
    breaker = opened(clock)
    lengths: set[int] = set()
    gone: list[bool] = []

    for _ in range(1000):
        try:
            breaker.call(fine)
        except CircuitOpenError as error:
            lengths.add(len(traceback.extract_tb(error.__traceback__)))
            assert (error.__context__, error.__cause__) == (None, None)  # noqa: PT017 - what it holds is the point
            last = weakref.ref(error)
        gone.append(last() is None)
    twin = pickle.loads(pickle.dumps(refused(breaker)))

    assert lengths == {2}
    assert all(gone)
    assert (twin.retry_after, twin.name, twin.reason) == (60.0, "", "a call failed")


async def test_trap_rejections_of_a_loop_hold_nothing(clock: Clock) -> None:
    """The same for coroutines; raised a hundred deep, the traceback is as deep as its caller and no deeper."""
    breaker = opened(clock)

    async def ask(depth: int) -> None:
        if depth:
            await ask(depth - 1)
        await breaker.async_call(fine_later)

    lengths: set[int] = set()
    for _ in range(3):
        with pytest.raises(CircuitOpenError) as caught:
            await ask(100)
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))

    assert lengths == {103}


# retry_after.


def test_trap_retry_after_is_finite_and_above_zero(clock: Clock) -> None:
    """Open, the time left and at least 50 ms; half-open, the lease's; only a forced one is infinite."""
    breaker = opened(clock)
    told: list[float] = [refused(breaker).retry_after]
    clock.advance(59.99)
    told.append(refused(breaker).retry_after)
    clock.advance(0.01)
    breaker.acquire()
    told.append(refused(breaker).retry_after)
    clock.advance(59.999)
    told.append(refused(breaker).retry_after)
    breaker.force_open()
    told.append(refused(breaker).retry_after)

    assert told == [60.0, 0.05, 60.0, 0.05, math.inf]


def test_trap_retry_after_never_moves_a_deadline_earlier(clock: Clock) -> None:
    """Whatever comes after a long wait, short waits, late failures and operators' holds: it stands, until a reset."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    late = [breaker.acquire() for _ in range(3)]
    with pytest.raises(HintedError):
        breaker.call(raising(HintedError(1000.0)))

    late[0].settle("failure", retry_after=1.0)
    late[1].settle("throttled")
    late[2].settle("success")
    breaker.hold(5.0)
    assert refused(breaker).retry_after == 1000.0
    breaker.reset()

    assert breaker.retry_after is None


# Listeners.


@pytest.mark.timeout(20)
def test_trap_listeners_run_outside_the_lock_in_order_and_break_nothing(clock: Clock) -> None:
    """One raises, one waits for a thread that uses the breaker; the third sees every change once and in order."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    told: list[BreakerEvent] = []

    def broken(event: BreakerEvent) -> None:
        raise LookupError

    def patient(event: BreakerEvent) -> None:
        thread = threading.Thread(target=lambda: breaker.state, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    for listener in (broken, patient, told.append):
        breaker.add_listener(listener)
    trip(breaker)
    clock.advance(60.0)
    assert breaker.call(fine) == "fine"

    assert [(event.old, event.new) for event in told if isinstance(event, StateChanged)] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]


# Consecutive counting.


def test_trap_consecutive_counting_misses_what_a_rate_sees(clock: Clock) -> None:
    """Two failures, one success, over and over: no five in a row, but two thirds of all."""
    streak = CircuitBreaker(5, clock=clock)
    rate = CircuitBreaker(5, clock=clock, failure_rate=0.5, minimum_calls=20)

    for breaker in (streak, rate):
        for number in range(20):
            breaker.acquire().settle("success" if number % 3 == 0 else "failure")

    assert (streak.state, rate.state) == ("closed", "open")


def test_trap_consecutive_counting_of_few_calls_is_noise_to_a_rate(clock: Clock) -> None:
    """A rate means nothing before ``minimum_calls``."""
    breaker = CircuitBreaker(None, clock=clock, failure_rate=0.5, minimum_calls=20)

    for _ in range(19):
        breaker.acquire().settle("failure")
    assert breaker.state == "closed"
    breaker.acquire().settle("failure")

    assert breaker.is_open()


def test_trap_consecutive_counting_of_one_rows_retries(clock: Clock) -> None:
    """One poisoned row opens nothing, by streak or by rate; different rows do."""
    breaker = CircuitBreaker(5, clock=clock, failure_rate=0.9, minimum_calls=5)

    for _ in range(100):
        breaker.acquire(caller="row-13").settle("failure")
    assert (breaker.state, breaker.failures) == ("closed", 1)
    for row in range(4):
        breaker.acquire(caller=row).settle("failure")

    assert breaker.is_open()


# Open time.


def test_trap_open_time_grows_with_failed_probes_and_shrinks_after_a_stable_time(clock: Clock) -> None:
    """1, 2, 4, 8, 8 s; an outage soon after goes on where it was, one after a stable minute starts over."""
    breaker = CircuitBreaker(1, 8.0, clock=clock, first_recovery_timeout=1.0, stable_time=60.0)

    def outage(failed_probes: int) -> list[float]:
        waits: list[float] = []
        for _ in range(failed_probes + 1):
            with pytest.raises(DownError):
                breaker.call(down)
            waits.append(refused(breaker).retry_after)
            clock.advance(waits[-1])
        breaker.call(fine)
        assert breaker.state == "closed"
        return waits

    assert outage(4) == [1.0, 2.0, 4.0, 8.0, 8.0]
    clock.advance(59.0)
    assert outage(1) == [8.0, 8.0]
    clock.advance(60.0)
    assert outage(1) == [1.0, 2.0]


def test_trap_open_time_of_many_processes_differs(clock: Clock) -> None:
    """Upward jitter: never shorter than asked for, and seldom the same."""
    waits = {opened(clock, jitter=0.5).retry_after for _ in range(50)}

    assert len(waits) > 25
    assert all(60.0 <= wait <= 90.0 for wait in waits if wait is not None)


def test_trap_gc_of_an_abandoned_call_gives_the_probe_back(small_heap: None, clock: Clock) -> None:
    """A coroutine that nobody awaits any more is a cancelled call."""
    breaker = half_opened(clock)

    abandoned = breaker.async_call(asyncio.sleep, 0)
    abandoned.send(None)
    del abandoned
    gc.collect()

    assert (breaker.state, breaker.acquire().is_probe) == ("half_open", True)
