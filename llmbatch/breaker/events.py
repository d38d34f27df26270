"""Events that a breaker's listeners receive, as frozen records. Times are seconds on the breaker's clock."""

from __future__ import annotations

from dataclasses import dataclass

from llmbatch.breaker.core import SettleVerdict, State

__all__ = ["BreakerEvent", "CallEnded", "CallRefused", "StateChanged"]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The circuit went from *old* to *new*. ``half_open`` is entered by the first probe, not by a timer."""

    name: str
    at: float
    old: State
    new: State
    reason: str
    """Why it opened; empty when it closed."""
    retry_after: float | None
    """Seconds until a probe may be sent; None when it closed."""


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
