"""Rows that nothing can bring evidence for any more: judged by their own attempts, or deferred."""

from __future__ import annotations

import pytest
from route_states import FAILED, GOOD, KEY_REFUSED, NO_NETWORK, REFUSED, TIMEOUT, Story, kinds, waiting

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.route.decisions import (
    CircuitMoved,
    Decision,
    Fail,
    GiveUpRoute,
    OutageOver,
    ParkUntil,
    Requeue,
    RetryAt,
    StopRun,
)
from llmbatch.route.history import RouteHistory


def held(story: Story, rows: int) -> None:
    """Rows that failed twice, and are held."""
    for row in range(1, rows + 1):
        story.call(row, FAILED)
        assert kinds(story.call(row, FAILED)) == ["HoldForEvidence"]


def failed_before(story: Story, rows: int) -> None:
    """Rows that each failed while another succeeded."""
    for row in range(1, rows + 1):
        story.call(row, FAILED)
        story.call(100 + row, GOOD)


def test_few_held_rows_are_judged_by_their_own_attempts() -> None:
    """They go again after growing waits, and every failure counts from then on."""
    story = Story(failure_threshold=5)
    story.quiet()
    held(story, 2)

    decisions = story.route.judge_alone(story.now, 2)

    assert decisions == [RetryAt(1, story.now + 2.0, "http_500"), RetryAt(2, story.now + 2.0, "http_500")]
    assert not story.route.evidence.unproven
    assert story.call(1, TIMEOUT) == [Fail(1, TIMEOUT, is_alone=True)]


def test_a_held_row_whose_own_attempts_are_enough_ends() -> None:
    """Its failures with nothing between count each."""
    story = Story()
    story.quiet()
    story.call(1, FAILED)
    story.call(100, GOOD)
    held(story, 1)

    assert story.route.judge_alone(story.now, 1) == [Fail(1, FAILED, is_alone=True)]
    assert not story.route.evidence.records


def test_rows_that_are_not_held_are_not_judged() -> None:
    """They go again by themselves."""
    story = Story()
    held(story, 1)
    story.call(9, FAILED)

    assert [decision.row for decision in story.route.judge_alone(story.now, 1) if isinstance(decision, RetryAt)] == [1]


def test_a_row_in_flight_is_not_judged_alone() -> None:
    """Its answer tells."""
    story = Story()
    story.call(1, FAILED)
    story.send(1)

    assert story.route.judge_alone(story.now, 1) == []


def test_few_last_rows_are_no_longer_judged_alone_where_other_tenants_fail_too() -> None:
    """Also one that failed before while another succeeded: together they are as many as the threshold."""
    story = Story(max_attempts=5, failure_threshold=3)
    story.quiet()
    failed_before(story, 1)
    held(story, 1)
    assert kinds(story.route.judge_alone(story.now, 1)) == ["RetryAt"]
    story.history.failing.update({50: FAILED, 51: FAILED})  # of another tenant

    decisions = []
    for _ in range(5):
        if story.route.is_closed:
            decisions = story.call(1, FAILED)

    assert kinds(decisions) == ["CircuitMoved", "ParkUntil"]


@pytest.mark.parametrize(("first", "stops"), [(REFUSED, True), (FAILED, True), (TIMEOUT, False)])
def test_last_rows_of_tenants_stop_the_run_only_where_none_took_too_long(first: Outcome, stops: bool) -> None:
    """One that took too long says nothing of the account."""
    story, other = (Story(ever=False, is_tenant=True, failure_threshold=2) for _ in range(2))
    other.route.history = story.route.history
    story.route.checks.available = True
    other.call(1, first)
    assert kinds(story.call(2, REFUSED)) == ["HoldForEvidence"]

    decisions = story.route.judge_alone(story.now, 1)

    assert any(isinstance(decision, GiveUpRoute | StopRun) for decision in decisions) is stops


def test_many_last_rows_that_failed_may_be_the_beginning_of_an_outage() -> None:
    """As many as the threshold: the circuit opens."""
    story = Story(failure_threshold=4, concurrency=100)
    calls = [story.send(row) for row in range(1, 5)]
    story.quiet()
    for call in calls:
        story.route.evidence.failed(call.row, call.serial, FAILED).held = True
        story.route.cancelled(call)

    assert story.route.judge_alone(story.now, 4) == [CircuitMoved("closed", "open")]
    assert story.route.reason == "the last rows failed"
    assert not any(record.held for record in story.route.evidence.records.values())


def test_many_last_rows_that_failed_while_others_passed_are_judged_alone() -> None:
    """They are bad, or unlucky."""
    story = Story(failure_threshold=3)
    story.quiet()
    failed_before(story, 4)
    held(story, 4)

    decisions = story.route.judge_alone(story.now, 4)

    assert kinds(decisions) == ["Fail"] * 4
    assert story.route.is_closed


def test_one_row_that_failed_for_the_first_time_does_not_hold_up_many_that_failed_before() -> None:
    """They would wait for three minutes, and be probed one by one. As many as the threshold would be an outage."""
    story = Story(failure_threshold=3)
    story.quiet()
    failed_before(story, 18)
    held(story, 20)

    decisions = story.route.judge_alone(story.now, 20)

    assert sorted(decision.row for decision in decisions if isinstance(decision, RetryAt | Fail)) == list(range(1, 21))
    assert story.route.evidence.few == {19, 20}


def test_more_than_one_in_ten_that_failed_for_the_first_time_open_the_circuit() -> None:
    """Where calls fail at random, some of the last rows have failed before an outage that all of them meet now."""
    story = Story(failure_threshold=3)
    story.quiet()
    failed_before(story, 17)
    held(story, 19)

    assert story.route.judge_alone(story.now, 19) == [CircuitMoved("closed", "open")]


def test_as_many_rows_as_the_threshold_that_failed_for_the_first_time_open_the_circuit() -> None:
    """Whatever the others met before."""
    story = Story(failure_threshold=3)
    story.quiet()
    failed_before(story, 30)
    held(story, 33)

    assert story.route.judge_alone(story.now, 33) == [CircuitMoved("closed", "open")]


def test_the_wait_of_a_row_alone_grows_with_its_failures() -> None:
    """And the last answer's own wait is kept."""
    story = Story(max_attempts=6)
    held(story, 1)
    story.quiet(1000)
    story.route.judge_alone(story.now, 1)

    waits = []
    for _ in range(3):
        (retry,) = story.call(1, FAILED)
        assert isinstance(retry, RetryAt)
        waits.append(retry.at - story.now)
        story.wait(waits[-1])

    assert waits == [4.0, 8.0, 16.0]


def test_parked_rows_are_judged_alone_after_three_quarters_of_a_minute() -> None:
    """The circuit closes, and traffic starts with two calls in flight."""
    story = Story()
    story.open()
    story.wait(44.9)
    assert story.route.judge_parked(story.now) == []
    story.wait(0.1)

    decisions = story.route.judge_parked(story.now)

    assert decisions == [
        CircuitMoved("open", "closed"),
        *[RetryAt(row, story.now + 1.0, "http_500") for row in range(1, 6)],
        Requeue(),
    ]
    assert story.route.is_closed
    assert story.route.outage is None
    assert story.route.limit.value == 2
    assert not story.route.window.rows
    assert all(record.sent_alone for record in story.route.evidence.records.values())


def test_a_row_that_failed_before_the_opening_is_judged_alone_with_those_that_opened_it() -> None:
    """It is parked like them, though another call has succeeded since."""
    story = Story()
    story.call(50, FAILED)
    story.call(51, GOOD)
    story.open()
    story.wait(45.0)

    decisions = story.route.judge_parked(story.now)

    assert [decision.row for decision in decisions if isinstance(decision, RetryAt)] == [50, 1, 2, 3, 4, 5, 6]


def test_waits_of_rows_that_are_judged_alone_are_spread_by_their_numbers() -> None:
    """They are sent together, and do not come again together."""
    story = Story()
    held(story, 2)
    purposes: list[str] = []
    story.route._chance = lambda purpose: purposes.append(purpose) or 0.5  # type: ignore[func-returns-value]

    story.route.judge_alone(story.now, 2)

    assert purposes == ["retry:1:2", "retry:2:2"]


def test_a_confirmed_outage_is_told_to_be_over_when_parked_rows_are_judged() -> None:
    """Since it was told to have begun."""
    story = Story()
    story.open()
    began = story.now
    story.confirm()
    story.wait(45.0)

    assert story.route.judge_parked(story.now)[1] == OutageOver(began)


def test_parked_rows_of_a_route_that_has_never_answered_are_not_judged() -> None:
    """Nobody knows that it works at all."""
    story = Story(ever=False)
    story.open()
    story.wait(1000.0)

    assert story.route.judge_parked(story.now) == []
    assert not story.route.is_closed


def test_a_closed_circuit_has_no_parked_rows() -> None:
    """Nothing is judged."""
    assert Story().route.judge_parked(1e9) == []


def test_a_refused_key_is_judged_alone_too() -> None:
    """By evidence, where it worked before."""
    story = Story()
    story.quiet()
    for _ in range(2):
        story.call(1, KEY_REFUSED)
    story.route.judge_alone(story.now, 1)

    assert story.call(1, KEY_REFUSED) == [Fail(1, KEY_REFUSED, is_alone=True)]


def refused_alone(history: RouteHistory, answered: float) -> Story:
    """A tenant with many rows left whose key is refused, sent alone; another tenant was *answered* seconds later."""
    story = Story(failure_threshold=3)
    story.history = story.route.history = history
    history.answered = True
    story.route.is_tenant = True
    story.open(KEY_REFUSED)
    history.good_sent_at = story.now + answered
    for row in range(1, 7):
        story.probe(row, KEY_REFUSED)
    story.wait(200.0)
    story.route.judge_parked(story.now, [(row, KEY_REFUSED) for row in range(1, 7)], many=True)
    for _ in range(9):
        for row in range(1, 7):
            if story.route.is_closed and row in story.route.evidence.records:
                story.call(row, KEY_REFUSED)
    return story


def test_a_key_that_is_refused_to_one_tenant_only_fails_its_rows() -> None:
    """Others were answered after its first refusal: the circuit opened for it again and again."""
    story = refused_alone(RouteHistory("m"), 5.0)

    assert story.route.is_closed
    assert not story.route.evidence.records


def test_a_key_that_nobody_was_answered_with_since_fails_no_row() -> None:
    """It may have been revoked, for all of them."""
    story = refused_alone(RouteHistory("m"), -5.0)

    assert not story.route.is_closed
    assert len(story.route.evidence.records) == 6


def test_many_parked_rows_are_given_three_minutes() -> None:
    """They rather met an outage. Those that failed as probes only have one failure against them."""
    story = Story()
    story.open()
    story.wait(179.0)
    assert story.route.judge_parked(story.now, [(1, TIMEOUT), (7, TIMEOUT)], many=True) == []
    story.wait(1.0)

    story.route.judge_parked(story.now, [(1, TIMEOUT), (7, TIMEOUT)], many=True)

    assert story.route.is_closed
    record = story.route.evidence.records[7]
    assert (record.proven, record.sent_alone, record.last) == (1, True, TIMEOUT)
    assert story.route.evidence.records[1].last is FAILED


def test_a_route_that_answers_the_smallest_request_is_not_given_up_while_its_rows_are_judged() -> None:
    """A file of one row that hangs: nine attempts of two minutes took longer than ten minutes, at each run."""
    story = Story(ever=False, can_check=True)
    for _ in range(9):
        story.call(1, TIMEOUT)
        story.wait(120.0)
        story.call(0, GOOD, "ping")
        assert not story.route.is_lost(story.now + 120.0)


def test_many_rows_of_a_tenant_that_all_time_out_have_not_failed() -> None:
    """Sent alone after an outage, into the next one: none was ever answered, and the time limit is to blame."""
    story = Story(failure_threshold=3)
    story.route.is_tenant = True
    story.open()
    for row in range(1, 7):
        story.probe(row, FAILED)
    story.wait(200.0)
    story.route.judge_parked(story.now, [(row, FAILED) for row in range(1, 7)], many=True)
    assert story.route.is_closed

    decisions: list[Decision] = []
    for _ in range(30):
        for row in range(1, 7):
            if story.route.dead is None:
                decisions += story.call(row, TIMEOUT)

    assert not [decision for decision in decisions if isinstance(decision, Fail)]
    assert kinds(decisions[-2:]) == ["GiveUpRoute", "ParkUntil"]
    assert story.route.dead is not None
    assert "answers take longer than --timeout" in story.route.dead.message


def test_errors_of_the_smallest_request_are_no_answers_once_another_tenant_is_answered() -> None:
    """A tenant's rows were judged in a whole outage at the very moment in which another tenant found its end."""
    story = Story(failure_threshold=3, ever=False)
    story.route.is_tenant = True
    story.open()
    for row in range(1, 7):
        story.probe(row, FAILED)
    story.probe(0, FAILED, "ping")  # nothing was ever answered: perhaps it is always refused
    story.wait(200.0)
    story.history.answered = True
    assert story.history.good is None
    parked = [(row, FAILED) for row in range(1, 7)]
    story.history.good = Request(Route("openai", "m"), "https://example.com", {}, b"{}", "chat", 1)

    assert story.route.judge_parked(story.now, parked, many=True, can_ping=True) == []
    story.probe(0, GOOD, "ping")  # another tenant's request
    assert story.route.judge_parked(story.now, parked, many=True, can_ping=True) == []
    story.wait(180.0)
    assert story.route.judge_parked(story.now, parked, many=True, can_ping=True)


def test_a_wait_that_is_over_is_not_waited_for_again() -> None:
    """Rows told to wait for ten minutes, an hour ago, were sent ten minutes after they were to be judged."""
    story = Story()
    story.open(waiting(FAILED, 600.0))
    story.wait(3600.0)

    decisions = story.route.judge_parked(story.now)

    assert [decision.at - story.now for decision in decisions if isinstance(decision, RetryAt)] == [1.0] * 5


def test_a_held_row_keeps_the_wait_that_it_was_told() -> None:
    """Judged by its own attempts, it is not sent before."""
    story = Story()
    held(story, 1)
    story.route.evidence.records[1].retry_at = story.now + 50.0

    (retry,) = story.route.judge_alone(story.now, 1)

    assert isinstance(retry, RetryAt)
    assert retry.at == story.now + 50.0


def test_parked_rows_are_not_judged_while_one_was_never_sent() -> None:
    """This machine was at fault: it has no network, so the others may not have failed by themselves either."""
    story = Story()
    late = story.send(50)
    story.open()
    assert story.come(late, NO_NETWORK) == [ParkUntil(50)]
    story.wait(600.0)

    assert story.route.judge_parked(story.now, [(50, NO_NETWORK)]) == []

    assert not story.route.is_closed
