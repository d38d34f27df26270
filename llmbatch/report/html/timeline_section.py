"""The section of the page with the charts over time, and their numbers as tables."""

from __future__ import annotations

from collections.abc import Callable

from llmbatch.money.text import usd
from llmbatch.report.html.axis import Column, TimeAxis, columns, known_buckets
from llmbatch.report.html.charts import Panel, Series, Shade, circuit_band, panel, time_labels
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.panels import PANELS, series_values
from llmbatch.report.html.shades import outage_spans, pause_spans
from llmbatch.report.html.text import day_and_clock, escaped, number, offset, table
from llmbatch.report.words import duration

__all__ = ["numbers_table", "outage_table", "span_words", "time_section"]

_SAY: dict[str, Callable[[float], str]] = {"number": number, "duration": duration, "usd": usd}
_MOST_COLUMNS = 240
_MOST_TABLE_ROWS = 48
_MOST_OUTAGES = 100


def time_section(report: RunReport) -> str:
    """The charts as plain pictures, which a script replaces; where there is no history, why."""
    buckets = known_buckets(report.history.timeline.buckets())
    if not buckets:
        note = report.history_note or "There is no history beside the output"
        return (
            f'<p class="note">{escaped(note)}: what happened when cannot be drawn. All else is from the output.</p>\n'
        )
    axis = TimeAxis(buckets)
    cols = columns(buckets, axis, _MOST_COLUMNS)
    shades = _shades(report, axis)
    days = axis.ended - axis.began >= 86_400
    zone = report.zone
    drawn = [panel(what, cols, shades, zone, days=days) for what in _panels(cols)]
    drawn.insert(1, circuit_band(cols, shades))
    return "".join([*drawn, time_labels(axis, zone)])


def span_words(report: RunReport, axis: TimeAxis) -> str:
    """What the time axis shows, not escaped."""
    where = offset(axis.ended, report.zone)
    span = f"{day_and_clock(axis.began, report.zone)} to {day_and_clock(axis.ended, report.zone)}, times in {where}."
    words = " Red areas are outages." if outage_spans(report, axis.began, axis.ended) else ""
    if pause_spans(report, axis.began, axis.ended):
        words += " Blue areas are pauses by the user."
    if axis.gaps:
        words += " Gray areas are times between runs, cut short."
    return span + words


def numbers_table(report: RunReport) -> str:
    """The values of the charts in a table of at most 48 rows; empty without a history."""
    buckets = known_buckets(report.history.timeline.buckets())
    if not buckets:
        return ""
    axis = TimeAxis(buckets)
    numbers = _numbers(report, columns(buckets, axis, _MOST_TABLE_ROWS))
    return f'<details data-key="numbers"><summary>The same in numbers</summary>{numbers}</details>\n'


def outage_table(report: RunReport) -> str:
    """All outages with what the provider said; empty if there were none."""
    if not report.outages:
        return ""
    zone = report.zone
    rows = []
    for outage in report.outages[-_MOST_OUTAGES:]:
        end = report.end_of(outage)
        if outage.ended is not None and not outage.left_open:
            until = day_and_clock(end, zone, seconds=True)
        else:
            until = "not over" if report.state == "running" else "not over when the run ended"
        rows.append(
            [
                f'<span class="name">{escaped(outage.route, 120)}</span>',
                day_and_clock(outage.began, zone, seconds=True),
                until,
                duration(end - outage.began),
                f'<span class="long">{escaped(outage.message, 200)}</span>',
            ]
        )
    heads = ["route", "from", "to", "time", "what the provider said"]
    return table("Outages", heads, rows, numeric=frozenset({3}))


def _shades(report: RunReport, axis: TimeAxis) -> list[Shade]:
    shades = []
    for left, right, begin, end in axis.gaps:
        shades.append(Shade(left, right, f"no run for {duration(end - begin)}", "gap"))
    for span in pause_spans(report, axis.began, axis.ended):
        shades.append(Shade(axis.place(span.began), axis.place(span.ended), span.text, "pause"))
    for span in outage_spans(report, axis.began, axis.ended):
        shades.append(Shade(axis.place(span.began), axis.place(span.ended), span.text))
    return shades


def _panels(cols: list[Column]) -> list[Panel]:
    panels = []
    for spec in PANELS:
        drawn = [(one, values) for one in spec.series if (values := series_values(one, cols)) is not None]
        if drawn:
            series = [Series(one.name, one.kind, values, one.shape) for one, values in drawn]
            panels.append(Panel(spec.title, spec.unit, series, _SAY[spec.say]))
    return panels


def _numbers(report: RunReport, cols: list[Column]) -> str:
    heads = ["from", "answered", "failed", "throttled", "in flight", "limit", "parked", "circuit", "p50", "p95", "US$"]
    rows = []
    for column in cols:
        if column.seconds <= 0:
            continue
        sums = column.sums
        counts = [f"{sums.get(name, 0.0):,.0f}" for name in ("success", "failed", "throttled")]
        highest = [f"{sums.get(name, 0.0):,.0f}" for name in ("in_flight", "limit", "parked")]
        has_calls = sums.get("good_calls", 0.0) > 0
        rows.append(
            [
                day_and_clock(column.begin, report.zone, seconds=True),
                *counts,
                *highest,
                "not closed" if sums.get("open_circuits") else "closed",
                *(duration(sums[name]) if has_calls else "" for name in ("p50_s", "p95_s")),
                number(sums.get("cost_usd", 0.0)),
            ]
        )
    return table("What happened when", heads, rows, numeric=frozenset(range(1, 11)) - {7})
