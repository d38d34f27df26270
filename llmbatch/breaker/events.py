"""Events that a breaker's listeners receive, as frozen records. Times are seconds on the breaker's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmbatch.breaker.core import Forced, SettleVerdict, State

__all__ = ["BreakerEvent", "CallEnded", "CallRefused", "StateChanged"]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The circuit went from *old* to *new*, or was set or released by hand; ``str()`` gives a line for a log.

    ``half_open`` is entered by the first probe, not by a timer. *old* and *new* are equal if only *forced* has changed,
    or until when it is forced open, or if a disabled circuit would have opened.
    """

    name: str
    at: float
    old: State
    new: State
    reason: str
    """Why it opened, or would have; empty when it closed."""
    retry_after: float | None
    """Seconds until a probe may be sent; None when it closed, infinite if it was forced open for good."""
    forced: Forced = ""
    """What is set by hand from now on: ``open``, ``disabled``, or nothing (empty)."""
    would_open: bool = False
    """Whether a rule would have opened it now, had it not been disabled. Told once, until it is reset."""

    def __str__(self) -> str:
        title = f"circuit {self.name or 'unnamed'}"
        if self.would_open:
            return f"{title} is disabled and would have opened: {self.reason}"
        if self.forced == "disabled":
            return f"{title} is disabled: every call passes"
        if self.new == "closed":
            return f"{title} is closed"
        if self.new == "half_open":
            return f"{title} is half-open: a probe checks for recovery"
        if self.retry_after is None or math.isinf(self.retry_after):
            return f"{title} is open until it is reset: {self.reason}"
        return f"{title} is open: {self.reason}; next probe in {self.retry_after:.1f} s"


@dataclass(frozen=True, slots=True)
class CallEnded:
    """An admitted call has ended. *verdict* None: it was canceled or is not counted. *seconds*: its duration."""

    name: str
    at: float
    verdict: SettleVerdict | None
    seconds: float
    is_probe: bool
    is_stale: bool
    """Whether the circuit had changed its state meanwhile, so that the call had no effect on it."""


@dataclass(frozen=True, slots=True)
class CallRefused:
    """A call was refused. *retry_after*: seconds until a call may be admitted."""

    name: str
    at: float
    state: State
    retry_after: float


BreakerEvent = StateChanged | CallEnded | CallRefused
