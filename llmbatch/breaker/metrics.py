"""Count calls, refusals and outage time of circuits from their events."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from llmbatch.breaker.core import State
from llmbatch.breaker.events import BreakerEvent, CallEnded, CallRefused

__all__ = ["BreakerMetrics", "CircuitNumbers"]


@dataclass(slots=True)
class CircuitNumbers:
    """What one circuit has seen since its metrics listen. Times are seconds."""

    state: State = "closed"
    """As of the last change: an open circuit whose time is over is ``half_open`` from its next probe on."""
    ended: Counter[str] = field(default_factory=Counter)
    """Calls that were let in and have ended, by verdict; ``ignored`` are those that count as nothing."""
    probes: int = 0
    """Those of them that were probes."""
    stale: int = 0
    """Those of them that decided nothing, because the circuit had changed meanwhile."""
    refused: int = 0
    openings: int = 0
    """Times that it left the closed state."""
    call_seconds: float = 0.0
    """Sum of the times that the calls took."""
    outage_seconds: float = 0.0
    """Time between leaving the closed state and coming back to it, the present time not included."""


class BreakerMetrics:
    """A listener that counts: ``breaker.add_listener(metrics, calls=True)``.

    It may listen to many breakers; numbers are kept by the breaker's name. Safe between threads. Without ``calls=True``
    it knows of states and openings only, and costs the calls nothing.
    """

    __slots__ = ("_left_closed", "_lock", "_numbers")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # an event may come in the middle of a question
        self._numbers: dict[str, CircuitNumbers] = {}
        self._left_closed: dict[str, float] = {}

    def __call__(self, event: BreakerEvent) -> None:
        """Take one event in."""
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
        """A copy of the numbers of the breaker called *name*; zeros where nothing has happened."""
        with self._lock:
            numbers = self._numbers.get(name) or CircuitNumbers()
            return replace(numbers, ended=numbers.ended.copy())

    def names(self) -> list[str]:
        """The breakers that something has happened to, in the order in which it first did."""
        with self._lock:
            return list(self._numbers)
