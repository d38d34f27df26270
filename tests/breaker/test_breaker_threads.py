"""One breaker between threads and event loops."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from breaker_clock import Clock
from breaker_threads import PATIENCE, frequent_switches, run_threads, switches_inside

from llmbatch.breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError, core


@pytest.fixture(name="frequent_switches")
def _frequent_switches() -> Iterator[None]:
    with frequent_switches():
        yield


@pytest.fixture(name="switches_inside_the_circuit")
def _switches_inside_the_circuit() -> Iterator[None]:
    with switches_inside(core.__file__):
        yield


def half_opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    clock.advance(60.0)
    return breaker


def test_calls_of_two_threads_overlap() -> None:
    """The provider call runs outside the lock: both are inside at once, and a third thread may ask for the state."""
    breaker = CircuitBreaker()
    inside = threading.Barrier(3, timeout=PATIENCE)

    def look() -> None:
        inside.wait()
        assert (breaker.state, breaker.failures, breaker.is_open()) == ("closed", 0, False)
        inside.wait()

    def call() -> None:
        breaker.call(lambda: (inside.wait(), inside.wait()))

    run_threads(call, call, look)

    assert not inside.broken


def test_fifty_threads_half_open_send_one_probe() -> None:
    """One call is made; the others are refused while it runs."""
    breaker = half_opened(Clock())
    together = threading.Barrier(50, timeout=PATIENCE)
    everyone_refused = threading.Event()
    outcomes: list[str] = []
    waits: set[float] = set()

    def ask() -> str:
        assert everyone_refused.wait(PATIENCE)
        return "probe"

    def caller() -> None:
        together.wait()
        try:
            outcomes.append(breaker.call(ask))
        except CircuitOpenError as error:
            waits.add(error.retry_after)
            outcomes.append("refused")
            if len(outcomes) == 49:
                everyone_refused.set()

    run_threads(*[caller] * 50)

    assert Counter(outcomes) == {"probe": 1, "refused": 49}
    assert waits == {60.0}
    assert breaker.state == "closed"


def test_threads_hammering_one_breaker_keep_it_whole(frequent_switches: None) -> None:
    """Opening, probing and closing all the time, by streak and by rate: every call is accounted for."""
    clock = Clock()
    policy = BreakerPolicy(
        failure_threshold=3, recovery_timeout=0.5, failure_rate=0.9, minimum_calls=5, rate_window=20, neutral_probes=1
    )
    breaker = CircuitBreaker(policy=policy, clock=clock, count_error=lambda error: isinstance(error, OSError))
    tallies: list[Counter[str]] = []
    waits: list[float] = []

    def work(seed: int) -> None:
        draw = random.Random(seed).random
        tally: Counter[str] = Counter()
        tallies.append(tally)

        def provider() -> None:
            outcome = draw()
            tally["called"] += 1
            if outcome < 0.5:
                raise OSError
            if outcome < 0.6:
                raise ValueError
            if outcome < 0.65:
                raise KeyboardInterrupt

        for _ in range(1500):
            try:
                breaker.call(provider)
                tally["success"] += 1
            except CircuitOpenError as error:
                waits.append(error.retry_after)
                tally["refused"] += 1
                clock.advance(0.01)
            except (OSError, ValueError, KeyboardInterrupt) as error:
                tally[type(error).__name__] += 1

    run_threads(*[lambda seed=seed: work(seed) for seed in range(6)])

    total = sum(tallies, Counter())
    assert 0.05 <= min(waits) <= max(waits) <= 60.0
    assert total["called"] + total["refused"] == 6 * 1500
    assert total.total() - total["called"] == 6 * 1500
    assert all(total[kind] for kind in ("success", "refused", "OSError", "ValueError", "KeyboardInterrupt"))
    clock.advance(100.0)
    breaker.call(lambda: None)
    assert (breaker.state, breaker.failures) == ("closed", 0)


@pytest.mark.slow
def test_threads_hammering_a_half_open_breaker_never_overlap(switches_inside_the_circuit: None) -> None:
    """As long as it is not closed, at most one call is inside. Slow, for it switches threads at any line."""
    clock = Clock()
    policy = BreakerPolicy(failure_threshold=1, success_threshold=10**9, neutral_probes=10**9, probe_lease=1e6)
    breaker = CircuitBreaker(policy=policy, clock=clock, count_error=lambda error: isinstance(error, OSError))
    with pytest.raises(OSError, match="down"):
        breaker.call(lambda: (_ for _ in ()).throw(OSError("down")))
    inside: list[int] = []
    crowds: list[int] = []

    def work(seed: int) -> None:
        draw = random.Random(seed).random

        def provider() -> None:
            inside.append(seed)
            try:
                crowds.append(len(inside))
                outcome = draw()
                if outcome < 0.2:
                    raise OSError
                if outcome < 0.4:
                    raise ValueError
                if outcome < 0.6:
                    raise KeyboardInterrupt
                crowds.append(len(inside))
            finally:
                inside.remove(seed)

        for _ in range(150):
            try:
                breaker.call(provider)
            except CircuitOpenError as error:
                clock.advance(min(error.retry_after, 60.0) / 10)
            except (OSError, ValueError, KeyboardInterrupt):
                pass

    run_threads(*[lambda seed=seed: work(seed) for seed in range(6)])

    assert len(crowds) > 20
    assert set(crowds) == {1}


@pytest.mark.slow
def test_no_failure_is_lost_between_threads(switches_inside_the_circuit: None) -> None:
    """Eight threads with 50 failures each are 400 in a row. Slow, for it switches threads at any line."""
    breaker = CircuitBreaker(401)

    def work() -> None:
        for _ in range(50):
            with pytest.raises(ZeroDivisionError):
                breaker.call(lambda: 1 / 0)

    run_threads(*[work] * 8)

    assert (breaker.failures, breaker.state) == (400, "closed")


def test_no_good_call_is_lost_from_the_window_between_threads(frequent_switches: None) -> None:
    """Good calls are counted without the lock: four threads with 500 each are all there when one call fails."""
    breaker = CircuitBreaker(None, failure_rate=0.0001, rate_window=10_000, minimum_calls=2001)

    def work() -> None:
        for _ in range(500):
            breaker.call(int)

    run_threads(*[work] * 4)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)

    assert breaker.explain().reason == "1 of the last 2001 calls failed"


def test_two_event_loops_in_two_threads_share_one_breaker() -> None:
    """A probe on one loop refuses callers on the other, and its success lets them through."""
    breaker = half_opened(Clock())
    out, refused = threading.Event(), threading.Event()
    closed = threading.Event()

    async def first() -> None:
        async def ask() -> str:
            out.set()
            assert await asyncio.to_thread(refused.wait, PATIENCE)
            return "probe"

        assert await breaker.async_call(ask) == "probe"
        closed.set()

    async def second() -> None:
        async def ask() -> str:
            await asyncio.sleep(0)
            return "after"

        assert await asyncio.to_thread(out.wait, PATIENCE)
        with pytest.raises(CircuitOpenError):
            await breaker.async_call(ask)
        refused.set()
        assert await asyncio.to_thread(closed.wait, PATIENCE)
        assert await breaker.async_call(ask) == "after"

    run_threads(lambda: asyncio.run(first()), lambda: asyncio.run(second()))

    assert breaker.state == "closed"


def test_busy_event_loops_and_threads_share_one_breaker(frequent_switches: None) -> None:
    """Two loops with many tasks each, and two threads: nothing binds the breaker to one of them."""
    breaker = CircuitBreaker(failure_threshold=10_000)
    done: list[str] = []

    async def ask(number: int) -> None:
        await asyncio.sleep(0)
        if number % 2:
            raise OSError

    async def loop() -> None:
        results = await asyncio.gather(
            *(breaker.async_call(ask, number) for number in range(400)), return_exceptions=True
        )
        done.extend("failed" if isinstance(result, OSError) else "good" for result in results)

    def thread() -> None:
        for _ in range(400):
            breaker.call(done.append, "good")

    run_threads(lambda: asyncio.run(loop()), lambda: asyncio.run(loop()), thread, thread)

    assert Counter(done) == {"good": 1200, "failed": 400}
    assert breaker.state == "closed"
