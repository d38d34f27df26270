"""Statistics of one route: state, calls, rows, and outage time. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from llmbatch.core.events import CircuitState, LimitLearned
from llmbatch.report.call_stats import CallStats
from llmbatch.report.snapshot import RouteSnapshot

__all__ = ["Pause", "RouteStats", "worst_routes"]

_SHOWN_ROUTES = 50
_RANK = {"open": 0, "half_open": 1, "closed": 3}


_PERIODS = {1.0: " a second", 60.0: " a minute", 3600.0: " an hour", 86_400.0: " a day", 2_592_000.0: " a month"}


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait of the route: its end on the loop's clock, the error code of the answer, whether the provider named it.

    ``is_limit``: ``code`` is a rate limit that is kept before anything is refused.
    """

    until: float = 0.0
    code: str = ""
    is_named: bool = False
    is_limit: bool = False


@dataclass(slots=True)
class RouteStats:
    """Statistics of one route, kept by :class:`~llmbatch.report.stats.RunStats`."""

    label: str
    state: CircuitState = "closed"
    reason: str = ""
    next_probe_at: float | None = None
    limit: int | None = None
    parked: int = 0
    calls: CallStats = field(default_factory=CallStats)
    pause: Pause = Pause()
    success: int = 0
    failed: int = 0
    throttles: int = 0
    outages: int = 0
    outage_s: float = 0.0
    outage_since: float | None = None
    recovered_at: float | None = None
    not_closed_since: float | None = None
    last_row_at: float = 0.0
    learned: dict[str, str] = field(default_factory=dict)
    """Rate limits that the provider reported, in words, by what they count and their period."""

    @property
    def paused_until(self) -> float:
        """When the route may be used again after the waits that the provider named; 0 before the first."""
        return self.pause.until

    def learn(self, event: LimitLearned) -> None:
        """Note a rate limit that the provider reported, or that was estimated where nothing states it."""
        kind, window_s = event.kind, event.window_s
        per = _PERIODS.get(window_s or 0.0, "" if window_s is None else f" in {window_s:g} s")
        about = "about " if event.source == "delivered" else ""
        self.learned[f"{kind} {window_s}"] = f"{about}{event.limit:,.0f} {kind.replace('_', ' ')}{per}"

    def note_pause(self, until: float, code: str, *, is_named: bool, is_limit: bool = False) -> None:
        """Note a wait; it never shortens an earlier one. *is_named*: by the provider."""
        named = is_named if until >= self.paused_until else self.pause.is_named
        limit = is_limit if until >= self.paused_until else self.pause.is_limit
        self.pause = Pause(max(self.paused_until, until), code, named, limit)

    def outage_seconds(self, now: float) -> float:
        """Seconds of outage so far, including the current one."""
        since = self.outage_since
        return self.outage_s + (0.0 if since is None else max(0.0, now - since))

    def snapshot(self, now: float) -> RouteSnapshot:
        """A snapshot of the route at *now*."""
        probe = self.next_probe_at
        since = self.not_closed_since if self.outage_since is None else self.outage_since
        return RouteSnapshot(
            label=self.label,
            state=self.state,
            reason=self.reason,
            next_probe_s=None if probe is None else max(0.0, probe - now),
            in_flight=self.calls.in_flight,
            limit=self.limit,
            parked=self.parked,
            paused_s=max(0.0, self.paused_until - now),
            calls=self.calls.sent,
            success=self.success,
            failed=self.failed,
            throttles=self.throttles,
            outages=self.outages,
            outage_s=self.outage_seconds(now),
            recovered_s=None if self.recovered_at is None else max(0.0, now - self.recovered_at),
            open_s=None if since is None or self.state == "closed" else max(0.0, now - since),
            pause_code=self.pause.code if self.paused_until > now else "",
            pause_is_named=self.pause.is_named and self.paused_until > now,
            pause_is_limit=self.pause.is_limit and self.paused_until > now,
            learned_limits=tuple(self.learned.values()),
        )


def worst_routes(routes: Iterable[RouteStats], now: float) -> tuple[RouteSnapshot, ...]:
    """The routes in trouble first (open, probing, paused), then by name; at most 50."""

    def rank(route: RouteStats) -> tuple[int, str]:
        paused = route.state == "closed" and route.paused_until > now
        return (2 if paused else _RANK[route.state], route.label)

    return tuple(route.snapshot(now) for route in sorted(routes, key=rank)[:_SHOWN_ROUTES])
