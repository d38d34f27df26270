"""The section of the page with the charts over time, and their numbers as tables."""

from __future__ import annotations

from llmbatch.money.text import usd
from llmbatch.report.html.axis import Column, TimeAxis, columns, known_buckets
from llmbatch.report.html.charts import Panel, Series, Shade, circuit_band, panel, time_labels
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.text import day_and_clock, escaped, number, offset, table
from llmbatch.report.words import duration, elided

__all__ = ["outage_table", "time_section"]

_MOST_COLUMNS = 240
_MOST_TABLE_ROWS = 48
_MOST_OUTAGES = 100


def time_section(report: RunReport) -> str:
    """The charts; where there is no history, why."""
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
    where = offset(axis.ended, zone)
    span = f"{day_and_clock(axis.began, zone)} to {day_and_clock(axis.ended, zone)}, times in {where}."
    words = " Red areas are outages." if any(shade.kind == "outage" for shade in shades) else ""
    if axis.gaps:
        words += " Gray areas are times between runs, cut short."
    return (
        f'<p class="dim">{escaped(span + words)}</p>\n{"".join(drawn)}{time_labels(axis, zone)}'
        f"<details><summary>The same in numbers</summary>{_numbers(report, columns(buckets, axis, _MOST_TABLE_ROWS))}"
        "</details>\n"
    )


def outage_table(report: RunReport) -> str:
    """All outages with what the provider said."""
    zone = report.zone
    rows = []
    for outage in report.outages[-_MOST_OUTAGES:]:
        end = report.end_of(outage)
        if outage.ended is not None:
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
    for outage in report.outages[-_MOST_OUTAGES:]:
        end = report.end_of(outage)
        left, right = axis.place(outage.began), axis.place(end)
        if end < axis.began or outage.began > axis.ended:
            continue
        shades.append(Shade(left, right, f"outage of {elided(outage.route, 60)}, {duration(end - outage.began)}"))
    return shades


def _panels(cols: list[Column]) -> list[Panel]:
    has_limit = any(column.sums.get("limit") for column in cols)
    panels = [
        Panel("Answered", "rows/s", [Series("answered", "ok", _rates(cols, "success"), "area")]),
        Panel(
            "Failed and throttled",
            "per minute",
            [
                Series("failed rows", "failed", _rates(cols, "failed", 60.0), "area"),
                Series("throttled calls", "throttled", _rates(cols, "throttled", 60.0)),
            ],
        ),
        Panel(
            "In flight",
            "requests",
            [
                Series("in flight", "flight", _highest(cols, "in_flight"), "area"),
                *([Series("limit", "limit", _highest(cols, "limit"))] if has_limit else []),
            ],
        ),
        Panel("Parked", "rows", [Series("parked", "parked", _highest(cols, "parked"), "area")]),
        Panel(
            "Latency",
            "of good calls",
            [Series("p50", "p50", _latencies(cols, "p50_s")), Series("p95", "p95", _latencies(cols, "p95_s"))],
            duration,
        ),
    ]
    if any(column.sums.get("cost_usd") for column in cols):
        panels.append(Panel("Cost", "US$, summed up", [Series("cost", "cost", _summed(cols, "cost_usd"), "area")], usd))
    return panels


def _rates(cols: list[Column], name: str, times: float = 1.0) -> list[float | None]:
    return [column.rate(name) * times if column.seconds > 0 else None for column in cols]


def _highest(cols: list[Column], name: str) -> list[float | None]:
    return [column.sums.get(name, 0.0) if column.seconds > 0 else None for column in cols]


def _latencies(cols: list[Column], name: str) -> list[float | None]:
    return [column.sums[name] if column.sums.get("good_calls", 0.0) > 0 else None for column in cols]


def _summed(cols: list[Column], name: str) -> list[float | None]:
    total, found = 0.0, list[float | None]()
    for column in cols:
        total += column.sums.get(name, 0.0)
        found.append(total)
    return found


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
