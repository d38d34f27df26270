"""Which of the waits that answers name are the route's, and what throttled calls leave behind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from route_states import FAILED, GOOD, OVERLOADED, THROTTLED, Story, bound_to_two, kinds, waiting

from llmbatch.core.calls import CIRCUIT_OPEN, Outcome
from llmbatch.route.calls import CallKind
from llmbatch.route.decisions import HoldForEvidence, PauseRoute, RetryAt

NO_CAPACITY = replace(THROTTLED, lacks_capacity=True)
WITHHELD = replace(THROTTLED, code=CIRCUIT_OPEN, status=None)


# Throttled calls.


def test_a_throttled_row_whose_successor_has_passed_goes_again_alone() -> None:
    """It is no check: the row is not lost, and the limit stays."""
    story = Story()
    large, later = story.send(1), story.send(2)
    story.come(later, GOOD)

    assert story.come(large, waiting(THROTTLED, 8.0)) == [RetryAt(1, story.now + 8.0, "http_429")]
    assert story.route.limit.value == 10


def test_a_throttled_check_pauses_the_route_while_rows_are_in_flight() -> None:
    """It is too small to be too large."""
    story = Story()
    story.send(1)

    assert story.call(0, waiting(THROTTLED, 8.0), "ping") == [PauseRoute(8.0, "http_429")]
    assert story.route.limit.value == 9


def test_one_new_row_in_flight_is_enough_to_wait_for() -> None:
    """It was sent before the refused one: the next one that takes its slot will tell."""
    story = Story(can_check=True)
    story.send(1)

    assert story.call(2, waiting(THROTTLED, 8.0)) == [HoldForEvidence(2)]
    assert story.route.takes_calls(story.now)


def test_a_check_that_is_throttled_pauses_for_what_two_calls_named() -> None:
    """A row sent before all of them may still pass: the longest wait was named by one call."""
    story = Story()
    story.send(1)
    story.call(2, waiting(THROTTLED, 40.0))

    assert story.call(0, waiting(THROTTLED, 20.0), "ping") == [PauseRoute(20.0, "http_429")]


def test_a_wait_that_a_call_in_flight_may_disprove_does_not_count() -> None:
    """A row that has failed before is in flight: it was sent after the call that named the long wait."""
    story = Story()
    story.call(9, FAILED)
    story.call(100, GOOD)
    early = story.send(1)
    story.send(9)
    assert kinds(story.come(early, waiting(THROTTLED, 40.0))) == ["RetryAt"]

    assert PauseRoute(8.0, "http_429") in story.call(2, waiting(THROTTLED, 8.0))


@pytest.mark.parametrize(("named", "is_named"), [(4.9, False), (5.0, True), (8.0, True)])
def test_a_wait_is_named_if_it_is_as_long_as_the_least(named: float, is_named: bool) -> None:
    story = Story()

    pause = story.call(1, replace(waiting(THROTTLED, named), min_backoff=5.0))[0]

    assert pause == PauseRoute(max(named, 5.0), "http_429", is_named=is_named)


@pytest.mark.parametrize(
    ("outcome", "kind", "counted"),
    [
        (THROTTLED, "row", 2),
        (WITHHELD, "row", 0),
        (THROTTLED, "ping", 0),
    ],
)
def test_attempts_of_a_row_that_were_throttled_are_remembered_until_it_passes(
    outcome: Outcome, kind: CallKind, counted: int
) -> None:
    """They were excused, and yet count among what rows meet that are only ever throttled."""
    story = Story()
    for _ in range(2):
        story.call(1 if kind == "row" else 0, outcome, kind)
        story.wait(100.0)

    story.call(1, GOOD)

    assert story.route.evidence.rate.since(0, (), with_excused=True).failed == counted


@pytest.mark.parametrize(("outcome", "counted"), [(THROTTLED, 2), (WITHHELD, 0)])
def test_checks_that_were_throttled_are_remembered_until_one_passes(outcome: Outcome, counted: int) -> None:
    story = Story(can_check=True)
    for _ in range(2):
        story.call(0, outcome, "ping")
        story.wait(100.0)

    story.call(0, GOOD, "ping")

    assert story.route.evidence.rate.since(0, (), with_excused=True).failed == counted


def test_a_throttled_probe_is_no_attempt_of_its_row() -> None:
    """Nor is one that a circuit inside a function held back."""
    story = Story()
    story.open()
    for outcome in (THROTTLED, WITHHELD):
        story.probe(100, outcome)
    story.probe(101, GOOD)

    story.call(100, GOOD)

    assert story.route.evidence.rate.since(0, (), with_excused=True).failed == 0


# What the route takes at once.


@pytest.mark.parametrize(("outcome", "kind"), [(THROTTLED, "ping"), (WITHHELD, "row")])
def test_only_a_provider_s_refusal_of_a_row_is_explained_by_what_the_route_takes_at_once(
    outcome: Outcome, kind: CallKind
) -> None:
    """A check, or what a circuit inside a function held back, is judged as where no bound is known."""
    story = bound_to_two()
    for row in (10, 11):
        story.send(row)

    decisions = story.call(12 if kind == "row" else 0, waiting(outcome, 8.0), kind)

    bound = bound_to_two()
    for row in (10, 11):
        bound.send(row)
    assert bound.call(12, waiting(THROTTLED, 8.0)) == [RetryAt(12, bound.now + 8.0, "http_429")]
    assert not bound.route.throttle.since
    if kind == "ping":
        assert decisions == [PauseRoute(8.0, "http_429")]
    else:
        assert story.route.throttle.since == story.now


def test_a_late_refusal_is_not_explained_by_what_the_route_takes_at_once() -> None:
    """The circuit has opened meanwhile."""
    story = bound_to_two()
    late = [story.send(row) for row in (10, 11, 12)]
    story.open()

    story.come(late[2], THROTTLED)

    assert story.route.throttle.since == story.now


def test_two_refusals_beyond_the_bound_that_name_no_time_pause_nothing() -> None:
    """``Retry-After: 0`` twice; what the third row met at first is not excused."""
    story = bound_to_two()
    beside = [story.send(row) for row in (10, 11, 12, 13)]

    for call in beside[2:]:
        assert story.come(call, waiting(THROTTLED, 0.0)) == [RetryAt(call.row, story.now, "http_429")]

    assert list(story.route.evidence.records) == [3]


def test_waits_that_refusals_beyond_the_bound_name_count_against_no_row() -> None:
    """The route is paused for what two of three named: the row sent first may still pass."""
    story = bound_to_two()
    beside = [story.send(row) for row in (10, 11, 12, 13, 14)]
    story.come(beside[2], waiting(THROTTLED, 8.0))

    assert story.come(beside[4], waiting(THROTTLED, 20.0)) == [
        PauseRoute(8.0, "http_429"),
        RetryAt(14, story.now + 20.0, "http_429"),
    ]
    assert story.route.evidence.records == {}


# No capacity.


def test_a_tier_that_lacks_capacity_for_too_long_is_given_up() -> None:
    """Since the first row that met it, though that alone did not pause the route."""
    story = Story(max_throttled=100.0)
    first = story.send(1)
    story.send(2)
    story.come(first, NO_CAPACITY)
    assert story.route.throttle.since == story.now
    story.wait(60.0)

    story.call(0, waiting(NO_CAPACITY, 40.0), "ping")

    assert story.route.throttle.given_up


def test_many_answers_of_before_do_not_hide_that_a_tier_lacks_capacity() -> None:
    """Of the calls sent since the last good answer, all are refused."""
    story = Story()
    for row in range(100, 400):
        story.call(row, GOOD)
    calls = [story.send(row) for row in range(1, 6)]

    assert ["PauseRoute", "RetryAt"] in [kinds(story.come(call, NO_CAPACITY)) for call in calls[:4]]


def test_a_check_that_meets_no_capacity_pauses_for_what_two_calls_named() -> None:
    """A row is in flight that may disprove what one call alone named."""
    story = Story()
    check = story.send(0, "ping")
    story.send(2)
    late, last = story.send(3), story.send(4)
    story.come(late, waiting(NO_CAPACITY, 40.0))
    story.come(last, FAILED)

    assert story.come(check, waiting(NO_CAPACITY, 20.0)) == [PauseRoute(20.0, "http_429")]


def test_a_row_that_was_refused_for_capacity_is_spread_by_its_number_and_its_call() -> None:
    """Rows that were refused together do not come again together."""
    story = Story()
    purposes: list[str] = []
    story.route._chance = lambda purpose: purposes.append(purpose) or 0.5  # type: ignore[func-returns-value]
    calls = [story.send(row) for row in (1, 2, 3)]
    for call in calls[:2]:
        story.come(call, NO_CAPACITY)

    assert purposes == ["capacity:1:1", "capacity:2:2"]


def test_a_row_that_a_circuit_inside_a_function_held_back_goes_at_once_where_it_names_no_time() -> None:
    story = Story()
    first = story.send(1)
    story.send(2)

    assert story.come(first, WITHHELD) == [RetryAt(1, story.now, CIRCUIT_OPEN)]


# Waits that failures name.


def test_two_failures_that_name_a_wait_pause_nothing_where_chance_explains_them() -> None:
    """Two of twenty calls."""
    story = Story()
    calls = [story.send(row) for row in range(1, 21)]

    for call in calls[:2]:
        assert story.come(call, waiting(FAILED, 40.0)) == [RetryAt(call.row, story.now + 40.0, "http_500")]

    assert story.route.takes_calls(story.now)


def test_a_late_failure_holds_the_circuit_as_long_as_it_named() -> None:
    """It was sent before the circuit opened; no probe goes before that wait is over."""
    story = Story()
    late = story.send(50)
    story.open()

    story.come(late, waiting(FAILED, 300.0))

    assert story.route.circuit.until == story.now + 300.0


def test_a_wait_of_before_does_not_hold_an_opening() -> None:
    """A later call has passed since."""
    story = Story()
    story.call(50, waiting(FAILED, 300.0))
    story.call(51, GOOD)
    story.open()

    assert story.route.circuit.until == story.now + 1.0


def test_an_opening_lasts_as_long_as_one_of_its_rows_was_asked_to_wait() -> None:
    """Nothing in flight could disprove it."""
    story = Story()
    story.call(1, waiting(FAILED, 300.0))
    story.open()

    assert story.route.circuit.until == story.now + 300.0


def test_a_failed_check_that_names_a_wait_pauses_the_route() -> None:
    """No later call could disprove it."""
    assert Story().call(0, waiting(FAILED, 8.0), "ping") == [PauseRoute(8.0, "")]


@pytest.mark.parametrize(("others", "paused"), [((), None), ((40.0,), 30.0), ((20.0,), 20.0)])
def test_a_wait_that_a_failed_check_named_needs_another_while_a_later_call_is_in_flight(
    others: tuple[float, ...], paused: float | None
) -> None:
    """The shorter of both then."""
    story = Story()
    calls = [story.send(row) for row in range(1, 1 + len(others))]
    check = story.send(0, "ping")
    story.send(50)
    for call, wait in zip(calls, others, strict=True):
        story.come(call, waiting(FAILED, wait))

    decisions = story.come(check, waiting(FAILED, 30.0))

    assert decisions == ([] if paused is None else [PauseRoute(paused, "")])


def test_a_failed_check_that_names_no_wait_pauses_nothing() -> None:
    """Whatever a row before it was asked to wait."""
    story = Story()
    story.call(1, waiting(FAILED, 40.0))

    assert story.call(0, FAILED, "ping") == []


def test_a_backoff_by_chance_may_be_shorter_than_a_second() -> None:
    """Where no wait was named; a failed probe's too, where that is shorter by choice."""
    story = Story(chance=0.0, recovery_timeout=0.2)

    assert story.call(1, FAILED) == [RetryAt(1, story.now + 0.75, "http_500")]
    story.open()
    story.probe(100, FAILED)
    assert story.route.next_change(story.now) == pytest.approx(story.now + 0.2)


def test_an_overloaded_row_waits_the_least_time() -> None:
    story = Story(chance=0.0)

    assert story.call(1, OVERLOADED) == [RetryAt(1, story.now + 5.0, "http_503")]
    assert story.route.throttle.not_before < math.inf
