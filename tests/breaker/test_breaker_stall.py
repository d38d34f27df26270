"""Calls that have not come back: a provider that hangs answers nobody, so that nothing fails that could be counted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Hashable

import pytest
from breaker_circuits import circuit, enter, fail, probe

from llmbatch.breaker.core import Circuit, SettleVerdict


def watched(**options: object) -> Circuit:
    """Opens when calls of three callers are out for over 30 s, and nobody had an answer meanwhile."""
    return circuit(**{"failure_threshold": None, "stall_timeout": 30.0, "stall_calls": 3} | options)


def send(subject: Circuit, now: float, *keys: Hashable) -> None:
    """Calls that do not come back."""
    for key in keys:
        enter(subject, now, key)


def test_calls_that_do_not_come_back_open_it() -> None:
    """Whoever asks next is refused; the reason tells how many calls, and how long."""
    subject = watched()
    send(subject, 0.0, None, None, None)

    assert subject.acquire(30.5) is None

    assert subject.state(30.5) == "open"
    assert subject.until == 90.5
    assert subject.reason == "3 calls have been unanswered for 30 s"


def test_a_stall_is_seen_on_a_clock_below_zero() -> None:
    """Nobody had an answer at zero, which lies ahead."""
    subject = watched()
    send(subject, -1000.0, None, None, None)

    assert subject.acquire(-969.5) is None

    assert subject.until == -909.5


def test_a_call_that_is_just_due_is_not_overdue() -> None:
    """Also behind one that is."""
    subject = watched(stall_calls=2)
    send(subject, 0.0, None)
    send(subject, 1.0, None)

    assert subject.acquire(31.0) is not None
    assert subject.acquire(31.5) is None


def test_one_overdue_call_may_be_enough() -> None:
    """It is told as one."""
    subject = watched(stall_calls=1, stall_timeout=2.5)
    send(subject, 0.0, None)

    assert subject.acquire(3.0) is None

    assert subject.reason == "a call has been unanswered for 2.5 s"


def test_many_overdue_calls_may_be_asked_for() -> None:
    """One less than a thousand is no stall."""
    subject = watched(stall_calls=1000)
    send(subject, 0.0, *range(999))
    assert subject.acquire(31.0, "asks") is not None

    send(subject, 31.0, "last")

    assert subject.acquire(61.5) is None
    assert subject.reason == "1000 calls have been unanswered for 30 s"


def test_more_overdue_calls_than_asked_for_open_it_too() -> None:
    """The first who looks finds ten."""
    subject = watched()
    send(subject, 0.0, *range(10))

    assert subject.acquire(31.0) is None

    assert subject.state(31.0) == "open"


def test_fewer_overdue_calls_open_nothing() -> None:
    """Two of the three that are asked for, however long."""
    subject = watched()
    send(subject, 0.0, None, None)

    assert subject.acquire(1e6) is not None

    assert subject.is_closed


def test_a_call_is_overdue_that_is_out_for_longer_than_the_timeout() -> None:
    """Exactly as long is not overdue."""
    subject = watched(stall_calls=1)
    send(subject, 0.0, None)

    assert subject.acquire(30.0) is not None
    assert subject.acquire(30.001) is None

    assert subject.state(30.001) == "open"


def test_only_overdue_calls_are_counted() -> None:
    """Younger ones are not, however many."""
    subject = watched()
    send(subject, 0.0, None, None)
    send(subject, 10.0, *range(100))

    assert subject.acquire(31.0) is not None
    assert subject.acquire(40.5) is None

    assert subject.state(40.5) == "open"


def test_overdue_calls_of_one_caller_count_once() -> None:
    """A caller who hangs again and again is its own problem."""
    subject = watched()
    send(subject, 0.0, *["poison"] * 50, "another")
    assert subject.acquire(31.0, "asks") is not None

    send(subject, 31.0, "third")

    assert subject.is_closed
    assert subject.acquire(62.0) is None


def test_an_unnamed_overdue_call_is_nobody_elses() -> None:
    """Each is a caller of its own, beside named ones."""
    subject = watched()
    send(subject, 0.0, None, 1, 2)

    assert subject.acquire(31.0) is None


@pytest.mark.parametrize("verdict", ["success", "neutral", "throttled"])
def test_an_answer_within_the_timeout_speaks_against_a_stall(verdict: SettleVerdict) -> None:
    """Others are slow, but the provider answers; after another timeout without an answer it is a stall."""
    subject = watched()
    send(subject, 0.0, None, None, None)
    subject.settle(enter(subject, 0.0), verdict, 10.0)

    assert subject.acquire(40.0) is not None
    assert subject.acquire(40.001) is None

    assert subject.state(40.001) == "open"


def test_an_answer_that_comes_first_lets_the_one_who_brings_it_open_nothing() -> None:
    """The call that comes back late is an answer too."""
    subject = watched()
    late = enter(subject, 0.0)
    send(subject, 0.0, None, None, None)

    subject.settle(late, "success", 100.0)

    assert subject.is_closed
    assert subject.acquire(130.0) is not None


def test_a_failure_is_no_answer() -> None:
    """While others hang it says nothing for the provider, and whoever reports it finds the stall."""
    subject = watched()
    late = enter(subject, 0.0)
    send(subject, 0.0, None, None, None)

    subject.settle(late, "failure", 31.0)

    assert subject.state(31.0) == "open"
    assert subject.reason == "3 calls have been unanswered for 30 s"


def test_a_failure_that_opens_by_another_rule_looks_for_no_stall() -> None:
    """The first rule that holds gives the reason, and the circuit opens once."""
    subject = watched(failure_threshold=1)
    late = enter(subject, 0.0)
    send(subject, 0.0, None, None, None)
    generation = subject.generation

    subject.settle(late, "failure", 31.0)

    assert subject.reason == "a call failed"
    assert subject.generation == generation + 1


@pytest.mark.parametrize("how", ["settle", "release"])
def test_a_call_that_came_back_is_not_overdue(how: str) -> None:
    """Neither one that failed nor one that was cancelled."""
    subject = watched()
    permits = [enter(subject, 0.0) for _ in range(3)]
    for permit in permits[1:]:
        if how == "settle":
            subject.settle(permit, "failure", 1.0)
        else:
            subject.release(permit)

    assert subject.acquire(31.0) is not None

    assert subject.is_closed


def test_nobody_looks_for_a_stall_at_a_release() -> None:
    """A cancellation changes nothing; the next one who asks is refused."""
    subject = watched()
    cancelled = enter(subject, 0.0)
    send(subject, 0.0, None, None, None)

    subject.release(cancelled)

    assert subject.state(1000.0) == "closed"
    assert subject.acquire(1000.0) is None


def test_calls_from_before_the_circuit_closed_stall_nothing() -> None:
    """They hang since the outage that is over."""
    subject = watched()
    send(subject, 0.0, None, None, None)
    subject.trip(1.0, "told so")
    probe(subject, 61.0, "success")

    assert subject.acquire(1000.0) is not None

    assert subject.is_closed


def test_calls_that_hang_after_it_closed_open_it_again() -> None:
    """They are watched from when they were let in."""
    subject = watched()
    subject.trip(0.0, "told so")
    probe(subject, 60.0, "success")
    send(subject, 60.0, None, None, None)

    assert subject.acquire(90.0) is not None
    assert subject.acquire(90.5) is None

    assert subject.state(90.5) == "open"


def test_a_probe_that_hangs_is_no_stall() -> None:
    """It has its lease, and closing forgets it."""
    subject = watched(stall_calls=1, probes=2)
    subject.trip(0.0, "told so")
    enter(subject, 60.0)
    probe(subject, 60.0, "success")

    assert subject.acquire(1000.0) is not None

    assert subject.is_closed


def test_a_disabled_circuit_looks_for_no_stall() -> None:
    """Everything passes, and what passed then is not counted later."""
    subject = watched(stall_calls=1)
    subject.disable(0.0)
    send(subject, 0.0, None, None, None)
    assert subject.acquire(1000.0) is not None

    subject.reset(1000.0)

    assert subject.acquire(2000.0) is not None
    assert subject.is_closed


def test_without_a_stall_timeout_calls_may_stay_out() -> None:
    """For ever, any number of them."""
    subject = circuit(stall_calls=1)
    send(subject, 0.0, *[None] * 100)

    assert subject.acquire(1e9) is not None

    assert subject.is_closed


def test_without_a_stall_timeout_nobody_remembers_who_is_out() -> None:
    """Five thousand calls that are never heard of again leave less than a byte each."""
    subject = circuit()
    subject.acquire(0.0)

    tracemalloc.start()
    try:
        send(subject, 0.0, *[None] * 5_000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert subject.serial == 5_001
    assert held < 5_000


def test_a_stall_opens_beside_a_streak() -> None:
    """The rules do not hide each other: calls that fail and calls that hang."""
    subject = watched(failure_threshold=5)
    send(subject, 0.0, None, None, None)
    fail(subject, 1.0, 4)

    assert subject.acquire(31.0) is None

    assert subject.failures == 4
    assert subject.reason == "3 calls have been unanswered for 30 s"


def test_a_stall_opens_for_as_long_as_any_other_trouble() -> None:
    """The first open time first; a neutral probe may close it, for no refusal opened it."""
    subject = watched(first_recovery_timeout=2.0, neutral_probes=1)
    send(subject, 0.0, None, None, None)

    assert subject.acquire(31.0) is None
    assert subject.until == 33.0
    probe(subject, 33.0, "neutral")

    assert subject.is_closed


def test_calls_that_are_given_up_leave_no_more_than_a_stall_needs() -> None:
    """Any number of them, while others are answered just before: nobody keeps more than three callers."""
    subject = watched()
    permits = [enter(subject, 0.0, key) for key in range(1000)]
    subject.settle(enter(subject, 0.0), "success", 31.0)

    for permit in permits:
        subject.release(permit, 32.0)

    assert subject.is_closed
    assert subject._stall is not None
    assert len(subject._stall._given_up) == 3
    assert subject.acquire(61.5) is None


def test_an_answer_clears_what_was_given_up() -> None:
    """Two before it and two after it are no three."""
    subject = watched()
    permits = [enter(subject, at) for at in (0.0, 0.0, 20.0, 20.0)]
    for permit in permits[:2]:
        subject.release(permit, 31.0)
    subject.settle(enter(subject, 31.0), "neutral", 32.0)

    for permit in permits[2:]:
        subject.release(permit, 63.0)

    assert subject.is_closed
    assert subject.acquire(64.0) is not None


def test_a_call_that_is_given_up_in_time_is_nothing() -> None:
    """After exactly the timeout it is not overdue, and whoever gives it up does not look for a stall either."""
    subject = watched(stall_calls=1)
    early, other = enter(subject, 0.0), enter(subject, 1.0)

    subject.release(early, 30.0)
    assert subject.is_closed
    late = enter(subject, 31.0)
    subject.release(late, 32.0)

    assert subject.is_closed
    subject.release(other, 32.0)
    assert subject.reason == "a call has been unanswered for 30 s"
