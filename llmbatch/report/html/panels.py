"""Which charts there are over time, and where their values come from: for plain pictures and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmbatch.core.raw_json import JSON
from llmbatch.report.html.axis import Column

__all__ = ["PANELS", "PanelSpec", "SeriesSpec", "panel_json", "series_values"]


@dataclass(frozen=True, slots=True)
class SeriesSpec:
    """One line or area, from a *member* of the buckets. ``kind`` is its class in the style sheet.

    ``measure``: ``rate``, the sum per second times ``times``; ``highest``; ``known``, the highest where it is not 0;
    ``latency``, which only good calls have;
    ``total``, summed up since the beginning. ``optional``: left out where it is 0 all the time.
    """

    name: str
    kind: str
    member: str
    measure: Literal["rate", "highest", "known", "latency", "total"]
    times: float = 1.0
    shape: Literal["area", "line"] = "line"
    optional: bool = False


@dataclass(frozen=True, slots=True)
class PanelSpec:
    """A chart: its title, the unit of its values, how they are said, and what is drawn."""

    title: str
    unit: str
    series: Sequence[SeriesSpec]
    say: Literal["number", "duration", "usd"] = "number"


PANELS = (
    PanelSpec("Answered", "rows/s", [SeriesSpec("answered", "ok", "success", "rate", shape="area")]),
    PanelSpec(
        "Failed and throttled",
        "per minute",
        [
            SeriesSpec("failed rows", "failed", "failed", "rate", 60.0, "area"),
            SeriesSpec("throttled calls", "throttled", "throttled", "rate", 60.0),
        ],
    ),
    PanelSpec(
        "In flight",
        "requests",
        [
            SeriesSpec("in flight", "flight", "in_flight", "highest", shape="area"),
            SeriesSpec("limit", "limit", "limit", "known", optional=True),
        ],
    ),
    PanelSpec("Parked", "rows", [SeriesSpec("parked", "parked", "parked", "highest", shape="area")]),
    PanelSpec(
        "Latency",
        "of good calls",
        [SeriesSpec("p50", "p50", "p50_s", "latency"), SeriesSpec("p95", "p95", "p95_s", "latency")],
        "duration",
    ),
    PanelSpec(
        "Cost",
        "US$, summed up",
        [SeriesSpec("cost", "cost", "cost_usd", "total", shape="area", optional=True)],
        "usd",
    ),
)


def series_values(spec: SeriesSpec, cols: Sequence[Column]) -> list[float | None] | None:
    """The values of *spec* in each column; None where it is left out."""
    if spec.optional and not any(column.sums.get(spec.member) for column in cols):
        return None
    match spec.measure:
        case "rate":
            return [column.rate(spec.member) * spec.times if column.seconds > 0 else None for column in cols]
        case "highest":
            return [column.sums.get(spec.member, 0.0) if column.seconds > 0 else None for column in cols]
        case "known":
            return [column.sums.get(spec.member) or None for column in cols]
        case "latency":
            return [column.sums[spec.member] if column.sums.get("good_calls", 0.0) > 0 else None for column in cols]
        case "total":
            total, found = 0.0, list[float | None]()
            for column in cols:
                total += column.sums.get(spec.member, 0.0)
                found.append(total)
            return found


def panel_json() -> list[JSON]:
    """The same for the script of the page."""
    return [
        {
            "title": panel.title,
            "unit": panel.unit,
            "say": panel.say,
            "series": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "member": one.member,
                    "measure": one.measure,
                    "times": one.times,
                    "shape": one.shape,
                    "optional": one.optional,
                }
                for one in panel.series
            ],
        }
        for panel in PANELS
    ]
