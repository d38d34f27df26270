"""``llmbatch status`` over several runs on one output: history is carried on, and believed only where it fits."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    Event,
    OutageEnded,
    OutageStarted,
    RowFinished,
    RunEnded,
    RunStarted,
)
from llmbatch.core.raw_json import JSON
from llmbatch.core.rows import Result, encode_line
from llmbatch.display.history_file import read_history
from llmbatch.display.status import read_status, render
from llmbatch.display.status_file import StatusFile, status_path
from llmbatch.outputs.deferred import deferred_path, history_path

WALL = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
ROUTE = "openai/gpt-5-mini"


def write_lines(output: Path, success: int, failed: int = 0) -> None:
    lines = [Result(n, f"{n:016x}", "success", f'"r{n}"', model=ROUTE, latency_s=0.8) for n in range(1, success + 1)]
    for n in range(success + 1, success + failed + 1):
        error = {"error_code": "timeout", "error_message": "no answer in 120 s"}
        lines.append(Result(n, f"{n:016x}", "failed", f'"r{n}"', model=ROUTE, **error))  # type: ignore[arg-type]
    output.write_bytes(b"".join(map(encode_line, lines)))


def run(
    output: Path,
    *events: Event,
    at: float = 0.0,
    success: int = 0,
    failed: int = 0,
    done: int = 0,
    afresh: bool = False,
) -> None:
    """A run that begins *at* seconds after ``WALL``, finds *done* rows, has *events*, and leaves lines."""
    now = [WALL + at]
    status = StatusFile(output, command="llmbatch run p.jsonl", afresh=afresh, clock=lambda: now[0])
    status.observe(RunStarted(0.0, "p.jsonl", str(output), 40, done, 0, None))
    last = 0.0
    for event in (CallSent(0.0, ROUTE, 1, 1, False), *events):
        last = event.at
        now[0] = WALL + at + last
        status.observe(event)
    write_lines(output, success, failed)
    status.write(last)


def rows(at: float, success: int, failed: int = 0) -> list[Event]:
    good: list[Event] = [RowFinished(at, ROUTE, n, "success", "", 1) for n in range(success)]
    return good + [RowFinished(at, ROUTE, n, "failed", "timeout", 3) for n in range(failed)]


OUTAGE = (
    CallEnded(3600.0, ROUTE, 1, False, "failure", "overloaded_error", "Overloaded", 529, 0.1, 0, 0),
    OutageStarted(3610.0, ROUTE, 3600.0, "5 rows failed in a row"),
)


def night(output: Path) -> None:
    """An outage that a first run met and a second one that met none."""
    run(output, *rows(100.0, 4), *OUTAGE, RunEnded(5000.0, 75, "rows are deferred", 6), success=4)
    run(output, *rows(10.0, 5, 1), RunEnded(20.0, 1, "", 0), at=9000.0, done=4, success=9, failed=1)


def test_the_night_was_forgotten_by_the_rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning, end, outages and runs of both runs, in local time with date and offset."""
    output = tmp_path / "p.results.jsonl"
    night(output)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        text = render(read_status(output), wall=WALL + 10_000)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert "began       2026-09-21 19:43:20+05:30" in text
    assert "ended       2026-09-21 22:13:40+05:30, after 2h30m, 2 runs" in text
    assert (
        "outages     1, 23m20s in all\n            2026-09-21 20:43:20+05:30, not over when the run ended, "
        "2026-09-21 21:06:40+05:30 (23m20s)  "
        f"{ROUTE}: overloaded_error (529): Overloaded" in text
    )
    assert "failed      timeout 1: no answer in 120 s (r10)" in text
    assert f"routes      {ROUTE}: 10 rows, 1 failed, 5.5 rows/min, latency p50 0.8 s, p95 0.8 s" in text


def test_json_has_the_fields_of_the_contract(tmp_path: Path) -> None:
    """Names, types and units; instants in UTC."""
    output = tmp_path / "p.results.jsonl"
    night(output)

    value = read_status(output).to_json(WALL + 10_000)

    assert (value["began"], value["ended"]) == ("2026-09-21T14:13:20.000Z", "2026-09-21T16:43:40.000Z")
    assert value["outages"] == [
        {
            "route": ROUTE,
            "from": "2026-09-21T15:13:20.000Z",
            "to": "2026-09-21T15:36:40.000Z",
            "seconds": 1400.0,
            "message": "overloaded_error (529): Overloaded",
            "left_open": True,
        }
    ]
    assert value["failures"] == [{"code": "timeout", "count": 1, "message": "no answer in 120 s", "ids": ["r10"]}]
    assert isinstance(value["routes"], list)
    route: JSON = value["routes"][0]
    assert isinstance(route, dict)
    assert list(route) == [
        "route",
        "rows",
        "failed",
        "rows_per_s",
        "latency_p50_s",
        "latency_p95_s",
        "input_tokens",
        "output_tokens",
        "cost_usd",
    ]
    assert (route["rows"], route["failed"], route["cost_usd"]) == (10, 1, None)
    assert isinstance(value["deferred"], dict)
    assert {"rows", "retry_at"} <= value["deferred"].keys()
    assert value["next"]
    json.dumps(value, allow_nan=False)


def test_an_outage_under_which_the_run_stopped_has_no_end(tmp_path: Path) -> None:
    """``to`` is null; its seconds count to the end of the run, which saw no more of it."""
    output = tmp_path / "p.results.jsonl"
    run(output, *rows(100.0, 4), *OUTAGE, RunEnded(5000.0, 75, "rows are deferred", 6), success=4)

    report = read_status(output)

    value = report.to_json(WALL + 50_000)["outages"]
    assert isinstance(value, list)
    assert isinstance(value[0], dict)
    assert (value[0]["to"], value[0]["seconds"]) == (None, 1400.0)
    assert "not over when the run ended (23m20s)" in render(report, wall=WALL + 50_000)


def test_the_output_alone_still_tells_failures_and_routes(tmp_path: Path) -> None:
    """Without its sidecar an output has no times and no outages; everything else is in its lines."""
    output = tmp_path / "p.results.jsonl"
    night(output)
    status_path(output).unlink()

    value = read_status(output).to_json()

    assert (value["began"], value["ended"], value["outages"], value["runs"]) == (None, None, [], 0)
    assert value["failures"] == [{"code": "timeout", "count": 1, "message": "no answer in 120 s", "ids": ["r10"]}]
    assert isinstance(value["routes"], list)
    assert isinstance(value["routes"][0], dict)
    assert (value["routes"][0]["rows"], value["routes"][0]["rows_per_s"]) == (10, None)


def test_the_history_of_another_output_was_believed(tmp_path: Path) -> None:
    """A sidecar that ended with other counts, or counted rows that are not there, tells of another file."""
    output = tmp_path / "p.results.jsonl"
    night(output)
    write_lines(output, 3)

    after_end = read_status(output)
    run(output, *rows(100.0, 500), *OUTAGE, success=3, afresh=True)
    after_kill = read_status(output)
    run(output, *rows(1.0, 1), RunEnded(2.0, 0, "", 0), at=9000.0, done=3, success=4)
    resumed = read_status(output)

    assert (after_end.journal.outages, after_end.journal.began) == ([], None)
    assert (after_kill.journal.outages, after_kill.journal.began) == ([], None)
    assert (resumed.journal.outages, resumed.journal.began, resumed.journal.runs) == ([], WALL + 9000, 1)


def test_history_survives_a_kill(tmp_path: Path) -> None:
    """The sidecar of a killed run is a second old: some more lines are there, and its history counts."""
    output = tmp_path / "p.results.jsonl"
    run(output, *rows(100.0, 4), *OUTAGE, success=6)

    killed = read_status(output)
    run(output, *rows(10.0, 4), RunEnded(20.0, 0, "", 0), at=9000.0, done=6, success=10)
    after = read_status(output)

    assert killed.was_killed
    assert "last seen   " in render(killed)
    assert killed.ended == WALL + 3610
    assert (after.journal.began, len(after.journal.outages), after.journal.runs) == (WALL, 1, 2)


def test_failed_rows_that_are_sent_again_kept_the_history(tmp_path: Path) -> None:
    """``--retry-failed`` drops failed lines before the run begins, which is no other output."""
    output = tmp_path / "p.results.jsonl"
    night(output)

    run(output, *rows(1.0, 1), RunEnded(2.0, 0, "", 0), at=20_000.0, done=9, success=10)

    journal = read_status(output).journal
    assert (journal.began, journal.runs, len(journal.outages)) == (WALL, 3, 1)


def test_overwrite_begins_a_history_of_its_own(tmp_path: Path) -> None:
    """What is started afresh has no past."""
    output = tmp_path / "p.results.jsonl"
    night(output)

    run(output, *rows(1.0, 2), RunEnded(2.0, 0, "", 0), at=20_000.0, success=2, afresh=True)

    journal = read_status(output).journal
    assert (journal.began, journal.runs, journal.outages) == (WALL + 20_000, 1, [])


def test_outages_that_end_are_told_once_each(tmp_path: Path) -> None:
    """Many outages are counted, and the last ten shown."""
    output = tmp_path / "p.results.jsonl"
    flaps: list[Event] = [
        event
        for n in range(1, 31)
        for event in (OutageStarted(n * 10.0, ROUTE, n * 10.0, "down"), OutageEnded(n * 10.0 + 5, ROUTE, n * 10.0, 5.0))
    ]
    run(output, *flaps, RunEnded(400.0, 0, "", 0))

    text = render(read_status(output), wall=WALL + 500)

    assert "outages     30, 2m30s in all" in text
    assert text.count(f"{ROUTE}: down") == 10
    assert "(20 earlier)" in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_pipes_in_place_of_sidecars_are_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes into them: a run that began would wait without end, and so would every reader."""
    output = tmp_path / "o.jsonl"
    write_lines(output, 2)
    for sidecar in (history_path(output), status_path(output), deferred_path(output)):
        os.mkfifo(sidecar)

    status = read_status(output)

    assert (status.rows, status.state) == (2, "unknown")
    assert read_history(output).runs == []
