"""Answers that come in parts: what ``progress`` does to leases, to the stall rule and to the slow-call rule."""

from __future__ import annotations

import asyncio

import pytest
from breaker_circuits import circuit, enter, fail, probe
from breaker_clock import Clock
from breaker_provider import DownError, RefusedError, half_opened

from llmbatch.breaker import CallEnded, CircuitBreaker
from llmbatch.breaker.core import Circuit, SettleVerdict


@pytest.fixture
def clock() -> Clock:
    return Clock()


# The circuit.


def half_open(**options: object) -> Circuit:
    """Half-open at 160 s, and no probe yet."""
    subject = circuit(**options)
    fail(subject, 100.0, 2)
    assert subject.state(160.0) == "half_open"
    return subject


def test_each_part_renews_the_lease_of_a_probe() -> None:
    """By its whole length, from the time of the part on."""
    subject = half_open(probe_lease=10.0)
    streaming = enter(subject, 160.0)

    for now in (169.0, 178.0, 187.0):
        subject.progress(streaming, 9.0, now)
        assert subject.acquire(now + 9.9) is None
        assert subject.lease_until == now + 10.0
    assert subject.acquire(197.0) is not None
    subject.progress(streaming, 11.0, 198.0)

    assert not subject.is_current(streaming)


def test_a_renewed_lease_is_as_long_as_the_one_that_was_given() -> None:
    """A probe that replaced a hung one has twice the time for each part; a lease of its own stays."""
    subject = half_open(probe_lease=10.0)
    enter(subject, 160.0)
    second = enter(subject, 170.0)
    subject.progress(second, 5.0, 175.0)
    assert subject.lease_until == 195.0

    other = half_open(probe_lease=10.0)
    own = other.acquire(160.0, lease=3.0)
    assert own is not None
    other.progress(own, 2.0, 162.0)

    assert other.lease_until == 165.0


def test_a_part_of_a_replaced_probe_takes_no_slot() -> None:
    """Its slot is another's, whose lease stays as it was."""
    subject = half_open(probe_lease=10.0)
    replaced = enter(subject, 160.0)
    enter(subject, 170.0)
    until = subject.lease_until

    subject.progress(replaced, 11.0, 171.0)

    assert (subject.lease_until, subject.probing) == (until, True)
    assert not subject.is_current(replaced)


def test_the_first_part_is_an_answer_for_the_stall_rule() -> None:
    """The call is no longer overdue, and the others are given another timeout."""
    subject = circuit(stall_timeout=30.0, stall_calls=2)
    streaming, _, _ = (enter(subject, 0.0) for _ in range(3))

    subject.progress(streaming, 20.0, 20.0)

    assert subject.acquire(50.0) is not None
    assert subject.acquire(50.001) is None
    assert subject.reason == "2 calls have been unanswered for 30 s"


def test_a_call_with_a_part_is_not_unanswered() -> None:
    """It does not count among the overdue ones, however long it lasts."""
    subject = circuit(stall_timeout=30.0, stall_calls=2)
    streaming, _ = (enter(subject, 0.0) for _ in range(2))

    subject.progress(streaming, 1.0, 1.0)

    assert subject.acquire(1000.0) is not None
    assert subject.is_closed


def test_later_parts_are_no_answers_for_other_calls() -> None:
    """A stream that goes on does not show that new calls are answered."""
    subject = circuit(stall_timeout=30.0, stall_calls=2)
    streaming, _, _ = (enter(subject, 0.0) for _ in range(3))
    subject.progress(streaming, 1.0, 1.0)

    for now in range(2, 32):
        subject.progress(streaming, 1.0, float(now))

    assert subject.acquire(31.001) is None


@pytest.mark.parametrize("how", ["spent", "stale"])
def test_a_part_has_no_effect_on_a_circuit_that_has_gone_on(how: str) -> None:
    """After the end of the call, and in another state of the circuit."""
    subject = circuit(stall_timeout=30.0, stall_calls=1)
    late = enter(subject, 0.0)
    if how == "spent":
        subject.settle(late, "failure", 1.0)
    else:
        subject.close(1.0)
    enter(subject, 2.0)

    subject.progress(late, 20.0, 20.0)

    assert subject.acquire(32.001) is None


def slow_circuit(**options: object) -> Circuit:
    """Opens when half of two calls are slow: over 10 s."""
    return circuit(
        **{"slow_call_rate": 0.5, "slow_call_duration": 10.0, "rate_window": 2, "minimum_calls": 2} | options
    )


@pytest.mark.parametrize("verdict", ["success", "failure"])
def test_the_longest_wait_says_whether_a_stream_is_slow(verdict: SettleVerdict) -> None:
    """Not its duration: the first part after 0.3 s, then one each second for 90 s."""
    subject = slow_circuit(failure_threshold=None)
    for _ in range(4):
        streaming = enter(subject, 0.0)
        subject.progress(streaming, 0.3, 0.3)
        for second in range(90):
            subject.progress(streaming, 1.0, second + 1.3)
        subject.settle(streaming, verdict, 90.3)

    assert subject.is_closed


@pytest.mark.parametrize("waits", [(10.5, 0.1), (0.1, 10.5), (0.1, 10.5, 0.1)])
def test_a_long_wait_for_any_part_makes_a_stream_slow(waits: tuple[float, ...]) -> None:
    """For the first as for a later one."""
    subject = slow_circuit()
    for _ in range(2):
        streaming = enter(subject, 0.0)
        for wait in waits:
            subject.progress(streaming, wait, 1.0)
        subject.settle(streaming, "success", 1.0)

    assert subject.reason == "2 of the last 2 calls took over 10 s"


def test_a_call_without_parts_is_slow_by_its_duration() -> None:
    """As before."""
    subject = slow_circuit()
    for _ in range(2):
        subject.settle(enter(subject, 0.0), "success", 10.1)

    assert not subject.is_closed


@pytest.mark.parametrize(("wait", "state"), [(1.0, "closed"), (10.1, "open")])
def test_a_streaming_probe_is_slow_by_its_longest_wait(wait: float, state: str) -> None:
    """A stream of 90 s with quick parts closes the circuit; one with a long gap opens it again."""
    subject = slow_circuit(probe_lease=100.0)
    fail(subject, 100.0, 2)
    streaming = enter(subject, 160.0)
    subject.progress(streaming, wait, 170.0)

    subject.settle(streaming, "success", 250.0)

    assert subject.state(250.0) == state


def test_a_probe_without_parts_is_slow_by_its_duration() -> None:
    """As before."""
    subject = slow_circuit(probe_lease=100.0)
    fail(subject, 100.0, 2)
    probe(subject, 160.0, "neutral")
    late = enter(subject, 160.0)

    subject.settle(late, "success", 170.1)

    assert subject.state(170.1) == "open"


# The permit.


def test_a_permit_times_its_parts_by_itself(clock: Clock) -> None:
    """From the admission to the first, then from one to the next; a wait that is passed replaces that."""
    breaker = CircuitBreaker(slow_call_rate=0.1, slow_call_duration=10.0, minimum_calls=1, clock=clock)
    permit = breaker.acquire()
    assert not permit.has_progressed
    for _ in range(9):
        clock.advance(9.9)
        permit.progress()
    permit.end()
    assert (permit.has_progressed, permit.is_settled, str(breaker.state)) == (True, True, "closed")
    permit = breaker.acquire()
    clock.advance(99.0)
    permit.progress(0.5)
    permit.end()
    assert str(breaker.state) == "closed"
    permit = breaker.acquire()
    permit.progress()
    clock.advance(10.1)
    permit.progress()

    permit.end()

    assert breaker.state == "open"


def test_the_last_wait_counts_until_the_end(clock: Clock) -> None:
    """A stream that hangs before its end is slow."""
    breaker = CircuitBreaker(slow_call_rate=1.0, slow_call_duration=10.0, minimum_calls=1, clock=clock)
    permit = breaker.acquire()
    permit.progress(0.1)

    permit.end(waited=10.1)

    assert breaker.state == "open"


def test_a_part_keeps_the_slot_of_a_probe(clock: Clock) -> None:
    """Through the lock, as the breaker does it."""
    breaker = half_opened(clock, probe_lease=10.0)
    permit = breaker.acquire()

    for _ in range(20):
        clock.advance(9.0)
        permit.progress()
    assert permit.is_current
    permit.end()

    assert breaker.state == "closed"


def test_an_end_or_a_leave_counts_once(clock: Clock) -> None:
    """Whatever is said after the first word has no effect; only ``settle`` and ``release`` insist on being first."""
    breaker = CircuitBreaker(5, clock=clock)
    ended: list[object] = []
    breaker.add_listener(lambda event: ended.append(getattr(event, "verdict", None)), calls=True)

    for first in ("end", "leave", "settle", "release"):
        permit = breaker.acquire()
        permit.progress()
        getattr(permit, first)()
        permit.progress()
        permit.end()
        permit.end(DownError())
        permit.end(judgement="failure")
        permit.leave()
        permit.leave(RefusedError())
        with pytest.raises(RuntimeError, match="settled or released before"):
            permit.settle()

    assert ended == ["success", "success", "success", None]
    assert breaker.failures == 0


def test_an_end_is_classified_as_by_the_breaker(clock: Clock) -> None:
    """Or as is said; a word that is no verdict settles nothing."""
    breaker = CircuitBreaker(5, clock=clock, count_error=DownError)

    breaker.acquire().end(DownError())
    assert breaker.failures == 1
    breaker.acquire().end(RefusedError())
    assert breaker.failures == 1
    breaker.acquire().end(RefusedError(), judgement="failure")
    assert breaker.failures == 2
    assert breaker.explain().last_failures[-1].error == "RefusedError"
    permit = breaker.acquire()
    with pytest.raises(ValueError, match="verdict is 'bad'"):
        permit.end(judgement="bad")  # type: ignore[arg-type]
    assert not permit.is_settled
    permit.end()

    assert breaker.failures == 0


@pytest.mark.parametrize("interruption", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("how", ["block", "end", "leave"])
def test_an_interruption_after_a_part_is_a_success_and_before_says_nothing(
    clock: Clock, interruption: type[BaseException], how: str
) -> None:
    """The provider has answered; the caller needed no more."""

    def interrupt(breaker: CircuitBreaker, *, parts: int) -> None:
        permit = breaker.acquire()
        for _ in range(parts):
            permit.progress()
        if how == "block":
            with pytest.raises(interruption), permit:
                raise interruption
        else:
            getattr(permit, how)(interruption())

    breaker = half_opened(clock)
    interrupt(breaker, parts=0)
    assert str(breaker.state) == "half_open"
    interrupt(breaker, parts=1)

    assert breaker.state == "closed"


def test_leaving_with_an_exception_of_ones_own_says_nothing(clock: Clock) -> None:
    """Whether a part came or not."""
    breaker = half_opened(clock)

    for parts in (0, 1):
        permit = breaker.acquire()
        for _ in range(parts):
            permit.progress()
        permit.leave(RefusedError())

    assert breaker.state == "half_open"
    assert breaker.acquire().is_probe


def test_a_judge_that_raises_at_the_end_gives_the_permit_back(clock: Clock) -> None:
    """Its exception goes to the caller."""

    def judge(error: Exception) -> bool:
        raise KeyError("the judge's")

    breaker = CircuitBreaker(1, clock=clock, count_error=judge)
    permit = breaker.acquire()

    with pytest.raises(KeyError):
        permit.end(DownError())

    assert (permit.is_settled, breaker.failures) == (True, 0)


def test_the_seconds_of_a_call_event_are_its_duration(clock: Clock) -> None:
    """From the admission to the end, also of a stream."""
    breaker = CircuitBreaker(clock=clock)
    seconds: list[float] = []
    breaker.add_listener(
        lambda event: seconds.extend([event.seconds] if isinstance(event, CallEnded) else []), calls=True
    )
    permit = breaker.acquire()
    clock.advance(90.0)
    permit.progress(0.3)
    permit.end()

    assert seconds == [90.0]
    assert permit.clock() == clock.now
