"""A provider that is up or down as told, and breakers that calls to it have brought into a state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from breaker_clock import Clock

from llmbatch.breaker import CircuitBreaker, CircuitOpenError


class DownError(Exception):
    """The provider is down."""


class RefusedError(Exception):
    """The provider refused this request, and is up."""


class HintedError(DownError):
    """The provider is down and names a wait."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"come back in {retry_after} s")
        self.retry_after = retry_after


def down() -> str:
    raise DownError("down")


async def down_later() -> str:
    await asyncio.sleep(0)
    raise DownError("down")


def fine() -> str:
    return "fine"


async def fine_later() -> str:
    await asyncio.sleep(0)
    return "fine"


def raising(error: BaseException) -> Callable[[], Any]:
    """A function that raises *error*."""

    def fn() -> None:
        raise error

    return fn


def trip(breaker: CircuitBreaker) -> None:
    """Fail until it opens."""
    for _ in range(1000):
        if breaker.state == "open":
            return
        with pytest.raises(DownError):
            breaker.call(down)
    raise AssertionError(f"{breaker!r} does not open")


def opened(clock: Callable[[], float], **options: Any) -> CircuitBreaker:
    """An open breaker: after one failure and for 60 s unless *options* say otherwise."""
    breaker = CircuitBreaker(**{"failure_threshold": 1, "recovery_timeout": 60.0} | options, clock=clock)
    trip(breaker)
    return breaker


def half_opened(clock: Clock, **options: Any) -> CircuitBreaker:
    """A breaker whose 60 s are over."""
    breaker = opened(clock, **options)
    clock.advance(60.0)
    assert breaker.state == "half_open"
    return breaker


def refused(breaker: CircuitBreaker) -> CircuitOpenError:
    """The refusal that a call gets now."""
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(fine)
    return caught.value


def state_of(breaker: CircuitBreaker) -> str:
    """The state now; a type checker would expect it to stay as it was."""
    return breaker.state
