"""What the latest answers and health checks of a route told, and its calls in flight, each by itself."""

from __future__ import annotations

import math

import pytest
from route_states import GOOD, Story

from llmbatch.breaker.permit_state import PermitState
from llmbatch.route.account import AccountRefusals
from llmbatch.route.calls import Call, CallKind, CallsInFlight
from llmbatch.route.health import HealthChecks


def call(serial: int, kind: CallKind = "row", *, fresh: bool = False) -> Call:
    return Call(serial, kind, PermitState(serial, 0, serial, 0.0, probe=False), 60.0, 0.0, fresh)


def test_the_slowest_answer_fades() -> None:
    """By half a percent with each faster one; a slower one takes its place."""
    story = Story()
    recent = story.route.recent
    for seconds, slowest in ((10.0, 10.0), (1.0, 9.95), (9.94, 9.94), (20.0, 20.0)):
        call = story.send(1)
        story.now += seconds
        story.route.settle(call, GOOD, story.now)
        assert recent.slowest == pytest.approx(slowest)

    recent.error = "broken"
    assert repr(recent) == "<RecentAnswers slowest 20.0 s, error 'broken'>"


def test_failed_checks_add_up() -> None:
    """As logarithms of chances."""
    checks = HealthChecks()
    assert checks.ended_at == -math.inf
    checks.note_failure(0.1)
    checks.note_failure(0.01)
    assert checks.log_chance == pytest.approx(math.log(1e-3))
    assert repr(checks) == "<HealthChecks none, log chance -6.9>"

    checks.log_chance, checks.available = 0.0, True
    assert repr(checks) == "<HealthChecks available, log chance 0.0>"


def test_calls_in_flight_are_counted_by_kind() -> None:
    """Of fresh rows, health checks, and the rest; the newest is known."""
    calls = CallsInFlight()
    assert not calls
    assert calls.newest == 0
    old, fresh, check = call(1), call(2, fresh=True), call(3, "ping")
    for one in (old, fresh, check):
        calls.add(one)
    assert (len(calls), calls.fresh, calls.checks, calls.newest) == (3, 1, 1, 3)
    assert list(calls) == [1, 2, 3]
    assert repr(calls) == "<CallsInFlight 3, 1 of fresh rows, 1 health checks>"

    calls.remove(check)
    calls.remove(fresh)

    assert (len(calls), calls.fresh, calls.checks, calls.newest) == (1, 0, 0, 1)
    assert 1 in calls
    assert 3 not in calls


def test_refusals_of_the_account_show_their_number() -> None:
    """In a debugger, or a log."""
    refusals = AccountRefusals()
    refusals.add(7, 1, 0.0)
    refusals.add(0, 2, 0.0)

    assert repr(refusals) == "<AccountRefusals 2 requests>"
