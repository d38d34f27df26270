"""A circuit breaker inside a function refuses calls: rows wait for it, and nothing counts against them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from llmbatch import BatchRunner, CircuitBreaker, CircuitOpenError, Result, judge_llm_error
from llmbatch.integrations.httpx2 import CircuitTransport
from llmbatch.sim.virtual import run_virtual


def bare(refusal: CircuitOpenError) -> Exception:
    return refusal


def caused(refusal: CircuitOpenError) -> Exception:
    error = RuntimeError("could not ask")
    error.__cause__ = refusal
    return error


def in_a_group(refusal: CircuitOpenError) -> Exception:
    return ExceptionGroup("unhandled errors in a TaskGroup", [refusal])


def while_handled(refusal: CircuitOpenError) -> Exception:
    error = KeyError("no answer in the cache")
    error.__context__ = refusal
    return error


def by_a_framework(refusal: CircuitOpenError) -> Exception:
    import openai

    error = openai.APIError(f"OpenAIException - {refusal}", request=None, body=None)  # type: ignore[arg-type]
    error.__context__ = refusal
    error.status_code = 500  # type: ignore[attr-defined]  # as litellm's have
    return error


SHAPES = [bare, caused, in_a_group, while_handled, by_a_framework]


def ask_through(circuits: list[CircuitBreaker], down: tuple[float, float], shape: Callable[..., Exception]) -> Any:
    """A function whose last circuit's backend is down for a while; rows take turns among the circuits."""
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def backend(number: int) -> str:
        await asyncio.sleep(1.0)
        if number == len(circuits) - 1 and down[0] < loop.time() - started < down[1]:
            raise ConnectionError("down")
        return "good"

    async def ask(row: int) -> str:
        number = row % len(circuits)
        try:
            return await circuits[number].async_call(backend, number)
        except CircuitOpenError as refusal:
            raise shape(refusal)  # noqa: B904 - each shape sets what it was raised from

    return ask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("circuits", [1, 2])
def test_refusals_of_a_circuit_inside_the_function_fail_no_row(shape: Callable[..., Exception], circuits: int) -> None:
    """An outage of 300 s behind circuits that refuse for 60 s: with 3 attempts a row, half of the rows failed."""

    async def main() -> list[Result]:
        loop = asyncio.get_running_loop()
        each = [
            CircuitBreaker(3, 60.0, name=f"inner {number}", clock=loop.time, judge_error=judge_llm_error)
            for number in range(circuits)
        ]
        ask = ask_through(each, (5.0, 300.0), shape)
        return await BatchRunner(ask, concurrency=10, max_attempts=3, seed=1).map(range(100))

    results = run_virtual(main, limit=3_000.0)

    assert [result.status for result in results] == ["success"] * 100


def test_a_circuit_forced_open_inside_the_function_holds_the_rows_until_it_is_reset() -> None:
    async def main() -> tuple[list[Result], float]:
        loop = asyncio.get_running_loop()
        breaker = CircuitBreaker(clock=loop.time)
        breaker.force_open("maintenance")
        loop.call_later(500.0, breaker.reset)
        started = loop.time()

        async def answer(row: int) -> int:
            return row

        results = await BatchRunner(lambda row: breaker.async_call(answer, row), seed=1).map(range(50))
        return results, loop.time() - started

    results, seconds = run_virtual(main, limit=3_000.0)

    assert all(result.ok for result in results)
    assert 500.0 < seconds < 620.0


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outer_circuit_does_not_count_what_was_raised_from_a_refusal(shape: Callable[..., Exception]) -> None:
    breaker = CircuitBreaker(1, judge_error=judge_llm_error)

    def refused() -> None:
        raise shape(CircuitOpenError(5.0, "inner", "5 calls in a row failed"))

    for _ in range(3):
        with pytest.raises((CircuitOpenError, Exception)):
            breaker.call(refused)

    assert breaker.state == "closed"
    assert breaker.failures == 0


def test_a_fallback_that_fails_while_a_refusal_is_handled_counts() -> None:
    breaker = CircuitBreaker(1, judge_error=judge_llm_error)

    def fall_back() -> None:
        try:
            raise CircuitOpenError(5.0, "inner", "5 calls in a row failed")
        except CircuitOpenError:
            raise ConnectionResetError("the fallback's provider is down")  # noqa: B904 - as a fallback does

    with pytest.raises(ConnectionResetError):
        breaker.call(fall_back)

    assert breaker.state == "open"


@pytest.mark.parametrize("wait", [30.0, math.inf])
def test_the_refusal_of_a_transport_below_an_sdk_is_no_failure_of_the_provider(wait: float) -> None:
    kind: Any = CircuitTransport._refusal
    judgement = judge_llm_error(kind(wait, "https://api.openai.com gpt-5-mini", "down", request=None))

    assert judgement.verdict == "ignored"
    assert judgement.retry_after == (None if wait == math.inf else wait)
