"""Which requests of earlier runs count for ``--rpd``, by the clock of this machine then and now."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from llmbatch.cli.earlier_requests import requests_today
from llmbatch.cli.settings import CommandLine, resolve
from llmbatch.core.events import CallEnded, CallSent, Event, RunEnded, RunStarted
from llmbatch.display.history_file import HistoryFile
from llmbatch.pace.daily import DAY
from llmbatch.report.stats import RunStats

NONE = (0, math.inf)


def an_earlier_run_of_two_requests(output: Path, began: float) -> None:
    output.touch()
    clock = iter(range(100))
    stats = RunStats()
    history = HistoryFile(output, command="", stats=stats, clock=lambda: began + next(clock))
    events: list[Event] = [
        RunStarted(1.0, "in.jsonl", str(output), 1, 0, 0, 2),
        *(CallSent(2.0, "m", row, 1, False, row) for row in (1, 2)),
        *(CallEnded(3.0, "m", row, False, "success", "", "", 200, 1.0, 3, 4, row) for row in (1, 2)),
        RunEnded(4.0, 75, "stopped", 0),
    ]
    for event in events:
        stats.observe(event)
        history.observe(event)


@pytest.mark.parametrize(
    ("ago", "sent", "since"),
    [
        (3600.0, 2, 3600.0),
        (DAY - 60.0, 2, DAY - 60.0),
        (DAY + 60.0, *NONE),
        (-120.0, 2, 0.0),
        (-5 * 3600.0, 2, 0.0),
        (-2 * DAY, *NONE),
    ],
)
def test_requests_of_a_day_that_has_not_ended_count(tmp_path: Path, ago: float, sent: int, since: float) -> None:
    """Also where the clock was set back meanwhile: its day is then taken to begin now, unless it was days wrong."""
    output = tmp_path / "o.jsonl"
    an_earlier_run_of_two_requests(output, time.time() - ago)
    settings = resolve(CommandLine("in.jsonl", flags={"rpd": "9"}), {"HOME": str(tmp_path)}, tmp_path)

    found, found_since = requests_today(settings, str(output))

    assert found == sent
    assert found_since == pytest.approx(since, abs=30.0)


def test_nothing_counts_without_a_history(tmp_path: Path) -> None:
    """It may be deleted, and be of something else."""
    output = tmp_path / "o.jsonl"
    settings = resolve(CommandLine("in.jsonl", flags={"rpd": "9"}), {"HOME": str(tmp_path)}, tmp_path)
    assert requests_today(settings, str(output)) == NONE
    (tmp_path / "o.events.jsonl").write_bytes(
        b'\xff\n{"kind":"bucket","start":"x"}\n[1]\n{"kind":"bucket","calls":1e999}\n'
    )

    assert requests_today(settings, str(output)) == NONE
