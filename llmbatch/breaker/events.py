"""What a breaker tells its listeners: plain records. Times are seconds on the breaker's own clock."""

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
    """Seconds until a probe may go; None when it closed."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call that was let in has ended. *verdict* None: it was cancelled or counts as nothing."""

    name: str
    at: float
    verdict: SettleVerdict | None
    seconds: float
    is_probe: bool
    is_stale: bool
    """Whether the circuit changed meanwhile, so that it decided nothing."""


@dataclass(frozen=True, slots=True)
class CallRefused:
    """A call was not let in."""

    name: str
    at: float
    state: State
    retry_after: float


BreakerEvent = StateChanged | CallEnded | CallRefused
