"""Circuits without a breaker around them, and what calls do to them. Times are seconds on a clock that is told."""

from __future__ import annotations

from collections.abc import Hashable

from breaker_clock import Clock

from llmbatch.breaker.core import Circuit, SettleVerdict
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy


def circuit(**options: object) -> Circuit:
    """Opens at two failures, for 60 s; probes hold 10 s."""
    return Circuit(BreakerPolicy(**{"failure_threshold": 2, "probe_lease": 10.0} | options))  # type: ignore[arg-type]


def enter(subject: Circuit, now: float, key: Hashable = None) -> PermitState:
    """A call that is let in."""
    permit = subject.acquire(now, key)
    assert permit is not None
    return permit


def fail(subject: Circuit, now: float, times: int = 1) -> None:
    """Calls of different callers that fail at once."""
    for _ in range(times):
        subject.settle(enter(subject, now), "failure", now)


def probe(subject: Circuit, now: float, verdict: SettleVerdict, *, retry_after: float | None = None) -> None:
    """A probe that ends at once."""
    permit = enter(subject, now)
    assert permit.probe
    subject.settle(permit, verdict, now, retry_after=retry_after)


def feed(subject: Circuit, pattern: str, *, now: float = 0.0) -> None:
    """Calls that end at once: ``.`` well, ``x`` as failures."""
    for letter in pattern:
        permit = subject.acquire(now)
        assert permit is not None, f"opened before the end of {pattern}"
        subject.settle(permit, "failure" if letter == "x" else "success", now)


def last(subject: Circuit, clock: Clock, seconds: float, verdict: SettleVerdict = "success") -> None:
    """A call that takes *seconds*."""
    permit = enter(subject, clock.now)
    clock.advance(seconds)
    subject.settle(permit, verdict, clock.now)
