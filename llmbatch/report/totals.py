"""How many lines the output has when all is done: counted, or estimated from how much of the input was read. Pure."""

from __future__ import annotations

import math

from llmbatch.core.events import Progress, RunStarted

__all__ = ["estimated_rows", "total_rows"]


def estimated_rows(event: Progress) -> float | None:
    """Rows of the input by the fraction of its bytes that was read; None where that says nothing."""
    # All bytes are read long before all rows are: they wait in a buffer, of a compressed input above all.
    if event.fraction is not None and event.rows and 1e-6 < event.fraction < 1.0:
        return event.rows / event.fraction
    return None


def total_rows(
    started: RunStarted | None, progress: Progress | None, estimated: float | None, done: int
) -> tuple[int | None, bool]:
    """Lines of the output when all is done, and whether that is an estimate; None if unknown. *done*: lines so far."""
    read = 0 if progress is None else progress.rows
    beyond = 0 if started is None else started.done_beyond_limit
    if progress is not None and progress.exhausted:
        return max(read + beyond, done), False
    if started is not None and started.total_rows is not None:
        return max(started.total_rows, done), False
    if estimated is None:
        return None, False
    most = math.inf if started is None or started.limit is None else started.limit
    return max(round(min(estimated, most)) + beyond, read + beyond, done), True
