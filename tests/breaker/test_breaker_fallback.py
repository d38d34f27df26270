"""``call(…, fallback=…)`` and ``async_call(…, fallback=…)``: what stands in for an answer."""

from __future__ import annotations

import asyncio
import functools

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, RefusedError, down, down_later, fine, fine_later, half_opened, opened, raising

from llmbatch.breaker import CircuitBreaker, CircuitOpenError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["fast", "permit"])
def breaker(clock: Clock, request: pytest.FixtureRequest) -> CircuitBreaker:
    """A closed breaker that opens after two failures, on the path without the lock and on that with it."""
    options = {} if request.param == "fast" else {"judge_result": lambda _: None}
    return CircuitBreaker(2, 60.0, clock=clock, count_error=DownError, **options)  # type: ignore[arg-type]


def test_it_gets_the_exception_of_a_failure_and_of_a_refusal(breaker: CircuitBreaker) -> None:
    """The very object; what it returns is returned."""
    failure = DownError("the first")
    seen: list[Exception] = []

    def step_in(error: Exception) -> int:
        seen.append(error)
        return len(seen)

    answers = [breaker.call(raising(failure), fallback=step_in) for _ in range(3)]

    assert answers == [1, 2, 3]
    assert seen[:2] == [failure, failure]
    assert isinstance(seen[2], CircuitOpenError)
    assert seen[2].retry_after == 60.0


async def test_it_gets_them_on_an_event_loop_too(breaker: CircuitBreaker) -> None:
    """A plain function and a coroutine function as fallback."""

    def step_in(error: Exception) -> str:
        return type(error).__name__

    async def step_in_later(error: Exception) -> str:
        await asyncio.sleep(0)
        return step_in(error)

    assert await breaker.async_call(down_later, fallback=step_in) == "DownError"
    assert await breaker.async_call(down_later, fallback=step_in_later) == "DownError"
    assert await breaker.async_call(fine_later, fallback=step_in) == "CircuitOpenError"
    assert await breaker.async_call(fine_later, fallback=step_in_later) == "CircuitOpenError"


async def test_it_is_not_called_when_all_is_well(breaker: CircuitBreaker) -> None:
    """The answer is the function's."""

    def never(error: Exception) -> str:
        raise AssertionError(error)

    assert breaker.call(fine, fallback=never) == "fine"
    assert await breaker.async_call(fine_later, fallback=never) == "fine"


@pytest.mark.parametrize("error", [RefusedError(), CircuitOpenError(3.0, "inner"), KeyboardInterrupt(), SystemExit()])
def test_it_is_not_called_for_what_does_not_count(breaker: CircuitBreaker, error: BaseException) -> None:
    """Neutral answers, another circuit's refusal and interruptions are raised."""

    def never(error: Exception) -> str:
        raise AssertionError(error)

    async def later() -> None:
        raise error

    with pytest.raises(type(error)):
        breaker.call(raising(error), fallback=never)
    with pytest.raises(type(error)):
        breaker.async_call(later, fallback=never).send(None)

    assert (breaker.state, breaker.failures) == ("closed", 0)


async def test_it_is_not_called_for_a_cancellation(breaker: CircuitBreaker) -> None:
    """Which is raised on."""
    task = asyncio.create_task(breaker.async_call(asyncio.Event().wait, fallback=lambda _: "stepped in"))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("verdict", "steps_in"),
    [("failure", True), ("throttled", True), ("exhausted", True), ("neutral", False), ("success", False)],
)
async def test_it_steps_in_by_verdict(clock: Clock, verdict: str, steps_in: bool) -> None:
    """For what the provider did not give; not for what it said about the request."""

    def judged() -> CircuitBreaker:
        return CircuitBreaker(10, clock=clock, judge_error=lambda _: verdict)  # type: ignore[arg-type, return-value]

    def step_in(error: Exception) -> str:
        return "stepped in"

    if steps_in:
        assert judged().call(down, fallback=step_in) == "stepped in"
        assert await judged().async_call(down_later, fallback=step_in) == "stepped in"
    else:
        with pytest.raises(DownError):
            judged().call(down, fallback=step_in)
        with pytest.raises(DownError):
            await judged().async_call(down_later, fallback=step_in)


async def test_its_own_errors_come_through(breaker: CircuitBreaker) -> None:
    """With the first one as context where there was one; they count as nothing."""

    def broken(error: Exception) -> str:
        raise LookupError("not cached")

    async def broken_later(error: Exception) -> str:
        raise LookupError("not cached")

    with pytest.raises(LookupError) as of_failure:
        breaker.call(down, fallback=broken)
    assert breaker.failures == 1
    with pytest.raises(LookupError):
        await breaker.async_call(down_later, fallback=broken_later)
    assert breaker.failures == 2
    for _ in range(3):
        with pytest.raises(LookupError):
            breaker.call(fine, fallback=broken)
        with pytest.raises(LookupError):
            await breaker.async_call(fine_later, fallback=broken_later)

    assert isinstance(of_failure.value.__context__, DownError)
    assert (breaker.state, breaker.failures) == ("open", 2)


def test_it_runs_outside_the_call(clock: Clock) -> None:
    """The probe is settled before, so that a slow fallback keeps no probe away, and may use the breaker."""
    breaker = half_opened(clock)
    seen: list[object] = []

    def step_in(error: Exception) -> str:
        seen.append((breaker.state, breaker.call(fine, fallback=lambda again: type(again).__name__)))
        return "stepped in"

    assert breaker.call(down, fallback=step_in) == "stepped in"
    assert seen == [("open", "CircuitOpenError")]


async def test_a_refusal_with_a_fallback_still_tells_of_mistakes(clock: Clock) -> None:
    """A coroutine function given to ``call`` is a TypeError, whatever the circuit's state."""
    breaker = opened(clock)

    with pytest.raises(TypeError, match="coroutine function"):
        breaker.call(fine_later, fallback=lambda _: "stepped in")


def test_a_fallback_of_call_that_has_to_be_awaited_is_a_mistake(breaker: CircuitBreaker) -> None:
    """Nobody would await it; the failure is counted all the same."""

    async def step_in(error: Exception) -> str:
        return "never"

    for fallback in (step_in, lambda error: step_in(error)):
        with pytest.raises(TypeError, match=r"use async_call\(\)"):
            breaker.call(down, fallback=fallback)

    assert breaker.state == "open"
    with pytest.raises(TypeError, match="coroutine function"):
        breaker.call(fine, fallback=step_in)


async def test_a_functions_own_fallback_parameter_goes_through_a_partial(breaker: CircuitBreaker) -> None:
    """As the docstring says."""

    def ask(*, fallback: str) -> str:
        return fallback

    async def ask_later(*, fallback: str) -> str:
        return fallback

    assert breaker.call(functools.partial(ask, fallback="own")) == "own"
    assert await breaker.async_call(functools.partial(ask_later, fallback="own")) == "own"
    assert breaker.call(functools.partial(ask, fallback="own"), fallback=lambda _: "not needed") == "own"


def test_arguments_reach_the_function_and_not_the_fallback(breaker: CircuitBreaker) -> None:
    """The fallback gets the exception alone."""

    def ask(*args: object, **kwargs: object) -> object:
        return args, kwargs

    assert breaker.call(ask, 1, 2, fallback=lambda _: None, model="o3") == ((1, 2), {"model": "o3"})
