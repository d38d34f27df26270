"""The words of ``llmbatch status``: what a run has done, what it waits for, and how to go on.

What it does not do: read files; that is :mod:`llmbatch.display.status_read`.
"""

from __future__ import annotations

import time
from datetime import datetime

from llmbatch.core.raw_json import JSON
from llmbatch.display.format import codes_phrase, count, duration, plural, rate, shown
from llmbatch.display.status_read import Deferred, StatusReport, next_step, read_status
from llmbatch.display.summary import failed_rows_command

__all__ = ["StatusReport", "read_status", "render"]


def render(report: StatusReport, *, wall: float | None = None) -> str:
    """*report* for people, safe to show; *wall* is the time now (default: the clock's), seconds since the epoch."""
    run = report.run or {}
    facts: list[tuple[str, str]] = [(report.state, _rows(report))]
    if report.state == "running":
        facts += _movement(report, run)
    now = time.time() if wall is None else wall
    if report.was_killed:
        facts.append(("killed", _killed(run)))
    if report.deferred.rows:
        facts.append(("deferred", _deferred(report.deferred, report.deferred.rows, now)))
    if report.torn_bytes:
        facts.append(("torn", f"{count(report.torn_bytes)} bytes of an unfinished last line; its row goes again"))
    if report.failed:
        facts.append(("see failed", failed_rows_command(report.output)))
    if report.input:
        facts.append(("input", shown(report.input)))
    if report.state == "running" and report.pid is not None:
        facts.append(("process", str(report.pid)))
    if report.started:
        facts.append(("started", shown(report.started, 40)))
    age = _age(report.updated, now)
    if age is not None:
        facts.append(("updated", f"{duration(age)} ago"))
    lines = [f"{label:<12}{text}" for label, text in facts]
    return "\n".join([*lines, next_step(report)])


def _rows(report: StatusReport) -> str:
    of = ""
    if report.total_rows is not None and report.total_rows != report.rows:
        is_estimate = bool((report.run or {}).get("total_is_estimate"))
        of = f" of {'~' if is_estimate else ''}{report.total_rows:,}"
    rows = f"{report.rows:,}{of} {'row' if report.rows == 1 else 'rows'}"
    return f"{rows}: {report.success:,} success, {report.failed:,} failed"


def _movement(report: StatusReport, run: dict[str, JSON]) -> list[tuple[str, str]]:
    if not run:
        return []
    moving = [rate(_number(run.get("rows_per_s"))), f"{int(_number(run.get('in_flight'))):,} in flight"]
    if parked := int(_number(run.get("parked"))):
        moving.append(f"{parked:,} parked")
    if run.get("eta_s") is not None:
        moving.append(f"{duration(_number(run.get('eta_s')))} left")
    facts = [("speed", ", ".join(moving))]
    if report.waits_for:
        facts.append(("waits for", shown(report.waits_for, 300)))
    if run.get("stopping"):
        facts.append(("stopping", shown(run["stopping"], 300)))
    return facts


def _killed(run: dict[str, JSON]) -> str:
    parked = int(_number(run.get("parked")))
    last = f"; {plural(parked, 'row')} waited when it was last heard of" if parked else ""
    return f"it left no last word, so which rows waited is not known{last}; every row without a line goes again"


def _deferred(deferred: Deferred, rows: int, wall: float) -> str:
    text = plural(rows, "row")
    shortest, longest = deferred.shortest_retry_after, deferred.longest_retry_after
    at = _instant(deferred.retry_at)
    if at is not None and at <= wall:
        text += ", may be sent again now"
    elif at is not None:
        text += f", may be sent again from {datetime.fromtimestamp(at).astimezone().isoformat(' ', 'seconds')}"
    elif shortest is not None and longest is not None:
        until = "" if shortest == longest else f" to {duration(longest)}"
        text += f", retry after {duration(shortest)}{until}"
    return f"{text}: {codes_phrase(deferred.reasons)}"


def _instant(stamp: str | None) -> float | None:
    try:
        return None if stamp is None else datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError):
        return None


def _age(updated: str | None, wall: float) -> float | None:
    at = _instant(updated)
    return None if at is None else max(0.0, wall - at)


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
