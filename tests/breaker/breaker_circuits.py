"""Circuits without a breaker around them, and what calls do to them. Times are seconds on a clock that is told."""

from __future__ import annotations

from collections.abc import Hashable

from breaker_clock import Clock

from llmbatch.breaker.core import Circuit, Ticket, Verdict
from llmbatch.breaker.policy import BreakerPolicy


def circuit(**options: object) -> Circuit:
    """Opens at two failures, for 60 s; probes hold 10 s."""
    return Circuit(BreakerPolicy(**{"failure_threshold": 2, "probe_lease": 10.0} | options))  # type: ignore[arg-type]


def enter(subject: Circuit, now: float, key: Hashable = None) -> Ticket:
    """A call that is let in."""
    ticket = subject.acquire(now, key)
    assert ticket is not None
    return ticket


def fail(subject: Circuit, now: float, times: int = 1) -> None:
    """Calls of different callers that fail at once."""
    for _ in range(times):
        subject.settle(enter(subject, now), "failure", now)


def probe(subject: Circuit, now: float, verdict: Verdict, *, retry_after: float | None = None) -> None:
    """A probe that ends at once."""
    ticket = enter(subject, now)
    assert ticket.probe
    subject.settle(ticket, verdict, now, retry_after=retry_after)


def feed(subject: Circuit, pattern: str, *, now: float = 0.0) -> None:
    """Calls that end at once: ``.`` well, ``x`` as failures."""
    for letter in pattern:
        ticket = subject.acquire(now)
        assert ticket is not None, f"opened before the end of {pattern}"
        subject.settle(ticket, "failure" if letter == "x" else "success", now)


def last(subject: Circuit, clock: Clock, seconds: float, verdict: Verdict = "success") -> None:
    """A call that takes *seconds*."""
    ticket = enter(subject, clock.now)
    clock.advance(seconds)
    subject.settle(ticket, verdict, clock.now)
