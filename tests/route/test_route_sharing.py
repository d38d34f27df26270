"""What other processes found out about the same route."""

from __future__ import annotations

import pytest
from route_states import EVERYTHING, FAILED, GOOD, NO_MODEL, THROTTLED, Story, kinds, waiting

from llmbatch.route.decisions import CircuitMoved, OutageConfirmed, OutageOver, Requeue
from llmbatch.route.outage import Outage


@pytest.mark.parametrize(
    ("why", "reason"),
    [("5 rows in a row failed", "in another process, 5 rows in a row failed"), ("", "another process opened it")],
)
def test_a_circuit_that_another_process_opened_is_open_here(why: str, reason: str) -> None:
    """It is not confirmed, and probes wait as long as those of the other do."""
    story = Story()
    late = story.send(1)

    assert story.route.opened_elsewhere(20.0, why, story.now, is_confirmed=False) == [CircuitMoved("closed", "open")]

    assert story.route.outage == Outage(story.now, "elsewhere", late.serial)
    assert story.route.reason == reason
    assert story.route.next_change(story.now) == story.now + 20.0


@pytest.mark.parametrize("calls", [1, 2])
def test_a_wait_that_was_named_here_outlasts_an_opening_elsewhere(calls: int) -> None:
    """One call is enough to name it: none in flight may disprove it any more."""
    story = Story()
    late = [story.send(row) for row in (1, 2, 3)]
    for call in late[:calls]:
        story.come(call, waiting(FAILED, 90.0))

    story.route.opened_elsewhere(20.0, "", story.now, is_confirmed=False)

    assert story.route.next_change(story.now) == story.now + 90.0


def test_a_call_of_before_an_opening_elsewhere_does_not_disprove_it() -> None:
    """It was in flight already."""
    story = Story()
    late = story.send(1)
    story.route.opened_elsewhere(20.0, "", story.now, is_confirmed=False)

    assert kinds(story.come(late, GOOD)) == ["Succeed"]
    assert not story.route.is_closed


def test_an_outage_that_another_process_confirmed_is_confirmed_here() -> None:
    story = Story()

    decisions = story.route.opened_elsewhere(20.0, "all failed", story.now, is_confirmed=True)

    assert decisions == [
        CircuitMoved("closed", "open"),
        OutageConfirmed(story.now, "in another process, all failed"),
    ]
    assert story.route.is_confirmed
    assert story.route.next_change(story.now) == story.now + 20.0


def test_an_outage_elsewhere_whose_next_probe_is_nearly_due_is_confirmed() -> None:
    """Waits of less than a second are waits."""
    story = Story(recovery_timeout=0.5)

    story.route.opened_elsewhere(0.5, "all failed", story.now, is_confirmed=True)

    assert story.route.is_confirmed
    assert story.route.next_change(story.now) == story.now + 0.5


def test_an_outage_elsewhere_whose_next_probe_is_due_says_nothing_of_today() -> None:
    """This process may be the only one that is left to send it."""
    story = Story()

    decisions = story.route.opened_elsewhere(0.0, "all failed", story.now, is_confirmed=True)

    assert decisions == [CircuitMoved("closed", "open")]
    assert not story.route.is_confirmed
    assert story.route.next_probe(story.now, EVERYTHING) is not None


def test_an_outage_elsewhere_confirms_an_opening_here() -> None:
    """Since when it is open here. An opening that is not confirmed says nothing new."""
    story = Story()
    story.open()
    began = story.now
    story.wait(0.5)
    assert story.route.opened_elsewhere(20.0, "all failed", story.now, is_confirmed=False) == []

    decisions = story.route.opened_elsewhere(20.0, "all failed", story.now, is_confirmed=True)

    assert decisions == [OutageConfirmed(began, "5 rows in a row failed: broken")]
    assert story.route.next_change(story.now) == story.now + 20.0
    assert story.route.failed_elsewhere(30.0, story.now) == []
    assert story.route.next_change(story.now) == story.now + 30.0


def test_a_probe_that_is_out_here_is_not_held_up_by_one_that_failed_elsewhere() -> None:
    """Its answer tells."""
    story = Story()
    story.open()
    story.go_to_probe()
    probe = story.send(100)

    story.route.failed_elsewhere(300.0, story.now)

    assert kinds(story.come(probe, FAILED)) == ["CircuitMoved", "ParkUntil"]
    assert story.route.next_change(story.now) < story.now + 10.0  # type: ignore[operator]


def test_a_probe_that_failed_elsewhere_says_nothing_where_the_circuit_is_closed() -> None:
    story = Story()

    assert story.route.failed_elsewhere(20.0, story.now) == []
    assert story.route.is_closed
    assert story.route.takes_calls(story.now)


def test_a_stop_is_no_outage_that_another_process_confirms() -> None:
    """An operator has to act."""
    story = Story(ever=False)
    story.send(50)
    story.call(1, NO_MODEL)
    assert story.route.is_stopping

    assert story.route.failed_elsewhere(20.0, story.now) == []
    assert not story.route.is_confirmed


def test_a_probe_that_passed_elsewhere_ends_a_confirmed_outage() -> None:
    """What failed here counts against nobody, and traffic starts with two calls in flight."""
    story = Story()
    story.open()
    began = story.now
    story.confirm()

    decisions = story.route.recovered_elsewhere(story.now)

    assert decisions == [CircuitMoved("open", "closed"), OutageOver(began), Requeue()]
    assert story.route.is_closed
    assert story.route.outage is None
    assert not story.route.evidence.records
    assert not story.route.window.rows
    assert story.route.limit.value == 2


def test_a_probe_that_passed_elsewhere_takes_an_opening_back() -> None:
    """It was a mistake: half of what ran goes on, and nothing is proven. The next opening goes by what runs then."""
    story = Story()
    story.open()
    story.route.plan_ramp()

    assert story.route.recovered_elsewhere(story.now) == [CircuitMoved("open", "closed"), Requeue()]

    assert story.route.limit.value == 5
    assert not story.route.evidence.records
    assert not story.route.throttle.ramp_due
    story.open()
    story.route.recovered_elsewhere(story.now)
    assert story.route.limit.value == 2


def test_calls_of_before_a_recovery_elsewhere_open_nothing() -> None:
    """They failed in the outage."""
    story = Story()
    late = [story.send(row) for row in range(51, 60)]
    story.open()
    story.route.recovered_elsewhere(story.now)

    for call in late:
        story.come(call, FAILED)

    assert story.route.is_closed
    assert not story.route.window.rows


def test_a_probe_that_passed_elsewhere_says_nothing_where_the_circuit_is_closed() -> None:
    story = Story()
    story.call(1, FAILED)

    assert story.route.recovered_elsewhere(story.now) == []
    assert story.route.evidence.records


def test_a_smallest_request_that_ends_after_a_recovery_elsewhere_reaches_the_route() -> None:
    """It was sent as a probe; nothing was ever answered here."""
    story = Story(ever=False)
    story.open()
    story.go_to_probe()
    probe = story.send(0, "ping")
    story.route.recovered_elsewhere(story.now)
    assert not story.route.is_reached

    assert story.come(probe, GOOD) == []

    assert story.route.is_reached


def test_processes_that_share_probes_wait_for_a_share_of_the_usual_time() -> None:
    """And as long as one is told to at most."""
    story = Story(chance=0.0)
    story.route.limit_probe_waits(30.0, 0.02)
    story.open()
    story.wait(100.0)
    story.probe(100, FAILED)
    assert story.route.next_change(story.now) == story.now + 2.0
    story.wait(10_000.0)

    story.probe(101, FAILED)

    assert story.route.next_change(story.now) == story.now + 30.0


def test_throttling_here_holds_after_a_recovery_elsewhere() -> None:
    """It is the provider's word to this process."""
    story = Story()
    story.open()
    story.probe(100, waiting(THROTTLED, 40.0))

    story.route.recovered_elsewhere(story.now)

    assert not story.route.takes_calls(story.now + 39.0)
    assert story.route.takes_calls(story.now + 40.0)
