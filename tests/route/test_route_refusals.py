"""Refusals of rows, of checks and of probes: which of them count, and what they leave behind."""

from __future__ import annotations

import math

import pytest
from route_states import (
    BAD_ROW,
    CONFLICT,
    FAILED,
    GOOD,
    KEY_REFUSED,
    NO_MONEY,
    RAISED,
    REFUSED,
    TIMEOUT,
    TRY_AGAIN,
    Story,
    kinds,
)

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.route.calls import CallKind
from llmbatch.route.decisions import CircuitMoved, Fail, GiveUpRoute, ParkUntil, Requeue, RetryAt

SMALL = Request(Route("openai", "m"), "https://example.com", {}, b"{}", "chat", 1)


# Rows.


def test_a_function_that_raises_for_as_many_rows_as_the_threshold_stops_nothing_where_it_has_returned() -> None:
    """The exceptions are those rows' own."""
    story = Story()

    decided = [story.call(row, RAISED) for row in range(1, 7)]

    assert decided == [[RetryAt(row, story.now + 1.0, "exception")] for row in range(1, 7)]
    assert story.route.is_closed


def test_rows_that_have_ended_with_an_exception_count_as_first_rows_that_raised() -> None:
    """One attempt ends each of them: the fifth stops the run as if four were still waiting, and is not marked."""
    story = Story(ever=False, max_attempts=1)

    ended = [story.call(row, RAISED) for row in range(1, 5)]
    fifth = story.call(5, RAISED)

    assert ended == [[Fail(row, RAISED)] for row in range(1, 5)]
    assert fifth == [CircuitMoved("closed", "open"), ParkUntil(5)]
    assert story.route.is_stopping


def test_a_row_that_failed_while_others_passed_says_nothing_of_the_money() -> None:
    """What it asks for may not be paid for: it takes three other rows."""
    story = Story()
    story.call(1, FAILED)
    story.call(100, GOOD)
    for row in (1, 2, 3):
        story.call(row, NO_MONEY)
    assert not story.route.is_stopping
    assert sorted(story.history.refusals) == [2, 3]

    assert kinds(story.call(4, NO_MONEY))[-1] == "StopRun"


def test_a_row_that_failed_before_anything_passed_counts_against_the_account() -> None:
    """Nothing tells yet that the failure was its own."""
    story = Story()
    story.call(1, FAILED)
    for row in (1, 2):
        story.call(row, NO_MONEY)

    assert kinds(story.call(3, NO_MONEY))[-1] == "StopRun"


# Checks of a closed circuit.


@pytest.mark.parametrize(("ever", "outcome"), [(True, NO_MONEY), (False, KEY_REFUSED)])
def test_a_check_alone_stops_nothing(ever: bool, outcome: Outcome) -> None:
    """No row was refused. The circuit opens, and the probes tell."""
    story = Story(ever=ever, can_check=True)
    story.call(1, FAILED)
    story.send(2)

    assert story.call(0, outcome, "ping") == [CircuitMoved("closed", "open")]

    assert story.route.reason == f"the last rows failed: {outcome.message}"
    assert not story.route.is_stopping


def test_a_late_check_that_finds_no_money_leaves_the_opening_as_it_was() -> None:
    """The run stops once the call in flight has ended; the circuit opens no second time."""
    story = Story(can_check=True)
    check = story.send(0, "ping")
    story.send(50)
    story.call(51, NO_MONEY)
    story.open()
    before = story.route.outage

    assert story.come(check, NO_MONEY) == []

    assert story.route.is_stopping
    assert story.route.outage is before


# Probes.


@pytest.mark.parametrize(
    ("kind", "good", "pinged", "since"),
    [("ping", None, "answered", 0.0), ("ping", SMALL, "silent", math.inf), ("row", None, "no", math.inf)],
)
def test_a_smallest_request_that_is_refused_is_answered(
    kind: CallKind, good: Request | None, pinged: str, since: float
) -> None:
    """Unless the same request has passed before. A refused row tells nothing of it."""
    story = Story()
    story.history.good = good
    story.open()

    story.probe(100 if kind == "row" else 0, TRY_AGAIN, kind)

    assert story.route.outage is not None
    assert story.route.outage.pinged == pinged
    assert story.route.outage.answered_since == story.now + since


@pytest.mark.parametrize("outcome", [CONFLICT, FAILED])
def test_parked_rows_are_judged_once_the_smallest_request_was_answered_for_so_long(outcome: Outcome) -> None:
    """Refusals and errors are answers, since the first of them. Not if a request can be asked that has passed."""
    story = Story()
    story.open()
    story.probe(0, outcome, "ping")
    began = story.now
    story.wait(10.0)
    story.probe(0, outcome, "ping")

    story.now = began + 44.9
    assert story.route.judge_parked(story.now, can_ping=True) == []
    story.now = began + 45.0
    story.history.good = SMALL
    assert story.route.judge_parked(story.now, can_ping=True) == []
    story.history.good = None
    assert kinds(story.route.judge_parked(story.now, can_ping=True))[0] == "CircuitMoved"


def test_a_refused_probe_parks_its_row_and_a_check_has_none() -> None:
    """Three such answers close the circuit."""
    story = Story()
    story.open()

    assert story.probe(100, TRY_AGAIN) == [ParkUntil(100)]
    assert story.probe(0, TRY_AGAIN, "ping") == []
    assert story.probe(0, TRY_AGAIN, "good") == [CircuitMoved("half_open", "closed"), Requeue()]


def test_refusals_that_close_a_circuit_three_times_in_a_row_are_an_outage() -> None:
    """No row has passed since: the fourth time they are probes that failed, and the circuit stays open."""
    story = Story()
    for _ in range(3):
        story.open()
        decided = [kinds(story.probe(row, TRY_AGAIN)) for row in (100, 101, 102)]
        assert decided[-1] == ["CircuitMoved", "ParkUntil", "Requeue"]
    story.open()

    decisions = [story.probe(row, TRY_AGAIN) for row in (100, 101, 102)]

    assert decisions == [[CircuitMoved("half_open", "open"), ParkUntil(row)] for row in (100, 101, 102)]


def test_refusals_close_a_circuit_again_and_again_where_nothing_was_ever_answered() -> None:
    """That they are all it answers is no outage."""
    story = Story(ever=False)
    for _ in range(5):
        story.open()
        decided = [kinds(story.probe(row, TRY_AGAIN)) for row in (100, 101, 102)]
        assert decided[-1] == ["CircuitMoved", "ParkUntil", "Requeue"]


def test_a_route_that_refusals_have_closed_is_lost_since_then() -> None:
    """It answers, but no row was ever answered well."""
    story = Story(ever=False)
    story.open()
    for row in (100, 101, 102):
        story.wait(30.0)
        story.probe(row, TRY_AGAIN)

    assert story.route.lost_at == story.now + 600.0


def test_a_smallest_request_that_is_refused_at_once_names_the_time_limit() -> None:
    """It was answered, and no row ever was in time."""
    story = Story(ever=False, timeout=5.0)
    story.open(TIMEOUT)

    decisions = story.probe(0, TRY_AGAIN, "ping")

    assert story.route.dead is not None
    assert story.route.dead.code == "timeout"
    message, hint = "m: answers take longer than --timeout (5 s)", "raise --timeout; nothing was marked as failed"
    assert decisions == [GiveUpRoute(story.route.dead, message, hint)]
    assert story.route.is_reached


@pytest.mark.parametrize(
    ("ever", "opened", "kind"),
    [(False, TIMEOUT, "row"), (False, FAILED, "ping"), (True, TIMEOUT, "ping"), (False, TIMEOUT, "good")],
)
def test_other_refused_probes_name_no_time_limit(ever: bool, opened: Outcome, kind: CallKind) -> None:
    """A row was refused, the rows failed otherwise, or some were answered."""
    story = Story(ever=ever)
    story.open(opened)

    assert "GiveUpRoute" not in kinds(story.probe(100 if kind == "row" else 0, TRY_AGAIN, kind))
    assert story.route.dead is None


def test_the_wait_after_a_refused_probe_is_the_shortest_while_no_check_has_failed() -> None:
    """However long the circuit has been open: the provider answers."""
    story = Story()
    story.open()
    story.wait(500.0)

    story.probe(100, TRY_AGAIN)

    assert story.route.next_change(story.now) == story.now + 1.0


@pytest.mark.parametrize(("share", "wait"), [(0.1, 9.5), (0.05, 4.75)])
def test_the_wait_after_a_refused_probe_grows_where_checks_have_failed(share: float, wait: float) -> None:
    """By the share of the time since the opening that the run keeps to, less a twentieth."""
    story = Story(probe_share=share)
    story.open()
    began = story.now
    story.probe(0, FAILED, "good")
    story.now = began + 100.0

    story.probe(100, TRY_AGAIN)

    assert story.route.next_change(story.now) == pytest.approx(story.now + wait)


@pytest.mark.parametrize("opened", [REFUSED, RAISED])
def test_a_bad_row_that_probes_an_opening_by_refusals_is_one_more_of_them(opened: Outcome) -> None:
    """Three such rows close no circuit that was opened for refusals, or for a function that raises for all rows."""
    story = Story(ever=opened is REFUSED)
    story.open(opened)

    decided = [story.probe(row, BAD_ROW) for row in (100, 101, 102)]

    assert decided == [[CircuitMoved("half_open", "open"), Fail(row, BAD_ROW)] for row in (100, 101, 102)]
