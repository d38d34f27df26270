"""What ``llmbatch status`` knows of one output over all of its runs: begin, end, outages, batches, routes, repairs.

Pure: wall time is handed in and decides nothing. Does not read or write the sidecar that keeps it between runs
(:mod:`llmbatch.display.status_file`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchLost, BatchMoved, BatchSubmitted
from llmbatch.core.events import Event, OutageEnded, OutageStarted, RunEnded
from llmbatch.core.raw_json import JSON
from llmbatch.report.batch_log import BatchLog
from llmbatch.report.iso_time import from_iso, to_iso
from llmbatch.report.stats import RunStats

__all__ = ["Journal", "Outage", "RouteSpeed"]

MOST_OUTAGES = 100
MOST_ROUTES = 100
_MOST_CHARACTERS = 300


@dataclass(slots=True)
class Outage:
    """One outage of *route*; ``began`` and ``ended`` are seconds since the epoch, ``ended`` None while it lasts."""

    route: str
    began: float
    ended: float | None
    message: str
    left_open: bool = False
    """Whether the run that saw it ended before it did. ``ended`` is then when that was, once a later run began."""

    def to_json(self) -> dict[str, JSON]:
        """As the sidecar keeps it."""
        ended = None if self.ended is None else to_iso(self.ended)
        told: dict[str, JSON] = {"route": self.route, "from": to_iso(self.began), "to": ended, "message": self.message}
        return told | {"left_open": True} if self.left_open else told


@dataclass(slots=True)
class RouteSpeed:
    """Rows that ended on a route, and the seconds between its first call and its last row, summed over runs."""

    rows: int = 0
    seconds: float = 0.0


class Journal:
    """The history, as of the last event. *kept* is from :meth:`to_json` in an earlier run; other JSON is ignored.

    Bounded: the last 100 outages (``dropped`` counts those before), 200 batches and 100 routes.
    """

    def __init__(self, kept: JSON = None) -> None:
        values = kept if isinstance(kept, dict) else {}
        self.began = from_iso(values.get("began"))
        self.ended = from_iso(values.get("ended"))
        self.runs = _count(values.get("runs"))
        self._kept_repaired = self.repaired = _count(values.get("repaired"))
        self.dropped = _count(values.get("dropped_outages"))
        self.outages = [outage for value in _list(values.get("outages")) if (outage := _outage(value)) is not None]
        self._kept = {label: speed for label, value in _pairs(values.get("routes")) if (speed := _speed(value))}
        self.speeds = dict(self._kept)
        self.batches = BatchLog.from_json(values.get("batches"))
        self._trim()

    @classmethod
    def joined(cls, journals: Sequence[Journal]) -> Journal:
        """The history of several processes that ran side by side.

        Outages of one route that overlap are one, and speeds add up.
        """
        whole = cls()
        whole.began = min((one.began for one in journals if one.began is not None), default=None)
        ends = [one.ended for one in journals]
        whole.ended = max((end for end in ends if end is not None), default=None) if None not in ends else None
        whole.runs = max((one.runs for one in journals), default=0)
        whole._kept_repaired = whole.repaired = sum(one.repaired for one in journals)
        whole.dropped = max((one.dropped for one in journals), default=0)
        for outage in sorted((outage for one in journals for outage in one.outages), key=lambda one: one.began):
            last = next((one for one in reversed(whole.outages) if one.route == outage.route), None)
            if last is None or (last.ended is not None and last.ended < outage.began):
                whole.outages.append(replace(outage))
            elif last.ended is not None and (outage.ended is None or outage.ended > last.ended):
                last.ended, last.left_open = outage.ended, outage.left_open
        for label in sorted({label for one in journals for label in one.speeds}):
            speeds = [one.speeds[label] for one in journals if label in one.speeds]
            seconds = max(speed.seconds for speed in speeds)
            whole.speeds[label] = RouteSpeed(sum(speed.rows for speed in speeds), seconds)
        whole._kept = dict(whole.speeds)
        whole.batches = BatchLog.joined([one.batches for one in journals])
        whole._trim()
        return whole

    def copy(self) -> Journal:
        """The journal as it is now."""
        copied = copy(self)
        copied.outages = [replace(outage) for outage in self.outages]
        copied.speeds = dict(self.speeds)
        copied.batches = self.batches.copy()
        return copied

    def begin(self, wall: float, *, last_seen: float | None = None) -> None:
        """A run begins at *wall*. Outages that an earlier run left open were last seen at *last_seen*."""
        self.began = wall if self.began is None else min(self.began, wall)
        self.ended = None
        self.runs += 1
        for outage in self.outages:
            if outage.ended is None:
                outage.ended = max(outage.began, wall if last_seen is None else min(last_seen, wall))
                outage.left_open = True

    def observe(self, event: Event, wall: float, stats: RunStats) -> None:
        """Take one event of the run, seen at *wall* and folded into *stats* before; most change nothing."""
        match event:
            case OutageStarted():
                message = stats.last_failure(event.route) or event.reason
                began = wall - max(0.0, event.at - event.since)
                self._add(event.route, began, message)
            case OutageEnded():
                for outage in reversed(self.outages):
                    if outage.route == event.route[:_MOST_CHARACTERS] and outage.ended is None:
                        outage.ended = max(outage.began, wall)
                        break
            case BatchSubmitted() | BatchMoved() | BatchCollected() | BatchCancelled() | BatchLost():
                self.batches.observe(event, wall)
            case RunEnded():
                self.ended = wall
                if event.exit_code == 75:
                    self._add_unconfirmed(event, wall, stats)
            case _:
                pass

    def to_json(self, stats: RunStats) -> dict[str, JSON]:
        """The history as JSON, with the speeds of this run from *stats*."""
        self.speeds = _added(self._kept, stats)
        self.repaired = self._kept_repaired + stats.repaired
        return {
            "began": None if self.began is None else to_iso(self.began),
            "ended": None if self.ended is None else to_iso(self.ended),
            "runs": self.runs,
            "repaired": self.repaired,
            "dropped_outages": self.dropped,
            "outages": [outage.to_json() for outage in self.outages],
            **({"batches": self.batches.to_json()} if self.batches.batches else {}),
            "routes": {
                label: {"rows": speed.rows, "seconds": round(speed.seconds, 3)} for label, speed in self.speeds.items()
            },
        }

    def _add_unconfirmed(self, event: RunEnded, wall: float, stats: RunStats) -> None:
        """Add routes whose circuit is open although no probe has confirmed an outage: their rows are deferred too."""
        known = {outage.route for outage in self.outages if outage.ended is None}
        for label, since in stats.open_circuits():
            if label[:_MOST_CHARACTERS] not in known:
                self._add(label, wall - max(0.0, event.at - since), stats.last_failure(label))

    def _add(self, label: str, began: float, message: str) -> None:
        self.outages.append(Outage(label[:_MOST_CHARACTERS], began, None, message[:_MOST_CHARACTERS]))
        self._trim()

    def rows_per_s(self, label: str) -> float | None:
        """The speed of a route in rows per second, its tenants together; None if unknown."""
        # A tenant's circuit is named after its route: "openai/gpt-5-mini [tenant acme]".
        speeds = [speed for name, speed in self.speeds.items() if name == label or name.startswith(f"{label} [")]
        seconds = max((speed.seconds for speed in speeds), default=0.0)
        return sum(speed.rows for speed in speeds) / seconds if seconds > 0.0 else None

    def _trim(self) -> None:
        surplus = len(self.outages) - MOST_OUTAGES
        if surplus > 0:
            self.dropped += surplus
            del self.outages[:surplus]


def _added(kept: dict[str, RouteSpeed], stats: RunStats) -> dict[str, RouteSpeed]:
    speeds = dict(kept)
    for route in stats.routes():
        before, rows, began = kept.get(route.label, RouteSpeed()), route.success + route.failed, route.calls.first_at
        if rows and began is not None:  # answers of batches come without calls
            seconds = max(0.0, route.last_row_at - began)
            speeds[route.label] = RouteSpeed(before.rows + rows, before.seconds + seconds)
    most = sorted(speeds, key=lambda label: -speeds[label].rows)[:MOST_ROUTES]
    return {label: speeds[label] for label in most}


def _outage(value: JSON) -> Outage | None:
    if not isinstance(value, dict):
        return None
    began, route, message = from_iso(value.get("from")), value.get("route"), value.get("message")
    if began is None or not isinstance(route, str) or not isinstance(message, str):
        return None
    ended, left_open = from_iso(value.get("to")), value.get("left_open") is True
    return Outage(route[:_MOST_CHARACTERS], began, ended, message[:_MOST_CHARACTERS], left_open)


def _speed(value: JSON) -> RouteSpeed | None:
    if not isinstance(value, dict):
        return None
    seconds = value.get("seconds")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        return None
    return RouteSpeed(_count(value.get("rows")), float(seconds))


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def _pairs(value: JSON) -> list[tuple[str, JSON]]:
    return list(value.items())[:MOST_ROUTES] if isinstance(value, dict) else []


def _count(value: JSON) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
