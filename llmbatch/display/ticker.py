"""What lets a display move while no event comes: a thread that ticks, and the run's clock between two events.

What they do not do: touch the event loop. A run under virtual time is watched without a ticker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

__all__ = ["RunClock", "Ticker"]

_log = logging.getLogger("llmbatch.display")


class RunClock:
    """The event loop's time, carried on by this machine's monotonic clock since the last event was noticed."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._at = 0.0
        self._noticed = clock()

    def now(self, last_event_at: float) -> float:
        """The instant on the events' clock; it lags by no more than the time between two calls."""
        if last_event_at != self._at:
            self._at, self._noticed = last_event_at, self._clock()
        return self._at + self._clock() - self._noticed


class Ticker:
    """Calls *action* every *interval_s* seconds in a daemon thread. What it raises is logged once, no more."""

    def __init__(self, action: Callable[[], None], *, interval_s: float) -> None:
        self._action = action
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to tick; the first tick comes after one interval."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="llmbatch-display", daemon=True)
        self._thread.start()

    def stop(self, *, patience_s: float = 2.0) -> None:
        """End; waits at most *patience_s* seconds for a tick that hangs, in a write to a stopped terminal say."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(patience_s)
            self._thread = None

    def _run(self) -> None:
        is_told = False
        while not self._stopped.wait(self._interval_s):
            try:
                self._action()
            except Exception:  # noqa: BLE001 - a display may never fail a run
                if not is_told:
                    _log.debug("a display of the run failed to draw", exc_info=True)
                is_told = True
