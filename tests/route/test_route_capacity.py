"""Refusals that say nothing about their row: a tier without capacity, a circuit inside a function, a bound of load."""

from __future__ import annotations

from dataclasses import replace

from route_states import FAILED, GOOD, THROTTLED, Story, kinds, waiting

from llmbatch.core.calls import CIRCUIT_OPEN
from llmbatch.route.decisions import ParkUntil, PauseRoute, RetryAt

NO_CAPACITY = replace(THROTTLED, lacks_capacity=True, min_backoff=2.0)
WITHHELD = replace(THROTTLED, code=CIRCUIT_OPEN, status=None, min_backoff=3.0)


def test_a_tier_without_capacity_blames_no_row() -> None:
    """It goes again by itself, while another call may pass; the limit gives way at once."""
    story = Story()
    first, later = story.send(1), story.send(2)

    assert story.come(first, NO_CAPACITY) == [RetryAt(1, story.now + 2.0, "http_429")]

    assert story.route.limit.value == 9
    story.come(later, GOOD)
    assert not story.route.evidence.records


def test_a_row_waits_as_long_as_a_tier_without_capacity_named() -> None:
    """But no shorter than the least."""
    story = Story()
    first, second = story.send(1), story.send(2)
    story.send(3)

    assert story.come(first, waiting(NO_CAPACITY, 9.0)) == [RetryAt(1, story.now + 9.0, "http_429")]
    assert story.come(second, waiting(NO_CAPACITY, 1.0))[-1] == RetryAt(2, story.now + 2.0, "http_429")


def test_a_row_that_is_refused_for_capacity_waits_by_chance() -> None:
    """A second or so: half of two."""
    story = Story()
    first = story.send(1)
    story.send(2)

    assert story.come(first, replace(NO_CAPACITY, min_backoff=0.0)) == [RetryAt(1, story.now + 1.0, "http_429")]


def test_a_tier_without_capacity_pauses_the_route_where_nothing_may_pass() -> None:
    story = Story()

    assert story.call(1, waiting(NO_CAPACITY, 8.0)) == [
        PauseRoute(8.0, "http_429"),
        RetryAt(1, story.now + 8.0, "http_429"),
    ]
    assert not story.route.evidence.records


def test_a_tier_without_capacity_pauses_the_route_once_so_many_met_it() -> None:
    """Chance hardly explains it, though others are in flight."""
    story = Story()
    calls = [story.send(row) for row in range(1, 6)]

    decided = [kinds(story.come(call, NO_CAPACITY)) for call in calls[:4]]

    assert ["PauseRoute", "RetryAt"] in decided
    assert decided[0] == ["RetryAt"]


def test_a_check_that_meets_no_capacity_pauses_the_route() -> None:
    story = Story(can_check=True)
    check = story.send(0, "ping")
    story.send(1)

    assert story.come(check, waiting(NO_CAPACITY, 8.0)) == [PauseRoute(8.0, "http_429")]


def test_a_call_of_before_an_opening_that_meets_no_capacity_is_parked() -> None:
    story = Story()
    late = story.send(50)
    story.send(51)
    story.open()

    assert story.come(late, NO_CAPACITY)[-1] == ParkUntil(50)


def test_a_circuit_inside_a_function_counts_against_nobody() -> None:
    """Nothing was sent: the row goes again, when that circuit says."""
    story = Story()
    first, second = story.send(1), story.send(2)
    story.send(3)

    assert story.come(first, WITHHELD) == [RetryAt(1, story.now + 3.0, CIRCUIT_OPEN)]
    assert story.come(second, waiting(WITHHELD, 20.0)) == [RetryAt(2, story.now + 20.0, CIRCUIT_OPEN)]

    assert not story.route.evidence.records
    assert story.route.limit.value == 10


def test_a_circuit_inside_a_function_pauses_the_route_where_nothing_may_pass() -> None:
    """And still counts against nobody."""
    story = Story()

    assert kinds(story.call(1, WITHHELD)) == ["PauseRoute", "RetryAt"]
    assert not story.route.evidence.records


def test_a_row_that_a_circuit_inside_a_function_refused_is_parked_in_an_open_circuit() -> None:
    story = Story()
    late = story.send(50)
    story.send(51)
    story.open()

    assert story.come(late, WITHHELD) == [ParkUntil(50)]


def test_a_large_row_is_not_blamed_for_a_circuit_inside_a_function() -> None:
    """Though it was throttled while others passed."""
    story = Story()
    large, later = story.send(1), story.send(100)
    story.come(large, THROTTLED)
    story.come(later, GOOD)
    before = story.route.evidence.records[1].failures

    again = story.send(1)
    story.send(2)
    story.come(again, WITHHELD)

    assert story.route.evidence.records[1].failures == before


def test_an_overloaded_row_that_failed_is_not_too_large() -> None:
    """Only throttling beside good answers is."""
    story = Story()
    failed, later = story.send(1), story.send(100)
    story.come(failed, FAILED)
    story.come(later, GOOD)

    assert not story.route.evidence.records[1].throttled
