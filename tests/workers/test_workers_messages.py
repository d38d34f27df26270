"""What comes from a machine with another clock is told on the clock of this one."""

from __future__ import annotations

from llmbatch.core.events import CallEnded, CallSent, Notice, OutageEnded, OutageStarted, Progress, RunStarted
from llmbatch.report.fold import ProcessStats
from llmbatch.workers.messages import Failed, Happened, Told, shifted


def told(at: float) -> Told:
    stats = ProcessStats()
    stats.observe(RunStarted(at, "in.jsonl", "out.jsonl", 2, 0, 0, 10))
    stats.observe(CallSent(at + 1.0, "m", 1, 1, False))
    stats.observe(CallEnded(at + 2.0, "m", 1, False, "success", "", "", 200, 1.0, 3, 4, 1))
    stats.observe(Progress(at + 2.0, 1, 0.5, False))
    return Told(stats.state())


def test_counts_of_another_clock_are_as_those_of_this_one() -> None:
    """Each instant in them; that no row has ended yet stays so."""
    moved, there = shifted(told(5.0), 1000.0), told(1005.0)

    assert isinstance(moved, Told)
    assert (moved.state.at, moved.state.progress) == (there.state.at, there.state.progress)
    assert moved.state.routes == there.state.routes
    assert moved.state.routes[0].calls.first_at == 1006.0


def test_events_keep_their_durations() -> None:
    """Only instants move."""
    assert shifted(Happened(Notice(5.0, "info", "x")), 10.0) == Happened(Notice(15.0, "info", "x"))
    began = Happened(OutageStarted(9.0, "m", 7.0, "503"))
    assert shifted(began, -2.0) == Happened(OutageStarted(7.0, "m", 5.0, "503"))
    assert shifted(Happened(OutageEnded(9.0, "m", 7.0, 2.0)), 1.0) == Happened(OutageEnded(10.0, "m", 8.0, 2.0))


def test_ends_have_no_instants() -> None:
    """They come through as they are."""
    failed = Failed("no", "do it", 2)

    assert shifted(failed, 5.0) is failed
