"""The end of a run whose rows other processes have sent: one output, one summary, one exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from llmbatch.core.errors import LlmbatchError, UsageError, WriteError
from llmbatch.core.events import Event, RunEnded, RunStopping
from llmbatch.report.fold import FoldedStats
from llmbatch.report.join import worst_exit_code
from llmbatch.report.summary import Summary
from llmbatch.report.words import plural
from llmbatch.runs.file_run import FileRun
from llmbatch.workers.messages import Ending

__all__ = ["as_whole", "conclude_parts"]


async def conclude_parts(
    files: FileRun,
    stats: FoldedStats,
    emit: Callable[[Event], None],
    endings: Sequence[Ending],
    *,
    signal: int | None,
    max_cost: Decimal | None,
) -> tuple[Summary, LlmbatchError | None]:
    """Take the parts into the output, and say how the run ended: as the process that ended worst.

    *endings*: of the processes that ran. *signal*: what stopped them; *max_cost*: the cap of all of them.
    """
    error: LlmbatchError | None = None
    try:
        success, failed, waiting = await files.collect()
    except (WriteError, UsageError) as found:
        error, success, failed, waiting = found, stats.success, stats.failed, 0
    stats.add_rows(success - stats.success, failed - stats.failed)
    own = [ending for ending in endings if ending.exit_code < 128]
    code = worst_exit_code(ending.exit_code for ending in own)
    if signal is not None and code in (0, 1, 75):
        code = 128 + signal
    worst = next((ending for ending in own if ending.exit_code == code), None)
    if code in (0, 1):  # of all lines, also of those of earlier runs
        code = 75 if waiting else 1 if failed else 0
    failure = None if worst is None else worst.failure
    if error is None and failure is not None:
        error = _error_of(failure.message, failure.hint, failure.exit_code)
    reason = "interrupted" if code >= 128 else "finished"
    if code == 75:
        reason = f"{plural(waiting, 'row')} deferred"
    if worst is not None and worst.summary is not None and worst.summary.stopped_reason:
        reason = _of_all(worst.summary.stopped_reason, max_cost)
    now = asyncio.get_running_loop().time()
    ended = RunEnded(now, error.exit_code if error is not None else code, error.message if error else reason, waiting)
    emit(ended)
    summary = stats.summary(ended)
    told = [ending.summary for ending in endings if ending.summary is not None]
    retry_at = min((one.retry_at for one in told if one.retry_at), default=None)
    advice = worst.summary.advice if worst is not None and worst.summary is not None else summary.advice
    return replace(summary, retry_at=retry_at, advice=advice), error


def as_whole(event: Event, max_cost: Decimal | None) -> Event:
    """An *event* of one process as one of all: its reason to stop names *max_cost*, the cap of all of them."""
    return replace(event, reason=_of_all(event.reason, max_cost)) if isinstance(event, RunStopping) else event


def _of_all(reason: str, max_cost: Decimal | None) -> str:
    """The *reason* of one process, with the cap of all instead of its share, and without what it alone has spent."""
    head, is_parted, rest = reason.partition(" spent, and the next request")
    if max_cost is None or not is_parted or not head.startswith("--max-cost "):
        return reason
    return f"--max-cost {max_cost:f} is reached by the processes together: the next request{rest}"


def _error_of(message: str, hint: str, exit_code: int) -> LlmbatchError:
    match exit_code:
        case 2:
            return UsageError(message, hint=hint)
        case 74:
            return WriteError(message, hint=hint)
        case _:
            return _WorkerError(message, hint=hint)


class _WorkerError(WriteError):
    """A process ended with an internal error, or again and again without a word."""

    exit_code = 70
