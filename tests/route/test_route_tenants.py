"""What the smallest request shows of a tenant's rows, and when it is asked."""

from __future__ import annotations

import pytest
from route_states import FAILED, GOOD, REFUSED, THROTTLED, TIMEOUT, UNREACHABLE, Story, kinds

from llmbatch.core.calls import Outcome


def tenant(*, ever: bool = True, can_check: bool = False, failure_threshold: int = 5) -> Story:
    return Story(ever=ever, can_check=can_check, is_tenant=True, failure_threshold=failure_threshold, chance=0.0)


def test_the_smallest_request_closes_no_circuit_of_a_tenant_of_a_route_that_answers() -> None:
    """It passes while the tenant is cut off: the next probe, a second later, is a row."""
    story = tenant()
    story.open()
    story.go_to_probe()
    ping = story.send(0, "ping")

    assert story.come(ping, GOOD) == []

    assert not story.route.is_closed
    assert not story.route.circuit.probing
    assert story.route.outage is not None
    assert story.route.outage.pinged == "answered"
    assert story.route.next_change(story.now) == story.now + 1.0
    assert kinds(story.probe(100, GOOD))[:2] == ["CircuitMoved", "Succeed"]


def test_the_smallest_request_closes_the_circuit_of_the_first_tenant_once() -> None:
    """Nothing was ever answered, so it shows that the server is up. That rows fail all the same is theirs."""
    story = tenant(ever=False)
    story.open()
    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "Requeue"]
    story.open()

    assert story.probe(0, GOOD, "ping") == []

    assert not story.route.is_closed
    assert story.route.is_reached


def test_the_smallest_request_reaches_a_tenant_s_route_where_it_takes_two_to_close_the_circuit() -> None:
    """The first of them is an answer already."""
    story = Story(ever=False, is_tenant=True, success_threshold=2)
    story.open()

    story.probe(0, GOOD, "ping")

    assert not story.route.is_closed
    assert story.route.is_reached


def test_the_smallest_request_names_the_time_limit_for_a_tenant_too() -> None:
    """No row of its own was ever answered in time."""
    story = tenant()
    story.open(TIMEOUT)

    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "GiveUpRoute"]


def test_a_tenant_is_silent_until_a_row_of_its_own_was_answered() -> None:
    """Unless a finished row's request can tell; then what its route has answered counts."""
    answered = tenant()
    answered.call(1, GOOD)

    assert tenant().route.is_silent
    assert not answered.route.is_silent
    assert not tenant(can_check=True).route.is_silent
    assert not Story().route.is_silent
    assert Story(ever=False).route.is_silent


def test_the_smallest_request_shows_something_of_any_route() -> None:
    assert Story().route.may_ping
    assert Story(ever=False).route.may_ping


@pytest.mark.parametrize(
    ("outcome", "ever", "may"), [(TIMEOUT, False, True), (FAILED, False, False), (TIMEOUT, True, False)]
)
def test_the_smallest_request_shows_of_a_tenant_whether_its_route_is_up(
    outcome: Outcome, ever: bool, may: bool
) -> None:
    """Where it cannot be reached, and has never been."""
    story = tenant(ever=ever)
    assert not story.route.may_ping

    story.call(1, outcome)

    assert story.route.may_ping is may
    story.history.reached = True
    assert not story.route.may_ping


def test_the_smallest_request_probes_for_a_tenant_that_was_never_answered() -> None:
    """Later only rows do."""
    story = tenant()
    story.open()
    assert story.route.may_ping
    story.probe(100, GOOD)
    for row in range(11, 51):
        if story.route.is_closed:
            story.call(row, FAILED)

    assert not story.route.is_closed
    assert not story.route.may_ping


def test_a_row_that_takes_too_long_asks_for_the_smallest_request_where_nothing_was_ever_answered() -> None:
    """At once, and a second after the last one; not while one is out, or nothing can be sent."""
    story = Story(ever=False, can_check=True)
    assert not story.route.wants_ping(story.now)
    story.call(1, UNREACHABLE)
    assert not story.route.wants_ping(story.now)
    story.call(2, TIMEOUT)
    assert story.route.wants_ping(story.now)

    ping = story.send(0, "ping")
    assert not story.route.wants_ping(story.now + 1.0)
    story.come(ping, TIMEOUT)
    assert not story.route.wants_ping(story.now + 0.9)
    assert story.route.wants_ping(story.now + 1.0)
    story.route.throttle.pause(story.now + 5.0)
    assert not story.route.wants_ping(story.now + 1.0)
    story.wait(5.0)
    story.call(0, GOOD, "ping")
    story.wait(1.0)
    assert not story.route.wants_ping(story.now)


def test_a_throttled_row_goes_after_the_check_that_is_due() -> None:
    """It may be alone with that."""
    story = Story(can_check=True)
    assert not story.route.prefers_check(THROTTLED, story.now)
    story.call(1, FAILED)

    assert story.route.prefers_check(THROTTLED, story.now)
    assert not story.route.prefers_check(FAILED, story.now)
    assert not story.route.prefers_check(None, story.now)
    story.route.checks.available = False
    assert not story.route.prefers_check(THROTTLED, story.now)


def test_a_pause_of_the_run_is_no_time_in_which_a_route_was_not_reached() -> None:
    """And traffic ramps up after it."""
    story = Story(ever=False)
    story.route.excuse(50.0)
    story.call(1, UNREACHABLE)
    assert story.route.lost_at == story.now + 600.0

    story.route.excuse(50.0)

    assert story.route.lost_at == story.now + 650.0
    assert story.route.room(story.now) == 2


def test_a_route_of_an_account_that_another_route_found_empty_sends_nothing() -> None:
    story = Story()

    story.route.give_up(REFUSED)

    assert story.route.dead is REFUSED
    assert not story.route.takes_calls(story.now)


def test_the_concurrency_can_be_changed() -> None:
    story = Story()

    story.route.change_concurrency(4)

    assert story.route.room(story.now) == 4
