"""The statistics of several processes, folded: as if one process had seen all of it."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    OutageEnded,
    OutageStarted,
    Progress,
    RowFinished,
    RowParked,
    RunEnded,
    RunStarted,
    Throttled,
)
from llmbatch.report.fold import FoldedStats, ProcessStats
from llmbatch.report.stats import RunStats

STARTED = RunStarted(0.0, "in", "out", 8, 3, 1, 100)


def story(random: Random, first_row: int) -> list[Event]:
    """What happens to ten rows of one process, in order of time."""
    events: list[Event] = []
    at = 0.0
    for row in range(first_row, first_row + 10):
        at += random.random()
        route = random.choice(["a", "b"])
        events.append(CallSent(at, route, row, 1, random.random() < 0.1))
        at += random.random()
        kind = random.choice(["success", "success", "failure", "throttled"])
        if kind == "success":
            cost = Decimal(random.randint(0, 100)) / 1000
            events.append(CallEnded(at, route, row, False, "success", "", "", 200, random.random(), 10, 5, 0, cost))
            events.append(RowFinished(at, route, row, "success", "", 1))
        elif kind == "failure":
            events.append(CallEnded(at, route, row, False, "failure", "overloaded", "no", 503, 0.1, 0, 0))
            events.append(RowParked(at, route, row, 1.0, "down", False))
        else:
            events.append(Throttled(at, route, 1.0, "rate_limit", True, True))
            events.append(CallEnded(at, route, row, False, "throttled", "rate_limit", "", 429, 0.1, 0, 0))
            events.append(RowFinished(at, route, row, "failed", "rate_limit", 1))
    return events


COUNTED = (
    "done_rows", "success", "failed", "already_done", "this_run_success", "this_run_failed", "in_flight", "calls",
    "probes", "throttles", "input_tokens", "output_tokens", "errors_by_code", "failures_by_code", "parked", "spending",
    "latency_p50_s", "latency_p95_s", "total_rows",
)  # fmt: skip


@pytest.mark.slow  # up to some seconds of CPU
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_counts_are_those_of_one_process_that_saw_all(seed: int, processes: int) -> None:
    """However often each tells in between."""
    random = Random(seed)
    one, folded = RunStats(), FoldedStats(processes)
    own = [ProcessStats() for _ in range(processes)]
    for stats in (one, folded, *own):
        stats.observe(STARTED)
    events = [(number, event) for number in range(processes) for event in story(random, 1 + 10 * number)]
    for number, event in sorted(events, key=lambda pair: pair[1].at):
        one.observe(event)
        own[number].observe(event)
        if random.random() < 0.2:
            folded.take(number, own[number].state())
    for number, stats in enumerate(own):
        folded.take(number, stats.state())

    expected, found = one.snapshot(one.at), folded.snapshot(one.at)

    assert {name: getattr(found, name) for name in COUNTED} == {name: getattr(expected, name) for name in COUNTED}
    routes = [(r.label, r.calls, r.success, r.failed, r.in_flight, r.parked) for r in found.routes]
    assert sorted(routes) == sorted(
        (r.label, r.calls, r.success, r.failed, r.in_flight, r.parked) for r in expected.routes
    )


def test_a_process_that_is_gone_has_nothing_in_flight_and_its_rows_stay() -> None:
    """A process that was started again begins from zero, and is added."""
    folded, own = FoldedStats(2), ProcessStats()
    folded.observe(STARTED)
    own.observe(STARTED)
    for event in (CallSent(1.0, "a", 1, 1, False), RowFinished(1.0, "a", 2, "success", "", 1)):
        own.observe(event)
    folded.take(0, own.state())
    assert folded.snapshot().in_flight == 1

    assert folded.gone(0, has_ended=False) == []

    assert folded.snapshot().in_flight == 0
    again = ProcessStats()
    again.observe(RowFinished(5.0, "a", 3, "success", "", 1))
    folded.take(0, again.state())
    folded.add_rows(2, 1)
    assert (folded.snapshot().this_run_success, folded.snapshot().this_run_failed) == (4, 1)


def change(at: float, old: str, new: str) -> CircuitChanged:
    return CircuitChanged(at, "a", old, new, "down", 1.0)  # type: ignore[arg-type]


def test_a_circuit_is_closed_if_it_is_for_all_and_one_outage_is_one() -> None:
    """From the first process that opens it to the last that closes it."""
    folded = FoldedStats(2)
    folded.observe(STARTED)
    told: list[Event] = []
    events: list[tuple[int, Event]] = [
        (0, change(10.0, "closed", "open")),
        (0, OutageStarted(11.0, "a", 10.0, "down")),
        (1, change(12.0, "closed", "open")),
        (1, OutageStarted(13.0, "a", 12.0, "down")),
        (0, change(20.0, "open", "half_open")),
        (0, change(21.0, "half_open", "closed")),
        (0, OutageEnded(21.0, "a", 10.0, 11.0)),
        (1, change(29.0, "half_open", "closed")),
        (1, OutageEnded(30.0, "a", 12.0, 18.0)),
    ]
    for number, event in events:
        for one in folded.fold(number, event):
            told.append(one)
            folded.observe(one)

    assert [type(event).__name__ for event in told if not isinstance(event, CircuitChanged)] == [
        "OutageStarted", "OutageEnded"
    ]  # fmt: skip
    end = told[-1]
    assert isinstance(end, OutageEnded)
    assert (end.since, end.seconds) == (10.0, 20.0)
    snapshot = folded.snapshot(40.0)
    assert (snapshot.outages, snapshot.outage_s, snapshot.state) == (1, 20.0, "running")
    assert snapshot.routes[0].state == "closed"


def test_an_outage_ends_with_the_last_process_that_had_it() -> None:
    """Also if that was killed."""
    folded = FoldedStats(2)
    folded.observe(STARTED)
    for event in (change(10.0, "closed", "open"), OutageStarted(11.0, "a", 10.0, "down")):
        for one in folded.fold(1, event):
            folded.observe(one)

    for left in folded.gone(1, has_ended=False):
        folded.observe(left)

    assert folded.snapshot(50.0).routes[0].state == "closed"
    assert folded.snapshot(50.0).outages == 1
    assert folded.snapshot(50.0).outage_s < 5.0


def observe_all(folded: FoldedStats, events: list[Event]) -> None:
    for event in events:
        folded.observe(event)


def trouble(folded: FoldedStats, *numbers: int) -> None:
    """Processes *numbers*, which all run, notice an outage of ``a`` from 10 s on."""
    folded.observe(STARTED)
    for number in numbers:
        observe_all(folded, folded.begun(number))
        for event in (change(10.0, "closed", "open"), OutageStarted(11.0, "a", 10.0, "down")):
            observe_all(folded, folded.fold(number, event))


def test_an_outage_that_all_processes_end_in_is_not_over() -> None:
    """As in a run of one process that ends at ``--max-outage``; it was told as over once all had ended."""
    folded = FoldedStats(2)
    trouble(folded, 0, 1)

    told = [*folded.gone(1, has_ended=True), *folded.gone(0, has_ended=True)]
    observe_all(folded, told)

    assert not [event for event in told if isinstance(event, OutageEnded)]
    route = folded.routes()[0]
    assert (route.state, route.outage_since) == ("open", 10.0)
    assert folded.snapshot(50.0).outages == 1


def test_an_outage_ends_for_the_processes_that_go_on() -> None:
    """Though one has ended in it, by itself."""
    folded = FoldedStats(2)
    trouble(folded, 0, 1)

    observe_all(folded, folded.gone(1, has_ended=True))
    for event in (change(29.0, "open", "closed"), OutageEnded(30.0, "a", 10.0, 20.0)):
        observe_all(folded, folded.fold(0, event))

    route = folded.routes()[0]
    assert (route.state, route.outage_since, route.outage_s) == ("closed", None, 20.0)


def test_a_process_that_begins_after_all_have_ended_has_no_circuit_of_theirs() -> None:
    """As one that goes on with what others have left of ``--max-cost``."""
    folded = FoldedStats(2)
    trouble(folded, 0)
    observe_all(folded, folded.gone(0, has_ended=True))

    observe_all(folded, folded.begun(0))

    route = folded.routes()[0]
    assert (route.state, route.outage_since) == ("closed", None)


def tell(whole: FoldedStats, number: int, progress: Progress) -> None:
    """Process *number* tells how far it has read."""
    own = ProcessStats()
    own.observe(STARTED)
    own.observe(progress)
    whole.take(number, own.state())


def test_bytes_that_are_all_read_are_not_the_end_of_the_rows() -> None:
    """A small input is read in one piece, and most of its rows wait behind it."""
    whole = FoldedStats(2)
    whole.observe(STARTED)

    for number in (0, 1):
        tell(whole, number, Progress(1.0, 4, 1.0, False))

    assert whole.snapshot(1.0).total_rows == 100


def test_a_process_that_was_started_again_makes_the_input_no_shorter() -> None:
    whole = FoldedStats(2)
    whole.observe(STARTED)
    tell(whole, 0, Progress(1.0, 30, 0.6, False))

    for number, rows in ((0, 20), (1, 50)):
        tell(whole, number, Progress(2.0, rows, 1.0, True))

    assert whole.snapshot(2.0).total_rows == 100


def test_the_end_of_reading_is_that_of_all() -> None:
    """The fraction is the mean, the rows are the sum."""
    folded = FoldedStats(2)
    folded.observe(RunStarted(0.0, "in", "out", 8, 0, 0, None))
    for number, progress in ((0, Progress(1.0, 10, 0.5, False)), (1, Progress(1.0, 6, 0.25, False))):
        own = ProcessStats()
        own.observe(progress)
        folded.take(number, own.state())

    half = folded.snapshot(1.0)
    for number in (0, 1):
        own = ProcessStats()
        own.observe(Progress(2.0, 20, 1.0, True))
        folded.take(number, own.state())

    assert (half.rows_read, half.total_rows, half.total_is_estimate) == (16, 43, True)
    assert (folded.snapshot(2.0).total_rows, folded.snapshot(2.0).total_is_estimate) == (40, False)
    assert folded.summary(RunEnded(3.0, 0, "", 0)).exit_code == 0
