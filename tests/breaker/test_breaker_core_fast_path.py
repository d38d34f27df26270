"""Calls that passed a closed circuit without a permit, and are told to it when they ended."""

from __future__ import annotations

import pytest
from breaker_circuits import circuit, fail, feed, last, probe
from breaker_clock import Clock


def test_a_call_without_a_ticket_may_get_one_late() -> None:
    """It takes a number, and counts as any other."""
    subject = circuit()
    generation = subject.generation

    permits = [subject.make_permit(generation, 5.0) for _ in range(2)]
    for permit in permits:
        subject.settle(permit, "failure", 5.0)

    assert [permit.serial for permit in permits] == [1, 2]
    assert (subject.state(5.0), subject.failures) == ("open", 2)


def test_a_late_ticket_of_an_older_generation_is_stale() -> None:
    """The circuit has opened and closed since the call passed."""
    subject = circuit()
    generation = subject.generation
    fail(subject, 0.0, 2)
    probe(subject, 60.0, "success")

    subject.settle(subject.make_permit(generation, 61.0), "exhausted", 61.0)

    assert subject.is_closed


def test_a_late_ticket_shows_when_and_for_whom() -> None:
    """Nobody's name, now, and no probe; it can be settled once."""
    subject = circuit()

    permit = subject.make_permit(subject.generation, 5.0)

    assert (permit.key, permit.at, permit.probe, permit.spent) == (None, 5.0, False, False)
    subject.release(permit)
    assert permit.spent
    with pytest.raises(RuntimeError, match="before"):
        subject.release(permit)


def test_a_success_without_a_ticket_ends_a_streak() -> None:
    """As one with a permit does."""
    subject = circuit()
    fail(subject, 0.0)

    subject.succeed(subject.generation, 0.0)

    assert subject.failures == 0


def test_a_stale_success_without_a_ticket_ends_none() -> None:
    """Neither the streak that opened, nor one that began since."""
    subject = circuit()
    generation = subject.generation
    fail(subject, 0.0, 2)
    subject.succeed(generation, 0.0)
    assert subject.failures == 2
    probe(subject, 60.0, "success")
    fail(subject, 60.0)

    subject.succeed(generation, 61.0)

    assert subject.failures == 1


@pytest.mark.parametrize("seconds", [None, 60.0])
@pytest.mark.parametrize("at_once", [True, False])
def test_successes_without_tickets_stand_in_the_window(seconds: float | None, at_once: bool) -> None:
    """One by one or many at once, in a window of calls or of time."""
    subject = circuit(failure_threshold=None, failure_rate=0.5, rate_seconds=seconds, minimum_calls=4, rate_window=8)

    if at_once:
        subject.succeed(subject.generation, 0.0, 3)
    else:
        for _ in range(3):
            subject.succeed(subject.generation, 0.0)
    feed(subject, "xx")
    assert subject.is_closed
    feed(subject, "x")

    assert subject.reason.startswith("3 of ")
    assert " 6 calls" in subject.reason


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_success_without_a_ticket_is_not_slow(seconds: float | None) -> None:
    """Nobody knows when it began."""
    subject = circuit(slow_call_rate=0.5, slow_call_duration=1.0, rate_seconds=seconds, minimum_calls=4)
    subject.succeed(subject.generation, 0.0, 3)

    last(subject, Clock(0.0), 2.0)

    assert subject.is_closed


def test_a_success_without_a_ticket_counts_while_disabled() -> None:
    """As with one; a reset forgets it."""
    subject = circuit(failure_threshold=None, failure_rate=0.5, minimum_calls=2)
    subject.disable(0.0)
    subject.succeed(subject.generation, 0.0, 10)
    assert (subject.is_quiet, subject.window(0.0)) == (False, (10, 0, 0))

    subject.reset(0.0)
    feed(subject, "xx")

    assert subject.state(0.0) == "open"


def test_a_circuit_is_quiet_while_a_success_would_change_nothing() -> None:
    """No streak to end and no window to stand in."""
    plain, rated = circuit(), circuit(failure_rate=0.5)
    assert (plain.is_quiet, rated.is_quiet) == (True, False)

    fail(plain, 0.0)
    assert not plain.is_quiet
    plain.succeed(plain.generation, 0.0)

    assert (plain.is_quiet, rated.is_quiet) == (True, False)
