"""The words of ``llmbatch status``: what the runs on an output have done, what they wait for, and how to go on.

Files are read by :mod:`llmbatch.display.status_read`.
"""

from __future__ import annotations

import time

from llmbatch.core.raw_json import JSON
from llmbatch.display.batches import batches_left, batches_logged
from llmbatch.display.failed import failure_lines
from llmbatch.display.phrases import codes_phrase, count, duration, elided, local_time, plural, rate, shown
from llmbatch.display.status_read import read_status
from llmbatch.display.status_report import Deferred, PartsState, StatusReport, next_step
from llmbatch.display.summary import answer_facts, failed_rows_command, tier_facts
from llmbatch.money.text import usd
from llmbatch.report.iso_time import from_iso
from llmbatch.report.output_lines import LineRoute

__all__ = ["StatusReport", "read_status", "render"]

_MOST_OUTAGES = 10
_MOST_ROUTES = 10
_MOST_CODES = 5
_MOST_PARTS = 5


def render(report: StatusReport, *, wall: float | None = None) -> str:
    """*report* for people, safe to show; *wall* is the time now (default: the clock's), seconds since the epoch."""
    now = time.time() if wall is None else wall
    run = report.run or {}
    facts: list[tuple[str, str]] = [(report.state, _rows(report))]
    if report.state == "running":
        facts += _movement(report, run, now)
    elif report.state == "stopped" and run.get("stopping"):
        facts.append(("reason", shown(run["stopping"], 300)))
    left = batches_left(run.get("batches"))
    facts += _labeled("batches", batches_logged(report.journal.batches) or ([left] if left else []))
    if report.was_killed:
        facts.append(("killed", _killed(run)))
    if report.parts is not None:
        facts.append(("parts", _parts(report.parts)))
    facts += _times(report, now)
    facts += _labeled("outages", _outages(report, now))
    if report.deferred.rows:
        facts.append(
            ("deferred", _deferred(report.deferred, report.deferred.rows, now, is_refused=report.exit_code == 3))
        )
    if report.torn_bytes:
        facts.append(("torn", f"{count(report.torn_bytes)} bytes of an unfinished last line; its row is sent again"))
    facts += _labeled("failed", failure_lines(report.failures, _MOST_CODES))
    facts += tier_facts(report.tiers)
    facts += answer_facts(report.cut_answers, report.answers_without_text, report.journal.repaired)
    if report.cached:
        facts.append(("cached", f"{plural(report.cached, 'row')} answered from a cache"))
    if report.failed:
        facts.append(("see failed", failed_rows_command(report.output)))
    facts += _labeled("routes", _routes(report))
    if report.input:
        facts.append(("input", shown(report.input)))
    if report.state == "running" and report.pid is not None:
        facts.append(("process", str(report.pid)))
    updated = from_iso(report.updated)
    if updated is not None:
        facts.append(("updated", f"{duration(max(0.0, now - updated))} ago"))
    lines = [f"{label:<12}{text}" for label, text in facts]
    return "\n".join([*lines, next_step(report)])


def _labeled(label: str, lines: list[str]) -> list[tuple[str, str]]:
    return [(label if place == 0 else "", line) for place, line in enumerate(lines)]


def _times(report: StatusReport, now: float) -> list[tuple[str, str]]:
    journal = report.journal
    started = from_iso(report.started)
    began = journal.began if journal.began is not None else started
    if began is None:
        return []
    if report.state == "running":
        facts = [("began", f"{local_time(began)}, {duration(max(0.0, now - began))} ago")]
        if journal.runs > 1 and started is not None:
            facts.append(("this run", f"the {_ordinal(journal.runs)}, began {local_time(started)}"))
        return facts
    facts = [("began", local_time(began))]
    if report.ended is not None:
        runs = f", {journal.runs} runs" if journal.runs > 1 else ""
        last = "last seen" if report.was_killed else "ended"
        facts.append((last, f"{local_time(report.ended)}, after {duration(max(0.0, report.ended - began))}{runs}"))
    return facts


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{ending}"


def _outages(report: StatusReport, now: float) -> list[str]:
    outages = report.journal.outages
    if not outages:
        return []
    number = len(outages) + report.journal.dropped
    total = sum(report.outage_seconds(outage, now) for outage in outages)
    lines = [f"{number:,}, {duration(total)} in all"]
    earlier = number - len(outages[-_MOST_OUTAGES:])
    if earlier:
        lines.append(f"({earlier:,} earlier)")
    for outage in outages[-_MOST_OUTAGES:]:
        seconds = duration(report.outage_seconds(outage, now))
        if outage.ended is not None and outage.left_open:
            ended = local_time(outage.ended)
            span = f"{local_time(outage.began)}, not over when the run ended, {ended} ({seconds})"
        elif outage.ended is not None:
            span = f"{local_time(outage.began)} to {local_time(outage.ended)} ({seconds})"
        elif report.state == "running":
            span = f"{local_time(outage.began)}, not over after {seconds}"
        else:
            span = f"{local_time(outage.began)}, not over when the run ended ({seconds})"
        lines.append(f"{span}  {elided(outage.route, 60)}: {shown(outage.message, 200)}")
    return lines


def _routes(report: StatusReport) -> list[str]:
    routes = sorted(report.routes, key=lambda route: (-route.rows, route.label))
    lines = [_route(report, route) for route in routes[:_MOST_ROUTES]]
    if len(routes) > _MOST_ROUTES:
        lines.append(f"and {plural(len(routes) - _MOST_ROUTES, 'more route')} (--json lists all)")
    return lines


def _route(report: StatusReport, route: LineRoute) -> str:
    parts = [plural(route.rows, "row")]
    if route.failed:
        parts.append(f"{route.failed:,} failed")
    speed = report.journal.rows_per_s(route.label)
    if speed is not None:
        parts.append(rate(speed))
    half = route.latency.quantile(0.5)
    if half is not None:
        parts.append(f"latency p50 {duration(half)}, p95 {duration(route.latency.quantile(0.95))}")
    if route.input_tokens or route.output_tokens:
        parts.append(f"{count(route.input_tokens)} tokens in, {count(route.output_tokens)} out")
    if route.cost_usd is not None:
        parts.append(usd(route.cost_usd))
    return f"{elided(route.label, 60)}: {', '.join(parts)}"


def _rows(report: StatusReport) -> str:
    of = ""
    if report.total_rows is not None and report.total_rows != report.rows:
        is_estimate = bool((report.run or {}).get("total_is_estimate"))
        of = f" of {'~' if is_estimate else ''}{report.total_rows:,}"
    rows = f"{report.rows:,}{of} {'row' if report.rows == 1 and not of else 'rows'}"
    return f"{rows}: {report.success:,} success, {report.failed:,} failed"


def _parts(parts: PartsState) -> str:
    """How many shards are how far; the first of those that are not done by name."""
    words = [f"{len(parts.finished):,} of {parts.count:,} finished"]
    if parts.running:
        words.append(f"{len(parts.running):,} running")
    for word, shards in (("stopped", parts.stopped), ("not begun", parts.missing)):
        if shards:
            more = ", …" if len(shards) > _MOST_PARTS else ""
            words.append(f"{len(shards):,} {word} ({', '.join(shards[:_MOST_PARTS])}{more})")
    return ", ".join(words)


def _movement(report: StatusReport, run: dict[str, JSON], now: float) -> list[tuple[str, str]]:
    if not run:
        return []
    moving = [rate(_number(run.get("rows_per_s"))), f"{int(_number(run.get('in_flight'))):,} in flight"]
    if parked := int(_number(run.get("parked"))):
        moving.append(f"{parked:,} parked")
    if run.get("eta_s") is not None:
        moving.append(f"{duration(_number(run.get('eta_s')))} left")
    facts = [("speed", ", ".join(moving))]
    pause = run.get("pause_s")
    if pause is not None:
        since = max(0.0, now - (from_iso(report.updated) or now))  # while nothing happens the file is rarely written
        facts.append(("paused", f"for {duration(_number(pause) + since)}: no request begins until it is resumed"))
    elif report.waits_for:
        facts.append(("waits for", shown(report.waits_for, 300)))
    if run.get("stopping"):
        facts.append(("stopping", shown(run["stopping"], 300)))
    return facts


def _killed(run: dict[str, JSON]) -> str:
    parked = int(_number(run.get("parked")))
    last = f"; {plural(parked, 'row')} waited when it was last heard of" if parked else ""
    unknown = "it left no last word (or could write none, as on a full disk), so which rows waited is not known"
    return f"{unknown}{last}; every row without a line is sent again"


def _deferred(deferred: Deferred, rows: int, wall: float, *, is_refused: bool) -> str:
    text = plural(rows, "row")
    only = next(iter(deferred.reasons), "") if len(deferred.reasons) == 1 else ""
    reasons = elided(only, 200) if only else codes_phrase(deferred.reasons, longest=120)
    if is_refused:
        return f"{text}, until the provider no longer refuses: {reasons}"
    shortest, longest = deferred.shortest_retry_after, deferred.longest_retry_after
    at = from_iso(deferred.retry_at)
    if at is not None and at <= wall:
        text += ", may be sent again now"
    elif at is not None:
        text += f", may be sent again from {local_time(at)}"
    elif shortest is not None and longest is not None:
        until = "" if shortest == longest else f" to {duration(longest)}"
        text += f", retry after {duration(shortest)}{until}"
    return f"{text}: {reasons}"


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
