"""Waits that a provider names, and throttling: one row's, or the route's?"""

from __future__ import annotations

import math

import pytest

from llmbatch.route.throttle import Throttle


def test_nothing_is_asked_at_first() -> None:
    """No wait, no ramp, no throttling."""
    throttle = Throttle()

    assert (throttle.not_before, throttle.ramp_due, throttle.since, throttle.given_up) == (0.0, False, None, False)
    assert throttle.confirmed_wait(disprovable=True) == throttle.confirmed_wait(disprovable=False) == -math.inf
    assert repr(throttle) == "<Throttle not before 0.0, 0 throttled>"


def test_a_wait_that_one_call_named_is_its_row_s_as_long_as_another_may_disprove_it() -> None:
    """One bad backend must not stop a healthy route for an hour."""
    throttle = Throttle()

    throttle.note_wait(1, 3600.0)

    assert throttle.confirmed_wait(disprovable=True) == -math.inf
    assert throttle.confirmed_wait(disprovable=False) == 3600.0


def test_a_wait_is_the_route_s_once_two_calls_named_one() -> None:
    """As long as both say: the shorter of the two longest."""
    throttle = Throttle()
    throttle.note_wait(1, 3600.0)
    throttle.note_wait(2, 30.0)

    assert throttle.confirmed_wait(disprovable=True) == 30.0
    assert throttle.confirmed_wait(disprovable=False) == 3600.0

    throttle.note_wait(3, 40.0)
    assert throttle.confirmed_wait(disprovable=True) == 40.0


def test_a_call_is_heard_once() -> None:
    """It does not confirm itself."""
    throttle = Throttle()
    throttle.note_wait(1, 20.0)
    throttle.note_wait(1, 30.0)

    assert throttle.confirmed_wait(disprovable=True) == -math.inf
    assert throttle.confirmed_wait(disprovable=False) == 30.0


def test_a_good_answer_ends_what_was_asked_of_earlier_calls() -> None:
    """That was meant for their rows."""
    throttle = Throttle()
    for serial in (1, 3, 5):
        throttle.note_wait(serial, 10.0 * serial)
        throttle.throttled(serial, now=2.0)

    throttle.prove(3)

    assert throttle.confirmed_wait(disprovable=True) == -math.inf
    assert throttle.confirmed_wait(disprovable=False) == 50.0
    assert throttle.since is None
    assert repr(throttle) == "<Throttle not before 0.0, 1 throttled>"

    throttle.prove(5)
    assert throttle.confirmed_wait(disprovable=False) == -math.inf
    assert repr(throttle) == "<Throttle not before 0.0, 0 throttled>"


def test_a_pause_stops_the_route_and_ramps_up_afterwards() -> None:
    """What asked for it is used up; a shorter one is no news."""
    throttle = Throttle()
    throttle.note_wait(1, 5.0)
    throttle.throttled(1, now=0.0)

    assert throttle.pause(5.0)
    assert throttle.not_before == 5.0
    assert throttle.ramp_due
    assert throttle.confirmed_wait(disprovable=False) == -math.inf
    assert repr(throttle) == "<Throttle not before 5.0, 0 throttled>"

    throttle.ramp_due = False
    throttle.note_wait(2, 4.0)
    assert not throttle.pause(5.0)
    assert not throttle.pause(4.0)
    assert throttle.confirmed_wait(disprovable=False) == 4.0
    assert not throttle.ramp_due


def test_a_longer_wait_counts_on_after_a_pause() -> None:
    """Three calls named 5, 10 and 60 s: a call later confirms what the second one named. It was forgotten."""
    throttle = Throttle()
    throttle.note_wait(1, 5.0)
    throttle.note_wait(2, 10.0)
    assert throttle.pause(throttle.confirmed_wait(disprovable=True))

    throttle.note_wait(3, 60.0)

    assert throttle.not_before == 5.0
    assert throttle.confirmed_wait(disprovable=True) == 10.0


def test_calls_that_were_throttled_in_a_row_are_counted() -> None:
    """Since the first of them nothing else came back."""
    throttle = Throttle()

    assert [throttle.throttled(serial, now) for serial, now in ((1, 10.0), (2, 11.0), (2, 12.0), (3, 13.0))] == [
        1,
        2,
        2,
        3,
    ]
    assert throttle.since == 10.0


def test_throttling_is_the_route_s_where_nothing_in_flight_could_disprove_it() -> None:
    """Or where too many of the calls sent were throttled for their own sake."""
    throttle = Throttle()
    throttle.throttled(1, 0.0)
    assert throttle.is_route_wide(0, 1, disprovable=False)
    assert not throttle.is_route_wide(0, 1, disprovable=True)

    throttle.throttled(2, 0.0)
    assert throttle.is_route_wide(0, 2, disprovable=True)
    assert not throttle.is_route_wide(1, 3, disprovable=True)
    assert not throttle.is_route_wide(0, 3, disprovable=True)
    throttle.throttled(3, 0.0)
    assert throttle.is_route_wide(0, 5, disprovable=True)
    assert not throttle.is_route_wide(0, 100, disprovable=True)


def test_waits_that_nobody_named_grow() -> None:
    """One step for each wait that is over, not for each call; a success starts them over."""
    throttle = Throttle()
    waits = []
    now = 0.0
    for _ in range(8):
        wait = throttle.backoff(0.5, now)
        throttle.pause(now + wait)
        assert throttle.backoff(0.5, now) == wait
        waits.append(wait)
        now += wait

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    throttle.prove(1)
    assert throttle.backoff(0.5, now) == 1.0


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.75), (1.0, 1.25)])
def test_waits_that_nobody_named_are_spread_by_chance(chance: float, wait: float) -> None:
    """From three quarters to five quarters."""
    assert Throttle().backoff(chance, 0.0) == wait


def test_a_wait_that_a_call_in_flight_may_disprove_is_not_confirmed() -> None:
    """Named to call 3 while call 5, sent later, has no answer yet: whichever call ended last says nothing of it."""
    throttle = Throttle()
    throttle.note_wait(3, 3600.0)

    assert throttle.confirmed_wait(disprovable=False, newest=5) == -math.inf
    assert throttle.confirmed_wait(disprovable=False, newest=2) == 3600.0

    throttle.note_wait(6, 40.0)

    assert throttle.confirmed_wait(disprovable=False, newest=5) == 40.0
    assert throttle.confirmed_wait(disprovable=False, newest=7) == 40.0
