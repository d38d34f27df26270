"""The history of an output: time buckets that double as they age, and the sidecar that keeps it between runs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    Notice,
    OutageEnded,
    OutageStarted,
    RowFinished,
    RunEnded,
    RunStarted,
)
from llmbatch.display.history_file import HistoryFile, read_history
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.history import History
from llmbatch.report.iso_time import to_iso
from llmbatch.report.snapshot import Snapshot
from llmbatch.report.stats import RunStats
from llmbatch.report.timeline import Bucket, Timeline

WALL = 1_795_798_270.0


def started() -> RunStarted:
    return RunStarted(0.0, "p.jsonl", "p.results.jsonl", 40, 0, 0, None)


def snapshot(**values: int) -> Snapshot:
    stats = RunStats()
    stats.observe(started())
    return replace(stats.snapshot(), **values)  # type: ignore[arg-type]


def test_the_last_instant_of_a_run_is_no_bucket_of_its_own() -> None:
    """A row that ended in it would be drawn as a hundred rows per second, and all others as nothing."""
    timeline = Timeline()
    timeline.begin(WALL)
    for at, rows in ((1.0, 40), (2.0, 80), (2.01, 81)):
        timeline.sample(WALL + at, snapshot(this_run_success=rows), LatencyHistogram())

    assert [(bucket.success, round(bucket.width, 2)) for bucket in timeline.buckets()] == [(40, 1.0), (41, 1.01)]


def test_a_run_that_ends_at_once_has_its_bucket() -> None:
    """However short it was."""
    timeline = Timeline()
    timeline.begin(WALL)
    timeline.sample(WALL + 0.01, snapshot(this_run_success=3), LatencyHistogram())

    assert [bucket.success for bucket in timeline.buckets()] == [3]


def test_pauses_are_in_copies_and_in_joined_histories() -> None:
    """What a dashboard shows is a copy, and what shards have is joined."""
    lines = [json.dumps({"kind": "pause", "from": to_iso(WALL + at), "to": to_iso(WALL + at + 5)}) for at in (0, 60)]
    one, other = History(lines[:1]), History(lines[1:])

    copied, joined = one.copy(), History.joined([other, one])
    one.pauses[0].ended = None

    assert [pause.ended for pause in copied.pauses] == [WALL + 5]
    assert [pause.began for pause in joined.pauses] == [WALL, WALL + 60]


@pytest.mark.slow  # a bucket for each second: of a week, up to fifteen seconds of CPU
@pytest.mark.no_cover
@pytest.mark.parametrize(("days", "widest"), [(2, 128), pytest.param(7, 512, marks=pytest.mark.long)])
def test_a_week_fits_in_two_megabytes_and_loses_no_count(days: int, widest: float) -> None:
    """One bucket for each second, with all members: the newest stay, the oldest become hours, and sums stay."""
    day = 86_400
    full = {"failed": 1, "calls": 100, "input_tokens": 98_901, "output_tokens": 98_901, "cost_usd": 0.123456}
    full |= {"in_flight": 4000, "parked": 123_456, "limit": 4000, "good_calls": 99, "p50_s": 1.51234567, "p95_s": 2.7}

    seconds = (Bucket(WALL + second, 1.0, 99, **full) for second in range(days * day))  # type: ignore[arg-type]
    timeline = Timeline(seconds)

    buckets = list(timeline.buckets())
    size = sum(len(json.dumps({"kind": "bucket", **bucket.to_json()}, separators=(",", ":"))) + 1 for bucket in buckets)
    assert size < 2_000_000
    assert sum(bucket.success for bucket in buckets) == days * day * 99
    assert sum(bucket.failed for bucket in buckets) == days * day
    assert buckets[-1].width == 1.0
    assert buckets[0].width >= widest
    assert max(bucket.parked for bucket in buckets) == 123_456
    assert all(abs(bucket.p50_s - 1.51234567) < 1e-6 for bucket in buckets)


@pytest.mark.slow  # up to some seconds of CPU
def test_buckets_of_earlier_runs_are_kept_and_grow_older() -> None:
    """What is read again and goes on is as if it had never been written."""
    chance = random.Random(1)
    timeline = Timeline()
    timeline.begin(WALL)
    done = 0
    for second in range(1, 2000):
        done += chance.randrange(5)
        timeline.sample(WALL + second, snapshot(this_run_success=done), LatencyHistogram())
        if second % 500 == 0:
            read = [Bucket.from_json(json.loads(json.dumps(bucket.to_json()))) for bucket in timeline.buckets()]
            timeline = Timeline(bucket for bucket in read if bucket is not None)
            timeline.begin(WALL + second)
            done_before, done = done, 0
            assert sum(bucket.success for bucket in timeline.buckets()) >= done_before

    starts = [bucket.start for bucket in timeline.buckets()]
    assert starts == sorted(starts)
    assert len(starts) < 256 * 4


@pytest.mark.parametrize("back", [0.0, -5.0, -100_000.0])
def test_a_clock_that_was_set_back_adds_nothing_wrong(back: float) -> None:
    """No bucket of no or negative width; what happened meanwhile is in the next one."""
    timeline = Timeline()
    timeline.begin(WALL)
    timeline.sample(WALL + 1, snapshot(this_run_success=5), LatencyHistogram())

    timeline.sample(WALL + 1 + back, snapshot(this_run_success=8), LatencyHistogram())
    timeline.sample(WALL + 2, snapshot(this_run_success=9), LatencyHistogram())

    assert [bucket.success for bucket in timeline.buckets()] == [5, 4]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"kind":"bucket"}',
        '{"kind":"bucket","start":"x","width":1}',
        '{"kind":"bucket","start":1,"width":0}',
        '{"kind":"bucket","start":1,"width":1,"success":-4}',
        '{"kind":"bucket","start":1e999,"width":1}',
        '{"kind":"run"}',
        '{"kind":"run","began":"yesterday"}',
        '{"kind":"notice","at":"2026-11-27T16:51:10Z","message":7}',
        '{"kind":"error","code":"x","count":-1,"examples":[]}',
        '{"kind":"error","code":"x","count":1,"examples":"<script>"}',
        '{"kind":"journal","outages":7,"runs":"many"}',
        '{"row":1,"hash":"0123456789abcdef","status":"success"}',
        "\x00" * 100,
        "[" * 100_000,
    ],
)
def test_lines_that_make_no_sense_are_left_out(line: str) -> None:
    """A foreign or broken sidecar never breaks a report."""
    history = History([line, '{"kind":"run","began":"2026-11-27T16:51:10.136Z","exit_code":0}', line])

    assert [run.exit_code for run in history.runs] == [0]
    assert list(history.timeline.buckets()) == []
    assert history.notices == []
    assert history.errors == {}


def call(number: int, verdict: str = "success", code: str = "", message: str = "") -> list[object]:
    ended = CallEnded(number, "m", number, False, verdict, code, message, 200, 0.5, 3, 4, number)  # type: ignore[arg-type]
    done = RowFinished(number, "m", number, "success", "", 1)
    return [CallSent(number, "m", number, 1, False, number), ended, *([done] if verdict == "success" else [])]


def test_two_runs_have_one_history(tmp_path: Path) -> None:
    """Runs, outages, notices and errors with examples; the second run goes on where the first ended."""
    output = tmp_path / "p.results.jsonl"
    output.touch()
    clock = iter(range(int(WALL), int(WALL) + 1000))

    for exit_code in (75, 0):
        stats = RunStats()
        history = HistoryFile(output, command="llmbatch run p.jsonl", stats=stats, clock=lambda: float(next(clock)))
        events = [
            started(),
            *call(1),
            *call(2, "failure", "overloaded", "try later"),
            OutageStarted(3.0, "m", 2.0, "down"),
            Notice(3.0, "warning", "the disk is full"),
            OutageEnded(9.0, "m", 2.0, 7.0),
            RunEnded(10.0, exit_code, "finished", 0),
        ]
        for event in events:
            stats.observe(event)  # type: ignore[arg-type]
            history.observe(event)  # type: ignore[arg-type]

    found = read_history(output)
    assert [run.exit_code for run in found.runs] == [75, 0]
    assert [run.command for run in found.runs] == ["llmbatch run p.jsonl"] * 2
    assert [outage.ended is not None for outage in found.journal.outages] == [True, True]
    assert [notice["message"] for notice in found.notices] == ["the disk is full"] * 2
    assert found.errors["overloaded"].count == 2
    assert found.errors["overloaded"].examples == [{"message": "try later", "route": "m", "row": 2}]
    assert sum(bucket.success for bucket in found.timeline.buckets()) == 2
    assert (tmp_path / "p.results.events.jsonl").stat().st_mode & 0o077 == 0, "it is its owner's alone"


def test_a_new_output_has_a_new_history(tmp_path: Path) -> None:
    """Also with --overwrite."""
    output = tmp_path / "o.jsonl"
    for afresh, runs in ((False, 1), (False, 2), (True, 1)):
        stats = RunStats()
        history = HistoryFile(output, command="", stats=stats, afresh=afresh, clock=lambda: WALL)
        for event in (started(), RunEnded(1.0, 0, "finished", 0)):
            stats.observe(event)
            history.observe(event)
        assert len(read_history(output).runs) == runs
        output.touch()
    output.unlink()
    history = HistoryFile(output, command="", stats=(stats := RunStats()), clock=lambda: WALL)
    stats.observe(started())
    history.observe(started())
    assert len(history.history.runs) == 1


def test_errors_have_examples_that_differ_and_a_bound() -> None:
    """Ten thousand distinct codes and messages."""
    history, stats = History(), RunStats()
    stats.observe(started())
    history.begin(started(), WALL, command="", last_seen=None)

    for number in range(10_000):
        code = f"code {number}" if number % 2 else "same"
        for event in call(number, "failure", code, f"message {number % 20}"):
            history.observe(event, WALL, stats)  # type: ignore[arg-type]

    assert len(history.errors) <= 101
    assert history.errors["same"].count == 5000
    assert len(history.errors["same"].examples) == 5
    assert sum(len(line) for line in history.lines(stats)) < 200_000


def test_calls_of_a_period_are_those_since_its_first_one() -> None:
    """A period begins with the first call after the one before it has ended."""
    timeline = Timeline([Bucket(WALL + at, 10.0, calls=calls) for at, calls in ((0, 1), (10, 0), (20, 4), (30, 8))])

    assert timeline.calls_of_period(100.0) == (13, WALL)
    assert timeline.calls_of_period(30.0) == (8, WALL + 30.0)
    assert timeline.calls_of_period(20.0) == (12, WALL + 20.0)
    assert timeline.calls_of_period(5.0) == (8, WALL + 30.0)
    assert Timeline([]).calls_of_period(5.0)[0] == 0
