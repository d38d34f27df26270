"""What operators may force upon a circuit: open, disabled, reset."""

from __future__ import annotations

import math
from typing import get_args

from breaker_circuits import circuit, enter, fail, probe

from llmbatch.breaker.core import SettleVerdict


def test_forced_open_lets_nothing_in() -> None:
    """Whatever the time; ``retry_after`` is infinite, and the reason is the operator's."""
    subject = circuit()

    subject.force_open(0.0, "for repairs")

    for now in (0.0, 1e9):
        assert subject.acquire(now) is None
        assert subject.state(now) == "open"
        assert subject.retry_after(now) == math.inf
        assert subject.wait(now) == math.inf
    assert (subject.forced, subject.reason, subject.is_closed) == ("open", "for repairs", False)


def test_forcing_is_a_change() -> None:
    """``changed_at`` tells when."""
    subject = circuit()
    told = []

    subject.force_open(1.0, "for repairs")
    told.append(subject.changed_at)
    subject.disable(2.0)
    told.append(subject.changed_at)
    subject.reset(3.0)
    told.append(subject.changed_at)

    assert told == [1.0, 2.0, 3.0]
    assert subject.generation == 3


def test_forcing_open_voids_what_is_out() -> None:
    """Calls and probes: nothing they report changes anything."""
    subject = circuit()
    call = enter(subject, 0.0)
    fail(subject, 0.0, 2)
    out = enter(subject, 60.0)

    subject.force_open(61.0, "for repairs")
    assert not subject.probing
    subject.settle(call, "success", 62.0)
    subject.settle(out, "success", 62.0)

    assert subject.state(62.0) == "open"
    assert subject.failures == 2


def test_a_circuit_that_opens_may_be_forced_open_for_longer() -> None:
    """Its own time passes, and it stays open."""
    subject = circuit()
    fail(subject, 0.0, 2)

    subject.force_open(30.0, "for repairs")

    assert subject.state(60.0) == "open"
    assert subject.acquire(60.0) is None


def test_a_reset_lets_everything_in_again() -> None:
    """After it was forced open, or disabled."""
    for force in ("open", "disabled"):
        subject = circuit()
        if force == "open":
            subject.force_open(0.0, "for repairs")
        else:
            subject.disable(0.0)

        subject.reset(1.0)

        assert (subject.forced, subject.reason, subject.is_closed) == ("", "", True)
        assert not enter(subject, 1.0).probe
        fail(subject, 1.0, 2)
        assert subject.state(1.0) == "open"


def test_a_reset_forgets_waits_streaks_and_growth() -> None:
    """The next opening is as the first."""
    subject = circuit(first_recovery_timeout=2.0)
    fail(subject, 0.0, 2)
    probe(subject, 2.0, "failure", retry_after=500.0)

    subject.reset(3.0)
    assert subject.failures == 0
    fail(subject, 3.0)
    assert subject.is_closed
    fail(subject, 3.0)

    assert subject.until == 5.0


def test_a_reset_voids_what_is_out() -> None:
    """Though the circuit was closed before and is closed after."""
    subject = circuit()
    old = enter(subject, 0.0)

    subject.reset(1.0)
    subject.settle(old, "failure", 2.0)

    assert subject.failures == 0


def test_a_disabled_circuit_lets_everything_in_and_only_counts() -> None:
    """Failures, spent accounts: it stays closed, and keeps the first reason for which it would have opened."""
    subject = circuit(failure_threshold=1)
    fail(subject, 0.0)

    subject.disable(1.0)
    assert (subject.forced, subject.failures, subject.reason) == ("disabled", 0, "")
    for verdict in get_args(SettleVerdict) * 10:
        permit = enter(subject, 1.0)
        assert not permit.probe
        subject.settle(permit, verdict, 1.0)

    assert subject.state(1.0) == "closed"
    assert (subject.failures, subject.wait(1.0)) == (1, 0.0)
    assert (subject.would_have_opened, subject.reason) == (True, "a call failed")
    subject.reset(2.0)
    assert (subject.would_have_opened, subject.reason, subject.failures) == (False, "", 0)


def test_a_wait_named_while_disabled_makes_a_later_opening_last() -> None:
    """Not counted is not unheard; ``reset`` forgets it."""
    subject = circuit()
    subject.disable(0.0)

    subject.settle(enter(subject, 0.0), "failure", 0.0, retry_after=500.0)

    assert subject.until == 500.0
    subject.reset(1.0)
    fail(subject, 1.0, 2)
    assert subject.until == 61.0


def test_tripping_a_disabled_circuit_changes_nothing() -> None:
    """Everything is let in until it is reset."""
    subject = circuit()
    subject.disable(0.0)

    subject.trip(1.0, "told so")

    assert subject.acquire(2.0) is not None
    assert subject.changed_at == 0.0


def test_tripping_a_circuit_that_is_forced_open_changes_nothing() -> None:
    """It is open already, for the operator's reason."""
    subject = circuit()
    subject.force_open(0.0, "for repairs")

    subject.trip(1.0, "told so")

    assert (subject.reason, subject.changed_at) == ("for repairs", 0.0)
