"""Histories of processes that ran side by side, as shards do, seen as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.raw_json import JSON
from llmbatch.report.history import History
from llmbatch.report.journal import Journal, RouteSpeed
from llmbatch.report.timeline import MOST_JOINED, Bucket, Timeline


def journal(
    *outages: tuple[str, str, str | None], began: str = "2026-01-01T00:00:00Z", ended: str | None = None
) -> Journal:
    values: list[JSON] = [
        {"route": route, "from": first, "to": last, "message": "down"} for route, first, last in outages
    ]
    return Journal({"began": began, "ended": ended, "runs": 1, "repaired": 2, "outages": values})


def test_outages_of_a_route_that_overlap_are_one() -> None:
    """Every process sees the same outage; another route's, and a later one, are others."""
    one = journal(
        ("a", "2026-01-01T01:00:00Z", "2026-01-01T01:05:00Z"), ("a", "2026-01-01T02:00:00Z", "2026-01-01T02:01:00Z")
    )
    two = journal(
        ("a", "2026-01-01T01:01:00Z", "2026-01-01T01:07:00Z"), ("b", "2026-01-01T01:02:00Z", "2026-01-01T01:03:00Z")
    )

    whole = Journal.joined([one, two])

    spans = [(outage.route, (outage.ended or 0) - outage.began) for outage in whole.outages]
    assert spans == [("a", 420.0), ("b", 60.0), ("a", 60.0)]
    assert whole.repaired == 4


def test_an_outage_that_lasts_for_one_lasts_for_all() -> None:
    """And a run that goes on has no end."""
    whole = Journal.joined(
        [
            journal(("a", "2026-01-01T01:00:00Z", "2026-01-01T01:05:00Z"), ended="2026-01-01T03:00:00Z"),
            journal(("a", "2026-01-01T01:01:00Z", None), began="2026-01-01T00:30:00Z"),
        ]
    )

    assert [outage.ended for outage in whole.outages] == [None]
    assert whole.ended is None
    assert whole.began == 1767225600.0


def test_speeds_of_a_route_add_up() -> None:
    """Rows of all processes in the time of the longest."""
    one, two = Journal(), Journal()
    one.speeds = {"a": RouteSpeed(100, 10.0)}
    two.speeds = {"a": RouteSpeed(140, 12.0)}

    assert Journal.joined([one, two]).rows_per_s("a") == 20.0


buckets = st.lists(
    st.builds(
        lambda start, width, success, flight: Bucket(float(start), float(2**width), success, in_flight=flight),
        *(st.integers(0, 40_000), st.integers(0, 6), st.integers(0, 50), st.integers(0, 9)),
    ),
    max_size=12,
)


@pytest.mark.slow  # up to some seconds of CPU
@pytest.mark.traced
@given(st.lists(buckets, max_size=4))
def test_joined_timelines_lose_no_row_and_stay_bounded(parts: list[list[Bucket]]) -> None:
    """Sums are those of all, and no bucket is earlier than the first."""
    timelines = [Timeline(part) for part in parts]
    rows = sum(bucket.success for timeline in timelines for bucket in timeline.buckets())

    joined = list(Timeline.joined(timelines).buckets())

    assert sum(bucket.success for bucket in joined) == rows
    assert len({bucket.start for bucket in joined}) == len(joined) <= 2 * MOST_JOINED
    if joined:
        assert len({bucket.width for bucket in joined}) == 1


def test_what_was_in_flight_at_once_adds_up() -> None:
    """In one process it is the highest of a bucket."""
    one = Timeline([Bucket(0.0, 1.0, in_flight=5), Bucket(0.3, 1.0, in_flight=7)])
    two = Timeline([Bucket(0.1, 1.0, in_flight=4)])

    assert [bucket.in_flight for bucket in Timeline.joined([one, two]).buckets()] == [11]


def test_errors_and_runs_of_all_processes_are_in_the_history() -> None:
    """In the order of time."""
    lines = [
        '{"kind":"run","began":"2026-01-01T00:00:0%dZ","ended":null,"exit_code":0,"input":"p.jsonl","command":"x"}',
        '{"kind":"error","code":"overloaded","count":3,"examples":[{"message":"no","route":"a","row":1}]}',
        '{"kind":"notice","at":"2026-01-01T00:00:0%dZ","level":"info","message":"m","hint":""}',
    ]
    parts = [History([line % n if "%d" in line else line for line in lines]) for n in (3, 1)]

    whole = History.joined(parts)

    assert [run.began for run in whole.runs] == sorted(run.began for part in parts for run in part.runs)
    assert whole.errors["overloaded"].count == 6
    assert [str(notice["at"])[-3:] for notice in whole.notices] == ["01Z", "03Z"]
