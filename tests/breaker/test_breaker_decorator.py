"""``@breaker``: every call of a function through one circuit, and the function stays what it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, RefusedError, fine, opened

from llmbatch.breaker import CircuitBreaker, CircuitOpenError


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_decorated_function_goes_through_the_circuit(clock: Clock) -> None:
    """It opens, refuses, probes and closes."""
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    calls: list[str] = []

    @breaker
    def ask(prompt: str, *, fails: bool = False) -> str:
        calls.append(prompt)
        if fails:
            raise DownError
        return prompt.upper()

    assert ask("a") == "A"
    for _ in range(2):
        with pytest.raises(DownError):
            ask("b", fails=True)
    with pytest.raises(CircuitOpenError):
        ask("c")
    clock.advance(60.0)

    assert ask("d") == "D"
    assert (calls, breaker.state) == (["a", "b", "b", "d"], "closed")


async def test_a_decorated_coroutine_function_goes_through_the_circuit(clock: Clock) -> None:
    """What it is counted by is its end, not the making of the coroutine."""
    breaker = CircuitBreaker(2, 60.0, clock=clock)

    @breaker
    async def ask(prompt: str, *, fails: bool = False) -> str:
        await asyncio.sleep(0)
        if fails:
            raise DownError
        return prompt.upper()

    assert await ask("a") == "A"
    for _ in range(2):
        with pytest.raises(DownError):
            await ask("b", fails=True)
    with pytest.raises(CircuitOpenError):
        await ask("c")
    clock.advance(60.0)

    assert await ask("d") == "D"
    assert breaker.state == "closed"


def test_name_docstring_and_signature_stay(clock: Clock) -> None:
    """And whether it is a coroutine function, for those who ask."""
    breaker = CircuitBreaker(clock=clock)

    def ask(prompt: str, *, model: str = "o3") -> int:
        """Ask."""
        return len(prompt + model)

    async def ask_later(prompt: str) -> int:
        """Ask later."""
        return len(prompt)

    for fn in (ask, ask_later):
        for guarded in (breaker(fn), breaker(fallback=lambda _: 0)(fn)):
            assert (guarded.__name__, guarded.__qualname__, guarded.__doc__) == (
                fn.__name__,
                fn.__qualname__,
                fn.__doc__,
            )
            assert inspect.signature(guarded) == inspect.signature(fn)
            assert guarded.__module__ == __name__
            assert guarded.__wrapped__ is fn  # type: ignore[attr-defined]
            assert inspect.iscoroutinefunction(guarded) == inspect.iscoroutinefunction(fn)


def test_methods_of_every_kind_may_be_decorated(clock: Clock) -> None:
    """Instance, static and class methods, beneath their own decorators; all of one circuit."""
    breaker = CircuitBreaker(10, clock=clock)

    class Client:
        factor = 2

        @breaker
        def ask(self, number: int) -> int:
            return self.factor * number

        @staticmethod
        @breaker
        def plain(number: int) -> int:
            return number

        @classmethod
        @breaker
        def of_class(cls, number: int) -> int:
            return cls.factor + number

        @breaker
        def fail(self) -> None:
            raise DownError

    client = Client()

    assert [client.ask(4), Client.ask(client, 4), client.plain(4), Client.plain(4), client.of_class(4)] == [
        8,
        8,
        4,
        4,
        6,
    ]
    for _ in range(10):
        with pytest.raises(DownError):
            client.fail()
    for refused in (client.ask, client.plain, client.of_class):
        with pytest.raises(CircuitOpenError):
            refused(4)


async def test_async_methods_may_be_decorated(clock: Clock) -> None:
    """With their instance."""
    breaker = CircuitBreaker(clock=clock)

    class Client:
        @breaker
        async def ask(self, number: int) -> tuple[Client, int]:
            await asyncio.sleep(0)
            return self, number

    client = Client()

    assert await client.ask(4) == (client, 4)


def test_two_circuits_may_guard_one_function(clock: Clock) -> None:
    """The refusal of the inner one counts as nothing for the outer one."""
    outer, inner = CircuitBreaker(1, clock=clock, name="outer"), opened(clock, name="inner")

    @outer
    @inner
    def ask() -> str:
        return "answer"

    for _ in range(5):
        with pytest.raises(CircuitOpenError, match="inner"):
            ask()

    assert (outer.state, outer.failures) == ("closed", 0)


def test_a_decorated_partial_and_object_work(clock: Clock) -> None:
    """Callables without a name of their own."""
    breaker = CircuitBreaker(clock=clock)

    class Ask:
        def __call__(self, number: int) -> int:
            return number + 1

    assert breaker(functools.partial(max, 3))(2) == 3
    assert breaker(Ask())(2) == 3


async def test_a_decorated_partial_of_a_coroutine_function_is_awaited(clock: Clock) -> None:
    """It is found out through the partial."""
    breaker = CircuitBreaker(clock=clock)

    async def say(word: str) -> str:
        await asyncio.sleep(0)
        return word

    assert await breaker(functools.partial(say, "slept"))() == "slept"


# Fallbacks.


def test_a_fallback_steps_in_for_refusals_and_failures(clock: Clock) -> None:
    """And not for what does not count."""
    breaker = CircuitBreaker(2, clock=clock, count_error=DownError)
    seen: list[str] = []

    def cached(error: Exception) -> str:
        seen.append(type(error).__name__)
        return "cached"

    @breaker(fallback=cached)
    def ask(error: Exception | None = None) -> str:
        if error is not None:
            raise error
        return "fresh"

    assert ask() == "fresh"
    with pytest.raises(RefusedError):
        ask(RefusedError())
    assert [ask(DownError()), ask(error=DownError()), ask()] == ["cached"] * 3

    assert seen == ["DownError", "DownError", "CircuitOpenError"]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_fallback_of_a_coroutine_function_may_be_of_either_kind(clock: Clock, kind: str) -> None:
    """What it comes to is awaited where there is something to await."""
    breaker = CircuitBreaker(1, clock=clock)

    def cached(error: Exception) -> str:
        return f"cached after {type(error).__name__}"

    async def cached_later(error: Exception) -> str:
        await asyncio.sleep(0)
        return cached(error)

    @breaker(fallback=cached if kind == "sync" else cached_later)
    async def ask() -> str:
        raise DownError

    assert await ask() == "cached after DownError"
    assert await ask() == "cached after CircuitOpenError"


async def test_a_parameter_called_fallback_is_the_functions_own(clock: Clock) -> None:
    """With and without a fallback of the decorator, by keyword and by position."""
    breaker = CircuitBreaker(1, clock=clock)

    def ask(prompt: str, fallback: str = "none") -> tuple[str, str]:
        if prompt == "fail":
            raise DownError
        return prompt, fallback

    async def ask_later(prompt: str, fallback: str = "none") -> tuple[str, str]:
        return ask(prompt, fallback)

    for options in ({}, {"fallback": lambda error: "stepped in"}):
        sync = breaker(**options)(ask) if options else breaker(ask)
        later = breaker(**options)(ask_later) if options else breaker(ask_later)
        assert sync("a", fallback="own") == await later("a", fallback="own") == ("a", "own")
        assert sync("a", "own") == await later("a", "own") == ("a", "own")
        assert sync("a") == await later("a") == ("a", "none")
    assert sync("fail", fallback="own") == "stepped in"
    assert await later("a", fallback="own") == "stepped in"


# Generator functions.


def test_a_generator_function_is_protected_as_a_stream(clock: Clock) -> None:
    """Each generator is one call: refused, admitted and counted as it is iterated, and its return value stays."""
    breaker = CircuitBreaker(1, clock=clock)

    @breaker
    def count(to: int, error: Exception | None = None) -> Generator[int, None, str]:
        yield from range(to)
        if error is not None:
            raise error
        return "counted"

    def collect(to: int, error: Exception | None = None) -> tuple[list[int], str]:
        numbers: list[int] = []

        def all_of() -> Generator[int, None, str]:
            return (yield from count(to, error))

        generator = all_of()
        while True:
            try:
                numbers.append(next(generator))
            except StopIteration as end:
                return numbers, end.value

    assert inspect.isgeneratorfunction(count)
    assert collect(3) == ([0, 1, 2], "counted")
    with pytest.raises(DownError):
        collect(3, DownError())
    assert str(breaker.state) == "open"
    with pytest.raises(CircuitOpenError):
        next(count(3))
    clock.advance(60.0)
    left = count(3)
    next(left)
    left.close()

    assert breaker.state == "closed"


async def test_an_async_generator_function_is_protected_as_a_stream(clock: Clock) -> None:
    """As its sync kind is; also through a partial, with arguments of its own that are called as options."""
    breaker = CircuitBreaker(1, clock=clock)

    async def numbers(
        to: int, error: Exception | None = None, idle_timeout: str = ""
    ) -> AsyncGenerator[int | str, None]:
        for number in range(to):
            yield number
        if error is not None:
            raise error
        yield idle_timeout

    count = breaker(numbers)
    assert inspect.isasyncgenfunction(count)
    assert [chunk async for chunk in count(2, idle_timeout="own")] == [0, 1, "own"]
    with pytest.raises(DownError):
        [chunk async for chunk in count(2, DownError())]
    assert str(breaker.state) == "open"
    with pytest.raises(CircuitOpenError):
        await anext(count(2))
    clock.advance(60.0)
    left = breaker(functools.partial(numbers, 2))()
    await anext(left)
    await left.aclose()

    assert breaker.state == "closed"


def test_a_generator_function_takes_no_fallback(clock: Clock) -> None:
    """It would have to say from which chunk on."""
    breaker = CircuitBreaker(clock=clock)

    def stream() -> Iterator[int]:
        yield 1

    async def stream_later() -> AsyncIterator[int]:
        yield 1

    for fn in (stream, stream_later, functools.partial(stream)):
        with pytest.raises(TypeError, match="takes no fallback: catch CircuitOpenError"):
            breaker(fallback=fine)(fn)  # type: ignore[arg-type]


# What cannot be decorated.


def test_a_plain_function_that_returns_an_awaitable_is_told_when_called(clock: Clock) -> None:
    """Nothing shows it before; it counts as nothing."""
    breaker = CircuitBreaker(1, clock=clock)

    @breaker
    def ask() -> object:
        return asyncio.sleep(0)

    for _ in range(3):
        with pytest.raises(TypeError, match=r"use async_call\(\)"):
            ask()

    assert (breaker.state, breaker.failures) == ("closed", 0)
