"""What deserves a notification: an outage that lasts, its end, and the end of the run. Pure.

Instants are on the events' clock; wall time is handed in, in seconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmbatch.core.events import CircuitChanged, Event, RunEnded
from llmbatch.core.raw_json import JSON
from llmbatch.money.text import usd
from llmbatch.report.iso_time import to_iso
from llmbatch.report.snapshot import Snapshot
from llmbatch.report.stats import RunStats
from llmbatch.report.words import duration, elided, plural, shown

__all__ = ["Announcement", "Announcer", "Kind"]

Kind = Literal["outage", "recovered", "finished", "stopped"]

LASTING_S = 60.0
"""Seconds after which an opening of a circuit is told."""

_NEEDS_ACTION = frozenset({2, 3, 4, 70, 74})
"""Exit codes after which running the same command again does not help."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One notification. ``fields`` are its JSON members but ``event`` and ``text``, which stand for themselves."""

    event: Kind
    text: str
    fields: dict[str, JSON]

    def encoded(self) -> bytes:
        """As one line of JSON, in ASCII."""
        value = {"event": self.event, "text": self.text, **self.fields}
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class Announcer:
    """Finds the announcements of one run. *command*: what to type to run it again.

    *go_on* gives what to do next, by the exit code; None while the run goes on.
    """

    def __init__(self, stats: RunStats, *, command: str, go_on: Callable[[int | None], str]) -> None:
        self._stats = stats
        self._command = command
        self._go_on = go_on
        self._opened: dict[str, float] = {}
        """Circuits that are not closed and have not been told of, each with its opening; in the order of these."""
        self._told: dict[str, float] = {}
        """Those that have been told of."""

    def __repr__(self) -> str:
        return f"<Announcer {len(self._opened)} open, {len(self._told)} told>"

    @property
    def due_at(self) -> float | None:
        """When :meth:`due` may find something; None: an event has to come first."""
        return next(iter(self._opened.values())) + LASTING_S if self._opened else None

    def observe(self, event: Event, wall: float) -> list[Announcement]:
        """Take one event, which the statistics have folded before."""
        if isinstance(event, CircuitChanged):
            if event.new != "closed":
                if event.route not in self._told:
                    self._opened.setdefault(event.route, event.at)
                return []
            self._opened.pop(event.route, None)
            since = self._told.pop(event.route, None)
            return [] if since is None else [self._recovered(event.route, since, event.at, wall)]
        return [self._ended(event, wall)] if isinstance(event, RunEnded) else []

    def due(self, now: float, wall: float) -> list[Announcement]:
        """Tell of the circuits that have been open for a minute; of each once, until it has closed."""
        found = [(route, since) for route, since in self._opened.items() if now >= since + LASTING_S]
        for route, since in found:
            del self._opened[route]
            self._told[route] = since
        return [self._outage(route, since, now, wall) for route, since in found]

    def _outage(self, route: str, since: float, now: float, wall: float) -> Announcement:
        why = self._stats.last_failure(route) or self._stats.route(route, now).reason
        parked = self._stats.route(route, now).parked
        text = f"{elided(route, 80)} has been down for {duration(now - since)}"
        text += f": {shown(why, 300)}" if why else ""
        text += f"; {plural(parked, 'row')} {'waits' if parked == 1 else 'wait'}" if parked else ""
        return Announcement("outage", text, self._fields(now, wall, route=route, since=since, reason=why))

    def _recovered(self, route: str, since: float, now: float, wall: float) -> Announcement:
        text = f"{elided(route, 80)} is back after {duration(now - since)}"
        return Announcement("recovered", text, self._fields(now, wall, route=route, since=since))

    def _ended(self, event: RunEnded, wall: float) -> Announcement:
        snapshot = self._stats.snapshot(event.at)
        parts = [_rows(snapshot)]
        if snapshot.outages:
            parts.append(f"{plural(snapshot.outages, 'outage')} of {duration(snapshot.outage_s)} in all")
        if event.exit_code not in (0, 1):
            parts.insert(0, f"stopped: {shown(event.reason or snapshot.stopping or '', 300)}")
        kind: Kind = "finished" if event.exit_code in (0, 1) else "stopped"
        return Announcement(kind, "; ".join(parts), self._fields(event.at, wall, ended=event))

    def _fields(
        self,
        now: float,
        wall: float,
        *,
        route: str | None = None,
        since: float | None = None,
        reason: str = "",
        ended: RunEnded | None = None,
    ) -> dict[str, JSON]:
        snapshot = self._stats.snapshot(now)
        exit_code = None if ended is None else ended.exit_code
        cost = snapshot.spending.cost_usd
        return {
            "time": to_iso(wall),
            "input": snapshot.input,
            "output": snapshot.output,
            "route": route,
            "since": None if since is None else to_iso(wall - (now - since)),
            "seconds": None if since is None else round(now - since, 3),
            "reason": (reason if ended is None else ended.reason)[:1000],
            "counts": {
                "rows": snapshot.total_rows,
                "done": snapshot.done_rows,
                "success": snapshot.success,
                "failed": snapshot.failed,
                "deferred": snapshot.parked,
            },
            "cost_usd": None if cost is None else float(cost),
            "exit_code": exit_code,
            "needs_action": exit_code in _NEEDS_ACTION,
            "command": self._command,
            "next": self._go_on(exit_code),
        }


def _rows(snapshot: Snapshot) -> str:
    total = snapshot.total_rows
    whole = snapshot.done_rows if total is None else max(snapshot.done_rows, total)
    parts = [f"{snapshot.success:,} answered"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed:,} failed")
    if whole > snapshot.done_rows:
        parts.append(f"{whole - snapshot.done_rows:,} not done yet")
    if snapshot.spending.cost_usd is not None:
        parts.append(usd(snapshot.spending.cost_usd))
    return f"{plural(whole, 'row')}: {', '.join(parts)}"
