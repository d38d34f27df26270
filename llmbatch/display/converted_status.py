"""The sidecar of an output that ``llmbatch convert`` has added lines to: as a run that wrote them leaves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmbatch.core.events import RunEnded, RunStarted
from llmbatch.display.status_file import StatusFile
from llmbatch.report.stats import RunStats

__all__ = ["write_converted_status"]


def write_converted_status(
    output: Path,
    *,
    input_path: str,
    input_format: str | None,
    command: str,
    success_before: int,
    success: int,
    failed: int,
    total: int,
    exit_code: int,
) -> None:
    """Write the sidecar of *output*, which holds lines of so many rows of *total*: *success* and *failed*.

    *success_before*: how many had succeeded before, with which the history of earlier runs is kept. *command* sends the
    rows that have no line. Failing to write it never matters. The caller holds the output's lock.
    """
    stats = RunStats()
    file = StatusFile(output, command=command, stats=stats)
    started = RunStarted(0.0, input_path, str(output), 1, success_before, 0, total, input_format=input_format)
    file.observe(started)
    left = total - success - failed
    reason = f"{left:,} of {total:,} rows have no line yet" if left else "finished"
    ended = RunEnded(0.0, exit_code, reason, 0)
    for event in (replace(started, done_success=success, done_failed=failed), ended):
        stats.observe(event)
    file.observe(ended)
