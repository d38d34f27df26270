"""The history of an output over several runs: bounded, forgiving, and never wrong about what it did not see."""

from __future__ import annotations

import json

import pytest

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    OutageEnded,
    OutageStarted,
    RowFinished,
    RunEnded,
)
from llmbatch.core.raw_json import JSON
from llmbatch.report.journal import Journal
from llmbatch.report.stats import RunStats

WALL = 1_790_000_000.0
ROUTE = "openai/x"


def play(journal: Journal, *events: Event, wall: float = WALL) -> JSON:
    """Feed one run that began at *wall*, whose events' clock starts at 0; gives what is kept."""
    stats = RunStats()
    for event in events:
        stats.observe(event)
        journal.observe(event, wall + event.at, stats)
    kept: JSON = json.loads(json.dumps(journal.to_json(stats), allow_nan=False))
    return kept


def test_an_outage_has_its_times_and_what_the_provider_said() -> None:
    """It began when the circuit opened, not when a probe confirmed it."""
    journal = Journal()
    journal.begin(WALL)

    play(
        journal,
        CallEnded(10.0, ROUTE, 1, False, "failure", "overloaded_error", "Overloaded", 529, 0.1, 0, 0),
        OutageStarted(13.0, ROUTE, 10.0, "5 rows failed in a row"),
        OutageEnded(73.0, ROUTE, 10.0, 63.0),
    )

    (outage,) = journal.outages
    assert (outage.began, outage.ended) == (WALL + 10, WALL + 73)
    assert outage.message == "overloaded_error (529): Overloaded"


def test_a_run_that_did_not_wait_for_the_first_probe_met_no_outage() -> None:
    """With a short ``--max-outage`` it stops before a probe confirms the outage: the opening is told all the same."""
    journal = Journal()
    journal.begin(WALL)

    play(
        journal,
        CallEnded(10.0, ROUTE, 1, False, "failure", "overloaded_error", "Overloaded", 529, 0.1, 0, 0),
        CircuitChanged(10.0, ROUTE, "closed", "open", "5 rows failed in a row", 1.0),
        RunEnded(10.5, 75, "rows are deferred", 5),
    )

    (outage,) = journal.outages
    assert (outage.began, outage.ended, outage.message) == (WALL + 10, None, "overloaded_error (529): Overloaded")


def test_history_survives_a_rerun() -> None:
    """A second run keeps when the first began, its outages and its rows."""
    first = Journal()
    first.begin(WALL)
    kept = play(
        first,
        CallSent(0.0, ROUTE, 1, 1, False),
        RowFinished(10.0, ROUTE, 1, "success", "", 1),
        OutageStarted(11.0, ROUTE, 10.0, "down"),
        RunEnded(20.0, 75, "", 1),
    )

    second = Journal(kept)
    second.begin(WALL + 1000, last_seen=WALL + 20)
    play(
        second,
        CallSent(0.0, ROUTE, 2, 1, False),
        RowFinished(10.0, ROUTE, 2, "success", "", 1),
        RunEnded(11.0, 0, "", 0),
        wall=WALL + 1000,
    )

    assert (second.began, second.ended, second.runs) == (WALL, WALL + 1011, 2)
    assert [(outage.began, outage.ended) for outage in second.outages] == [(WALL + 10, WALL + 20)]
    assert second.rows_per_s(ROUTE) == pytest.approx(2 / 20)


def test_tenants_of_a_route_share_its_speed() -> None:
    """The lines of an output name the route, circuits the tenant."""
    journal = Journal()
    play(
        journal,
        *(CallSent(0.0, f"{ROUTE} [tenant {name}]", 1, 1, False) for name in "ab"),
        *(RowFinished(10.0, f"{ROUTE} [tenant {name}]", 1, "success", "", 1) for name in "ab"),
    )

    assert journal.rows_per_s(ROUTE) == pytest.approx(0.2)
    assert journal.rows_per_s("openai/other") is None


@pytest.mark.slow  # a week of events
def test_a_flapping_week_made_the_history_grow_without_end() -> None:
    """Old outages are counted and dropped; messages and routes are cut."""
    journal = Journal()
    events = [
        event
        for number in range(5000)
        for event in (
            OutageStarted(number, "r" * 9999, number, "m" * 9999),
            OutageEnded(number + 0.5, "r" * 9999, number, 0.5),
        )
    ]
    rows: list[Event] = []
    for number in range(300):
        sent = CallSent(0.5, f"route-{number}", 1, 1, False)
        rows += [sent, RowFinished(1.0, f"route-{number}", 1, "success", "", 1)]

    kept = play(journal, *events, *rows)

    assert isinstance(kept, dict)
    assert (len(journal.outages), journal.dropped) == (100, 4900)
    assert len(kept["routes"]) == 100  # type: ignore[arg-type]
    assert len(json.dumps(kept)) < 200_000


@pytest.mark.parametrize(
    "kept",
    [
        None,
        3,
        [],
        {"outages": 3, "routes": [], "began": 7, "runs": "x"},
        {"outages": [{}, {"from": "x"}, 3, {"from": "2026-01-01", "route": 1, "message": 2}], "began": "never"},
        {"routes": {"a": {"rows": -1, "seconds": 1e999}, "b": None}, "runs": -3, "dropped_outages": True},
    ],
)
def test_whatever_stood_in_the_sidecar_is_survived(kept: JSON) -> None:
    """A history that was damaged or made up begins afresh."""
    journal = Journal(kept)
    journal.begin(WALL)

    play(journal, RunEnded(1.0, 0, "", 0))

    assert (journal.began, journal.runs, journal.outages) == (WALL, 1, [])
