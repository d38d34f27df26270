"""A clock that uses the breaker itself: foreign code that runs under the lock, in the middle of a step.

The same paths as in test_breaker_reentrance.py, each by name and without a tracer, so that coverage sees them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from breaker_clock import Clock
from breaker_provider import fine, half_opened, opened, trip

from llmbatch.breaker import BreakerEvent, BreakerPolicy, CallRefused, CircuitBreaker, CircuitOpenError
from llmbatch.breaker.locked import LockedCircuit


class MeddlingClock(Clock):
    """Does one thing the next time that it is read."""

    then: Callable[[], object] | None = None

    def __call__(self) -> float:
        then, self.then = self.then, None
        if then is not None:
            then()
        return self.now


def test_a_call_within_a_step_of_a_closed_circuit_is_admitted() -> None:
    """It gets a permit of its own, which can be settled later."""
    clock = MeddlingClock()
    breaker = CircuitBreaker(1, slow_call_rate=0.5, clock=clock)
    inner = []
    clock.then = lambda: inner.append(breaker.acquire())

    outer = breaker.acquire()

    assert [permit.is_current for permit in (outer, *inner)] == [True, True]
    inner[0].settle("failure")
    assert breaker.state == "open"
    outer.settle()


def test_a_call_within_a_step_of_an_open_circuit_is_refused() -> None:
    """Nothing may move within another step, so no probe goes, though its time has come."""
    clock = MeddlingClock()
    breaker = half_opened(clock)
    refused = []

    def ask() -> None:
        with pytest.raises(CircuitOpenError) as caught:
            breaker.acquire()
        refused.append(caught.value.retry_after)

    clock.then = ask
    breaker.hold(0.0)

    assert refused == [0.05]
    assert breaker.call(fine) == "fine"


def test_a_step_within_a_step_is_done_after_it() -> None:
    """A hold that comes while another one is noted counts too."""
    clock = MeddlingClock()
    breaker = opened(clock)
    clock.then = lambda: breaker.hold(300.0)

    breaker.hold(200.0)

    assert breaker.retry_after == pytest.approx(300.0)


def test_a_reset_within_an_admission_is_done_after_it() -> None:
    """The permit is then of the past."""
    clock = MeddlingClock()
    breaker = CircuitBreaker(1, slow_call_rate=0.5, clock=clock)
    clock.then = lambda: breaker.force_open("maintenance")

    permit = breaker.acquire()

    assert not permit.is_current
    assert breaker.is_forced
    assert breaker.state == "open"


def test_an_interruption_of_a_deferred_step_gives_the_permit_back() -> None:
    """The call is not made, and its probe slot is free."""
    clock = MeddlingClock()
    breaker = half_opened(clock)
    breaker.add_listener(lambda _: None, calls=True)  # no refusal without the lock, which would read the clock too

    def interrupt() -> None:
        raise KeyboardInterrupt

    def defer_a_step() -> None:
        breaker.hold(0.0)  # reads the clock once more, when it is done
        clock.then = interrupt

    clock.then = defer_a_step
    with pytest.raises(KeyboardInterrupt):
        breaker.acquire()

    probe = breaker.acquire()
    assert probe.is_probe
    # A call that is refused anyway has no permit.
    clock.then = defer_a_step
    with pytest.raises(KeyboardInterrupt):
        breaker.acquire()
    probe.settle()
    assert breaker.state == "closed"


def test_an_interruption_while_a_refusal_is_told_comes_through() -> None:
    """There is no permit to give back."""
    breaker = opened(MeddlingClock())

    def interrupt(event: BreakerEvent) -> None:
        if isinstance(event, CallRefused):
            raise KeyboardInterrupt

    breaker.add_listener(interrupt, calls=True)
    with pytest.raises(KeyboardInterrupt):
        breaker.acquire()
    breaker.reset()

    assert breaker.call(fine) == "fine"


def test_a_step_that_finds_nothing_left_changes_nothing() -> None:
    """A signal handler may have done the deferred steps between the look and the step."""
    clock = MeddlingClock()
    circuit = LockedCircuit(BreakerPolicy(), name="", clock=clock)
    before = circuit.explain()

    circuit._run_step(None, refresh=True)

    assert circuit.explain() == before
    assert circuit.admit().serial == 1


def test_a_refusal_within_a_step_leaves_the_breaker_usable() -> None:
    """Failures, an opening and a probe go on as ever."""
    clock = MeddlingClock()
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    clock.then = lambda: breaker.state
    trip(breaker)
    assert (breaker.state, breaker.is_open()) == ("open", True)
    clock.advance(60.0)

    assert breaker.call(fine) == "fine"
    assert breaker.state == "closed"
