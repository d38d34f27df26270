"""A clock that moves only when told."""

from __future__ import annotations


class Clock:
    """Seconds; starts away from zero, so that nothing may rely on that."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
