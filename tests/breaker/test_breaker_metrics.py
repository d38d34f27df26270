"""Numbers of circuits, against a count by hand."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, fine, fine_later, raising, refused, trip
from breaker_threads import frequent_switches, run_threads

from llmbatch.breaker import BreakerMetrics, CircuitBreaker, CircuitNumbers


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> BreakerMetrics:
    return BreakerMetrics()


def test_nothing_is_counted_before_anything_happens(clock: Clock, metrics: BreakerMetrics) -> None:
    """Zeros for a breaker that has done nothing, and for one that nobody knows."""
    CircuitBreaker(name="o", clock=clock).add_listener(metrics, calls=True)

    assert metrics.numbers("o") == metrics.numbers("unknown") == metrics.numbers() == CircuitNumbers()
    assert metrics.names() == []


async def test_a_story_is_counted_as_by_hand(clock: Clock, metrics: BreakerMetrics) -> None:
    """Two outages, with every verdict, probes, a stale answer, a cancellation and refusals."""
    breaker = CircuitBreaker(2, 60.0, name="o", clock=clock, count_error=DownError)
    breaker.add_listener(metrics, calls=True)

    def taking(seconds: float) -> None:
        clock.advance(seconds)

    early = breaker.acquire()
    breaker.call(taking, 5.0)
    await breaker.async_call(fine_later)
    with pytest.raises(LookupError):
        breaker.call(raising(LookupError()))
    breaker.acquire().settle("throttled")
    breaker.acquire().release()
    trip(breaker)
    early.settle()
    for _ in range(3):
        refused(breaker)
    clock.advance(60.0)
    task = asyncio.create_task(breaker.async_call(asyncio.Event().wait))
    await asyncio.sleep(0)
    refused(breaker)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(DownError):
        breaker.call(down)
    clock.advance(70.0)
    breaker.call(taking, 2.0)
    clock.advance(100.0)
    breaker.acquire().settle("exhausted")
    clock.advance(10.0)

    assert metrics.numbers("o") == CircuitNumbers(
        state="open",
        ended=Counter(success=4, neutral=1, throttled=1, ignored=2, failure=3, exhausted=1),
        probes=3,
        stale=1,
        refused=4,
        openings=2,
        call_seconds=5.0 + 5.0 + 2.0,
        outage_seconds=60.0 + 70.0 + 2.0,
    )
    breaker.reset()
    assert (metrics.numbers("o").state, metrics.numbers("o").outage_seconds) == ("closed", 142.0)


def test_the_state_is_the_one_last_told(clock: Clock, metrics: BreakerMetrics) -> None:
    """Half-open from the first probe on."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    breaker.add_listener(metrics)
    states = [metrics.numbers().state]

    trip(breaker)
    states.append(metrics.numbers().state)
    clock.advance(60.0)
    states.append(metrics.numbers().state)
    probe = breaker.acquire()
    states.append(metrics.numbers().state)
    probe.settle()
    states.append(metrics.numbers().state)

    assert states == ["closed", "open", "open", "half_open", "closed"]


def test_an_outage_is_one_opening_however_many_probes_fail(clock: Clock, metrics: BreakerMetrics) -> None:
    """And its time is counted whole when it is over."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    breaker.add_listener(metrics)
    trip(breaker)

    for _ in range(5):
        clock.advance(60.0)
        with pytest.raises(DownError):
            breaker.call(down)
    assert (metrics.numbers().openings, metrics.numbers().outage_seconds) == (1, 0.0)
    clock.advance(60.0)
    breaker.call(fine)

    assert (metrics.numbers().openings, metrics.numbers().outage_seconds) == (1, 360.0)


def test_an_operators_outage_is_counted_too(clock: Clock, metrics: BreakerMetrics) -> None:
    """Forced twice is one opening; a reset and a disabling of a closed circuit are none."""
    breaker = CircuitBreaker(1, clock=clock)
    breaker.add_listener(metrics)

    breaker.reset()
    breaker.force_open("a")
    clock.advance(5.0)
    breaker.force_open("b")
    clock.advance(5.0)
    breaker.disable()
    breaker.reset()

    assert (metrics.numbers().openings, metrics.numbers().outage_seconds) == (1, 10.0)


def test_many_circuits_are_counted_by_name(clock: Clock, metrics: BreakerMetrics) -> None:
    """In the order in which something first happened to them."""
    for name in ("b", "a", "quiet"):
        breaker = CircuitBreaker(1, name=name, clock=clock)
        breaker.add_listener(metrics, calls=True)
        if name != "quiet":
            breaker.call(fine)
        if name == "a":
            trip(breaker)

    assert metrics.names() == ["b", "a"]
    assert metrics.numbers("b").ended == {"success": 1}
    assert metrics.numbers("a").ended == {"success": 1, "failure": 1}
    assert (metrics.numbers("a").openings, metrics.numbers("b").openings) == (1, 0)


def test_the_numbers_are_a_copy(clock: Clock, metrics: BreakerMetrics) -> None:
    """They neither change by themselves nor change what is counted."""
    breaker = CircuitBreaker(1, clock=clock)
    breaker.add_listener(metrics, calls=True)
    breaker.call(fine)
    numbers = metrics.numbers()

    breaker.call(fine)
    assert numbers.ended == {"success": 1}
    numbers.ended["success"] += 100
    numbers.refused = 7

    assert (metrics.numbers().ended, metrics.numbers().refused) == ({"success": 2}, 0)


def test_without_calls_only_changes_are_counted(clock: Clock, metrics: BreakerMetrics) -> None:
    """As the docstring says."""
    breaker = CircuitBreaker(1, clock=clock)
    breaker.add_listener(metrics)

    breaker.call(fine)
    trip(breaker)
    refused(breaker)

    assert metrics.numbers() == CircuitNumbers(state="open", openings=1)


def test_no_call_is_lost_between_threads(metrics: BreakerMetrics) -> None:
    """Four threads on two breakers of one name: every call is counted once, while others read."""
    breakers = [CircuitBreaker(10**6, name="o") for _ in range(2)]
    for breaker in breakers:
        breaker.add_listener(metrics, calls=True)

    def work(breaker: CircuitBreaker) -> None:
        for number in range(500):
            if number % 5:
                breaker.call(fine)
            else:
                with pytest.raises(DownError):
                    breaker.call(down)

    def read() -> None:
        for _ in range(200):
            assert metrics.numbers("o").ended.total() <= 2000

    with frequent_switches():
        run_threads(*[lambda breaker=breaker: work(breaker) for breaker in breakers * 2], read)

    assert metrics.numbers("o").ended == {"success": 1600, "failure": 400}
