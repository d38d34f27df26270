"""Who adds up a run's events."""

from __future__ import annotations

from pathlib import Path

from llmbatch import BatchRunner
from llmbatch.core.events import Event, RowFinished
from llmbatch.report.stats import RunStats


class Counting(RunStats):
    """A fold that counts how often each row ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = 0

    def observe(self, event: Event) -> None:
        self.ends += isinstance(event, RowFinished)
        super().observe(event)


async def answer(row: object) -> str:
    return "ok"


async def test_a_fold_among_the_observers_is_the_runs_own_and_hears_each_event_once(tmp_path: Path) -> None:
    """A display and the summary read the same numbers, and pay for them once."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"a"}\n' * 30)
    stats = Counting()

    summary = await BatchRunner(answer, observers=[stats]).run(tmp_path / "in.jsonl")

    assert (summary.success, stats.success, stats.ends) == (30, 30, 30)


async def test_a_fold_that_has_seen_a_run_does_not_add_a_second_one_to_it(tmp_path: Path) -> None:
    """Each run's summary is of that run."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"a"}\n' * 30)
    runner = BatchRunner(answer, observers=[RunStats()])

    await runner.run(tmp_path / "in.jsonl", tmp_path / "first.jsonl")
    summary = await runner.run(tmp_path / "in.jsonl", tmp_path / "second.jsonl")

    assert (summary.success, summary.calls) == (30, 30)
