"""What is sent next, and what becomes of the answers: the scheduler without a loop around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runner_parts import FAILED, GOOD, NO_NETWORK, THROTTLED, Parts, prompts, row, row_of

from llmbatch.core.calls import Outcome, Usage
from llmbatch.core.events import CallEnded, CallSent, CircuitChanged, Notice, RetryPlanned, RowParked
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.schedule import Scheduler


def taken(scheduler: Scheduler, most: int = 100) -> list[Attempt]:
    """All calls that may go now."""
    attempts: list[Attempt] = []
    while len(attempts) < most and (attempt := scheduler.take()) is not None:
        attempts.append(attempt)
    return attempts


def fail_until_open(parts: Parts, scheduler: Scheduler) -> None:
    """Rows fail, each as it is sent, until the circuit opens."""
    while not any(event.new == "open" for event in parts.of(CircuitChanged)):
        attempt = scheduler.take()
        assert attempt is not None
        scheduler.settle(attempt, FAILED)


def test_new_rows_go_in_order_as_far_as_there_are_slots() -> None:
    """Each call is told as it is sent, and as it comes back."""
    parts = Parts(prompts(5), concurrency=3)
    scheduler = parts.scheduler()

    attempts = taken(scheduler)

    assert [row_of(attempt) for attempt in attempts] == [1, 2, 3]
    assert [(event.row, event.attempt, event.call) for event in parts.of(CallSent)] == [(1, 1, 1), (2, 1, 2), (3, 1, 3)]
    parts.now += 2.0
    scheduler.settle(attempts[1], replace(GOOD, usage=Usage(3, 4)))
    ended = parts.of(CallEnded)[0]
    assert (ended.row, ended.latency_s, ended.input_tokens, ended.output_tokens) == (2, 2.0, 3, 4)
    assert [result.number for result in parts.sink.results] == [2]
    assert [row_of(attempt) for attempt in taken(scheduler)] == [4]


def test_a_retry_that_is_due_goes_in_turn_with_new_rows() -> None:
    """Bad rows among those that wait must not hide the good ones."""
    parts = Parts(prompts(20), concurrency=1)
    scheduler = parts.scheduler()
    for _ in range(3):
        attempt = scheduler.take()
        assert attempt is not None
        scheduler.settle(attempt, Outcome("rejected", retry=True, code="http_425"))
    assert [event.row for event in parts.of(RetryPlanned)] == [1, 2, 3]
    parts.now += 10.0

    order = []
    for _ in range(5):
        attempt = scheduler.take()
        assert attempt is not None
        order.append(row_of(attempt))
        scheduler.settle(attempt, GOOD)

    assert order[1::2] == [4, 5]
    assert {*order[::2]} == {1, 2, 3}


def test_a_finished_run_has_nothing_left() -> None:
    """Nothing to send, nothing to wait for."""
    parts = Parts(prompts(1))
    scheduler = parts.scheduler()
    attempt = scheduler.take()
    assert attempt is not None
    assert not scheduler.is_finished()

    scheduler.settle(attempt, GOOD)
    assert scheduler.take() is None

    assert scheduler.is_finished()
    assert scheduler.next_wake(parts.now) is None
    assert not scheduler.is_stuck(parts.now)
    assert list(scheduler.deferred()) == []


def test_a_call_that_is_cut_off_leaves_its_row_to_another_run() -> None:
    """It is no attempt that says anything."""
    parts = Parts(prompts(1), tpm=600.0)
    scheduler = parts.scheduler()
    attempt = scheduler.take()
    assert attempt is not None

    scheduler.cancelled(attempt)

    assert [(event.verdict, event.row) for event in parts.of(CallEnded)] == [(None, 1)]
    assert [(result.number, result.status) for result in scheduler.deferred()] == [(1, "deferred")]
    assert parts.sink.results == []


def test_an_open_circuit_lets_one_probe_at_a_time_go() -> None:
    """The rows that wait are parked, and go again when it closes."""
    parts = Parts(prompts(30), concurrency=10)
    scheduler = parts.scheduler()
    fail_until_open(parts, scheduler)
    parked = {event.row for event in parts.of(RowParked)}
    assert len(parked) >= 5
    assert scheduler.take() is None
    wake = scheduler.next_wake(parts.now)
    assert wake is not None

    parts.now = wake
    probe, *others = taken(scheduler)

    assert probe.call.probe
    assert others == []
    scheduler.settle(probe, GOOD)
    assert [event.new for event in parts.of(CircuitChanged)] == ["open", "half_open", "closed"]
    assert scheduler.take() is not None


def test_a_row_that_probes_loses_no_attempt() -> None:
    """It goes to the parked ones, as often as it has to."""
    parts = Parts(prompts(30), concurrency=10)
    scheduler = parts.scheduler()
    fail_until_open(parts, scheduler)
    for _ in range(3):
        wake = scheduler.next_wake(parts.now)
        assert wake is not None
        parts.now = wake
        probe = scheduler.take()
        assert probe is not None
        scheduler.settle(probe, FAILED)

    attempts = {result.number: result.attempts for result in scheduler.deferred()}

    assert set(attempts.values()) <= {0, 1}
    assert parts.sink.results == []


def test_health_checks_go_when_only_evidence_is_missing() -> None:
    """A held row waits for one; that it passes proves the row's failure."""
    parts = Parts(prompts(1), smallest=True)
    scheduler = parts.scheduler()
    attempt = scheduler.take()
    assert attempt is not None
    scheduler.settle(attempt, FAILED)

    check = scheduler.take()

    assert check is not None
    assert row_of(check) == 0
    assert scheduler.take() is None
    assert check.request.body == b""
    assert parts.of(CallSent)[-1].row == 0
    scheduler.settle(check, GOOD)
    assert [event.row for event in parts.of(RetryPlanned)] == [1]
    assert parts.sink.results == []


def test_the_request_of_an_earlier_runs_row_is_a_health_check_too() -> None:
    """Where the provider has no smallest one."""
    parts = Parts(prompts(1))
    scheduler = parts.scheduler(good_rows=lambda: [row(77)])
    attempt = scheduler.take()
    assert attempt is not None
    scheduler.settle(attempt, FAILED)

    check = scheduler.take()

    assert check is not None
    assert (check.call.kind, check.request.body) == ("good", b'"row 77"')


def test_tokens_are_reserved_and_paid_as_used() -> None:
    """A bucket of five seconds' worth holds five rows; what was not used is given back."""
    parts = Parts(prompts(10), tpm=600.0)
    scheduler = parts.scheduler()
    attempts = taken(scheduler)
    assert [attempt.reserved for attempt in attempts] == [10] * 5
    wake = scheduler.next_wake(parts.now)
    assert wake == pytest.approx(parts.now + 1.0)

    scheduler.settle(attempts[0], replace(GOOD, usage=Usage(0, 0)))

    assert row_of(scheduler.take()) == 6


def test_nothing_goes_while_this_machine_is_at_fault() -> None:
    """Its rows go back without a mark, and the run is stuck once it has lasted too long."""
    parts = Parts(prompts(3), concurrency=1, max_outage=30.0)
    scheduler = parts.scheduler()
    for _ in range(2):
        attempt = scheduler.take()
        assert attempt is not None
        scheduler.settle(attempt, NO_NETWORK)

    assert scheduler.take() is None
    assert [event.level for event in parts.of(Notice)] == ["warning"]
    assert scheduler.next_wake(parts.now) == parts.now + 1.0
    assert not scheduler.is_stuck(parts.now + 29.9)
    assert scheduler.is_stuck(parts.now + 30.0)
    assert scheduler.why_stuck() == "this machine cannot send anything"
    assert [(result.attempts, result.reason) for result in scheduler.deferred()] == [
        (0, "this machine cannot send anything")
    ] * 2
    parts.now += 1.0
    assert row_of(scheduler.take()) in (1, 2)


def test_a_congested_sink_stops_new_calls() -> None:
    """Until somebody has taken the results."""
    parts = Parts(prompts(2))
    scheduler = parts.scheduler()
    parts.sink.congested = True
    assert scheduler.take() is None

    parts.sink.congested = False

    assert row_of(scheduler.take()) == 1


def test_a_throttled_route_pauses_and_ramps_up() -> None:
    """It is no outage."""
    parts = Parts(prompts(30), concurrency=10)
    scheduler = parts.scheduler()
    attempts = taken(scheduler)
    for attempt in attempts:
        scheduler.settle(attempt, replace(THROTTLED, retry_after=5.0))
    assert scheduler.take() is None
    wake = scheduler.next_wake(parts.now)
    assert wake == pytest.approx(parts.now + 5.0)

    parts.now += 5.0

    assert 1 <= len(taken(scheduler)) < 10
    assert not parts.of(CircuitChanged)


def test_a_run_that_defers_is_stuck_once_the_outage_is_certain() -> None:
    """Not before; the reason names the option."""
    parts = Parts(prompts(5), smallest=True, on_outage="defer")
    scheduler = parts.scheduler()
    fail_until_open(parts, scheduler)
    assert not scheduler.is_stuck(parts.now)

    for _ in range(20):
        wake = scheduler.next_wake(parts.now)
        if wake is None:
            break
        parts.now = wake
        probe = scheduler.take()
        if probe is not None:
            scheduler.settle(probe, FAILED)

    assert scheduler.is_stuck(parts.now)
    assert scheduler.why_stuck().startswith("m is in an outage (--on-outage defer): ")
    assert [result.status for result in scheduler.deferred()] == ["deferred"] * 5
    assert parts.halted == []


@pytest.mark.parametrize(
    ("options", "is_stuck"), [({"on_outage": "defer"}, True), ({"max_outage": 60.0}, True), ({}, False)]
)
def test_a_row_that_was_asked_to_wait_for_an_hour_does_not_hold_a_run_that_waits_for_less(
    options: dict[str, Any], is_stuck: bool
) -> None:
    """It is deferred with its wait once the other rows have ended; without such an option the run waits."""
    parts = Parts(prompts(20), concurrency=10, **options)
    scheduler = parts.scheduler()
    first, *others = taken(scheduler)
    scheduler.settle(first, replace(FAILED, retry_after=3600.0))
    assert not scheduler.is_stuck(parts.now)
    while others:
        scheduler.settle(others.pop(), GOOD)
        others += taken(scheduler)

    assert scheduler.is_stuck(parts.now) is is_stuck
    assert scheduler.why_stuck() == "m asks to wait longer than this run will"
    assert [result.retry_after for result in scheduler.deferred()] == [pytest.approx(3600.0)]


def test_a_run_that_fails_rows_ends_them_with_the_outage() -> None:
    """Parked ones and those that come."""
    parts = Parts(prompts(8), smallest=True, on_outage="fail", concurrency=2)
    scheduler = parts.scheduler()
    fail_until_open(parts, scheduler)

    for _ in range(20):
        wake = scheduler.next_wake(parts.now)
        if wake is None:
            break
        parts.now = wake
        probe = scheduler.take()
        if probe is not None:
            scheduler.settle(probe, FAILED)

    assert {result.status for result in parts.sink.results} == {"failed"}
    assert {result.error_code for result in parts.sink.results} <= {"http_500", "circuit_open"}
    assert len(parts.sink.results) >= 5


def test_an_account_without_money_halts_the_run() -> None:
    """Nothing is marked as failed."""
    parts = Parts(prompts(20), concurrency=5)
    scheduler = parts.scheduler(ever=False)
    attempts = taken(scheduler)
    money = Outcome("account_refused", "key", code="insufficient_quota", message="no money", hint="top up")
    for attempt in attempts:
        scheduler.settle(attempt, money)

    assert parts.halted == [(3, "m refuses the account: no money", "top up")]
    assert scheduler.given_up() is None  # the run stopped at once

    assert parts.sink.results == []
    assert scheduler.take() is None


def test_a_follow_up_goes_next_for_the_same_row() -> None:
    """Its tokens and those of the first answer are the row's."""
    parts = Parts(prompts(3), concurrency=1)
    scheduler = parts.scheduler()
    first = scheduler.take()
    assert first is not None
    again = replace(first.request, body=b"repair")
    scheduler.settle(first, replace(GOOD, usage=Usage(1, 2), follow_up=again))

    second = scheduler.take()

    assert second is not None
    assert (row_of(second), second.request.body) == (1, b"repair")
    scheduler.settle(second, replace(GOOD, usage=Usage(10, 20)))
    result = parts.sink.results[0]
    assert (result.number, result.usage, result.attempts) == (1, Usage(11, 22), 2)


def test_a_process_that_was_suspended_ramps_up() -> None:
    """Instead of sending all at once."""
    parts = Parts(prompts(30), concurrency=20)
    scheduler = parts.scheduler()
    first = scheduler.take()
    assert first is not None

    scheduler.control.ramp()

    assert len(taken(scheduler)) == 2
