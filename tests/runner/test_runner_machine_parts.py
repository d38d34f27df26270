"""Whether a fault of this machine is its own, or met by one row alone that waits by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from runner_parts import FAILED, GOOD, NO_HANDLES, NO_NETWORK

from llmbatch.core.calls import Outcome
from llmbatch.core.events import Notice
from llmbatch.route.calls import Call, CallKind
from llmbatch.route.route import RouteHistory, RoutePolicy, RouteState
from llmbatch.runner.machine_fault import Machine


class Sending:
    """A machine and one route, on a clock that only the test moves."""

    def __init__(self, *, longest: float = 60.0, concurrency: int = 40) -> None:
        policy: dict[str, Any] = {"max_attempts": 3, "failure_threshold": 5, "recovery_timeout": 60.0}
        self.now = 1000.0
        self.machine = Machine(longest=longest)
        self.route = RouteState(
            "m",
            RoutePolicy(concurrency=concurrency, success_threshold=1, timeout=60.0, **policy),
            history=RouteHistory(answered_before=lambda: True),
            chance=lambda _: 0.5,
        )

    def send(self, rows: Sequence[int], kind: CallKind = "row") -> list[Call]:
        calls = [self.route.admit(row, self.now, kind=kind, timeout=60.0) for row in rows]
        assert None not in calls
        return [call for call in calls if call is not None]

    def fails(self, call: Call, outcome: Outcome = NO_HANDLES) -> tuple[Outcome, Notice | None]:
        """It fails by this machine's fault, as the runner tells."""
        told, notice = self.machine.failed(self.route, call, outcome, self.now)
        self.route.settle(call, told, self.now)
        return told, notice

    def answered(self, call: Call) -> None:
        self.machine.works(call.row, call.sent_at)
        self.route.settle(call, GOOD, self.now)


def test_this_machine_waits_longer_each_time_up_to_a_bound() -> None:
    """One second, two, four; a failure while it waits tells nothing; an answer starts over."""
    sending = Sending(longest=5.0)
    machine = sending.machine
    waits = []
    for _ in range(5):
        first, second = sending.send([0, 0], "ping")
        _, notice = sending.fails(first)
        assert notice is not None
        assert sending.fails(second, NO_NETWORK) == (NO_NETWORK, None)
        waits.append(machine.until - sending.now)
        sending.now = machine.until

    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert (machine.since, repr(machine)) == (1000.0, "<Machine at fault until 1017.0>")

    machine.works(1, sending.now)

    assert machine.since is None
    assert repr(machine) == "<Machine ok>"
    sending.fails(sending.send([0], "ping")[0])
    assert machine.until - sending.now == 1.0


def test_a_fault_of_this_machine_is_told_with_its_hint() -> None:
    """The outcome's own, or that nothing is lost."""
    sending = Sending()
    first, second = sending.send([0, 0], "ping")
    _, notice = sending.fails(first, replace(NO_HANDLES, hint="raise ulimit -n"))
    assert notice is not None
    assert (notice.message, notice.hint) == (
        "this machine: too many open files; trying again in 1 s",
        "raise ulimit -n",
    )
    sending.now += 1.0
    _, other = sending.fails(second, NO_NETWORK)
    assert other is not None
    assert other.hint == "nothing is lost: the rows are resent"


@pytest.mark.parametrize(("in_flight", "needed"), [(1, 2), (2, 2), (3, 3), (10, 3), (40, 6)])
def test_this_machine_is_at_fault_once_chance_hardly_explains_the_failures(in_flight: int, needed: int) -> None:
    """Of the calls since the newest success: two in a row, or six of forty. One in fifty may be the row's own."""
    sending = Sending()
    sending.answered(sending.send([1])[0])
    row = 2
    failures = 0
    while sending.machine.since is None:
        calls = sending.send(range(row, row + in_flight))
        row += in_flight
        for call in calls:
            if sending.machine.since is None:
                failures += 1
                sending.fails(call)

    assert failures == needed


def test_failures_before_the_newest_success_are_not_counted() -> None:
    """As many as one likes, with a success after each."""
    sending = Sending(concurrency=2)
    for row in range(1, 100, 2):
        sending.fails(sending.send([row])[0])
        sending.now += 0.1
        sending.answered(sending.send([row + 1])[0])

    assert sending.machine.since is None
    assert repr(sending.machine) == "<Machine ok, 50 rows failed>"


def test_one_row_counts_once_until_nothing_else_is_in_flight() -> None:
    """It may fail as often as it likes while another call could be answered; then all pause, for 1, 2, 4, … s."""
    sending = Sending()
    (other,) = sending.send([8])
    waits = []
    for _ in range(4):
        outcome, notice = sending.fails(sending.send([7])[0])
        waits.append((outcome.min_backoff, notice is not None))
    assert waits == [(1.0, False), (2.0, False), (4.0, False), (8.0, False)]

    sending.route.cancelled(other)
    outcome, notice = sending.fails(sending.send([7])[0])

    assert notice is not None
    assert (outcome.min_backoff, sending.machine.until) == (0.0, sending.now + 1.0)


@pytest.mark.parametrize("kind", ["ping", "good"])
def test_a_health_check_that_fails_by_a_fault_of_this_machine_is_no_row_s(kind: CallKind) -> None:
    """No row waits for it: all pause at once."""
    sending = Sending()

    outcome, notice = sending.fails(sending.send([0], kind)[0])

    assert notice is not None
    assert (outcome.scope, sending.machine.until) == (NO_HANDLES.scope, sending.now + 1.0)


def test_a_probe_that_fails_by_a_fault_of_this_machine_lets_the_next_one_wait() -> None:
    """It is the only call, and the next one would follow at once."""
    sending = Sending()
    for row in range(1, 40):
        if sending.route.is_closed:
            sending.route.settle(sending.send([row])[0], FAILED, sending.now)
    sending.now += 1.0
    (probe,) = sending.send([50])
    assert probe.probe

    outcome, notice = sending.fails(probe)

    assert notice is not None
    assert (outcome.scope, sending.machine.until) == (NO_HANDLES.scope, sending.now + 1.0)


def know(sending: Sending, row: int, *, answers: int = 50) -> list[tuple[str, float, bool]]:
    """Let *row* fail, with *answers* to later calls after each time, until it is known to fail alone."""
    told: list[tuple[str, float, bool]] = []
    while not told or told[-1][0] != "row":
        outcome, notice = sending.fails(sending.send([row])[0])
        told.append((outcome.scope, outcome.min_backoff, notice is not None))
        sending.now += 1.0
        for other in range(answers):
            sending.answered(sending.send([1000 + other])[0])
        sending.now += 60.0
    return told


@pytest.mark.parametrize(("answers", "failures"), [(50, 3), (10, 4), (3, 4), (1, 5)])
def test_a_row_that_fails_more_often_than_others_explain_waits_by_itself(answers: int, failures: int) -> None:
    """Three times where others hardly ever fail, more while little is known of them; it is told once."""
    sending = Sending()

    told = know(sending, 7, answers=answers)

    assert told == [*[(NO_HANDLES.scope, 1.0, False)] * (failures - 1), ("row", 2.0, True)]
    assert (sending.machine.until, sending.machine.since) == (0.0, None)
    assert sending.machine.why_held() == NO_HANDLES.message
    assert know(sending, 9)[-1] == ("row", 2.0, False)


def test_waits_of_a_row_that_fails_alone_double_up_to_a_bound() -> None:
    """Whether others are answered between them or not: nothing else waits."""
    sending = Sending(longest=30.0)
    know(sending, 7)

    waits = [sending.fails(sending.send([7])[0])[0].min_backoff for _ in range(5)]

    assert waits == [4.0, 8.0, 16.0, 30.0, 30.0]
    assert sending.machine.since is None


def test_where_many_fail_so_no_row_is_known_to_fail_alone() -> None:
    """Half of the calls find no handle, whatever the row: each is asked for again after a second."""
    sending = Sending()
    for row in range(1, 200):
        (failing,) = sending.send([row])
        (passing,) = sending.send([row + 1000])
        sending.fails(failing)
        sending.now += 1.0
        (again,) = sending.send([row + 1000])
        sending.answered(passing)
        sending.answered(again)

    for _ in range(4):
        outcome, _ = sending.fails(sending.send([7])[0])
        assert outcome.scope == NO_HANDLES.scope
        sending.now += 1.0
        sending.answered(sending.send([1])[0])


def test_an_answer_to_a_call_sent_before_does_not_show_that_a_row_fails_alone() -> None:
    """Nor is it known by its own failures, however many."""
    sending = Sending()
    early = sending.send(range(50, 80))
    sending.now += 1.0
    for call in early:
        sending.fails(sending.send([7])[0])
        sending.answered(call)

    assert sending.machine.rows[7].proven == 0
    assert sending.machine.why_held() == ""


def test_rows_that_are_known_to_fail_alone_say_nothing_about_this_machine() -> None:
    """Though they are all that is sent; two others that fail still do."""
    sending = Sending()
    know(sending, 7)
    sending.fails(sending.send([7])[0])
    assert sending.machine.since is None

    sending.fails(sending.send([9])[0])
    assert sending.machine.since is None
    sending.fails(sending.send([10])[0])
    assert sending.machine.since is not None


def test_a_run_waits_so_long_for_rows_that_fail_alone() -> None:
    """For what the run waits, ten minutes at most; and not while one of them has not failed so, or none does alone."""
    sending = Sending()
    machine = sending.machine
    began = sending.now
    sending.fails(sending.send([7])[0])
    assert machine.held_until([7], longest=60.0) == math.inf
    know(sending, 7)

    assert machine.held_until([7], longest=60.0) == began + 60.0
    assert machine.held_until([7], longest=1e9) == began + 600.0
    assert machine.held_until([7, 8], longest=60.0) == math.inf
    assert machine.held_until([], longest=60.0) == math.inf

    late = sending.now
    sending.fails(sending.send([9])[0])
    assert machine.held_until([7, 9], longest=60.0) == late + 60.0
    assert machine.held_until([9], longest=60.0) == math.inf

    machine.works(7, sending.now)
    assert machine.held_until([7], longest=60.0) == math.inf
