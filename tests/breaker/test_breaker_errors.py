"""Rejections: fresh, picklable, and holding on to nothing."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest
from breaker_clock import Clock

from llmbatch.breaker import CircuitBreaker, CircuitOpenError


def opened(name: str = "openai/gpt-5-mini") -> CircuitBreaker:
    breaker = CircuitBreaker(failure_threshold=1, name=name, clock=Clock())
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    return breaker


def rejected(breaker: CircuitBreaker) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(lambda: "never")
    return caught.value


def test_a_rejection_says_what_why_and_when() -> None:
    """In its text and as fields."""
    error = rejected(opened())

    assert str(error) == "circuit openai/gpt-5-mini is open (a call failed), retry in 60.0 s"
    assert (error.retry_after, error.name, error.reason) == (60.0, "openai/gpt-5-mini", "a call failed")


def test_a_rejection_without_name_and_reason_still_reads() -> None:
    """Nothing empty is printed."""
    assert str(CircuitOpenError(4.25)) == "circuit is open, retry in 4.2 s"


def test_rejections_are_fresh() -> None:
    """No two callers get the same object, and none drags the failure that opened the circuit behind it."""
    breaker = opened()

    first, second = rejected(breaker), rejected(breaker)

    assert first is not second
    assert (first.__context__, first.__cause__) == (None, None)


def test_rejections_do_not_grow() -> None:
    """The thousandth has as short a traceback as the first, also when each is raised again by its caller."""
    breaker = opened()

    def refused() -> int:
        try:
            breaker.call(lambda: None)
        except CircuitOpenError as error:
            try:
                raise
            except CircuitOpenError:
                return len(traceback.extract_tb(error.__traceback__))
        raise AssertionError("let through")

    lengths = {refused() for _ in range(1000)}

    assert lengths == {2}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_rejection_travels_between_processes(protocol: int) -> None:
    """Pickled and back it is the same in every field."""
    error = rejected(opened())

    twin = pickle.loads(pickle.dumps(error, protocol))

    assert type(twin) is CircuitOpenError
    assert (twin.retry_after, twin.name, twin.reason) == (error.retry_after, error.name, error.reason)
    assert str(twin) == str(error)
    assert str(copy.copy(error)) == str(error)
