"""The last rows of a route that has answered none: the route may be at fault, the time limit, or what was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from route_states import (
    FAILED,
    GOOD,
    KEY_REFUSED,
    REFUSED,
    THROTTLED,
    TIMEOUT,
    UNREACHABLE,
    Story,
    kinds,
)

from llmbatch.core.calls import Outcome
from llmbatch.route.decisions import CircuitMoved, Decision, GiveUpRoute, RetryAt, StopRun

MAYBE_KEY_REFUSED = replace(KEY_REFUSED, certain=False)


def hold(story: Story, *outcomes: Outcome) -> None:
    """The last rows, from 1 on: each has met its outcome twice, and is held."""
    for row, outcome in enumerate(outcomes, 1):
        for _ in range(2):
            story.call(row, outcome)
        assert story.route.evidence.records[row].held


def tenant_beside(rows: int, outcome: Outcome, *, ever: bool = False) -> Story:
    """A tenant, and so many rows of another one that have met such an outcome since anything has passed."""
    story, other = (Story(ever=ever, is_tenant=True) for _ in range(2))
    other.history = other.route.history = story.history
    for row in range(101, 101 + rows):
        other.call(row, outcome)
    return story


def resent(decisions: list[Decision]) -> list[int]:
    """Rows that go again by their own attempts."""
    return [decision.row for decision in decisions if isinstance(decision, RetryAt)]


# Held rows.


@pytest.mark.parametrize(("before", "opens"), [(UNREACHABLE, True), (FAILED, False)])
def test_last_rows_that_cannot_reach_a_route_which_was_never_reached_open_the_circuit(
    before: Outcome, opens: bool
) -> None:
    """However few: perhaps the server is not up yet. An error of the server's own is an answer."""
    story = Story(ever=False)
    hold(story, before)

    decisions = story.route.judge_alone(story.now, 1)

    assert kinds(decisions) == (["CircuitMoved"] if opens else ["RetryAt"])


def test_last_rows_that_cannot_reach_a_route_whose_smallest_request_was_answered_are_judged_alone() -> None:
    """The server is up."""
    story = Story(ever=False)
    story.call(0, GOOD, "ping")
    hold(story, UNREACHABLE)

    assert resent(story.route.judge_alone(story.now, 1)) == [1]


def slow_tenant(last: Outcome, *, slow: int) -> Story:
    """A tenant with two rows left, beside others: *slow* rows took too long in all, and the smallest request passed.

    It is the last request that passed: rows of other tenants that failed before it are no sign of an outage.
    """
    story = tenant_beside(slow - 2 * (last is TIMEOUT), TIMEOUT)
    story.call(0, GOOD, "ping")
    hold(story, last, last)
    assert len(story.history.slow) == slow
    return story


@pytest.mark.parametrize(
    ("last", "slow", "opens"), [(TIMEOUT, 5, True), (TIMEOUT, 4, False), (FAILED, 5, False), (FAILED, 4, False)]
)
def test_few_last_rows_that_take_too_long_open_the_circuit_where_many_of_all_tenants_did(
    last: Outcome, slow: int, opens: bool
) -> None:
    """As many as the threshold, and none was ever answered: the time limit may be too short for all of them."""
    story = slow_tenant(last, slow=slow)

    decisions = story.route.judge_alone(story.now, 2)

    if opens:
        assert decisions == [CircuitMoved("closed", "open")]
        assert story.route.outage is not None
        assert (story.route.outage.cause, story.route.outage.is_silent) == ("timeouts", True)
    else:
        assert resent(decisions) == [1, 2]
        assert story.route.evidence.few == {1, 2}


@pytest.mark.parametrize(
    ("ever", "reason"), [(True, "the last rows failed"), (False, "took longer than the time limit")]
)
def test_last_rows_that_take_too_long_are_told_so_where_none_was_ever_answered(ever: bool, reason: str) -> None:
    """Else the limit was long enough before."""
    story = Story(ever=ever, failure_threshold=2)
    story.call(0, GOOD, "ping")
    hold(story, TIMEOUT, TIMEOUT)

    assert story.route.judge_alone(story.now, 2) == [CircuitMoved("closed", "open")]

    assert reason in story.route.reason


@pytest.mark.parametrize("outcome", [REFUSED, MAYBE_KEY_REFUSED])
def test_last_rows_that_are_all_refused_stop_where_many_of_all_tenants_fail_and_none_was_answered(
    outcome: Outcome,
) -> None:
    """With the words that the first of them met."""
    story = tenant_beside(4, FAILED)
    hold(story, replace(outcome, message="first"), replace(outcome, message="second"))

    moved, stop = story.route.judge_alone(story.now, 2)

    assert moved == CircuitMoved("closed", "open")
    assert isinstance(stop, GiveUpRoute | StopRun)
    assert "m refused the first rows: first" in (stop.message if isinstance(stop, GiveUpRoute) else stop.reason)
    assert story.route.outage is not None
    assert (story.route.outage.cause, story.route.outage.since) == ("stop", story.now)


@pytest.mark.parametrize(
    ("ever", "outcomes"), [(True, (REFUSED, REFUSED)), (False, (REFUSED, FAILED)), (False, (FAILED, FAILED))]
)
def test_last_rows_beside_many_that_fail_open_the_circuit_where_refusals_do_not_explain_it(
    ever: bool, outcomes: tuple[Outcome, ...]
) -> None:
    """Something was answered before, or some rows met something else: it may be an outage."""
    story = tenant_beside(4, FAILED, ever=ever)
    hold(story, *outcomes)

    assert story.route.judge_alone(story.now, 2) == [CircuitMoved("closed", "open")]

    assert story.route.dead is None


# Rows that are throttled alone.


def test_a_row_that_is_throttled_alone_is_not_judged_where_none_was_ever_answered() -> None:
    """The limit may allow nothing at all."""
    story = Story(ever=False)
    story.call(1, THROTTLED)
    story.wait(180.0)

    assert story.route.judge_throttled(story.now, 1) == []


# Parked rows.


@pytest.mark.parametrize(("rows", "given_up"), [(5, True), (4, False)])
def test_parked_rows_that_all_take_too_long_blame_the_time_limit(rows: int, given_up: bool) -> None:
    """Of a tenant that was never answered: as many as the threshold. Fewer are judged by their own attempts."""
    story = Story(is_tenant=True)
    story.open(TIMEOUT)
    for row in range(rows + 1, 7):
        story.route.forget(row)
    story.wait(200.0)

    decisions = story.route.judge_parked(story.now, [(row, TIMEOUT) for row in range(1, rows + 1)])

    if given_up:
        assert kinds(decisions) == ["GiveUpRoute"]
    else:
        assert resent(decisions) == list(range(1, rows + 1))


def test_parked_rows_of_which_some_met_something_else_do_not_blame_the_time_limit() -> None:
    story = Story(is_tenant=True)
    story.open(TIMEOUT)
    story.wait(200.0)

    decisions = story.route.judge_parked(story.now, [(7, FAILED)])

    assert resent(decisions) == [1, 2, 3, 4, 5, 7]
