"""How long routes were down and the run was paused, and a clock that stands still meanwhile.

Pure; times are arguments, in seconds.
"""

from __future__ import annotations

__all__ = ["Downtime"]


class Downtime:
    """Outages of all routes. ``not_closed`` counts the routes whose circuit is not closed, ``outages`` all so far.

    ``paused_since``: when the user's pause began; None if the run is not paused.
    """

    __slots__ = (
        "_down",
        "_down_s",
        "_down_since",
        "_is_down",
        "_paused_s",
        "_stalled_s",
        "_stalled_since",
        "not_closed",
        "outages",
        "paused_since",
    )

    def __init__(self) -> None:
        self.not_closed = 0
        self.outages = 0
        self.paused_since: float | None = None
        self._down = 0
        self._down_s = 0.0
        self._down_since: float | None = None
        self._is_down = False
        self._paused_s = 0.0
        self._stalled_s = 0.0
        self._stalled_since: float | None = None

    def circuit_changed(self, at: float, *, is_closed: bool, routes: int) -> None:
        """A circuit closed, or is no longer closed; *routes* is how many routes there are."""
        self.not_closed += -1 if is_closed else 1
        self._is_down = self.not_closed >= routes
        self._stall(at)

    def paused(self, at: float) -> None:
        """The user's pause begins."""
        self.paused_since = at
        self._stall(at)

    def resumed(self, at: float) -> None:
        """The user's pause ends."""
        self._paused_s = self.paused_seconds(at)
        self.paused_since = None
        self._stall(at)

    def _stall(self, at: float) -> None:
        is_stalled = self._is_down or self.paused_since is not None
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

    def pause_seconds(self, now: float) -> float | None:
        """Seconds that the present pause has lasted; None if the run is not paused."""
        return None if self.paused_since is None else max(0.0, now - self.paused_since)

    def paused_seconds(self, now: float) -> float:
        """Seconds of all pauses."""
        return self._paused_s + (self.pause_seconds(now) or 0.0)

    def working_time(self, now: float) -> float:
        """*now* on a clock that stands still while no circuit is closed, and while the run is paused."""
        since = self._stalled_since
        return (now if since is None else min(now, since)) - self._stalled_s
