"""What may be sent to a route, and when."""

from __future__ import annotations

import math

import pytest
from route_states import BAD_ROW, FAILED, GOOD, NO_MONEY, THROTTLED, Story, waiting

from llmbatch.route.base import RoutePolicy
from llmbatch.route.decisions import HoldForEvidence, RetryAt
from llmbatch.route.history import RouteHistory
from llmbatch.route.route import RouteState


def test_a_new_route_is_closed_and_idle() -> None:
    """Nothing is known of it, and it takes as many calls as the options allow."""
    story = Story()
    route = story.route

    assert route.is_closed
    assert route.is_idle(story.now)
    assert route.in_flight == 0
    assert route.room(story.now) == 10
    assert not route.is_confirmed
    assert not route.is_stopping
    assert route.reason == ""
    assert route.next_change(story.now) is None
    assert route.lost_at == math.inf
    assert repr(route) == "<RouteState m closed, 0 in flight, limit 10>"
    assert route.explain() == "0.0% of attempts of good rows fail"
    assert route.explain(1) == ""


def test_a_history_is_that_of_this_run_and_of_earlier_ones() -> None:
    """Either makes it a route that has answered."""
    assert not RouteHistory().ever
    assert RouteHistory(answered_before=lambda: True).ever

    story = Story(ever=False)
    assert not story.history.ever
    story.call(1, GOOD)
    assert story.history.ever


def test_an_output_that_could_be_read_at_one_time_and_not_at_another_left_a_run_without_a_timer() -> None:
    """Whether an earlier run had answers is asked once: routes were given up and not, by turns."""
    answers = iter([False, True, False])
    history = RouteHistory(answered_before=lambda: next(answers))

    assert [history.ever for _ in range(5)] == [False] * 5


def test_a_route_has_no_tenants_and_no_dice_unless_they_are_given() -> None:
    """The smallest request shows something of all its rows, and a first retry waits for one second."""
    policy = RoutePolicy(
        concurrency=1,
        max_attempts=3,
        failure_threshold=5,
        recovery_timeout=60.0,
        success_threshold=1,
        timeout=60.0,
    )
    route = RouteState("m", policy, history=RouteHistory())
    assert route.may_ping
    call = route.admit(1, 0.0, timeout=60.0)
    assert call is not None

    route.settle(call, FAILED, 0.0)

    assert route.evidence.records[1].retry_at == 1.0


def test_calls_in_flight_take_room() -> None:
    """They are numbered, and come back in any order."""
    story = Story(concurrency=3)
    first, second = story.send(1), story.send(2)

    assert (first.serial, second.serial) == (1, 2)
    assert not first.probe
    assert story.route.room(story.now) == 1
    assert repr(story.route) == "<RouteState m closed, 2 in flight, limit 3>"

    story.send(3)
    assert story.route.room(story.now) == 0
    story.come(second, GOOD)
    assert story.route.room(story.now) == 1


def test_the_slot_of_a_failed_call_is_not_filled_while_chance_hardly_explains_it() -> None:
    """An outage meets no more calls than were in flight; a good answer frees the slots."""
    story = Story()
    calls = [story.send(row) for row in range(1, 11)]
    story.come(calls[0], FAILED)
    assert story.route.room(story.now) == 1

    story.come(calls[1], FAILED)
    story.come(calls[2], FAILED)
    assert story.route.room(story.now) == 0

    story.come(calls[9], GOOD)
    assert story.route.room(story.now) == 4


def test_one_free_slot_stays_free_while_chance_hardly_explains_the_failures() -> None:
    """The slot of the first failure was filled before the second one came."""
    story = Story()
    calls = [story.send(row) for row in range(1, 11)]
    story.come(calls[0], FAILED)
    story.send(11)

    story.come(calls[1], FAILED)
    story.send(12)
    story.come(calls[2], FAILED)

    assert story.route.in_flight == 9
    assert story.route.room(story.now) == 0


def test_one_call_may_always_go_where_none_is_out() -> None:
    """Or nothing would ever tell."""
    story = Story(concurrency=1)
    story.call(1, FAILED)
    story.call(2, FAILED)

    assert story.route.room(story.now) == 1


def test_a_row_that_failed_before_is_not_fresh() -> None:
    """It counts no longer among those that may yet fail by chance."""
    story = Story()
    story.call(1, FAILED)

    assert not story.send(1).fresh
    assert story.send(2).fresh
    assert not story.send(0, "ping").fresh


def test_a_cancelled_call_says_nothing() -> None:
    """Neither for nor against its row, and its slot is free."""
    story = Story()
    story.call(1, FAILED)
    again = story.send(1)
    record = story.route.evidence.records[1]
    assert record.in_flight

    story.route.cancelled(again)
    fresh = story.send(2)
    story.route.cancelled(fresh)

    assert story.route.in_flight == 0
    assert (record.in_flight, record.proven, record.pending) == (0, 0, [1])
    assert list(story.route.evidence.records) == [1]


def test_a_cancelled_check_may_be_sent_again() -> None:
    """It is no longer out."""
    story = Story()
    call = story.send(0, "ping")
    assert story.route.calls.checks

    story.route.cancelled(call)

    assert not story.route.calls.checks


def test_a_cancelled_probe_leaves_its_place() -> None:
    """To the next one, at once."""
    story = Story()
    story.open()
    story.go_to_probe()
    probe = story.send(100)
    assert story.route.admit(101, story.now, timeout=60.0) is None

    story.route.cancelled(probe)

    assert story.send(101).probe


def test_a_row_in_flight_keeps_the_route_from_being_idle() -> None:
    """So do failures, an open circuit, a wait, and an end."""
    story = Story()
    call = story.send(1)
    assert not story.route.is_idle(story.now)
    story.come(call, FAILED)
    assert not story.route.is_idle(story.now)
    story.call(1, BAD_ROW)
    assert story.route.is_idle(story.now)

    story.call(2, waiting(THROTTLED, 5.0))
    story.call(2, GOOD)
    story.wait(4.9)
    assert not story.route.is_idle(story.now)
    story.wait(0.1)
    assert story.route.is_idle(story.now)

    story.call(3, NO_MONEY)
    assert not story.route.is_idle(story.now)


def test_an_open_circuit_takes_no_calls() -> None:
    """Until a probe may go; it says when."""
    story = Story()
    story.open()

    assert not story.route.takes_calls(story.now)
    assert story.route.room(story.now) == 0
    assert story.route.next_change(story.now) == story.now + 1.0
    assert story.route.retry_after(story.now) == 1.0
    assert story.route.admit(100, story.now, timeout=60.0) is None
    assert repr(story.route) == "<RouteState m open, 0 in flight, limit 10>"


def test_a_route_that_takes_calls_may_be_asked_again_at_once() -> None:
    """After 0.05 s, for a caller must not spin."""
    assert Story().route.retry_after(0.0) == 0.05


def test_a_wait_that_was_named_is_the_time_of_the_next_change() -> None:
    """Of a closed circuit, and of an open one whose probe would come sooner."""
    story = Story()
    story.call(1, waiting(THROTTLED, 30.0))

    assert not story.route.takes_calls(story.now)
    assert story.route.next_change(story.now) == story.now + 30.0
    assert story.route.retry_after(story.now) == 30.0

    story.wait(30.0)
    assert story.route.takes_calls(story.now)
    assert story.route.next_change(story.now) is None


def test_traffic_ramps_up_after_a_wait() -> None:
    """From two calls in flight."""
    story = Story()
    story.call(1, waiting(THROTTLED, 30.0))
    story.wait(30.0)
    assert story.route.throttle.ramp_due

    assert story.route.room(story.now) == 2

    assert [story.route.throttle.ramp_due] == [False]
    story.call(1, GOOD)
    assert story.route.room(story.now) == 3


def test_a_probe_is_given_up_sooner_than_a_call_but_not_before_a_slow_answer() -> None:
    """Three times the slowest answer, at least ten seconds, doubling with each probe that hangs."""
    story = Story(timeout=120.0)
    assert story.route.probe_timeout() == 120.0

    call = story.send(1)
    story.wait(2.0)
    story.come(call, GOOD)
    assert story.route.probe_timeout() == 10.0

    call = story.send(2)
    story.wait(8.0)
    story.come(call, GOOD)
    assert story.route.probe_timeout() == 24.0

    story.open()
    assert story.route.outage is not None
    story.route.outage.hung = 1
    assert story.route.probe_timeout() == 48.0
    story.route.outage.hung = 5
    assert story.route.probe_timeout() == 120.0


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0])
def test_a_probe_has_ten_seconds_where_answers_are_quick(seconds: float) -> None:
    """However quick they are."""
    story = Story(timeout=60.0)
    call = story.send(1)
    story.wait(seconds)
    story.come(call, GOOD)

    assert story.route.probe_timeout() == 10.0


def test_the_slowest_answer_fades() -> None:
    """By half a percent with each quicker one."""
    story = Story()
    call = story.send(1)
    story.wait(10.0)
    story.come(call, GOOD)

    story.call(2, GOOD)
    assert story.route.recent.slowest == pytest.approx(9.95)

    call = story.send(3)
    story.wait(9.93)
    story.come(call, GOOD)
    assert story.route.recent.slowest == pytest.approx(9.93)


def test_held_rows_want_a_check_after_a_second_without_a_good_answer() -> None:
    """None while one is out, nor before a second after the last."""
    story = Story(can_check=True)
    story.call(1, GOOD)
    story.call(2, FAILED)

    assert not story.route.wants_check(story.now)
    assert story.route.check_at == story.now + 1.0
    story.wait(1.0)
    assert story.route.wants_check(story.now)

    check = story.send(0, "ping")
    assert not story.route.wants_check(story.now)
    story.come(check, FAILED)
    assert not story.route.wants_check(story.now)
    story.wait(1.0)
    assert story.route.wants_check(story.now)


def test_no_check_is_wanted_where_a_fresh_row_in_flight_may_tell() -> None:
    """Nor where nothing is unproven, nor while the route takes no calls."""
    story = Story(can_check=True)
    assert not story.route.wants_check(story.now)
    story.call(1, FAILED)
    story.wait(1.0)

    fresh = story.send(2)
    assert not story.route.wants_check(story.now)
    story.route.cancelled(fresh)
    assert story.route.wants_check(story.now)

    story.route.throttle.pause(story.now + 1.0)
    assert not story.route.wants_check(story.now)


def test_a_check_is_wanted_where_all_calls_in_flight_were_sent_before_a_failed_one() -> None:
    """Fresh rows or not, their answers would prove nothing of it."""
    story = Story(can_check=True)
    story.send(1)
    story.call(2, FAILED)

    assert story.route.wants_check(story.now)
    story.send(3)
    assert not story.route.wants_check(story.now)


def test_a_check_is_wanted_where_only_rows_that_failed_before_are_in_flight() -> None:
    """They may be bad."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    story.call(2, FAILED)

    story.send(1)

    assert story.route.wants_check(story.now)


def test_a_finished_row_s_request_is_asked_before_the_circuit_opens() -> None:
    """Once chance hardly explains what fails: two fresh rows in a row."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    assert not story.route.wants_early_check(story.now)
    story.call(2, FAILED)
    story.call(3, FAILED)
    assert story.route.wants_early_check(story.now)

    check = story.send(0, "good")
    assert not story.route.wants_early_check(story.now)
    story.come(check, FAILED)
    assert not story.route.wants_early_check(story.now)
    story.wait(1.0)
    assert story.route.wants_early_check(story.now)

    story.route.throttle.pause(story.now + 1.0)
    assert not story.route.wants_early_check(story.now)


def test_a_row_that_ended_otherwise_is_forgotten() -> None:
    """It counts neither against the route nor as unfinished."""
    story = Story()
    story.call(1, FAILED)

    story.route.forget(1)

    assert not story.route.evidence.records
    assert not story.route.window.rows


def test_checks_that_become_possible_hold_rows_for_them() -> None:
    """A row that failed once waits for a health check, where one can be sent."""
    story = Story()
    assert isinstance(story.call(1, FAILED)[0], RetryAt)

    story.route.allow_checks()

    assert story.call(2, FAILED) == [HoldForEvidence(2)]


def test_a_planned_ramp_begins_with_the_next_call() -> None:
    """Two more than are in flight, as after any wait."""
    story = Story()
    story.send(1)
    story.route.plan_ramp()

    assert story.route.room(story.now) == 2
    assert not story.route.throttle.ramp_due
