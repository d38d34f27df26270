"""The verdict on a run in words."""

from __future__ import annotations

from llmbatch.money.text import usd
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.text import clock, day_and_clock
from llmbatch.report.journal import Outage
from llmbatch.report.words import duration, elided, plural, shown

__all__ = ["state_of", "verdict"]

_DAY_S = 86_400.0
_SHORT_S = 180.0


def verdict(report: RunReport) -> str:
    """One sentence, not escaped: rows, cost, outages, and how the run ended.

    ``10,000 rows: 9,988 answered, 12 failed, US$ 3.12; openai/gpt-5-mini was down from 02:07 to 03:41, nothing was
    lost, 1,940 calls avoided.``
    """
    return "; ".join([_rows(report), *_outages(report), *_ending(report)]) + "."


def state_of(report: RunReport) -> tuple[str, str]:
    """A few words for the state, and its kind: ``good``, ``mild``, ``bad`` or ``plain``."""
    match report.state:
        case "running":
            return "running", "plain"
        case "finished" if not report.failed:
            return "finished", "good"
        case "finished":
            return "finished, rows failed", "mild"
        case "stopped" if report.was_killed:
            return "killed", "bad"
        case "stopped":
            return "stopped", "bad" if report.exit_code in (3, 74) else "mild"
        case _:
            return "not running", "plain"


def _rows(report: RunReport) -> str:
    whole = report.rows if report.total_rows is None else max(report.rows, report.total_rows)
    if not whole:
        return "no row has been answered yet"
    about = "about " if report.total_is_estimate and whole > report.rows else ""
    parts = [f"{report.success:,} answered"]
    if report.failed:
        parts.append(f"{report.failed:,} failed")
    if report.rows_left:
        parts.append(f"{about}{report.rows_left:,} {'to go' if report.state == 'running' else 'not done yet'}")
    cost = report.cost_usd
    if cost is not None:
        unpriced = report.spread.unpriced
        parts.append(usd(cost) + (f" (and {plural(unpriced, 'row')} of unknown price)" if unpriced else ""))
    return f"{about}{plural(whole, 'row')}: {', '.join(parts)}"


def _outages(report: RunReport) -> list[str]:
    outages = report.outages
    if not outages:
        return []
    open_ones = [one for one in outages if one.ended is None] if report.state == "running" else []
    longest = max(outages, key=lambda one: report.end_of(one) - one.began)
    number = len(outages) + report.journal.dropped
    if number == 1:
        text = _down(report, outages[0])
    else:
        total = sum(report.end_of(one) - one.began for one in outages)
        chosen = _down(report, open_ones[-1]) if open_ones else f"{_down(report, longest)}, the longest"
        text = f"{number:,} outages, {duration(total)} in all: {chosen}"
    parts = [text]
    if report.state == "finished":
        parts.append("nothing was lost")
    if report.calls_avoided:
        last = " in the last run" if report.journal.runs > 1 else ""
        parts.append(f"{plural(report.calls_avoided, 'call')} avoided{last}")
    return [", ".join(parts)]


def _down(report: RunReport, outage: Outage) -> str:
    route = elided(outage.route, 60)
    end = report.end_of(outage)
    began = _instant(report, outage.began, end - outage.began)
    if outage.ended is None and report.state == "running":
        return f"{route} has been down since {began}"
    until = _instant(report, end, end - outage.began)
    still = ", when the run ended" if outage.ended is None else ""
    return f"{route} was down from {began} to {until}{still}"


def _instant(report: RunReport, wall: float, length: float) -> str:
    """The time of day, with the date where the run took longer than a day, and seconds in outages of short *length*."""
    ended = report.made_at if report.ended is None else report.ended
    is_one_day = report.began is not None and 0 <= ended - report.began < _DAY_S
    return (clock if is_one_day else day_and_clock)(wall, report.zone, seconds=length < _SHORT_S)


def _ending(report: RunReport) -> list[str]:
    match report.state:
        case "running":
            waits = f", it waits for {shown(report.waits_for, 200)}" if report.waits_for else ""
            return [f"the run goes on{waits}"]
        case "stopped" if report.was_killed:
            return ["the run was killed and left no last word; the same command goes on"]
        case "stopped":
            reason = f" ({shown(report.reason, 200).rstrip('.')})" if report.reason else ""
            return [f"the run has stopped{reason}, the same command goes on"]
        case "finished":
            return []
        case _:
            return ["whether rows are left is not known from the output alone"]
