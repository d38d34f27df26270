"""A run as HTML for notebooks: while it goes on, and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmbatch.core.notebook_html import MUTED, box, escaped, facts
from llmbatch.money.text import usd
from llmbatch.report.words import count, duration, plural, rate

if TYPE_CHECKING:
    from llmbatch.report.snapshot import RouteSnapshot, Snapshot
    from llmbatch.report.summary import Summary

__all__ = ["progress_html", "summary_html"]

_MOST_ROUTES = 6
_MOST_CODES = 6
_MOST_NOTICES = 3
_GOOD, _BAD = "#2a9d6a", "#d1483f"
"""Readable on light and on dark pages."""
_STATES = {
    "starting": "starting",
    "running": "running",
    "waiting": "waiting for the provider",
    "stopping": "stopping",
    "finished": "done",
    "stopped": "stopped",
}


def progress_html(now: Snapshot) -> str:
    """The run at one instant."""
    total = now.total_rows
    rows = (
        f"{now.done_rows:,}" if total is None else f"{now.done_rows:,} of {'about ' * now.total_is_estimate}{total:,}"
    )
    parts = [f"{rows} rows"]
    if now.failed:
        parts.append(f'<span style="color:{_BAD}">{now.failed:,} failed</span>')
    is_over = now.exit_code is not None
    if is_over:
        parts.append(f"{duration(now.elapsed_s)}, {rate(now.overall_rows_per_s)}")
    else:
        parts.append(rate(now.rows_per_s))
        if now.in_flight:
            parts.append(f"{now.in_flight:,} in flight")
        if now.eta_s is not None:
            parts.append(f"{duration(now.eta_s)} left")
    if now.parked:
        parts.append(f"{now.parked:,} parked")
    if now.spending.cost_usd is not None:
        parts.append(usd(now.spending.cost_usd))
    state = "stopped" if now.stopping and is_over else _STATES[now.state]
    pairs = [
        ("routes", "".join(f"<div>{_route(route, is_over=is_over)}</div>" for route in _in_trouble(now))),
        ("errors", _codes(now.errors_by_code)),
        ("stopping" if not is_over else "stopped", escaped(now.stopping or "")),
        ("notes", "".join(f"<div>{escaped(notice.message)}</div>" for notice in now.notices[-_MOST_NOTICES:])),
    ]
    head = f'<b>{state}</b> <span style="{MUTED}">{escaped(now.input, 60)}</span><div>{" · ".join(parts)}</div>'
    return box(f"{_bar(now)}{head}{facts(pairs)}")


def _bar(now: Snapshot) -> str:
    total = now.total_rows or (now.done_rows if now.exit_code is not None else 0)
    if not total:
        return ""
    good = min(100.0, 100.0 * now.success / total)
    bad = min(100.0 - good, 100.0 * now.failed / total)
    parts = "".join(
        f'<div style="width:{width:.2f}%;background:{color}"></div>'
        for width, color in ((good, _GOOD), (bad, _BAD))
        if width
    )
    return (
        f'<div role="progressbar" aria-label="rows" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{min(total, now.done_rows)}" style="display:flex;height:8px;border-radius:4px;overflow:hidden;'
        f'background:rgba(128,128,128,.3);margin:4px 0">{parts}</div>'
    )


def _in_trouble(now: Snapshot) -> list[RouteSnapshot]:
    return [route for route in now.routes if route.state != "closed" or route.paused_s > 0][:_MOST_ROUTES]


def _route(route: RouteSnapshot, *, is_over: bool) -> str:
    name = f"<b>{escaped(route.label, 80)}</b>"
    if route.state == "closed":
        return f"{name} pauses for {duration(route.paused_s)}: {escaped(route.pause_code or 'rate limit', 80)}"
    lasted = "" if route.open_s is None else f" for {duration(route.open_s)}"
    probe = "" if route.next_probe_s is None or is_over else f"; next probe in {duration(route.next_probe_s)}"
    waiting = f"; {plural(route.parked, 'row waits', 'rows wait')}" if route.parked else ""
    return f'{name} <span style="color:{_BAD}">is down</span>{lasted}{probe}{waiting}: {escaped(route.reason)}'


def _codes(codes: Mapping[str, int]) -> str:
    most = sorted(codes.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{escaped(code, 80)} {number:,}" for code, number in most[:_MOST_CODES]]
    if len(most) > _MOST_CODES:
        parts.append(f"{sum(number for _, number in most[_MOST_CODES:]):,} others")
    return ", ".join(parts)


def summary_html(summary: Summary) -> str:
    """What came of a run."""
    rows = f"{plural(summary.rows, 'row')}: {summary.success:,} success"
    failed = f"{summary.failed:,} failed"
    head = f'<b>{rows}</b>, <b style="color:{_BAD if summary.failed else "inherit"}">{failed}</b>'
    if summary.deferred:
        head += f", <b>{summary.deferred:,} deferred</b>"
    tokens = f"{count(summary.input_tokens)} in, {count(summary.output_tokens)} out"
    calls = f"{summary.calls:,}"
    if summary.retries:
        calls += f", {plural(summary.retries, 'retry', 'retries')}"
    latency = ""
    if summary.latency_p50_s is not None:
        latency = f"p50 {duration(summary.latency_p50_s)}, p95 {duration(summary.latency_p95_s)}"
    outages = ""
    if summary.outages:
        outages = f"{summary.outages:,}, {duration(summary.outage_seconds)} in all, "
        outages += f"{plural(summary.calls_avoided, 'call')} avoided"
    pairs = [
        ("stopped", escaped(summary.stopped_reason or "")),
        ("to do", escaped(summary.advice) if summary.stopped_reason else ""),
        ("failed rows", _codes(summary.failures_by_code)),
        ("time", f"{duration(summary.duration_s)}, {rate(summary.rows_per_s)}"),
        ("outages", outages),
        ("calls", calls),
        ("tokens", tokens if summary.input_tokens or summary.output_tokens else ""),
        ("cost", "" if summary.cost_usd is None else usd(summary.cost_usd)),
        ("latency", latency),
        ("results", escaped(summary.output)),
    ]
    return box(f"{head}{facts(pairs)}")
