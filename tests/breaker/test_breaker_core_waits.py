"""Waits that the server names, and holds: when they count, and what they outlast."""

from __future__ import annotations

import math

import pytest
from breaker_circuits import circuit, enter, fail, probe

from llmbatch.breaker.core import MIN_RETRY_AFTER, SettleVerdict


@pytest.mark.parametrize("verdict", ["success", "failure", "neutral", "throttled"])
def test_a_wait_named_while_closed_makes_a_later_opening_last(verdict: SettleVerdict) -> None:
    """It stops nothing by itself; an opening before it is over lasts at least as long."""
    subject = circuit(failure_threshold=3)

    subject.settle(enter(subject, 0.0), verdict, 0.0, retry_after=500.0)
    assert subject.retry_after(0.0) == MIN_RETRY_AFTER
    fail(subject, 100.0, 3 - subject.failures)

    assert subject.until == 500.0


def test_a_wait_named_while_closed_that_is_over_changes_no_opening() -> None:
    """Nor does one that ends before the opening would."""
    subject = circuit()

    subject.settle(enter(subject, 0.0), "throttled", 0.0, retry_after=120.0)
    fail(subject, 100.0, 2)

    assert subject.until == 160.0


def test_a_wait_is_believed_up_to_the_longest() -> None:
    """A day, unless told; infinity too."""
    default, told = circuit(), circuit(longest_hint=100.0)

    for subject in (default, told):
        subject.settle(enter(subject, 0.0), "exhausted", 0.0, retry_after=1e9)
    assert (default.until, told.until) == (86_400.0, 100.0)
    probe(told, 100.0, "failure", retry_after=math.inf)

    assert told.until == 200.0


def test_a_wait_as_long_as_the_longest_is_kept_to() -> None:
    """The bound itself is believed."""
    subject = circuit(longest_hint=100.0)

    subject.settle(enter(subject, 0.0), "exhausted", 0.0, retry_after=99.5)
    assert subject.until == 99.5
    probe(subject, 99.5, "failure", retry_after=100.0)

    assert subject.until == 199.5


def test_a_stale_answer_may_keep_probes_away() -> None:
    """Half-open: the wait that an old call brings holds for new probes; the one that is out may still close."""
    subject = circuit(success_threshold=1, probes=2)
    old = enter(subject, 0.0)
    fail(subject, 0.0, 2)
    out = enter(subject, 60.0)

    subject.settle(old, "throttled", 61.0, retry_after=30.0)

    assert subject.state(61.0) == "half_open"
    assert subject.acquire(90.9) is None
    assert subject.retry_after(61.0) == 30.0
    subject.settle(out, "success", 62.0)
    assert subject.is_closed


def test_a_hold_while_half_open_keeps_new_probes_away() -> None:
    """Until it is over; the state stays half-open."""
    subject = circuit()
    fail(subject, 0.0, 2)
    subject.release(enter(subject, 60.0))

    subject.hold(100.0)

    assert subject.state(60.0) == "half_open"
    assert subject.acquire(99.9) is None
    assert subject.wait(60.0) == 40.0
    assert enter(subject, 100.0).probe


def test_a_hold_outlasts_a_lease() -> None:
    """Nobody takes over from a hung probe before; ``retry_after`` tells the later of the two."""
    subject = circuit()
    fail(subject, 0.0, 2)
    enter(subject, 60.0)

    subject.hold(100.0)

    assert subject.retry_after(60.0) == 40.0
    assert subject.acquire(99.9) is None
    assert subject.acquire(100.0) is not None


def test_a_lease_outlasts_a_hold() -> None:
    """The other way round."""
    subject = circuit()
    fail(subject, 0.0, 2)
    enter(subject, 60.0)

    subject.hold(65.0)

    assert subject.retry_after(60.0) == 10.0
    assert subject.acquire(69.9) is None


def test_a_hold_while_open_makes_it_last() -> None:
    """A shorter one changes nothing, nor does one without an end."""
    subject = circuit()
    fail(subject, 0.0, 2)

    subject.hold(30.0)
    subject.hold(float("inf"))
    assert subject.until == 60.0
    subject.hold(90.0)

    assert subject.state(89.9) == "open"
    assert subject.state(90.0) == "half_open"


def test_closing_forgets_no_wait() -> None:
    """The server named it: an opening after that is no earlier over."""
    subject = circuit()
    subject.hold(500.0)
    subject.close(1.0)

    fail(subject, 2.0, 2)

    assert subject.until == 500.0
