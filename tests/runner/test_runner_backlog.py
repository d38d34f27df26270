"""Rows that wait: in the queue of their route, for a retry, held for evidence, or parked."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from runner_parts import FAILED, Parts, numbers, open_circuit, pending

from llmbatch.core.events import RetryPlanned, RowParked, RowsRequeued
from llmbatch.runner.pending import RowState


def test_a_queue_is_first_in_first_out_but_for_those_that_go_first() -> None:
    """A row that was not sent goes back to the front."""
    run = Parts().context()
    rows = [pending(run, number) for number in (1, 2, 3)]
    route = rows[0].route
    run.backlog.enqueue(rows[0])
    run.backlog.enqueue(rows[1])
    run.backlog.enqueue(rows[2], first=True)

    assert [run.backlog.next_of(route).row.number for _ in range(3)] == [3, 1, 2]

    assert not run.backlog.queued
    assert route.unfinished == route.waiting == 3


def test_a_retry_is_queued_when_it_is_due_and_not_before() -> None:
    """The earliest first; an event tells of each."""
    parts = Parts()
    run = parts.context()
    late, soon = pending(run, 1), pending(run, 2)
    run.backlog.retry_at(late, 1010.0, 1000.0, "http_500")
    run.backlog.retry_at(soon, 1005.0, 1000.0, "timeout")
    assert run.backlog.next_retry == 1005.0

    run.backlog.release_due(1004.9)
    assert not run.backlog.queued
    run.backlog.release_due(1005.0)

    assert numbers(soon.route.queue) == [2]
    assert run.backlog.next_retry == 1010.0
    assert [(event.row, event.delay, event.code) for event in parts.of(RetryPlanned)] == [
        (1, 10.0, "http_500"),
        (2, 5.0, "timeout"),
    ]
    assert parts.waited == [1, 2, 2]


def test_a_retry_that_was_planned_anew_is_queued_once() -> None:
    """By the later plan."""
    run = Parts().context()
    row = pending(run, 1)
    run.backlog.retry_at(row, 1005.0, 1000.0, "")
    run.backlog.retry_at(row, 1020.0, 1000.0, "")

    run.backlog.release_due(1010.0)
    assert row.state is RowState.RETRYING
    run.backlog.release_due(1020.0)

    assert numbers(row.route.queue) == [1]
    assert run.backlog.next_retry == math.inf


@pytest.mark.parametrize("where", ["queue", "heap", "parked", "held"])
def test_a_row_that_is_dropped_is_nowhere_any_more(where: str) -> None:
    """Wherever it waited."""
    run = Parts().context()
    row, other = pending(run, 1), pending(run, 2)
    run.backlog.enqueue(other)
    {
        "queue": lambda: run.backlog.enqueue(row),
        "heap": lambda: run.backlog.retry_at(row, 1001.0, 1000.0, ""),
        "parked": lambda: run.backlog.park(row, 1000.0, avoided=False),
        "held": lambda: run.backlog.hold(row),
    }[where]()

    run.backlog.drop(row)
    run.backlog.release_due(2000.0)

    assert row.state is RowState.DONE
    assert list(run.backlog.rows) == [2]
    assert numbers(row.route.queue) == [2]
    assert not row.route.parked
    assert row.route.unfinished == 1
    run.backlog.drop(other)
    assert not run.backlog.queued


def test_an_opening_parks_whatever_waits_on_its_route_alone() -> None:
    """The queue, planned retries and held rows; what was in the queue would have been sent."""
    parts = Parts()
    run = parts.context()
    queued, retrying, held = (pending(run, number) for number in (1, 2, 3))
    other_queued, other_retrying = pending(run, 4, "n"), pending(run, 5, "n")
    run.backlog.enqueue(queued)
    run.backlog.retry_at(retrying, 1005.0, 1000.0, "")
    call = held.route.state.admit(3, 1000.0, timeout=60.0)
    assert call is not None
    held.route.state.settle(call, FAILED, 1000.0)
    run.backlog.hold(held)
    run.backlog.enqueue(other_queued)
    run.backlog.retry_at(other_retrying, 1006.0, 1000.0, "")
    open_circuit(run, queued.route)

    run.backlog.park_waiting(queued.route, 1000.0)

    assert list(queued.route.parked) == [1, 2, 3]
    assert [(event.row, event.avoided) for event in parts.of(RowParked)] == [(1, True), (2, True), (3, False)]
    assert numbers(other_queued.route.queue) == [4]
    assert run.backlog.next_retry == 1006.0


def test_held_rows_stay_held_through_a_named_wait() -> None:
    """The end of a wait is no evidence."""
    run = Parts().context()
    held = pending(run, 1)
    call = held.route.state.admit(1, 1000.0, timeout=60.0)
    assert call is not None
    held.route.state.settle(call, FAILED, 1000.0)
    run.backlog.hold(held)

    run.backlog.park_waiting(held.route, 1000.0)

    assert held.state is RowState.HELD
    assert not held.route.parked


def test_parked_rows_are_queued_again_with_their_neighbors_apart() -> None:
    """Rows that never failed first; a row that was told to wait gets its retry."""
    parts = Parts()
    run = parts.context()
    rows = [pending(run, number) for number in range(1, 9)]
    route = rows[0].route
    call = route.state.admit(2, 1000.0, timeout=60.0)
    assert call is not None
    route.state.settle(call, FAILED, 1000.0)
    rows[7].not_before = 1030.0
    for one in rows:
        run.backlog.park(one, 1000.0, avoided=True)

    run.backlog.requeue(route, 1000.0)

    order = numbers(route.queue)
    assert order[-1] == 2
    assert sorted(order) == [1, 2, 3, 4, 5, 6, 7]
    assert all(abs(one - next_one) > 1 for one, next_one in pairwise(order[:-1]))
    assert run.backlog.next_retry == 1030.0
    assert [event.count for event in parts.of(RowsRequeued)] == [8]
    assert not route.parked


def test_a_route_without_parked_rows_tells_nothing_of_queueing_them() -> None:
    """Zero rows are no news."""
    parts = Parts()
    run = parts.context()
    route = pending(run, 1).route

    run.backlog.requeue(route, 1000.0)

    assert not parts.of(RowsRequeued)


def test_rows_parked_for_a_named_wait_are_queued_when_it_is_over() -> None:
    """Unless the circuit has opened meanwhile: then its probes decide."""
    run = Parts().context()
    waits, opens = pending(run, 1, "a"), pending(run, 2, "b")
    for one in (waits, opens):
        one.route.state.throttle.pause(1060.0)
        run.backlog.park(one, 1000.0, avoided=True)
        run.backlog.pause(one.route)
    open_circuit(run, opens.route)

    run.backlog.release_due(1059.0)
    before = waits.state
    run.backlog.release_due(1060.0)

    assert (before, waits.state) == (RowState.PARKED, RowState.QUEUED)
    assert opens.state is RowState.PARKED


def test_probes_come_from_all_over_the_parked_rows() -> None:
    """Those first that never failed, and of them those that probed least."""
    run = Parts().context()
    rows = [pending(run, number) for number in range(1, 101)]
    route = rows[0].route
    assert run.backlog.best_probe(route, 0, 1000.0) is None
    for one in rows:
        run.backlog.park(one, 1000.0, avoided=True)
    assert run.backlog.has_untried(route)

    chosen = [run.backlog.best_probe(route, turn, 1000.0) for turn in range(5)]

    assert [one.row.number for one in chosen if one is not None] == [1, 62, 24, 86, 48]
    for one in rows[1:]:
        one.probes = 1
    assert run.backlog.best_probe(route, 3, 1000.0) is rows[0]
    rows[0].probes = 1
    assert not run.backlog.has_untried(route)


def test_a_parked_row_probes_only_after_the_wait_that_its_own_answer_named() -> None:
    """The route's wait, which two answers confirm, may be the shorter one."""
    run = Parts().context()
    rows = [pending(run, number) for number in (1, 2)]
    route = rows[0].route
    for one, until in zip(rows, (1013.9, 1013.8), strict=True):
        one.not_before = until
        run.backlog.park(one, 1000.0, avoided=False)

    assert run.backlog.probe_at(route) == 1013.8
    assert run.backlog.best_probe(route, 0, 1013.7) is None
    assert run.backlog.best_probe(route, 0, 1013.8) is rows[1]


def test_every_waiting_row_is_told_with_its_wait() -> None:
    """In order of their numbers; a row in flight does not wait."""
    run = Parts().context()
    queued, retrying, flying = pending(run, 3), pending(run, 1), pending(run, 2)
    run.backlog.enqueue(queued)
    run.backlog.retry_at(retrying, 1030.0, 1000.0, "")
    flying.state = RowState.IN_FLIGHT

    waits = [(one.row.number, wait) for one, wait in run.backlog.waiting(run.routes, 1000.0)]

    assert waits == [(1, 30.0), (3, 0.05)]
