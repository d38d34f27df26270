"""How long routes were down, and a clock that stands still meanwhile. Pure; times are arguments, in seconds."""

from __future__ import annotations

__all__ = ["Downtime"]


class Downtime:
    """Outages of all routes. ``not_closed`` counts the routes whose circuit is not closed, ``outages`` all so far."""

    __slots__ = ("_down", "_down_s", "_down_since", "_stalled_s", "_stalled_since", "not_closed", "outages")

    def __init__(self) -> None:
        self.not_closed = 0
        self.outages = 0
        self._down = 0
        self._down_s = 0.0
        self._down_since: float | None = None
        self._stalled_s = 0.0
        self._stalled_since: float | None = None

    def circuit_changed(self, at: float, *, is_closed: bool, routes: int) -> None:
        """A circuit closed, or is no longer closed; *routes* is how many routes there are."""
        self.not_closed += -1 if is_closed else 1
        is_stalled = self.not_closed >= routes
        if is_stalled and self._stalled_since is None:
            self._stalled_since = at
        elif not is_stalled and self._stalled_since is not None:
            self._stalled_s += max(0.0, at - self._stalled_since)
            self._stalled_since = None

    def outage_started(self, since: float) -> None:
        """An outage of one route was noticed, which began at *since*."""
        self.outages += 1
        self._down += 1
        if self._down_since is None:
            self._down_since = since

    def outage_ended(self, at: float) -> None:
        """The outage of one route ended."""
        self._down -= 1
        if not self._down:
            self._down_s = self.seconds(at)
            self._down_since = None

    def seconds(self, now: float) -> float:
        """Seconds in which at least one route was down; overlapping outages count once."""
        since = self._down_since
        return self._down_s + (0.0 if since is None else max(0.0, now - since))

    def working_time(self, now: float) -> float:
        """*now* on a clock that stands still while no circuit is closed."""
        since = self._stalled_since
        return (now if since is None else min(now, since)) - self._stalled_s
