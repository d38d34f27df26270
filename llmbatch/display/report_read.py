"""Reads what the page of ``llmbatch report`` shows from the files of an output. No file is changed."""

from __future__ import annotations

import time
from datetime import tzinfo
from pathlib import Path, PureWindowsPath

from llmbatch.core.raw_json import JSON
from llmbatch.display.history_file import read_history
from llmbatch.display.status_read import read_status
from llmbatch.display.status_report import StatusReport, next_step
from llmbatch.outputs.deferred import history_path
from llmbatch.outputs.parts import list_shards
from llmbatch.report.history import History
from llmbatch.report.html.data import RunNow, RunReport
from llmbatch.report.journal import from_iso
from llmbatch.report.row_spread import RowSpread

__all__ = ["read_report", "report_of"]


def read_report(
    output: str | Path, *, version: str, wall: float | None = None, zone: tzinfo | None = None
) -> RunReport:
    """Read what the page of *output* shows.

    *version* of llmbatch is shown too; *wall* is the time now, *zone* None the local time zone.

    Cost: as :func:`~llmbatch.display.status_read.read_status`.

    Raises:
        OutputError: as there.
    """
    spread = RowSpread()
    status = read_status(output, spread=spread)
    history = _history(Path(output))
    wall = time.time() if wall is None else wall
    return report_of(status, history, spread, version=version, wall=wall, zone=zone)


def report_of(
    status: StatusReport,
    history: History,
    spread: RowSpread,
    *,
    version: str,
    wall: float,
    zone: tzinfo | None = None,
    is_own: bool = False,
) -> RunReport:
    """What the page shows of values that have been read before. *is_own*: the history is surely about this output."""
    note = ""
    if not is_own and not _fits(history, status):
        history = History()
        note = f"{history_path(Path(status.output)).name} is about another output, and is left out"
    elif not is_own and not history.runs and not any(history.timeline.buckets()) and _has_content(status.output):
        note = f"{history_path(Path(status.output)).name} holds no history that can be read"
    run = status.run or {}
    journal = status.journal if status.journal.runs else history.journal
    last = history.runs[-1] if history.runs else None
    began = journal.began if journal.began is not None else from_iso(status.started)
    if began is None and history.runs:
        began = history.runs[0].began
    ended = status.ended
    if status.state != "running" and ended is None:
        ended = journal.ended if journal.ended is not None else last.ended if last else None
    return RunReport(
        output=status.output,
        state=status.state,
        success=status.success,
        failed=status.failed,
        was_killed=status.was_killed,
        total_rows=status.total_rows,
        total_is_estimate=run.get("total_is_estimate") is True,
        deferred_rows=status.deferred.rows,
        exit_code=status.exit_code,
        reason=_text(run.get("stopping")) or (last.reason if last and status.state == "stopped" else ""),
        waits_for=status.waits_for or "",
        calls_avoided=_count(run.get("calls_avoided")),
        input=status.input or (last.input if last else ""),
        command=status.command or (last.command if last else ""),
        next=next_step(status),
        began=began,
        ended=ended,
        journal=journal,
        history=history,
        history_note=note,
        failures=status.failures,
        routes=status.routes,
        spread=spread,
        tiers=status.tiers,
        cached=status.cached,
        cut_answers=status.cut_answers,
        answers_without_text=status.answers_without_text,
        now=_now(run) if status.state == "running" else None,
        made_at=wall,
        version=version,
        zone=zone,
    )


def _history(output: Path) -> History:
    """The history of *output*, or of all parts if it is a folder."""
    if not output.is_dir():
        return read_history(output)
    return History.joined([read_history(part.path) for part in list_shards(output)])


def _now(run: dict[str, JSON]) -> RunNow | None:
    if not run:
        return None
    speed, eta, work = (_fraction(run.get(name)) for name in ("rows_per_s", "eta_s", "work_left_s"))
    return RunNow(speed or 0.0, _count(run.get("in_flight")), eta, work)


def _fraction(value: JSON) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else None


def _fits(history: History, status: StatusReport) -> bool:
    """Whether *history* can be that of the output: it names its input, and has not many more rows than it."""
    answered = sum(bucket.success for bucket in history.timeline.buckets())
    if answered > 2 * status.rows + 100:  # some rows may have been sent again
        return False
    names = {_name(run.input) for run in history.runs}
    return not status.input or not names or _name(status.input) in names


def _has_content(output: str) -> bool:
    try:
        return history_path(Path(output)).stat().st_size > 0
    except OSError:
        return False


def _name(path: str) -> str:
    return PureWindowsPath(path).name


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""


def _count(value: JSON) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else 0
