"""Decorated generator functions whose generators are sent values and exceptions, as context managers do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from llmbatch.breaker import CircuitBreaker


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=1)


def test_what_is_thrown_and_sent_reaches_the_generator(breaker: CircuitBreaker) -> None:
    """A transaction was neither rolled back nor committed, and a value that was sent was an AttributeError."""
    log: list[str] = []

    @contextlib.contextmanager
    @breaker
    def transaction() -> Generator[str, None, None]:
        try:
            yield "connection"
        except ValueError:
            log.append("rolled back")
            raise
        log.append("committed")

    @breaker
    def echo() -> Generator[Any, Any, str]:
        got = yield "ready"
        while got is not None:
            got = yield got
        return "end"

    with pytest.raises(ValueError, match="the body's"), transaction():
        raise ValueError("the body's")
    with transaction():
        pass
    generator = echo()

    assert log == ["rolled back", "committed"]
    assert (next(generator), generator.send("one"), generator.send("two")) == ("ready", "one", "two")
    with pytest.raises(StopIteration, match="end"):
        next(generator)
    assert breaker.state == "closed"


async def test_what_is_thrown_and_sent_reaches_the_async_generator(breaker: CircuitBreaker) -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    @breaker
    async def transaction() -> AsyncGenerator[str, None]:
        try:
            yield "connection"
        except ValueError:
            log.append("rolled back")
            raise
        log.append("committed")

    @breaker
    async def echo() -> AsyncGenerator[Any, Any]:
        got = yield "ready"
        while True:
            try:
                got = yield got
            except KeyError:
                got = "caught"

    with pytest.raises(ValueError, match="the body's"):
        async with transaction():
            raise ValueError("the body's")
    async with transaction():
        pass
    generator = echo()

    assert log == ["rolled back", "committed"]
    assert await anext(generator) == "ready"
    assert await generator.asend("one") == "one"
    assert await generator.athrow(KeyError("x")) == "caught"
    await generator.aclose()
    assert breaker.state == "closed"


def test_a_generator_that_suppresses_the_exception_has_ended_well(breaker: CircuitBreaker) -> None:
    @contextlib.contextmanager
    @breaker
    def forgiving() -> Generator[None, None, None]:
        with contextlib.suppress(ValueError):
            yield

    manager = forgiving()
    manager.__enter__()

    assert manager.__exit__(ValueError, ValueError("forgiven"), None)
    assert breaker.state == "closed"


def test_an_exception_of_the_generator_itself_counts_also_where_it_answers_another(breaker: CircuitBreaker) -> None:
    @contextlib.contextmanager
    @breaker
    def failing() -> Generator[None, None, None]:
        try:
            yield
        except ValueError:
            raise ConnectionError("cannot roll back") from None

    with pytest.raises(ConnectionError), failing():
        raise ValueError("the body's")

    assert breaker.state == "open"


def test_exceptions_are_thrown_in_each_of_the_ways_of_generators(breaker: CircuitBreaker) -> None:
    seen: list[BaseException] = []

    @breaker
    def watch() -> Generator[int, None, None]:
        while True:
            try:
                yield 1
            except ValueError as error:
                seen.append(error)

    generator = watch()
    next(generator)
    error = ValueError("an instance")
    generator.throw(error)
    generator.throw(ValueError)
    with breaker.stream(watch) as chunks:
        next(chunks)
        chunks.throw(ValueError, "a text")
        chunks.throw(ValueError, error, None)

    assert [str(each) for each in seen] == ["an instance", "", "a text", "an instance"]
    assert seen[0] is seen[3] is error


async def no(_: object) -> bool:
    return False


class AsyncCall:
    async def __call__(self, _: object) -> bool:
        return False


@pytest.mark.parametrize("option", ["ignore", "count_error", "judge_error", "judge_result"])
@pytest.mark.parametrize("judge", [no, AsyncCall(), 5], ids=["async", "async call", "number"])
def test_a_judge_that_nothing_would_await_is_refused(option: str, judge: Any) -> None:
    """The circuit never opened, or good answers were lost."""
    with pytest.raises(TypeError, match=f"{option} is .*(async|function)"):
        CircuitBreaker(**{option: judge})
