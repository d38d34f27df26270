"""The times that charts shade: outages, and pauses by the run's user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmbatch.report.html.data import RunReport
from llmbatch.report.words import duration, elided

__all__ = ["ShadedSpan", "outage_spans", "pause_spans"]

_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class ShadedSpan:
    """From when to when, in seconds since the epoch, and what to say of it."""

    began: float
    ended: float
    text: str


def outage_spans(report: RunReport, began: float, ended: float) -> list[ShadedSpan]:
    """The last 100 outages, of which those between *began* and *ended*."""
    spans = [
        ShadedSpan(
            outage.began,
            report.end_of(outage),
            f"outage of {elided(outage.route, 60)}, {duration(report.end_of(outage) - outage.began)}",
        )
        for outage in report.outages[-_MOST:]
    ]
    return [span for span in spans if span.ended >= began and span.began <= ended]


def pause_spans(report: RunReport, began: float, ended: float) -> list[ShadedSpan]:
    """The last 100 pauses by the user, of which those between *began* and *ended*."""
    spans = [
        ShadedSpan(
            pause.began, report.end_of(pause), f"paused by its user, {duration(report.end_of(pause) - pause.began)}"
        )
        for pause in report.history.pauses[-_MOST:]
    ]
    return [span for span in spans if span.ended >= began and span.began <= ended]
