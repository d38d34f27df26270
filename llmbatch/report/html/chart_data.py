"""The history of a run as JSON for the charts that scripts draw: buckets, times of work, outages, pauses. Bounded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import tzinfo

from llmbatch.core.raw_json import JSON
from llmbatch.report.html.axis import TimeAxis, known_buckets
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.panels import panel_json
from llmbatch.report.html.shades import outage_spans, pause_spans
from llmbatch.report.html.text import offset_seconds
from llmbatch.report.timeline import Bucket

__all__ = ["MEMBERS", "bucket_rows", "chart_data", "chart_frame", "in_script", "shade_rows"]

MEMBERS = {
    "start": 2,
    "width": 2,
    "success": 0,
    "failed": 0,
    "throttled": 0,
    "in_flight": 0,
    "limit": 0,
    "parked": 0,
    "open_circuits": 0,
    "good_calls": 0,
    "p50_s": 4,
    "p95_s": 4,
    "cost_usd": 8,
}
"""The members of a bucket that charts need, in the order of its row, with their decimals."""

_LONGEST_SEARCH_S = 86_400.0 * 800


def chart_data(report: RunReport) -> dict[str, JSON] | None:
    """All that the charts need; None where there is no history."""
    buckets = known_buckets(report.history.timeline.buckets())
    if not buckets:
        return None
    frame = chart_frame(report, buckets)
    return {**frame, "panels": panel_json(), "members": list[JSON](MEMBERS), "buckets": bucket_rows(buckets)}


def chart_frame(report: RunReport, buckets: list[Bucket]) -> dict[str, JSON]:
    """What may change with every bucket: times of work, shades, offsets of local time. *buckets*: at least one."""
    axis = TimeAxis(buckets)
    return {
        "spans": [[round(begin, 2), round(end, 2)] for begin, end in axis.spans],
        "shades": shade_rows(report, axis.began, axis.ended),
        "offsets": list[JSON](_offsets(axis.began, axis.ended, report.zone)),
    }


def shade_rows(report: RunReport, began: float, ended: float) -> list[JSON]:
    """Outages and pauses between the instants *began* and *ended*: begin, end, what to say of them, and their kind."""
    spans = [(span, "outage") for span in outage_spans(report, began, ended)]
    spans += [(span, "pause") for span in pause_spans(report, began, ended)]
    return [[round(span.began, 2), round(span.ended, 2), span.text, kind] for span, kind in spans]


def bucket_rows(buckets: Iterable[Bucket]) -> list[JSON]:
    """A row of numbers for each bucket; what is 0 at its end is left out."""
    rows: list[JSON] = []
    for bucket in buckets:
        row: list[JSON] = [
            round(value, decimals) if decimals else value
            for value, decimals in ((getattr(bucket, name), decimals) for name, decimals in MEMBERS.items())
        ]
        while len(row) > 2 and not row[-1]:
            row.pop()
        rows.append(row)
    return rows


def in_script(value: JSON) -> str:
    """*value* as JSON that can stand in a ``script`` element: nothing in it ends the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _offsets(began: float, ended: float, zone: tzinfo | None) -> Sequence[list[JSON]]:
    """From when on which offset of local time holds, in seconds."""
    found: list[list[JSON]] = [[round(began), offset_seconds(began, zone)]]
    if ended - began > _LONGEST_SEARCH_S:
        return found
    at = began
    while at < ended:
        following = min(at + 86_400.0, ended)
        if offset_seconds(at, zone) != offset_seconds(following, zone):
            low, high = at, following
            while high - low > 1.0:
                middle = (low + high) / 2
                if offset_seconds(middle, zone) == offset_seconds(at, zone):
                    low = middle
                else:
                    high = middle
            found.append([round(high), offset_seconds(high, zone)])
        at = following
    return found
