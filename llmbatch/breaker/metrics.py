"""Count calls, refusals and outage time of circuits from their events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from llmbatch.breaker.core import State
from llmbatch.breaker.events import BreakerEvent, CallEnded, CallRefused
from llmbatch.breaker.fork import fork_safe_lock
from llmbatch.breaker.uncopyable import Uncopyable

__all__ = ["BreakerMetrics", "CircuitNumbers"]


@dataclass(slots=True)
class CircuitNumbers:
    """Counts of one circuit since its metrics were added as a listener. Times are seconds."""

    state: State = "closed"
    """State at the last change: an open circuit becomes ``half_open`` with its next probe, not by time."""
    ended: Counter[str] = field(default_factory=Counter)
    """Admitted calls that have ended, by verdict; ``ignored`` for those that are not counted."""
    probes: int = 0
    """How many of them were probes."""
    stale: int = 0
    """How many of them had no effect, because the circuit had changed meanwhile."""
    refused: int = 0
    openings: int = 0
    """How often it left the closed state."""
    call_seconds: float = 0.0
    """Total duration of the calls."""
    outage_seconds: float = 0.0
    """Total time between leaving the closed state and closing again; an outage counts when it ends."""


class BreakerMetrics(Uncopyable):
    """Listener that counts events: ``breaker.add_listener(metrics, calls=True)``.

    May listen to many breakers; counts are kept per name of the breaker, and a registry removes those of breakers that
    it has evicted. Thread-safe, also in a process that is forked. Without ``calls=True`` it counts states and openings
    only, at no cost per call.
    """

    INSTEAD = "numbers() returns copies of the counts"

    __slots__ = ("_left_closed", "_lock", "_numbers")

    def __init__(self) -> None:
        self._lock = fork_safe_lock()  # a signal handler may cause an event while numbers() holds the lock
        self._numbers: dict[str, CircuitNumbers] = {}
        self._left_closed: dict[str, float] = {}

    def __call__(self, event: BreakerEvent) -> None:
        """Count one event."""
        with self._lock:
            numbers = self._numbers.setdefault(event.name, CircuitNumbers())
            if isinstance(event, CallEnded):
                numbers.ended[event.verdict or "ignored"] += 1
                numbers.probes += event.is_probe
                numbers.stale += event.is_stale
                numbers.call_seconds += event.seconds
            elif isinstance(event, CallRefused):
                numbers.refused += 1
            else:
                if event.old == "closed" and event.new != "closed":
                    numbers.openings += 1
                    self._left_closed[event.name] = event.at
                elif event.new == "closed" and event.name in self._left_closed:
                    numbers.outage_seconds += event.at - self._left_closed.pop(event.name)
                numbers.state = event.new

    def numbers(self, name: str = "") -> CircuitNumbers:
        """Copy of the counts of the breaker called *name*; zeros if it has had no event."""
        with self._lock:
            numbers = self._numbers.get(name) or CircuitNumbers()
            return replace(numbers, ended=numbers.ended.copy())

    def forget(self, name: str) -> None:
        """Remove the counts of the breaker called *name*, if any. A registry calls it for evicted breakers."""
        with self._lock:
            self._numbers.pop(name, None)
            self._left_closed.pop(name, None)

    def names(self) -> list[str]:
        """Names of the breakers that have had events, in the order of their first one."""
        with self._lock:
            return list(self._numbers)
